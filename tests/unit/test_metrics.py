from __future__ import annotations

import re
import stat
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.status.metrics import Counters, Gauges, render, write
from daemon.transcript import Coverage, Gap, Processing
from tests.unit.test_documents import TALK

if TYPE_CHECKING:
    from pathlib import Path

GAUGES = Gauges(
    "ready", {"arriving": 1, "waiting": 2, "running": 3, "failed": 4}, 5, 1_700_000_000.5, 1_700_000_060.0, 59.5
)
# https://prometheus.io/docs/instrumenting/exposition_formats/#text-format-details
SAMPLE = re.compile(r'[a-z_]+(\{[a-z]+="[^"\\]*"\})? (-?[0-9.]+(e[+-][0-9]+)?)')


def samples(text: str) -> dict[str, float]:
    """Return the samples of a file by name and label, after checking the form of each line."""
    found: dict[str, float] = {}
    family = ""
    for line in text.splitlines():
        if line.startswith("# HELP "):
            family = line.split()[2]
            assert family not in {name.partition("{")[0] for name in found}, "a family is in one piece"
        elif line.startswith("# TYPE "):
            assert line.split()[2] == family
            assert line.split()[3] in {"gauge", "counter", "histogram"}
        else:
            assert SAMPLE.fullmatch(line), line
            assert line.startswith(family)
            name, _, value = line.rpartition(" ")
            assert name not in found
            found[name] = float(value)
    assert text.endswith("\n")
    return found


def test_late_builds_are_counted() -> None:
    assert samples(render(GAUGES, Counters()))["scribed_model_late_builds_total"] == 0
    assert samples(render(replace(GAUGES, n_late_builds=3), Counters()))["scribed_model_late_builds_total"] == 3


def test_gauges_show_the_state_of_the_service() -> None:
    found = samples(render(GAUGES, Counters()))
    assert found["scribed_up"] == 1
    assert found["scribed_ready"] == 1
    assert found["scribed_faults"] == 5
    assert found["scribed_model_loaded_timestamp_seconds"] == 1_700_000_060
    assert found["scribed_start_timestamp_seconds"] == 1_700_000_000.5
    assert found["scribed_model_load_seconds"] == 59.5
    for number, place in enumerate(GAUGES.recordings, start=1):
        assert found[f'scribed_recordings{{place="{place}"}}'] == number
    assert found["scribed_recording_work_seconds_count"] == 0


def test_loading_service_is_up_and_stopped_one_is_not() -> None:
    loading = samples(render(replace(GAUGES, state="loading"), Counters()))
    stopped = samples(render(replace(GAUGES, state="stopped"), Counters()))
    assert (loading["scribed_up"], loading["scribed_ready"]) == (1, 0)
    assert (stopped["scribed_up"], stopped["scribed_ready"]) == (0, 0)


def test_counters_count_delivered_and_failed_recordings() -> None:
    counters = Counters()
    audio, coverage = replace(TALK.audio, duration_s=30.0), Coverage(30.0, 30.0, 30.0)
    counters.add_delivered(replace(TALK, audio=audio, coverage=coverage, processing=Processing(1, "", "", 0.5, 60.0)))
    gaps = (Gap(1.0, 2.5, "unclear"), Gap(10.0, 14.0, "unclear"))
    counters.add_delivered(
        replace(TALK, audio=audio, coverage=Coverage(30, 30, 24.5, gaps), processing=Processing(1, "", "", 5000, 0.006))
    )
    counters.add_failed()
    found = samples(render(GAUGES, counters))
    assert found["scribed_recording_audio_seconds_sum"] == 60
    assert found['scribed_recording_audio_seconds_bucket{le="10"}'] == 0
    assert found['scribed_recording_audio_seconds_bucket{le="30"}'] == 2
    assert found['scribed_recording_work_seconds_bucket{le="1"}'] == 1
    assert found['scribed_recording_work_seconds_bucket{le="3600"}'] == 1
    assert found['scribed_recording_work_seconds_bucket{le="+Inf"}'] == 2
    assert found["scribed_recording_work_seconds_count"] == 2
    assert found["scribed_rtfx"] == 0.006
    assert found["scribed_transcripts_incomplete_total"] == 1
    assert found["scribed_gaps_total"] == 2
    assert found["scribed_gap_seconds_total"] == 5.5
    assert found["scribed_recordings_failed_total"] == 1


def test_file_is_readable_for_everyone_and_leaves_no_temporary_file(tmp_path: Path) -> None:
    target = tmp_path / "scribed.prom"
    for _ in range(2):
        write(target, GAUGES, Counters())
    assert target.read_text() == render(GAUGES, Counters())
    assert stat.S_IMODE(target.stat().st_mode) == 0o644
    assert list(tmp_path.iterdir()) == [target]
