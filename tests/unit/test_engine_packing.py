"""Packed chunks: where everything is, and that every stage computes what it computes without packing."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
import pytest
import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it
from hypothesis import given, settings
from hypothesis import strategies as st
from transformers import Qwen3ASRFeatureExtractor

from daemon.engine.audio.mel import MIN_SAMPLES, Blocks, LogMel
from daemon.engine.packed_attention import Sequences, attend_plainly
from daemon.engine.qwen3_asr.packing import (
    LARGE_SIZES,
    SIZES,
    SMALL_SIZES,
    AudioGeometry,
    Pack,
    PackBuffer,
    Packer,
    choose_sizes,
)
from daemon.engine.slot_model import PreparedChunk

if TYPE_CHECKING:
    from collections.abc import Sequence

    from numpy.typing import NDArray

    from daemon.engine.qwen3_asr.packing import PackSize

CPU = torch.device("cpu")
AUDIO = 7
SPARE_ROW = 99
NOISE = np.random.default_rng(1).normal(0, 0.1, 16_000 * 301 + 100).astype(np.float32)


def count_frames(n_samples: int) -> int:
    return max(n_samples, MIN_SAMPLES) // 160


def count_states(n_frames: int) -> int:
    n_whole, rest = divmod(n_frames, 100)
    for _ in range(3):
        rest = (rest + 1) // 2
    return 13 * n_whole + rest


GEOMETRY = AudioGeometry(MIN_SAMPLES, count_frames, count_states, 100, 16_000, 13, 104)


def make_prepared(duration_s: float, n_words: int = 18, seed: int = 0) -> PreparedChunk:
    """Return a chunk of noise whose prompt has n_words tokens besides those of the audio."""
    samples = NOISE[seed : seed + round(16_000 * duration_s)]
    n_states = count_states(count_frames(len(samples)))
    words = np.arange(100, 100 + n_words)
    input_ids = np.concatenate((words[: n_words // 2], np.full(n_states, AUDIO), words[n_words // 2 :]))
    return PreparedChunk(samples, input_ids, 50 + seed, None)


def pack_of(
    size: PackSize, chunks: Sequence[PreparedChunk], packer: Packer
) -> tuple[PackBuffer, Pack[NDArray[np.int64]]]:
    """Write a pack into memory full of garbage; return the memory and its parts."""
    lengths = packer.lengths(size)
    garbage = np.random.default_rng(1).integers(-(10**9), 10**9, sum(lengths))
    buffer = PackBuffer(np.full(packer.count_samples(size), np.nan, np.float32), garbage)
    packer.write(size, chunks, range(len(chunks)), SPARE_ROW, buffer)
    return buffer, Pack(*np.split(buffer.numbers, np.cumsum(lengths)[:-1]))


@pytest.fixture
def packer() -> Packer:
    return Packer(SIZES, GEOMETRY, AUDIO)


@pytest.mark.parametrize(
    ("durations_s", "n_words", "groups"),
    [
        ([30.0], 18, [(448, [0])]),
        ([4.0], 18, [(192, [0])]),
        ([30.0] * 8, 18, [(3328, [0, 1, 2, 3, 4, 5, 6, 7])]),
        ([30.0] * 11, 18, [(4224, [0, 1, 2, 3, 4, 5, 6, 7, 8, 9]), (448, [10])]),
        ([30.0], 18 + 256, [(896, [0])]),
        ([300.0], 18 + 256, [(4224, [0])]),
        ([5.0, 300.0, 5.0], 18, [(4224, [1]), (192, [0, 2])]),
        ([29.99, 30.0], 22, [(896, [0, 1])]),
    ],
)
def test_chunks_are_packed_into_the_smallest_size(
    packer: Packer, durations_s: list[float], n_words: int, groups: list[tuple[int, list[int]]]
) -> None:
    packed = packer.group([make_prepared(duration_s, n_words) for duration_s in durations_s])
    assert [(size.n_tokens, sorted(group)) for size, group in packed] == groups


@pytest.mark.parametrize("sizes", [SIZES, SMALL_SIZES, LARGE_SIZES])
def test_longest_chunk_with_all_hotwords_fits_and_a_longer_one_is_refused(sizes: Sequence[PackSize]) -> None:
    packer = Packer(sizes, GEOMETRY, AUDIO)
    assert len(packer.group([make_prepared(300.0, 32 + 256)])) == 1
    with pytest.raises(ValueError, match="too long to be packed"):
        packer.group([make_prepared(301.0, 32 + 256)])


def test_packs_are_as_large_as_the_memory_allows() -> None:
    assert choose_sizes(None) == choose_sizes(16 * 10**9) == SIZES
    assert choose_sizes(6 * 10**9) == SMALL_SIZES
    assert choose_sizes(80 * 10**9) == LARGE_SIZES
    assert max(size.n_tokens for size in SMALL_SIZES) < max(size.n_tokens for size in LARGE_SIZES)


@settings(deadline=None, max_examples=40)
@given(st.lists(st.tuples(st.floats(0.01, 60), st.integers(2, 274)), min_size=1, max_size=25))
def test_every_token_and_sample_of_a_pack_is_in_its_place(chunks: list[tuple[float, int]]) -> None:
    packer = Packer(LARGE_SIZES, GEOMETRY, AUDIO)
    prepared = [make_prepared(duration_s, n_words, seed) for seed, (duration_s, n_words) in enumerate(chunks)]
    groups = packer.group(prepared)
    assert sorted(index for _, group in groups for index in group) == list(range(len(chunks)))
    for size, group in groups:
        packed = [prepared[index] for index in group]
        buffer, pack = pack_of(size, packed, packer)
        n_states = check_chunks(packer, packed, buffer, pack)
        check_fillers(packer, size, packed, pack, n_states)


def check_chunks(packer: Packer, packed: list[PreparedChunk], buffer: PackBuffer, pack: Pack[NDArray[np.int64]]) -> int:
    """Check what belongs to the chunks of a pack; return the number of their audio states."""
    n_states = n_blocks = 0
    for row, chunk in enumerate(packed):
        first = pack.prompt_starts[row]
        own = slice(first, first + chunk.n_prompt_tokens)
        assert pack.input_ids[own].tolist() == chunk.input_ids.tolist()
        assert pack.positions[own].tolist() == list(range(chunk.n_prompt_tokens))
        assert set(pack.token_rows[own]) == {row}
        assert pack.last_places[row] == own.stop - 1
        assert (pack.chunk_rows[row], pack.max_new_tokens[row]) == (row, chunk.max_new_tokens)
        start, length = pack.chunk_offsets[row], pack.chunk_samples[row]
        heard = buffer.samples[start : start + length]
        assert np.array_equal(heard[: len(chunk.samples)], chunk.samples)
        assert not heard[len(chunk.samples) :].any()
        assert length == max(len(chunk.samples), MIN_SAMPLES)
        states = slice(n_states, n_states + count_states(pack.chunk_frames[row]))
        assert set(pack.input_ids[pack.audio_places[states]]) == {AUDIO}
        assert pack.state_sources[states].tolist() == list(range(13 * n_blocks, 13 * n_blocks + states.stop - n_states))
        blocks = slice(n_blocks, n_blocks + packer.geometry.count_blocks(len(chunk.samples)))
        assert pack.block_frames[blocks].tolist() == list(range(0, 100 * (blocks.stop - n_blocks), 100))
        assert set(pack.block_chunks[blocks]) == {row}
        assert n_states in pack.window_starts
        n_states, n_blocks = states.stop, blocks.stop
    return n_states


def check_fillers(
    packer: Packer, size: PackSize, packed: list[PreparedChunk], pack: Pack[NDArray[np.int64]], n_states: int
) -> None:
    """Check that what belongs to no chunk goes where nothing is read, and that all sequences are short enough."""
    n_tokens = sum(chunk.n_prompt_tokens for chunk in packed)
    assert set(pack.token_rows[n_tokens:]) <= {SPARE_ROW}
    assert set(pack.chunk_rows[len(packed) :]) <= {SPARE_ROW}
    assert set(pack.audio_places[n_states:]) <= {size.n_tokens}
    assert pack.chunk_frames[-1] == 0
    for starts, longest, end in (
        (pack.prompt_starts, size.longest, size.n_tokens),
        (pack.window_starts, packer.geometry.window_states, packer.count_states(size)),
    ):
        lengths = np.diff(starts)
        assert (starts[0], starts[-1]) == (0, end)
        assert lengths.min() >= 0
        assert lengths.max() <= longest
    for part, n_values in zip(pack, packer.lengths(size), strict=True):
        assert len(part) == n_values
        assert part.min() >= 0


def test_packed_frames_equal_those_of_each_chunk_alone(packer: Packer) -> None:
    mel = LogMel(Qwen3ASRFeatureExtractor(), CPU, 100)
    chunks = [make_prepared(s, seed=i) for i, s in enumerate((3.0, 0.01, 0.5, 1.0099, 7.77, 1.0, 2.501))]
    chunks.sort(key=lambda chunk: -chunk.n_prompt_tokens)
    [(size, group)] = packer.group(chunks)
    buffer, pack = pack_of(size, [chunks[index] for index in group], packer)
    numbers = [torch.from_numpy(part) for part in (pack.block_chunks, pack.block_frames, *pack[9:12])]
    frames = mel.compute_packed(torch.from_numpy(buffer.samples), Blocks(*numbers))
    assert frames.shape == (size.n_blocks, 128, 100)
    n_blocks = 0
    for index in group:
        alone = mel.compute([chunks[index].samples]).frames[0]
        width = alone.shape[1] // 100
        together = frames[n_blocks : n_blocks + width].transpose(0, 1).flatten(1)
        assert torch.allclose(together, alone, atol=1e-6)
        n_blocks += width
    assert not frames[n_blocks:].any(), "what fills up the blocks is silent"


def test_packed_attention_does_not_cross_sequences() -> None:
    torch.manual_seed(1)
    lengths, n_heads, n_kv_heads = [3, 0, 7, 1, 5], 4, 2
    query = torch.randn(sum(lengths), n_heads, 8)
    key, value = torch.randn(2, sum(lengths), n_kv_heads, 8)
    starts = torch.tensor([0, *np.cumsum(lengths)], dtype=torch.int32)
    for is_causal in (True, False):
        attended = attend_plainly(query, key, value, Sequences(starts, 7, starts, 7, is_causal))
        for first, n in zip(starts.tolist(), lengths, strict=False):
            own = slice(first, first + n)
            parts = [part[own].transpose(0, 1) for part in (query, key, value)]
            alone = F.scaled_dot_product_attention(parts[0], parts[1], parts[2], is_causal=is_causal, enable_gqa=True)
            assert torch.allclose(attended[own], alone.transpose(0, 1), atol=1e-6)


def test_one_query_attends_to_all_of_its_sequence() -> None:
    torch.manual_seed(1)
    key, value = torch.randn(2, 9, 2, 8)
    query = torch.randn(2, 4, 8)
    starts, one_each = torch.tensor([0, 4, 9], dtype=torch.int32), torch.arange(3, dtype=torch.int32)
    attended = attend_plainly(query, key, value, Sequences(starts, 5, one_each, 1, is_causal=False))
    for index, own in enumerate((slice(0, 4), slice(4, 9))):
        alone = F.scaled_dot_product_attention(
            query[index][:, None], key[own].transpose(0, 1), value[own].transpose(0, 1), enable_gqa=True
        )
        assert torch.allclose(attended[index], alone[:, 0], atol=1e-6)
