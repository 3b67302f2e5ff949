from __future__ import annotations

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from daemon.transcript import (
    Coverage,
    Gap,
    ModelIdentity,
    Processing,
    Receipt,
    Segment,
    Source,
    Transcript,
    count_word_errors,
    join_texts,
    merge_overlap,
)

# Few words, so that every sentence repeats itself, and many, as people do.
FEW, MANY = ("no", "yes", "well", "no,"), tuple(f"word{number}" for number in range(60))


def make(*segments: Segment, is_read: bool = True, gaps: tuple[Gap, ...] = ()) -> Transcript:
    return Transcript(
        job_id="1",
        source=Source("talk.wav", "talk.wav", "0" * 64, 1, "2026-01-31T09:30:00Z"),
        audio=Receipt(60.0, 44_100, 2, "pcm_s16le", -6.0, 3.0, 0.0, is_complete=is_read),
        model=ModelIdentity("demo", "0" * 64, "float32", "cpu"),
        coverage=Coverage(60.0, 50.0, 50.0, gaps),
        processing=Processing(1, "", "", 1.0, 60.0),
        segments=segments,
    )


# Joining


@pytest.mark.parametrize(
    ("texts", "joined"),
    [
        ([], ""),
        (["", "  ", "\n"], ""),
        (["hello", "world"], "hello world"),
        ([" hello ", "", " world. "], "hello world."),
        (["你好。", "再见。"], "你好。再见。"),
        (["今日は", "東京です"], "今日は東京です"),
        (["สวัสดี", "ครับ"], "สวัสดีครับ"),
        (["안녕하세요", "여러분"], "안녕하세요 여러분"),
        (["我们用", "Python", "写程序"], "我们用 Python 写程序"),
        (["it is called", "你好", "over there"], "it is called 你好 over there"),
    ],
)
def test_texts_are_joined_with_the_spacing_of_their_language(texts: list[str], joined: str) -> None:
    assert join_texts(texts) == joined


def test_the_language_is_the_one_spoken_longest() -> None:
    transcript = make(
        Segment(0, 1, "Ja.", "German"),
        Segment(1, 2, "Ja.", "German"),
        Segment(2, 10, "Thank you very much.", "English"),
        Segment(10, 50, "", "French"),
        Segment(50, 60, "mumbling", None),
    )
    assert transcript.language == "English"
    assert transcript.text == "Ja. Ja. Thank you very much. mumbling"
    assert make().language is None


def test_complete_means_all_of_the_recording_and_all_of_its_speech() -> None:
    assert make().is_complete
    assert not make(is_read=False).is_complete
    assert not make(gaps=(Gap(1, 2, "x"),)).is_complete


# Merging


def merge(before: list[str], after: list[str], n_shared: int, glue: str = " ") -> str:
    """Merge two texts of which so many words come from the same sound, as their lengths would tell."""
    return join_texts(merge_overlap(glue.join(before), glue.join(after), n_shared / len(before), n_shared / len(after)))


def merge_lines(before: str, after: str, n_shared: int) -> str:
    return merge(before.split(), after.split(), n_shared)


@st.composite
def cuts(draw: st.DrawFn, words: tuple[str, ...], least: int) -> tuple[list[str], int, int]:
    """Return a sentence, how many words two chunks share, and where the later one begins."""
    sentence = draw(st.lists(st.sampled_from(words), min_size=least + 1, max_size=40))
    n_shared = draw(st.integers(least, min(len(sentence) - 1, 14)))
    return sentence, n_shared, draw(st.integers(0, len(sentence) - n_shared))


@settings(deadline=None)
@given(cuts(FEW, 2) | cuts(MANY, 2), st.sampled_from(["", "before", "after"]))
def test_a_sentence_cut_with_an_overlap_is_whole_again(cut: tuple[list[str], int, int], garbled: str) -> None:
    sentence, n_shared, start = cut
    before, after = sentence[: start + n_shared], sentence[start:]
    if garbled == "before":
        before = [*before[:-1], "garb"]
    elif garbled == "after":
        after = ["bled", *after[1:]]
    assert merge(before, after, n_shared) == " ".join(sentence)


@settings(deadline=None)
@given(cuts(MANY, 3))
def test_both_edges_may_be_garbled(cut: tuple[list[str], int, int]) -> None:
    sentence, n_shared, start = cut
    before, after = [*sentence[: start + n_shared - 1], "garb"], ["bled", *sentence[start + 1 :]]
    assert merge(before, after, n_shared) == " ".join(sentence)


@settings(deadline=None)
@given(cuts(MANY, 6), st.floats(0.5, 1.6))
def test_words_need_not_be_evenly_spread(cut: tuple[list[str], int, int], spread: float) -> None:
    sentence, n_shared, start = cut
    sentence = [f"{word}-{place}" for place, word in enumerate(sentence)]  # no word twice: nothing to mistake
    before, after = sentence[: start + n_shared], sentence[start:]
    shares = (min(1.0, spread * n_shared / len(before)), min(1.0, spread * n_shared / len(after)))
    assert join_texts(merge_overlap(" ".join(before), " ".join(after), *shares)) == " ".join(sentence)


@settings(deadline=None)
@given(st.lists(st.sampled_from(MANY)), st.lists(st.sampled_from(MANY)), st.floats(0, 1), st.floats(0, 1))
def test_nothing_is_lost_where_the_texts_do_not_agree(
    before: list[str], after: list[str], share_before: float, share_after: float
) -> None:
    texts = " ".join(before), " ".join(f"other{word}" for word in after)
    assert merge_overlap(*texts, share_before, share_after) == texts


@settings(deadline=None)
@given(cuts(FEW, 2), st.floats(0, 1), st.floats(0, 1))
def test_the_beginning_and_the_end_always_stay(
    cut: tuple[list[str], int, int], share_before: float, share_after: float
) -> None:
    sentence, n_shared, start = cut
    before, after = " ".join(sentence[: start + n_shared]), " ".join(sentence[start:])
    kept, rest = merge_overlap(before, after, share_before, share_after)
    assert before.startswith(kept)
    assert after.endswith(rest)
    assert len(join_texts([kept, rest]).split()) >= max(len(before.split()), len(after.split())) - 2


def test_an_honest_repetition_stays() -> None:
    merged = merge_lines("and he said no no no", "no no no way he said", 2)
    assert merged == "and he said no no no no way he said"
    assert merge_lines("no no no no", "no no no no", 3) == "no no no no no"


def test_a_phrase_that_returns_is_not_taken_for_the_overlap() -> None:
    before, after = "so we said red green blue and then yes sure", "yes sure and red green blue again later on"
    merged = "so we said red green blue and then yes sure and red green blue again later on"
    assert merge_lines(before, after, 2) == merged


def test_one_common_word_far_from_the_seam_proves_nothing() -> None:
    before, after = "we met the client on monday about prices", "they never called back and the offer ended"
    assert merge_lines(before, after, 6) == f"{before} {after}"


def test_words_heard_differently_within_the_overlap_are_told_once() -> None:
    before = "please send the contract to mister smith before the end of mar"
    after = "ract to mister smyth before the end of march and call me"
    assert merge_lines(before, after, 9) in {
        f"please send the contract to mister {name} before the end of march and call me" for name in ("smith", "smyth")
    }


def test_case_and_punctuation_do_not_keep_texts_apart() -> None:
    merged = merge_lines("We will meet on Tuesday at ten.", "tuesday, at ten in the small room.", 3)
    assert merged == "We will meet on Tuesday at ten in the small room."


def test_chinese_is_merged_letter_by_letter() -> None:
    sentence = "今天下午三点我们在会议室讨论明年的预算和新的项目计划"
    for n_shared in (4, 9):
        for start in range(len(sentence) - n_shared):
            before, after = [*sentence[: start + n_shared]], [*sentence[start:]]
            assert merge(before, after, n_shared, glue="") == sentence


def test_spaces_and_punctuation_of_the_parts_are_kept() -> None:
    kept, rest = merge_overlap("One, two; three - four five", "four five (six)  seven", 0.4, 0.5)
    assert join_texts([kept, rest]) == "One, two; three - four five (six)  seven"


@pytest.mark.parametrize(("before", "after"), [("", ""), ("", "hello"), ("hello", ""), ("...", "?")])
def test_empty_texts_are_no_trouble(before: str, after: str) -> None:
    assert merge_overlap(before, after, 0.5, 0.5) == (before, after)


# Word errors


@pytest.mark.parametrize(
    ("reference", "said", "n_errors", "n_words"),
    [
        ("", "", 0, 0),
        ("one two three", "one two three", 0, 3),
        ("One, two. THREE!", "one two three", 0, 3),
        ("one two three", "", 3, 3),
        ("", "one two", 2, 0),
        ("one two three", "one too three", 1, 3),
        ("one two three", "one three", 1, 3),
        ("one two three", "one and two three", 1, 3),
        ("one two three four", "four three two one", 4, 4),
        ("你好世界", "你好地界", 1, 4),
    ],
)
def test_word_errors_are_counted(reference: str, said: str, n_errors: int, n_words: int) -> None:
    assert count_word_errors(reference, said) == (n_errors, n_words)


@settings(deadline=None)
@given(st.lists(st.sampled_from(FEW[:3]), max_size=12), st.lists(st.sampled_from(FEW[:3]), max_size=12))
def test_word_errors_are_a_distance(one: list[str], other: list[str]) -> None:
    errors, n_words = count_word_errors(" ".join(one), " ".join(other))
    assert n_words == len(one)
    assert errors == count_word_errors(" ".join(other), " ".join(one))[0]
    assert abs(len(one) - len(other)) <= errors <= max(len(one), len(other))
    assert (errors == 0) == (one == other)
