"""What is done with the model's words: script, then corrections; their times and confidence stay with them."""

from __future__ import annotations

from hypothesis import given
from hypothesis import strategies as st

from daemon.config import Transcribe
from daemon.pipeline.revision import carry_words, revise
from daemon.text import tokens_of
from daemon.text.corrections import Correction
from daemon.transcript import Segment, Word


def words(text: str, *, is_timed: bool = True) -> tuple[Word, ...]:
    return tuple(
        Word(token.strip(), float(index), index + 1.0, 0.5 + index / 100)
        if is_timed
        else Word(token.strip(), confidence=0.5)
        for index, token in enumerate(tokens_of(text))
    )


def test_changed_segment_keeps_the_words_of_the_model() -> None:
    segments = (
        Segment(0, 3, "Call mister Shmidt now", "English", words=words("Call mister Shmidt now")),
        Segment(3, 6, "Good morning", "English", words=words("Good morning")),
    )
    rules = (Correction("Shmidt", "Schmidt"), Correction("mister", "Mr."))
    (changed, same), notes = revise(segments, Transcribe(corrections=rules))
    assert changed.text == "Call Mr. Schmidt now"
    assert changed.text_raw == "Call mister Shmidt now"
    assert [(word.text, word.start_s, word.confidence) for word in changed.words] == [
        ("Call", 0.0, 0.5), ("Mr.", 1.0, 0.51), ("Schmidt", 2.0, 0.52), ("now", 3.0, 0.53)
    ]  # fmt: skip
    assert same == segments[1]
    assert notes == ()


def test_script_is_converted_before_the_corrections() -> None:
    settings = Transcribe(chinese_script="traditional", corrections=("zh-common", Correction("這裡", "這裏")))
    segments = (
        Segment(0, 2, "我觉的来这里好", "Chinese", words=words("我觉的来这里好")),
        Segment(2, 3, "学校", "Japanese"),
    )
    (chinese, japanese), _ = revise(segments, settings)
    assert chinese.text == "我覺得來這裏好"
    assert chinese.text_raw == "我觉的来这里好"
    assert [word.text for word in chinese.words] == list("我覺得來這裏好")
    assert [word.start_s for word in chinese.words] == [float(index) for index in range(7)]
    assert japanese == segments[1]


def test_text_that_a_rule_removes_leaves_no_gap_in_the_spacing() -> None:
    settings = Transcribe(corrections=(Correction("um", ""),))
    (part, empty), _ = revise((Segment(0, 2, "we um agree"), Segment(2, 3, "um")), settings)
    assert (part.text, part.text_raw) == ("we agree", "we um agree")
    assert (empty.text, empty.text_raw) == ("", "um")


def test_words_that_become_more_or_fewer_share_the_time() -> None:
    more = carry_words(words("call nine one one please"), "call 9 1 1 now please")
    assert [(word.text, word.start_s, word.end_s) for word in more][1:5] == [
        ("9", 1.0, 1.75), ("1", 1.75, 2.5), ("1", 2.5, 3.25), ("now", 3.25, 4.0)
    ]  # fmt: skip
    assert {word.confidence for word in more[1:5]} == {0.51}
    fewer = carry_words(words("per cent done"), "% done")
    assert [(word.text, word.start_s, word.end_s) for word in fewer] == [("%", 0.0, 2.0), ("done", 2.0, 3.0)]
    unknown = carry_words(words("per cent done", is_timed=False), "% done")
    assert unknown == (Word("%", confidence=0.5), Word("done", confidence=0.5))


TEXTS = st.lists(st.sampled_from(["one", "two", "Two", "3,", "好", "嗎", "…", "a"]), max_size=12).map(" ".join)


@given(TEXTS, TEXTS)
def test_carried_words_are_those_of_the_text_in_order_of_time(old: str, new: str) -> None:
    carried = carry_words(words(old), new)
    assert [word.text for word in carried] == [token.strip() for token in tokens_of(new)]
    times = [word.start_s for word in carried if word.start_s is not None]
    assert times == sorted(times)
