"""Chunks packed one behind another, in a few sizes: what a prefill that is captured once needs.

A group of chunks becomes one sequence of audio and one of tokens, without padding between the chunks. Only the end
is filled up, to the next larger of a few sizes. The host writes where everything is into one array of numbers; the
device reads them, so a captured prefill serves any chunks that fit its size.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Generic, NamedTuple, TypeVar

import numpy as np

from daemon.engine.slots import round_up

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from numpy.typing import NDArray

    from daemon.engine.slot_model import PreparedChunk

Numbers = TypeVar("Numbers")


@dataclass(frozen=True, slots=True)
class PackSize:
    """How much fits into a pack.

    Attributes:
        n_chunks: chunks.
        n_blocks: blocks of audio, 1 s each; the last one of each chunk may be shorter.
        n_tokens: tokens of all prompts.
        longest: tokens of one prompt.
    """

    n_chunks: int
    n_blocks: int
    n_tokens: int
    longest: int

    def holds(self, n_blocks: Sequence[int], n_tokens: Sequence[int]) -> bool:
        """Whether chunks fit, given the blocks and tokens of each."""
        return (
            len(n_tokens) <= self.n_chunks
            and sum(n_blocks) <= self.n_blocks
            and sum(n_tokens) <= self.n_tokens
            and max(n_tokens) <= self.longest
        )


# Attention is launched for as many tokens as the longest prompt may have, so a pack of many chunks holds none so long.
_LONGEST_USUAL: Final = 1664


def _fit(n_chunks: int) -> PackSize:
    """Return the size for some chunks of 30 s, or more that are shorter.

    Such a chunk has 408 tokens in the released models, 412 if the language is given. Kernels compute 128 at a time.
    """
    n_tokens = round_up(412 * n_chunks, 128)
    return PackSize(3 * n_chunks, 30 * n_chunks, n_tokens, min(n_tokens, _LONGEST_USUAL))


_SHORT: Final = (PackSize(2, 10, 192, 192), PackSize(2, 30, 448, 448))
# One chunk of 300 s, the longest, with as many hotwords as a prompt may have.
_LONG: Final = PackSize(2, 300, 4224, 4224)
SIZES: Final = (*_SHORT, *map(_fit, range(2, 11)), _LONG)
# With more rows, more chunks end at a time; what is held for these packs is nothing to a large card.
LARGE_SIZES: Final = (*SIZES, *map(_fit, (12, 14, 16, 18, 20)))
# What is held for a pack of ten chunks is a sixth of a card with 6 GB.
SMALL_SIZES: Final = (*_SHORT, *map(_fit, range(2, 5)), _LONG)
_SMALL_BYTES: Final = 10_000_000_000
_LARGE_BYTES: Final = 40_000_000_000


def choose_sizes(memory_bytes: int | None) -> tuple[PackSize, ...]:
    """Return the sizes for a device with this much memory; None if that is unknown (on a CPU)."""
    if memory_bytes is None or _SMALL_BYTES <= memory_bytes < _LARGE_BYTES:
        return SIZES
    return SMALL_SIZES if memory_bytes < _SMALL_BYTES else LARGE_SIZES


class Pack(NamedTuple, Generic[Numbers]):
    """Where everything is in a pack: NumPy arrays on the host, tensors on the device. Places that are left are fillers.

    Attributes:
        input_ids: tokens of the prompts, and one more place for the audio states that are fillers.
        token_rows: the row of the slots for each token; the spare row for fillers.
        positions: the position of each token in its prompt; 0 for fillers.
        prompt_starts: see `Sequences`; fillers are sequences too.
        audio_places: the token in whose place each audio state is; the additional place for fillers.
        state_sources: which of the states of all blocks, in order, is an audio state; 0 for fillers.
        window_starts: see `Sequences`, for the windows of the encoder.
        block_chunks: the chunk of each block; fillers belong to one more chunk, which has no frames.
        block_frames: the first frame of each block, counted from the start of its chunk.
        chunk_offsets: the first sample of each chunk, and of the one more.
        chunk_samples: samples of each.
        chunk_frames: frames of each.
        last_places: the last token of each prompt; for fillers some token.
        chunk_tokens: tokens of each prompt.
        chunk_rows: the row of each chunk; the spare row for fillers.
        max_new_tokens: the most tokens to generate for each chunk.
    """

    input_ids: Numbers
    token_rows: Numbers
    positions: Numbers
    prompt_starts: Numbers
    audio_places: Numbers
    state_sources: Numbers
    window_starts: Numbers
    block_chunks: Numbers
    block_frames: Numbers
    chunk_offsets: Numbers
    chunk_samples: Numbers
    chunk_frames: Numbers
    last_places: Numbers
    chunk_tokens: Numbers
    chunk_rows: Numbers
    max_new_tokens: Numbers


@dataclass(frozen=True, slots=True, eq=False)
class PackBuffer:
    """Memory of the host that holds one pack at a time.

    Attributes:
        samples: the audio of all chunks, one behind the other, shape (at least `Packer.count_samples`,).
        numbers: the parts of the pack, one behind the other, shape (at least the sum of `Packer.lengths`,).
    """

    samples: NDArray[np.float32]
    numbers: NDArray[np.int64]


@dataclass(frozen=True, slots=True)
class AudioGeometry:
    """How samples become frames, blocks, states and windows.

    Attributes:
        min_samples: shorter audio is followed by zeros.
        count_frames: from samples to frames.
        count_states: from frames to audio states.
        block_frames: frames of a block.
        block_samples: samples of a block.
        block_states: audio states of a whole block.
        window_states: audio states that attend to one another.
    """

    min_samples: int
    count_frames: Callable[[int], int]
    count_states: Callable[[int], int]
    block_frames: int
    block_samples: int
    block_states: int
    window_states: int

    def count_blocks(self, n_samples: int) -> int:
        """Return how many blocks audio of this length has."""
        return -(-self.count_frames(n_samples) // self.block_frames)


class Packer:
    """Writes packs.

    Args:
        sizes: from the smallest to the largest.
        geometry: of the model's audio.
        audio_token: the token whose places the audio states take.
    """

    def __init__(self, sizes: Sequence[PackSize], geometry: AudioGeometry, audio_token: int) -> None:
        self.sizes = tuple(sizes)
        self.geometry = geometry
        self._audio_token = audio_token

    def group(self, chunks: Sequence[PreparedChunk]) -> list[tuple[PackSize, list[int]]]:
        """Return groups of indices to chunks, each with the smallest size that holds it.

        Raises:
            ValueError: a chunk fits no size.
        """
        n_tokens = [chunk.n_prompt_tokens for chunk in chunks]
        n_blocks = [self.geometry.count_blocks(len(chunk.samples)) for chunk in chunks]
        groups: list[tuple[PackSize, list[int]]] = []
        for index in sorted(range(len(chunks)), key=lambda index: -n_tokens[index]):
            group = [*groups[-1][1], index] if groups else [index]
            size = self._find_size([n_blocks[i] for i in group], [n_tokens[i] for i in group])
            if size is not None and groups:
                groups[-1] = size, group
                continue
            size = self._find_size([n_blocks[index]], [n_tokens[index]])
            if size is None:
                raise ValueError(
                    f"a chunk of {n_blocks[index]} s and {n_tokens[index]} tokens is too long to be packed"
                )
            groups.append((size, [index]))
        return groups

    def _find_size(self, n_blocks: Sequence[int], n_tokens: Sequence[int]) -> PackSize | None:
        return next((size for size in self.sizes if size.holds(n_blocks, n_tokens)), None)

    def count_windows(self, size: PackSize) -> int:
        """Return how many windows a pack has at most, fillers included."""
        return -(-self.count_states(size) // self.geometry.window_states) + size.n_chunks + 1

    def count_states(self, size: PackSize) -> int:
        """Return how many audio states a pack has, fillers included."""
        return size.n_blocks * self.geometry.block_states

    def count_samples(self, size: PackSize) -> int:
        """Return how many samples a pack has at most."""
        return size.n_blocks * self.geometry.block_samples + size.n_chunks * self.geometry.min_samples

    def lengths(self, size: PackSize) -> Pack[int]:
        """Return how many numbers each part of a pack has."""
        n_chunks, n_tokens, n_states = size.n_chunks, size.n_tokens, self.count_states(size)
        return Pack(
            input_ids=n_tokens + 1,
            token_rows=n_tokens,
            positions=n_tokens,
            prompt_starts=n_chunks - (-n_tokens // size.longest) + 1,
            audio_places=n_states,
            state_sources=n_states,
            window_starts=self.count_windows(size) + 1,
            block_chunks=size.n_blocks,
            block_frames=size.n_blocks,
            chunk_offsets=n_chunks + 1,
            chunk_samples=n_chunks + 1,
            chunk_frames=n_chunks + 1,
            last_places=n_chunks,
            chunk_tokens=n_chunks,
            chunk_rows=n_chunks,
            max_new_tokens=n_chunks,
        )

    def write(
        self,
        size: PackSize,
        chunks: Sequence[PreparedChunk],
        rows: Sequence[int],
        spare_row: int,
        buffer: PackBuffer,
    ) -> int:
        """Write chunks into a pack.

        Args:
            size: a size that holds them.
            chunks: at least one.
            rows: the row of each.
            spare_row: the row of fillers.
            buffer: what to write into.

        Returns:
            The number of samples written.
        """
        samples, pack = buffer.samples, self._split(buffer.numbers, self.lengths(size))
        self._fill(pack, spare_row)
        geometry, n_window = self.geometry, self.geometry.window_states
        n_samples = n_tokens = n_states = n_blocks = n_windows = 0
        for index, (chunk, row) in enumerate(zip(chunks, rows, strict=True)):
            # Samples and frames
            length = max(len(chunk.samples), geometry.min_samples)
            samples[n_samples : n_samples + len(chunk.samples)] = chunk.samples
            samples[n_samples + len(chunk.samples) : n_samples + length] = 0
            frames = geometry.count_frames(len(chunk.samples))
            pack.chunk_offsets[index], pack.chunk_samples[index], pack.chunk_frames[index] = n_samples, length, frames
            n_samples += length
            # Blocks and states
            end_block = n_blocks + geometry.count_blocks(len(chunk.samples))
            pack.block_chunks[n_blocks:end_block] = index
            pack.block_frames[n_blocks:end_block] = geometry.block_frames * np.arange(end_block - n_blocks)
            states = geometry.count_states(frames)
            first_state = n_blocks * geometry.block_states
            pack.state_sources[n_states : n_states + states] = np.arange(first_state, first_state + states)
            starts = np.arange(n_states, n_states + states, n_window)
            pack.window_starts[n_windows : n_windows + len(starts)] = starts
            n_blocks, n_windows = end_block, n_windows + len(starts)
            # Tokens
            end = n_tokens + chunk.n_prompt_tokens
            pack.input_ids[n_tokens:end] = chunk.input_ids
            pack.token_rows[n_tokens:end] = row
            pack.positions[n_tokens:end] = np.arange(chunk.n_prompt_tokens)
            audio = np.flatnonzero(chunk.input_ids == self._audio_token)
            pack.audio_places[n_states : n_states + states] = n_tokens + audio
            pack.prompt_starts[index] = n_tokens
            pack.last_places[index] = end - 1
            pack.chunk_tokens[index] = chunk.n_prompt_tokens
            pack.chunk_rows[index] = row
            pack.max_new_tokens[index] = chunk.max_new_tokens
            n_tokens, n_states = end, n_states + states
        _continue_starts(pack.prompt_starts[len(chunks) :], n_tokens, size.longest, size.n_tokens)
        _continue_starts(pack.window_starts[n_windows:], n_states, n_window, len(pack.state_sources))
        return n_samples

    def _split(self, numbers: NDArray[np.int64], lengths: Pack[int]) -> Pack[NDArray[np.int64]]:
        ends = np.cumsum(lengths)
        return Pack(*np.split(numbers[: ends[-1]], ends[:-1]))

    def _fill(self, pack: Pack[NDArray[np.int64]], spare_row: int) -> None:
        """Make everything a filler."""
        for part in pack:
            part.fill(0)
        pack.token_rows.fill(spare_row)
        pack.chunk_rows.fill(spare_row)
        pack.audio_places.fill(len(pack.positions))
        pack.block_chunks.fill(len(pack.chunk_rows))
        pack.chunk_samples.fill(self.geometry.min_samples)
        pack.chunk_tokens.fill(1)
        pack.max_new_tokens.fill(1)  # a filler is finished with its first token


def _continue_starts(starts: NDArray[np.int64], first: int, step: int, end: int) -> None:
    """Make fillers sequences of at most a step each."""
    np.minimum(first + step * np.arange(len(starts)), end, out=starts)
