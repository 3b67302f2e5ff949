"""Audio to log-mel frames, on the device where the model computes."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, NamedTuple

import numpy as np
import torch

from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine.compiling import uncompiled

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray
    from transformers import Qwen3ASRFeatureExtractor

    from daemon.engine.compiling import Compile

# The model returns nothing for shorter audio. qwen-asr pads it to half a second too; some versions of transformers
# do not (qwen_asr/inference/utils.py, MIN_ASR_INPUT_SECONDS).
MIN_SAMPLES: Final = SAMPLE_RATE_HZ // 2

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


class Blocks(NamedTuple):
    """Where the blocks of packed audio are. The last chunk is none: what fills up the blocks belongs to it.

    Attributes:
        chunks: the chunk of each block, shape (n_blocks,).
        first_frames: its first frame, counted from the start of the chunk, shape (n_blocks,).
        offsets: the first sample of each chunk, shape (n_chunks + 1,).
        n_samples: at least MIN_SAMPLES for each chunk, shape (n_chunks + 1,).
        n_frames: frames of each chunk, 0 for the last, shape (n_chunks + 1,).
    """

    chunks: torch.Tensor
    first_frames: torch.Tensor
    offsets: torch.Tensor
    n_samples: torch.Tensor
    n_frames: torch.Tensor


class LogMel:
    """Computes for many chunks at once what the model's feature extractor computes for each chunk alone.

    Given a batch, the extractor lets padding leak into the last frames of shorter chunks (4 % of the range of
    the audio states, measured), and it copies every result back to the CPU.

    Args:
        extractor: the model's feature extractor, whose filters are used.
        device: where to compute.
        frames_multiple: the number of frames is padded to a multiple of this; the frames of a block.
        compiled: returns a faster version of a function.

    Raises:
        ValueError: the extractor is made for another sample rate.
    """

    def __init__(
        self,
        extractor: Qwen3ASRFeatureExtractor,
        device: torch.device,
        frames_multiple: int,
        compiled: Compile = uncompiled,
    ) -> None:
        if extractor.sampling_rate != SAMPLE_RATE_HZ:
            raise ValueError(f"the feature extractor expects {extractor.sampling_rate} Hz instead of {SAMPLE_RATE_HZ}")
        self._n_fft: int = extractor.n_fft
        self._hop: int = extractor.hop_length
        self._multiple = frames_multiple
        filters = np.ascontiguousarray(np.asarray(extractor.mel_filters, dtype=np.float32).T)
        self._filters = torch.from_numpy(filters).to(device)
        self._window = torch.hann_window(self._n_fft, device=device)
        self._gather_blocks, self._scale_blocks = (
            compiled(_gather_blocks, is_packed=True),
            compiled(_scale_blocks, is_packed=True),
        )

    @property
    def block_samples(self) -> int:
        """Samples of a block."""
        return self._hop * self._multiple

    def count_frames(self, n_samples: int) -> int:
        """Return how many frames audio of this length has."""
        return max(n_samples, MIN_SAMPLES) // self._hop

    def compute(self, chunks: Sequence[NDArray[np.float32]]) -> Mel:
        """Return the frames of chunks, each mono at 16 kHz, shape (n_samples,)."""
        lengths = [max(len(samples), MIN_SAMPLES) for samples in chunks]
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

    def compute_packed(self, samples: torch.Tensor, blocks: Blocks) -> torch.Tensor:
        """Return the frames of packed audio by block, on the device alone.

        Args:
            samples: the chunks one behind the other, on the device, shape (n_samples,).
            blocks: where they are.

        Returns:
            float32, shape (n_blocks, n_mels, frames of a block); zeros follow each chunk's own frames.
        """
        padded = self._gather_blocks(samples, blocks, self._hop, self._n_fft, self._multiple)
        spectrum = torch.stft(padded, self._n_fft, self._hop, window=self._window, center=False, return_complex=True)
        frames: torch.Tensor = self._scale_blocks(torch.view_as_real(spectrum), self._filters, blocks)
        return frames

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


def _gather_blocks(samples: torch.Tensor, blocks: Blocks, hop: int, n_fft: int, block_frames: int) -> torch.Tensor:
    """Return the samples of each block's frames, each chunk reflected at its two ends; shape (n_blocks, n)."""
    within = torch.arange((block_frames - 1) * hop + n_fft, device=samples.device) - n_fft // 2
    places = blocks.first_frames[:, None] * hop + within
    last = blocks.n_samples[blocks.chunks][:, None] - 1
    reflected = last - (last - places.abs()).abs()
    # Frames behind the end of a chunk are set to zero later, whatever they are made of.
    return samples[blocks.offsets[blocks.chunks][:, None] + reflected.clamp(min=0)]


def _scale_blocks(spectrum: torch.Tensor, filters: torch.Tensor, blocks: Blocks) -> torch.Tensor:
    """Return the log-mel frames of a spectrum, whose last dimension has real and imaginary part."""
    log_mel = (filters @ spectrum.square().sum(-1)).clamp(min=_FLOOR).log10()
    frames = blocks.first_frames[:, None] + torch.arange(log_mel.shape[-1], device=log_mel.device)
    is_padding = (frames >= blocks.n_frames[blocks.chunks][:, None])[:, None]
    loudest = log_mel.masked_fill(is_padding, _LOG_FLOOR).amax(dim=(1, 2))
    by_chunk = torch.full_like(blocks.n_frames, _LOG_FLOOR, dtype=loudest.dtype)
    by_chunk = by_chunk.scatter_reduce(0, blocks.chunks, loudest, "amax")[blocks.chunks][:, None, None]
    scaled = (torch.maximum(log_mel, by_chunk - _RANGE_DECADES) + 4.0) / 4.0
    return scaled.masked_fill(is_padding, 0.0)


def to_device(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """Copy an array to the device without waiting for the work in progress there."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor.to(device)
