"""Sound to log-mel frames, on the device where the model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

import numpy as np
import torch

from daemon.engine.protocol import SAMPLE_RATE_HZ

if TYPE_CHECKING:
    from collections.abc import Sequence

    import numpy.typing as npt
    from transformers import Qwen3ASRFeatureExtractor

# Shorter sounds come back blank; the original library pads them to half a second too, some versions
# of transformers do not (qwen_asr/inference/utils.py, MIN_ASR_INPUT_SECONDS).
_MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 2

# The model's own figures (Whisper's mel): ten decades below the loudest frame, then scaled to about [-1, 1].
_FLOOR: Final = 1e-10
_LOG_FLOOR: Final = -10.0
_RANGE_DECADES: Final = 8.0


@dataclass(frozen=True, slots=True, eq=False)
class Mel:
    """Log-mel frames of several sounds.

    Attributes:
        frames: float32, shape (n_sounds, n_mels, n_frames); behind each sound's own frames stand zeros.
        n_frames: frames of each sound.
    """

    frames: torch.Tensor
    n_frames: tuple[int, ...]


class LogMel:
    """Computes what the model's feature extractor computes for each sound alone, for many at once.

    Given a batch, the extractor itself lets the padding into the last frames of shorter sounds (4 % of
    the range of the audio states, measured), and brings every result back to the CPU.
    """

    def __init__(self, extractor: Qwen3ASRFeatureExtractor, device: torch.device, frames_multiple: int) -> None:
        """Take the extractor's filters; the number of frames is padded to the multiple."""
        self._n_fft: int = extractor.n_fft
        self._hop: int = extractor.hop_length
        self._multiple = frames_multiple
        filters = np.ascontiguousarray(np.asarray(extractor.mel_filters, dtype=np.float32).T)
        self._filters = torch.from_numpy(filters).to(device)
        self._window = torch.hann_window(self._n_fft, device=device)

    def count_frames(self, n_samples: int) -> int:
        """Return how many frames a sound of this length has."""
        return max(n_samples, _MIN_SAMPLES) // self._hop

    def compute(self, sounds: Sequence[npt.NDArray[np.float32]]) -> Mel:
        """Return the frames of sounds, each mono at 16 kHz, shape (n_samples,)."""
        lengths = [max(len(sound), _MIN_SAMPLES) for sound in sounds]
        n_frames = tuple(length // self._hop for length in lengths)
        width = -(-max(n_frames) // self._multiple) * self._multiple
        mirrored = to_device(self._mirror(sounds, lengths, width), self._window.device)
        spectrum = torch.stft(mirrored, self._n_fft, self._hop, window=self._window, center=False, return_complex=True)
        # Where it can be, in place: these are the largest tensors of all, and new memory costs more than the sums.
        power = spectrum.real.square().add_(spectrum.imag.square())  # abs() would take a root that nobody needs
        log_mel = (self._filters @ power).clamp_(min=_FLOOR).log10_()
        columns = torch.arange(width, device=log_mel.device)
        is_padding = (columns >= to_device(np.array(n_frames), log_mel.device)[:, None])[:, None]
        loudest = log_mel.masked_fill_(is_padding, _LOG_FLOOR).amax(dim=(1, 2), keepdim=True)
        scaled = torch.maximum(log_mel, loudest - _RANGE_DECADES).add_(4.0).div_(4.0).masked_fill_(is_padding, 0.0)
        return Mel(scaled, n_frames)

    def _mirror(
        self, sounds: Sequence[npt.NDArray[np.float32]], lengths: Sequence[int], width: int
    ) -> npt.NDArray[np.float32]:
        """Return the sounds in rows, each mirrored at its own two ends, as a centred transform wants it."""
        half = self._n_fft // 2
        n_heard = (width - 1) * self._hop + self._n_fft
        rows = np.zeros((len(sounds), max(n_heard, max(lengths) + 2 * half)), np.float32)
        for row, sound, length in zip(rows, sounds, lengths, strict=True):
            end = half + length
            row[half : half + len(sound)] = sound
            row[:half] = row[2 * half : half : -1]
            row[end : end + half] = row[end - 2 : end - 2 - half : -1]
        return np.ascontiguousarray(rows[:, :n_heard])


def to_device(array: npt.NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to the device without waiting for what that is busy with."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
