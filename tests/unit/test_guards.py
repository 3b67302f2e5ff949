from __future__ import annotations

import pytest

from daemon.engine import ChunkResponse
from daemon.pipeline.guards import Verdict, choose_response, is_echo, judge

SPEECH = (
    "Good morning, everybody. The meeting starts at nine on Monday, and the report has to be on the table of "
    "the manager before that. Can you check the budget and the contract again, please? I will call the customer."
)


def said(text: str, *, is_finished: bool = True) -> ChunkResponse:
    return ChunkResponse(text, "English", is_finished)


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        (SPEECH, 15.0),
        ("No, no, no, no!", 1.2),
        ("no " * 19, 5.0),
        ("Very, very good. Very, very good.", 2.0),
        ("\u54c8" * 12, 3.0),  # laughter
        ("Yes.", 0.4),
        ("One hundred and twenty three thousand.", 1.0),
        ("", 2.0),
        ("\u4eca\u5929\u7684\u4f1a\u8bae\u4e5d\u70b9\u5f00\u59cb", 2.0),
        ("\u0e2a\u0e27\u0e31\u0e2a\u0e14\u0e35\u0e04\u0e23\u0e31\u0e1a", 1.5),
    ],
)
def test_speech_is_good(text: str, speech_s: float) -> None:
    assert judge(said(text), speech_s, is_speech_sure=True) is Verdict.GOOD


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        ("the " * 100, 7.5),
        ("and the report " * 40, 20.0),
        ("\u54c8" * 90, 10.0),
        (SPEECH, 1.5),  # more than anyone says in that time
        ("a b c " * 60, 30.0),
    ],
)
def test_loops_and_floods_are_bad(text: str, speech_s: float) -> None:
    assert judge(said(text), speech_s, is_speech_sure=True) is Verdict.BAD


def test_unfinished_response_is_bad() -> None:
    assert judge(said(SPEECH, is_finished=False), 15.0, is_speech_sure=True) is Verdict.BAD


@pytest.mark.parametrize(
    ("text", "speech_s"),
    [
        ("Thank you. " * 12, 30.0),  # it may have been said, but rather not
        ("no " * 30, 12.0),
        ("Yes.", 25.0),  # where is the rest?
        ("", 20.0),
    ],
)
def test_unlikely_text_is_doubtful(text: str, speech_s: float) -> None:
    assert judge(said(text), speech_s, is_speech_sure=True) is Verdict.DOUBTFUL


def test_little_text_is_good_without_speech_detection() -> None:
    assert judge(said(""), 30.0, is_speech_sure=False) is Verdict.GOOD
    assert judge(said("Yes."), 30.0, is_speech_sure=False) is Verdict.GOOD


HOTWORDS = ("Dr. Meyer", "Ulm", "troponin")


@pytest.mark.parametrize("text", ["Dr. Meyer, Ulm, troponin.", "Ulm", "dr meyer", "troponin Ulm Ulm"])
def test_hotwords_alone_may_be_an_echo(text: str) -> None:
    assert is_echo(text, HOTWORDS)


@pytest.mark.parametrize("text", ["", "Dr. Meyer is in Ulm.", "Meyerhof"])
def test_hotwords_within_speech_are_not_an_echo(text: str) -> None:
    assert not is_echo(text, HOTWORDS)


def test_echo_is_kept_only_with_enough_speech() -> None:
    echo = said("Dr. Meyer, Ulm, troponin")
    assert choose_response(echo, said("")) == said("")
    assert choose_response(echo, said("Yes.")) == said("Yes.")
    assert choose_response(echo, said("doctor mayor in olm, troponine")) == echo
    assert choose_response(said("Ulm."), said("Olm.")) == said("Ulm.")
