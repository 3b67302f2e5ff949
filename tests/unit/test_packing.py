"""Audio is stored in half the room, and what that loses is below what the model rounds away."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import numpy as np
import pytest

from daemon.decode import WaveformWriter, stored_bytes
from daemon.decode.packing import BLOCK_SAMPLES, pack, unpack
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

    from numpy.typing import NDArray

    from daemon.decode import Waveform


def error_by_block(samples: NDArray[np.float32]) -> NDArray[np.float64]:
    """Return the largest error in each block, as a share of the loudest sample in it."""
    errors = np.abs(unpack(pack(samples)).astype(np.float64) - samples).reshape(-1, BLOCK_SAMPLES).max(axis=1)
    share: NDArray[np.float64] = errors / np.abs(samples).reshape(-1, BLOCK_SAMPLES).max(axis=1)
    return share


@pytest.mark.parametrize("level", [1e-20, 1e-6, 0.1, 1.0, 1e5])
def test_error_is_a_share_of_the_sound_itself_however_quiet_or_loud(level: float) -> None:
    assert error_by_block(media.noise(1.024, level=level)).max() < 1 / 65_000


def test_quiet_passage_is_stored_as_well_as_a_loud_one() -> None:
    sound = media.noise(2.048)
    sound[len(sound) // 2 :] *= np.float32(1e-4)
    assert error_by_block(sound).max() < 1 / 65_000


def test_silence_stays_silence() -> None:
    assert not unpack(pack(np.zeros(1000, np.float32))).any()
    assert not unpack(np.frombuffer(bytes(stored_bytes(1000)), pack(np.zeros(1, np.float32)).dtype)).any()


def test_waveform_takes_half_the_room_of_floats(tmp_path: Path) -> None:
    with WaveformWriter(tmp_path) as writer:
        writer.append(media.noise(10))
        waveform = writer.finish()
    with waveform:
        assert os.fstat(waveform.file.fileno()).st_size == stored_bytes(160_000) < 0.51 * 4 * 160_000


def test_pauses_may_begin_and_end_anywhere(tmp_path: Path) -> None:
    rng = np.random.default_rng(5)
    expected: list[NDArray[np.float32]] = []
    with WaveformWriter(tmp_path) as writer:
        for _ in range(60):
            sound = media.noise(float(rng.integers(0, 700)) / 16_000, seed=int(rng.integers(99)))
            n_pause = int(rng.choice([0, 1, 100, 255, 256, 257, 3000]))
            writer.append(sound)
            writer.skip(n_pause)
            expected += [sound, np.zeros(n_pause, np.float32)]
        waveform = writer.finish()
    whole = np.concatenate(expected)
    with waveform:
        assert waveform.n_samples == len(whole)
        assert np.array_equal(media.samples_of(waveform), media.as_stored(whole))


@pytest.mark.parametrize(("start", "n_samples"), [(0, 512), (512, 1024), (100, 7), (300, 3000), (3990, 10), (0, 4000)])
def test_replaced_samples_are_read_back_and_no_others_change(start: int, n_samples: int, tmp_path: Path) -> None:
    before, new = media.noise(0.25), media.noise(0.25, level=0.01, seed=2)[:n_samples]
    with WaveformWriter(tmp_path) as writer:
        writer.append(before / np.float32(2))
        waveform = writer.finish(gain=2.0)
    with waveform:
        waveform.replace(start, new)
        after = media.samples_of(waveform)
    expected = before.copy()
    expected[start : start + n_samples] = new
    assert len(after) == len(before)
    assert after == pytest.approx(expected, abs=float(2 * np.abs(before).max()) / 65_000)


def taken_bytes(waveform: Waveform) -> int:
    """Return how much of the disk the audio takes."""
    return 512 * os.fstat(waveform.file.fileno()).st_blocks


def test_silence_takes_no_room_wherever_it_lies(tmp_path: Path) -> None:
    sound, silence = media.noise(2.0), np.zeros(1 << 15, np.float32)
    with WaveformWriter(tmp_path) as writer:
        for block in (*[silence] * 100, sound, *[silence] * 100, sound, *[silence] * 100):
            writer.append(block)
        waveform = writer.finish()
    expected = np.concatenate((*[silence] * 100, sound, *[silence] * 100, sound, *[silence] * 100))
    with waveform:
        assert writer.n_recorded == waveform.n_samples == len(expected)
        assert waveform.pieces == ((0, len(expected)),)  # it was recorded, unlike a pause of the recorder
        assert os.fstat(waveform.file.fileno()).st_size == stored_bytes(len(expected))
        assert taken_bytes(waveform) < 1.2 * stored_bytes(2 * len(sound))
        assert np.abs(media.samples_of(waveform) - expected).max() < 1e-4


def test_only_what_stays_below_the_floor_is_stored_as_silence(tmp_path: Path) -> None:
    quiet, click = media.noise(2.048, level=1e-6), media.noise(2.048, level=1e-6, seed=2)
    click[20_000] = 1e-3
    with WaveformWriter(tmp_path) as writer:
        for block in (quiet, click, quiet):
            writer.append(block, 1e-4)
        writer.append(quiet)
        waveform = writer.finish()
    with waveform:
        n = len(quiet)
        assert not waveform.read(0, n).any()
        assert waveform.read(n, 2 * n)[20_000] == pytest.approx(1e-3, rel=1e-4)
        assert not waveform.read(2 * n, 3 * n).any()
        assert waveform.read(3 * n, 4 * n) == pytest.approx(quiet, abs=1e-9)
