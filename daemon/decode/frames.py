"""Packets and frames to blocks of audio: what is missing, and how samples of any type become float32."""

from __future__ import annotations

import re
from typing import TYPE_CHECKING, Any, Final

import av
import numpy as np
import soxr

from daemon.decode import headers

if TYPE_CHECKING:
    from collections.abc import Iterator

    from numpy.typing import NDArray

BLOCK_VALUES: Final = 1 << 17
"""Samples of all channels in one block: 1.5 s of 44.1 kHz stereo, 0.5 MB."""

MIN_GAP_S: Final = 0.1
"""A shorter jump of the time stamps is rounding."""
# A longer jump in a broadcast format is a cut or a new clock, and no pause.
_MAX_BROADCAST_GAP_S: Final = 10.0
_BROADCAST: Final = frozenset({"mpegts", "mpeg"})
# Codecs whose frames do not follow the time stamps of their packets.
_UNTIMED: Final = frozenset({"wmalossless"})
_MAX_LOST_PACKET_S: Final = 30.0

# Bare frames; other programs write tags, padding and other data before, between and after them.
_BARE: Final = frozenset({"mp3", "aac", "ac3", "eac3"})
_SYNC: Final = re.compile(rb"\xff[\xe0-\xff]|\x0b\x77")
_FIRST_FRAME: Final = re.compile(rb"Xing|Info|VBRI")  # encoders write such a frame at the start of a file
_FIRST_FRAME_BYTES: Final = 200
# Frame types for comfort noise, lost and empty frames: 3GPP TS 26.101 and TS 26.201, table 1a.
_AMR_PAUSES: Final = {"amrnb": (8, 15), "amrwb": (9, 14, 15)}


class Clock:
    """Finds missing audio by the time stamps of the frames.

    Without it, a page lost in the middle of an Ogg file would shift everything after it.

    Attributes:
        n_jumps: how often the time stamps jumped by more than can be a pause; the parts were joined.

    Args:
        format_name: FFmpeg's name of the container.
        codec: FFmpeg's name of the encoding.
        start_us: earliest time stamp of the container in microseconds, if it has any. So in a video
            whose audio begins late, times are those that a player shows.
        tick_s: unit of the frames' time stamps in seconds.
        limit_s: latest time that a pause may reach; a longer one is a broken clock.
    """

    def __init__(self, format_name: str, codec: str, start_us: int | None, tick_s: float, limit_s: float) -> None:
        self.n_jumps = 0
        self._is_broadcast = format_name in _BROADCAST
        self._is_timed = codec not in _UNTIMED
        self._tick_s = tick_s
        self._expected_s = None if start_us is None else start_us / av.time_base
        self._has_begun = False
        self._limit_s = limit_s
        self._passed_s = 0.0

    @property
    def has_begun(self) -> bool:
        """Whether a frame was decoded before."""
        return self._has_begun

    def measure(self, packet: Any) -> float:  # noqa: ANN401  # PyAV is not typed strictly enough to be checked
        """Return how long a packet that cannot be decoded would be, in seconds."""
        duration_s = float((packet.duration or 0) * self._tick_s)
        return duration_s if 0 < duration_s <= _MAX_LOST_PACKET_S else 0.0

    def skip(self, duration_s: float, *, is_audio: bool = True) -> None:
        """Move on by packets that could not be decoded; only the time stamps count what was never audio."""
        if is_audio:
            self._passed_s += duration_s
        if self._expected_s is not None:
            self._expected_s += duration_s

    def advance(self, frame: Any) -> float:  # noqa: ANN401  # the same
        """Move on by a decoded frame, and return how many seconds of audio are missing before it."""
        stamp, expected_s = frame.pts, self._expected_s
        start_s = expected_s if stamp is None else stamp * self._tick_s  # frame.time computes with slow fractions
        length_s = frame.samples / frame.sample_rate
        if start_s is None:
            self._passed_s += length_s
            return 0.0
        gap_s = self._judge(start_s - expected_s) if self._is_timed and expected_s is not None else 0.0
        self._expected_s = start_s + length_s
        self._has_begun = True
        self._passed_s += gap_s + length_s
        return gap_s

    def _judge(self, jump_s: float) -> float:
        """Return how much of a jump of the time stamps is a pause."""
        if self._is_broadcast and self._has_begun and abs(jump_s) > _MAX_BROADCAST_GAP_S:
            self.n_jumps += 1
            return 0.0
        if jump_s < MIN_GAP_S:
            return 0.0
        if self._passed_s + jump_s > self._limit_s:
            self.n_jumps += 1
            return 0.0
        return jump_s


class BrokenPackets:
    """Tells lost audio from tags, padding, junk and pauses among the packets that cannot be decoded.

    In formats of bare frames, what cannot be decoded before the first frame and after the last one was never audio,
    unless it begins like a frame. Between frames it was, unless a tag or the first frame of another file follows.

    Attributes:
        n_lost: packets so far that held audio.
    """

    def __init__(self, format_name: str, codec: str) -> None:
        self.n_lost = 0
        self._is_bare = format_name in _BARE
        self._pauses = _AMR_PAUSES.get(codec, ())
        self._has_begun = False
        self._run: list[tuple[bytes, float]] = []  # how each packet since the last good one begins, and its length

    def add(self, content: bytes, duration_s: float) -> float:
        """Count a packet; return how many seconds of silence replace it now."""
        if self._is_bare:
            self._run.append((b"", duration_s) if headers.is_padding(content) else (content[:2], duration_s))
            if headers.is_tag(content):  # what was before it lies between two files
                self._run = [(b"", length_s) for _, length_s in self._run]
                self._has_begun = False
            return 0.0
        is_pause = bool(content) and content[0] >> 3 & 0xF in self._pauses  # FFmpeg decodes no comfort noise of AMR
        self.n_lost += not is_pause
        return duration_s

    def end_run(self, content: bytes) -> tuple[float, bool]:
        """Record that a packet was decoded.

        Returns:
            (how long the packets before it are that could not, in seconds; whether silence has to replace them).
        """
        run, self._run = self._run, []
        is_audio = self._has_begun and _FIRST_FRAME.search(content[:_FIRST_FRAME_BYTES]) is None
        self._has_begun = True
        n_lost = len(run) if is_audio else self._count_frames(run)
        self.n_lost += n_lost
        return sum(duration_s for _, duration_s in run), n_lost > 0

    def finish(self) -> None:
        """Record that no packet follows."""
        self.n_lost += self._count_frames(self._run)

    @staticmethod
    def _count_frames(run: list[tuple[bytes, float]]) -> int:
        return sum(_SYNC.match(begin) is not None for begin, _ in run)

    @property
    def is_waiting(self) -> bool:
        """Whether packets have not been classified yet."""
        return bool(self._run)


class Collector:
    """Collects frames into blocks of one type, rate and number of channels: chained streams may change them."""

    def __init__(self, rate_hz: int, channels: int) -> None:
        self._rate_hz = rate_hz
        self._channels = channels
        self._fifo = av.AudioFifo()
        self._shape: tuple[str, int, int] | None = None
        self._resampler: Any = None

    def push(self, frame: Any) -> list[NDArray[np.float32]]:  # noqa: ANN401  # the same
        """Add a frame; return blocks, shape (channels, n), as soon as they are full."""
        blocks: list[NDArray[np.float32]] = []
        shape = (frame.format.name, frame.sample_rate, frame.layout.nb_channels)
        if shape != self._shape:
            blocks += self.drain()
            self._shape = shape
            if frame.sample_rate != self._rate_hz:
                self._resampler = soxr.ResampleStream(frame.sample_rate, self._rate_hz, self._channels)
        frame.pts = None  # the queue expects streams without gaps
        self._fifo.write(frame)
        if self._fifo.samples * self._channels >= BLOCK_VALUES:
            blocks.append(self._take())
        return blocks

    def drain(self) -> Iterator[NDArray[np.float32]]:
        """Yield what is left."""
        if self._fifo.samples:
            yield self._take()
        if self._resampler is not None:
            yield self._resampler.resample_chunk(np.zeros((0, self._channels), np.float32), last=True).T
        self._fifo, self._shape, self._resampler = av.AudioFifo(), None, None

    def _take(self) -> NDArray[np.float32]:
        """Return the content of the queue as float32, shape (channels, n)."""
        frame = self._fifo.read()
        samples = frame.to_ndarray()
        block = as_planes(samples if frame.format.is_planar else samples.reshape(frame.samples, -1).T)
        if len(block) != self._channels:
            block = np.repeat(block.mean(axis=0, keepdims=True), self._channels, axis=0)
        if self._resampler is not None:
            block = np.ascontiguousarray(self._resampler.resample_chunk(np.ascontiguousarray(block.T)).T)
        return block


def as_planes(samples: NDArray[Any]) -> NDArray[np.float32]:
    """Return samples of any type, shape (channels, n), as float32 in [-1, 1], each channel contiguous."""
    planes = np.ascontiguousarray(samples)
    if planes.dtype.kind == "f":
        return planes.astype(np.float32, copy=False)
    scaled = np.empty(planes.shape, np.float32)
    np.multiply(planes, np.float32(0.5 ** (8 * planes.dtype.itemsize - 1)), out=scaled, casting="same_kind")
    if planes.dtype == np.uint8:
        scaled -= 1
    return scaled
