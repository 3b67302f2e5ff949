from __future__ import annotations

import os
from itertools import islice

import pytest
from hypothesis import given
from hypothesis import strategies as st

from daemon.spool.names import error_note_name, failure_names, fit, hotwords_name, new_job_id, outcome_names


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (
            "talk.wav",
            [
                ("talk", "talk.wav"),
                ("talk.wav", "talk.wav"),
                ("talk.wav", "talk.wav.wav"),
                ("talk.wav (2)", "talk.wav (2).wav"),
                ("talk.wav (3)", "talk.wav (3).wav"),
            ],
        ),
        ("STATUS.wav", [("STATUS.wav", "STATUS.wav"), ("STATUS.wav", "STATUS.wav.wav")]),
        ("Status", [("Status (2)", "Status (2)")]),
        ("talk.", [("talk", "talk."), ("talk.", "talk."), ("talk.", "talk..")]),
        ("talk", [("talk", "talk"), ("talk", "talk"), ("talk", "talk"), ("talk (2)", "talk (2)")]),
        ("-rf.wav", [("-rf", "-rf.wav")]),
    ],
)
def test_candidate_names_come_in_their_documented_order(name: str, expected: list[tuple[str, str]]) -> None:
    assert list(islice(outcome_names(name), len(expected))) == expected


NAMES = (
    st.binary(min_size=1, max_size=255).filter(lambda name: not {0, 47} & {*name})
    | st.text(st.characters(codec="utf-8", exclude_characters="/\0"), min_size=1).map(str.encode)
    | st.sampled_from([b"a." + b"x" * 253, b"x" * 251 + b".wav", "\U0001f600".encode() * 63, b"\x80" * 255, b"..wav"])
).filter(lambda name: len(name) <= 255 and name not in {b".", b".."})  # no file has these two names


@given(NAMES)
def test_generated_names_fit_and_are_unique(encoded: bytes) -> None:
    name = os.fsdecode(encoded)
    made = list(islice(outcome_names(name), 8))
    for stem, audio_name in made:
        assert len(os.fsencode(f"{stem}.listen.opus")) <= 255
        assert len(os.fsencode(audio_name)) <= 255
        assert stem.casefold() != "status"
        for other in (audio_name, hotwords_name(audio_name), error_note_name(audio_name)):
            assert len(os.fsencode(other)) <= 255
            assert other not in {"", ".", ".."}
    assert len(set(made[-5:])) == 5
    away = list(islice(failure_names(name), 5))
    assert away[0] == name
    assert len(set(away)) == 5
    assert max(len(os.fsencode(other)) for other in away) <= 255


def test_shortened_names_are_valid_text_and_stay_distinct() -> None:
    one, other = (fit("\u00fc" * 125 + end, 5) for end in ("a", "b"))
    assert one != other
    assert one.encode().decode().startswith("\u00fc" * 100)


def test_job_ids_sort_by_time_and_differ() -> None:
    ids = [new_job_id() for _ in range(100)]
    assert len(set(ids)) == 100
    assert [job_id[:15] for job_id in ids] == sorted(job_id[:15] for job_id in ids)
