"""Clips: which stretches are chosen, and that the real audio process makes them."""

from __future__ import annotations

import base64
import json
import re
from dataclasses import replace
from itertools import pairwise
from typing import TYPE_CHECKING

import av
import pytest

from daemon.config import Config, RecordingSettings
from daemon.config.schema import Output
from daemon.documents import Clip, Sound, choose_stretches, fit_into_page, render
from daemon.documents.clips import MAX_BYTES, MAX_CLIP_S, MAX_CLIPS
from daemon.pipeline import Forgetful, Recording, RunControl, make_clips, prepare
from daemon.spool.names import new_job_id
from daemon.transcript import Coverage, Gap, Segment
from tests.conftest import SAMPLES
from tests.unit.test_documents import TALK

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.frontend import FrontEnd
    from daemon.transcript import Transcript


def sample(*segments: Segment, gaps: tuple[Gap, ...] = (), length_s: float = 3600.0) -> Transcript:
    audio = replace(TALK.audio, duration_s=length_s)
    return replace(TALK, audio=audio, segments=segments, coverage=Coverage(length_s, 50.0, 40.0, gaps))


def test_flagged_and_missing_stretches_are_chosen_with_a_margin() -> None:
    chosen = choose_stretches(
        sample(
            Segment(0.2, 4.0, "Tried again.", flags=("retried",)),
            Segment(5.0, 9.0, "Certain."),
            Segment(100.0, 110.0, "Joined.", flags=("overlap",)),
            gaps=(Gap(3590.0, 3599.8, "noise"),),
        )
    )
    assert chosen == [(0.0, 4.5), (99.5, 110.5), (3589.5, 3600.0)]


def test_nothing_is_chosen_where_nothing_is_flagged() -> None:
    assert choose_stretches(sample(Segment(5.0, 9.0, "Certain."))) == []
    assert choose_stretches(sample(gaps=(Gap(9.0, 9.0, "empty"),), length_s=9.0)) == [(8.5, 9.0)]


def test_missing_comes_before_doubtful_and_doubtful_before_joined() -> None:
    joined = [Segment(at * 10.0, at * 10.0 + 5, "Joined.", flags=("overlap",)) for at in range(30)]
    retried = [Segment(1000.0 + at * 10, 1005.0 + at * 10, "Again.", flags=("overlap", "retried")) for at in range(12)]
    gaps = tuple(Gap(2000.0 + at * 10, 2005.0 + at * 10, "noise") for at in range(5))
    chosen = choose_stretches(sample(*joined, *retried, gaps=gaps))
    assert len(chosen) == MAX_CLIPS
    assert [sum(first <= start < first + 900 for start, _ in chosen) for first in (0, 999, 1999)] == [3, 12, 5]


def test_long_stretch_is_cut_and_its_rest_waits_for_the_others() -> None:
    hour = Gap(100.0, 3500.0, "noise")
    chosen = choose_stretches(sample(Segment(10.0, 20.0, "Joined.", flags=("overlap",)), gaps=(hour, hour)))
    assert len(chosen) == MAX_CLIPS
    assert chosen[0] == (9.5, 20.5)
    assert all(end - start <= MAX_CLIP_S for start, end in chosen)
    assert all(end == start for (_, end), (start, _) in pairwise(chosen[1:]))


def test_clips_take_at_most_five_million_characters_of_the_page() -> None:
    clips = [Clip(float(at), at + 30.0, bytes(1_000_000)) for at in range(20)]
    fitting = fit_into_page(clips)
    assert fitting == clips[:3]
    page = render(sample(), ["html"], has_timestamps=False, sound=Sound(clips=tuple(fitting)))["html"]
    plain = render(sample(), ["html"], has_timestamps=False)["html"]
    assert MAX_BYTES - 1_400_000 < len(page) - len(plain) < MAX_BYTES + 1000


@pytest.fixture
def flagged() -> Transcript:
    return sample(Segment(0.0, 2.0, "Again.", flags=("retried",)), gaps=(Gap(3.0, 60.0, "noise"),), length_s=6.108125)


def make(front_end: FrontEnd, transcript: Transcript, config: Config) -> list[Clip]:
    recording = Recording(new_job_id(), SAMPLES / "memo.wav", "memo.wav", RecordingSettings.of(config))
    control = RunControl(lambda: None, lambda _: None, Forgetful())
    with prepare(recording, config, front_end, control) as prepared:
        clips, problem = make_clips(prepared, transcript, front_end, control.raise_if_stopped)
    assert problem is None
    return clips


def test_clips_are_in_the_page_as_sound_that_a_decoder_reads(
    front_end: FrontEnd, flagged: Transcript, tmp_path: Path
) -> None:
    clips = make(front_end, flagged, Config(output=Output(clips=True)))
    page = render(flagged, ["html"], has_timestamps=False, sound=Sound(clips=tuple(clips)))["html"].decode()
    found = re.search(r'<script type="application/json" id="page">(.*?)</script>', page)
    assert found is not None
    (first, second) = json.loads(found[1])["clips"]
    assert (first["start_s"], first["end_s"]) == (0.0, 2.5)
    assert (second["start_s"], second["end_s"]) == (2.5, 6.108)
    for clip in (first, second):
        kind, _, data = clip["data"].partition(",")
        assert kind == "data:audio/mpeg;base64"
        path = tmp_path / "clip.mp3"
        path.write_bytes(base64.b64decode(data))
        with av.open(str(path)) as container:
            n_samples = sum(frame.samples for frame in container.decode(audio=0))
        assert n_samples / 16_000 == pytest.approx(clip["end_s"] - clip["start_s"], abs=0.1)


def test_no_clips_are_made_unless_they_are_asked_for(front_end: FrontEnd, flagged: Transcript) -> None:
    assert make(front_end, flagged, Config()) == []
