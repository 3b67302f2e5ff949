"""Audio to log-mel frames, on the device where the model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from daemon.decode import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import Qwen3ASRFeatureExtractor

# The model returns nothing for shorter audio. qwen-asr pads it to half a second too; some versions of transformers
# do not (qwen_asr/inference/utils.py, MIN_ASR_INPUT_SECONDS).
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 2

# The model's own constants (Whisper's log-mel): eight decades below the loudest frame, then scaled to about [-1, 1].
_FLOOR: Final = 1e-10
_LOG_FLOOR: Final = -10.0
_RANGE_DECADES: Final = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Mel:
    """Log-mel frames of several chunks.

    Attributes:
        frames: float32, shape (n_chunks, n_mels, n_frames); zeros follow each chunk's own frames.
        n_frames: number of frames of each chunk.
    """

    frames: torch.Tensor
    n_frames: tuple[int, ...]


class LogMel:
    """Computes for many chunks at once what the model's feature extractor computes for each chunk alone.

    Given a batch, the extractor lets padding leak into the last frames of shorter chunks (4 % of the range of
    the audio states, measured), and it copies every result back to the CPU.

    Args:
        extractor: the model's feature extractor, whose filters are used.
        device: where to compute.
        frames_multiple: the number of frames is padded to a multiple of this.

    Raises:
        ValueError: the extractor is made for another sample rate.
    """

    def __init__(self, extractor: Qwen3ASRFeatureExtractor, device: torch.device, frames_multiple: int) -> None:
        if extractor.sampling_rate != SAMPLE_RATE_HZ:
            raise ValueError(f"the feature extractor expects {extractor.sampling_rate} Hz instead of {SAMPLE_RATE_HZ}")
        self._n_fft: int = extractor.n_fft
        self._hop: int = extractor.hop_length
        self._multiple = frames_multiple
        filters = np.ascontiguousarray(np.asarray(extractor.mel_filters, dtype=np.float32).T)
        self._filters = torch.from_numpy(filters).to(device)
        self._window = torch.hann_window(self._n_fft, device=device)

    def count_frames(self, n_samples: int) -> int:
        """Return how many frames audio of this length has."""
        return max(n_samples, _MIN_SAMPLES) // self._hop

    def compute(self, chunks: Sequence[NDArray[np.float32]]) -> Mel:
        """Return the frames of chunks, each mono at 16 kHz, shape (n_samples,)."""
        lengths = [max(len(samples), _MIN_SAMPLES) for samples in chunks]
        n_frames = tuple(length // self._hop for length in lengths)
        width = -(-max(n_frames) // self._multiple) * self._multiple
        padded = to_device(self._reflect(chunks, lengths, width), self._window.device)
        spectrum = torch.stft(padded, self._n_fft, self._hop, window=self._window, center=False, return_complex=True)
        # In place where possible: these are the largest tensors of all, and allocating costs more than the arithmetic.
        power = spectrum.real.square().add_(spectrum.imag.square())  # abs() would compute a root that is not needed
        log_mel = (self._filters @ power).clamp_(min=_FLOOR).log10_()
        columns = torch.arange(width, device=log_mel.device)
        is_padding = (columns >= to_device(np.array(n_frames), log_mel.device)[:, None])[:, None]
        loudest = log_mel.masked_fill_(is_padding, _LOG_FLOOR).amax(dim=(1, 2), keepdim=True)
        scaled = torch.maximum(log_mel, loudest - _RANGE_DECADES).add_(4.0).div_(4.0).masked_fill_(is_padding, 0.0)
        return Mel(scaled, n_frames)

    def _reflect(
        self, chunks: Sequence[NDArray[np.float32]], lengths: Sequence[int], width: int
    ) -> NDArray[np.float32]:
        """Return the chunks as rows, each reflected at its own two ends, as a centred transform needs it."""
        half = self._n_fft // 2
        n_used = (width - 1) * self._hop + self._n_fft
        rows = np.zeros((len(chunks), max(n_used, max(lengths) + 2 * half)), np.float32)
        for row, samples, length in zip(rows, chunks, lengths, strict=True):
            end = half + length
            row[half : half + len(samples)] = samples
            row[:half] = row[2 * half : half : -1]
            row[end : end + half] = row[end - 2 : end - 2 - half : -1]
        return np.ascontiguousarray(rows[:, :n_used])


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to the device without waiting for the work in progress there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
