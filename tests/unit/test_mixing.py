"""Tracks that are mixed are added up at the right times, in whatever order their blocks come."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np

from daemon.decode import AudioFiles
from tests import media

if TYPE_CHECKING:
    from pathlib import Path

S = 16_000


def test_sum_does_not_depend_on_the_order_in_which_tracks_come(tmp_path: Path) -> None:
    rng = np.random.default_rng(7)
    expected = np.zeros(200_000)
    with AudioFiles(tmp_path) as files:
        mix = files.make_mix(3)
        for at in rng.integers(0, 3, 90).tolist():
            part = mix.parts[at]
            n_samples = int(rng.integers(1, 5000))
            if rng.random() < 0.3:
                part.skip(n_samples)
                continue
            block = media.noise(n_samples / S, seed=int(rng.integers(99)))
            expected[part.n_samples : part.n_samples + len(block)] += block
            part.append(block)
        n_samples = max(part.n_samples for part in mix.parts)
        waveform = mix.finish()
        with waveform:
            assert files.n_recorded == sum(part.n_recorded for part in mix.parts)
            assert waveform.n_samples == n_samples
            assert np.abs(media.samples_of(waveform) - expected[:n_samples]).max() < 1e-4
            assert all(waveform.has_audio(at, at + 1) for at in np.flatnonzero(expected)[::50].tolist())


def test_pause_of_all_tracks_is_a_pause_of_the_mix(tmp_path: Path) -> None:
    with AudioFiles(tmp_path) as files:
        mix = files.make_mix(2)
        for part, lead in zip(mix.parts, (0, S), strict=True):
            part.append(media.noise(2))
            part.skip(10 * S - lead)
            part.append(media.noise(3, seed=2))
        with mix.finish() as waveform:
            assert waveform.pieces == ((0, 2 * S), (11 * S, 15 * S))
