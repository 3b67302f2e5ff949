"""Prefills of packed chunks, captured once for each size and replayed: what a GPU needs.

A prefill of the 1.7B model is about 1,500 kernels. Launched one by one they keep the host busy for longer than the
device; replayed, a prefill is two copies and one launch. The host writes audio and numbers into pinned memory, from
which the device copies them while the host goes on; everything else, from mirroring the audio to writing the first
token of each row, happens on the device.
"""

from __future__ import annotations

import time
from collections import deque
from functools import partial
from typing import TYPE_CHECKING, Final

import structlog
import torch

from daemon.engine.audio.mel import MIN_SAMPLES, Blocks
from daemon.engine.failures import classify, one_line
from daemon.engine.packed_attention import Sequences
from daemon.engine.qwen3_asr.packing import AudioGeometry, Pack, PackBuffer, Packer
from daemon.engine.qwen3_asr.text_decoder import PackedPrompts, RowStarts

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.audio.encoder import WindowedEncoder
    from daemon.engine.audio.mel import LogMel
    from daemon.engine.qwen3_asr.decode_steps import Capture
    from daemon.engine.qwen3_asr.packing import PackSize
    from daemon.engine.qwen3_asr.text_decoder import TextDecoder
    from daemon.engine.slot_model import PreparedChunk
    from daemon.engine.slots import Slots

log = structlog.get_logger()

# While the device copies from one buffer, the host writes into another.
_N_BUFFERS: Final = 3


def make_packer(sizes: Sequence[PackSize], mel: LogMel, encoder: WindowedEncoder, audio_token: int) -> Packer:
    """Return what packs chunks for a model."""
    geometry = AudioGeometry(
        min_samples=MIN_SAMPLES,
        count_frames=mel.count_frames,
        count_states=encoder.count_states,
        block_frames=encoder.block_frames,
        block_samples=mel.block_samples,
        block_states=encoder.block_states,
        window_states=encoder.window_states,
    )
    return Packer(sizes, geometry, audio_token)


class _HostBuffer:
    """Pinned memory for one pack, and when the device has copied it."""

    def __init__(self, n_samples: int, n_numbers: int, device: torch.device) -> None:
        is_pinned = device.type == "cuda"
        self.samples = torch.zeros(n_samples, pin_memory=is_pinned)
        self.numbers = torch.zeros(n_numbers, dtype=torch.long, pin_memory=is_pinned)
        self.pack = PackBuffer(self.samples.numpy(), self.numbers.numpy())
        self._copied = torch.cuda.Event() if is_pinned else None  # type: ignore[no-untyped-call]  # torch types only parts of itself

    def wait(self) -> float:
        """Wait until the device no longer reads the buffer; return for how many seconds."""
        if self._copied is None or self._copied.query():  # type: ignore[no-untyped-call]  # as above
            return 0.0
        started_s = time.perf_counter()
        self._copied.synchronize()
        return time.perf_counter() - started_s

    def mark(self) -> None:
        """Note that the device reads the buffer now."""
        if self._copied is not None:
            self._copied.record()


class PackedPrefill:
    """Takes groups of chunks from samples to first tokens. Only the device thread may call it.

    Args:
        packer: writes the packs; also an attribute.
        mel: samples to frames.
        encoder: frames to audio states.
        decoder: prompts into the slots.
        device: where they compute.

    Attributes:
        waited_s: how long the host has waited for the device, in all.
    """

    def __init__(
        self, packer: Packer, mel: LogMel, encoder: WindowedEncoder, decoder: TextDecoder, device: torch.device
    ) -> None:
        self.packer = packer
        self._mel, self._encoder, self._decoder = mel, encoder, decoder
        self._lengths = {size: packer.lengths(size) for size in packer.sizes}
        n_samples = max(packer.count_samples(size) for size in packer.sizes)
        n_numbers = max(sum(lengths) for lengths in self._lengths.values())
        self._buffers = deque(_HostBuffer(n_samples, n_numbers, device) for _ in range(_N_BUFFERS))
        self._samples = torch.zeros(n_samples, device=device)
        self._numbers = torch.zeros(n_numbers, dtype=torch.long, device=device)
        self.waited_s = 0.0
        self._replays: dict[PackSize, Callable[[], None]] = {}

    def bind(self, slots: Slots, capture: Capture | None, heartbeat: Callable[[], None]) -> None:
        """Capture a prefill into these slots for each size, the largest first, so that the others fit its memory."""
        self.unbind()
        if capture is None:
            return
        try:
            for size in sorted(self.packer.sizes, key=lambda size: -size.n_blocks * size.n_tokens):
                heartbeat()
                # A pack without chunks consists of fillers, which write to the spare row.
                self._copy(size, [], [], slots)
                self._replays[size] = capture(partial(self._run, size, slots))
        except Exception as error:
            if classify(error) is not None:
                raise
            self.unbind()
            log.warning("engine.capture_failed", reason=one_line(error), consequence="slower")

    def unbind(self) -> None:
        """Free the captured prefills and their memory."""
        self._replays.clear()

    def prefill(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        """Read the prompts of chunks into free rows and generate the first token of each; see `SlotModel`."""
        for size, group in self.packer.group(chunks):
            heartbeat()
            self._copy(size, [chunks[index] for index in group], [rows[index] for index in group], slots)
            replay = self._replays.get(size)
            if replay is None:
                self._run(size, slots)
            else:
                replay()

    def _copy(self, size: PackSize, chunks: Sequence[PreparedChunk], rows: Sequence[int], slots: Slots) -> None:
        """Write a pack and start copying it to the device."""
        buffer = self._buffers[0]
        self._buffers.rotate(-1)
        self.waited_s += buffer.wait()
        n_samples = self.packer.write(size, chunks, rows, slots.spare_row, buffer.pack)
        n_numbers = sum(self._lengths[size])
        self._samples[:n_samples].copy_(buffer.samples[:n_samples], non_blocking=True)
        self._numbers[:n_numbers].copy_(buffer.numbers[:n_numbers], non_blocking=True)
        buffer.mark()

    # What is captured, in its order: what is launched depends on the size alone, and serves the pack copied last

    def _run(self, size: PackSize, slots: Slots) -> None:
        self.read_prompts(size, self.encode(size, self.compute_frames(size)), slots)

    def compute_frames(self, size: PackSize) -> torch.Tensor:
        """Return the mel frames of the pack, shape (n_blocks, n_mels, frames of a block)."""
        pack = self._parts(size)
        blocks = Blocks(pack.block_chunks, pack.block_frames, pack.chunk_offsets, pack.chunk_samples, pack.chunk_frames)
        return self._mel.compute_packed(self._samples, blocks)

    def encode(self, size: PackSize, frames: torch.Tensor) -> torch.Tensor:
        """Return the audio states of the pack, shape (n_states, d_text)."""
        pack = self._parts(size)
        windows = _whole_sequences(pack.window_starts, self.packer.geometry.window_states, is_causal=False)
        return self._encoder.encode_packed(frames, pack.state_sources, windows)

    def read_prompts(self, size: PackSize, states: torch.Tensor, slots: Slots) -> None:
        """Put the audio states into the prompts of the pack, and read those into their rows."""
        pack = self._parts(size)
        prompts = PackedPrompts(
            self._decoder.embed(pack.input_ids).index_copy_(0, pack.audio_places, states)[:-1],
            pack.token_rows,
            pack.positions,
            _whole_sequences(pack.prompt_starts, size.longest, is_causal=True),
            pack.last_places,
            RowStarts(pack.chunk_rows, pack.chunk_tokens, pack.max_new_tokens),
        )
        self._decoder.prefill_packed(slots, prompts)

    def _parts(self, size: PackSize) -> Pack[torch.Tensor]:
        lengths = self._lengths[size]
        return Pack(*torch.split(self._numbers[: sum(lengths)], list(lengths)))


def _whole_sequences(starts: torch.Tensor, longest: int, *, is_causal: bool) -> Sequences:
    starts = starts.int()
    return Sequences(starts, longest, starts, longest, is_causal)
