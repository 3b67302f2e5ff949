from __future__ import annotations

import random

import jiwer
import pytest

from daemon.evaluation import score
from daemon.evaluation.normalization import words_of
from daemon.evaluation.report import compare
from daemon.evaluation.scoring import add, count_confusions
from daemon.transcript import Segment


def segments(*texts: str, flags: tuple[str, ...] = ()) -> list[Segment]:
    return [Segment(float(index), index + 1.0, text, flags=flags if index else ()) for index, text in enumerate(texts)]


def keys(text: str, normalization: str = "standard") -> list[str]:
    return [word.key for word in words_of(text, normalization)]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("", []),
        (" - ... ", []),
        ("It\u2019s 10:30, DON'T wait!", ["its", "10:30", "dont", "wait"]),
        ("twenty-one", ["twenty", "one"]),
        ("3.5 is not 35.", ["3.5", "is", "not", "35"]),
        ("你好,世界。", ["你", "好", "世", "界"]),
        ("Straße \uff21\uff22\uff23", ["strasse", "abc"]),
        ("कि की", ["कि", "की"]),
        ("c++ & co", ["c", "co"]),
    ],
)
def test_standard_normalization_ignores_case_and_punctuation_only(text: str, expected: list[str]) -> None:
    assert keys(text) == expected


def test_without_normalization_case_and_punctuation_count() -> None:
    assert keys("Hello, world.", "none") == ["Hello,", "world."]
    assert score("a", "Hello, world.", segments("hello world"), "none").counts.substitutions == 2
    assert score("a", "Hello, world.", segments("hello world"), "standard").counts.n_errors == 0


def random_text(rng: random.Random, n_words: int) -> str:
    words = [
        rng.choice(["the", "Report", "is", "late,", "3.5", "你好", "再见。", "naïve", "x-ray"]) for _ in range(n_words)
    ]
    return " ".join(words)


@pytest.mark.parametrize("seed", range(100))
def test_figures_agree_with_jiwer(seed: int) -> None:
    rng = random.Random(seed)  # noqa: S311  # test data
    reference = random_text(rng, rng.choice([0, 1, 8, 60, 600]))
    words = reference.split()
    written = [word for word in words if rng.random() < 0.9] if rng.random() < 0.8 else random_text(rng, 9).split()
    written = [rng.choice(words or ["x"]) if rng.random() < 0.1 else word for word in written]
    cut = rng.randrange(len(written) + 1)
    counts = score("a", reference, segments(" ".join(written[:cut]), " ".join(written[cut:])), "standard").counts
    sides = [keys(text) for text in (reference, " ".join(written))]
    judged = jiwer.process_words(*(" ".join(side) for side in sides))
    chars = jiwer.process_characters(*("".join(side) for side in sides))
    assert counts.n_words == judged.hits + judged.substitutions + judged.deletions
    assert (counts.substitutions, counts.deletions, counts.insertions) == (
        judged.substitutions,
        judged.deletions,
        judged.insertions,
    )
    assert counts.n_char_errors == chars.substitutions + chars.deletions + chars.insertions
    if sides[0]:
        assert counts.wer == pytest.approx(judged.wer)
        assert counts.cer == pytest.approx(chars.cer)
    else:
        assert counts.wer is counts.cer is None


def test_errors_near_the_merge_of_two_chunks_are_marked() -> None:
    before, after = [f"a{n}" for n in range(30)], [f"b{n}" for n in range(30)]
    reference = " ".join([*before, *after])
    after[2], before[3] = "wrong", "wrong"
    heard = segments(" ".join(before), " ".join(after), flags=("overlap",))
    counts = score("a", reference, heard, "standard").counts
    assert (counts.n_seams, counts.n_errors, counts.n_seam_errors, counts.n_seam_words) == (1, 2, 1, 20)
    assert score("a", reference, segments(" ".join(before), " ".join(after)), "standard").counts.n_seams == 0


def test_confusions_name_substituted_missed_and_added_words() -> None:
    scores = [score("a", "one two three", segments("one too three four"), "standard")] * 2
    assert count_confusions(scores) == {("two", "too"): 2, ("", "four"): 2}
    assert add([one.counts for one in scores]).n_errors == 4


def recordings(n: int, n_wrong: int, seed: int = 1) -> list[str]:
    """Return what was written for n recordings of twenty words, each with this many errors, one more or one less."""
    rng = random.Random(seed)  # noqa: S311  # test data
    return [" ".join(["x"] * (k := max(0, n_wrong + rng.choice([-1, 0, 1]))) + ["w"] * (20 - k)) for _ in range(n)]


@pytest.mark.parametrize(
    ("n", "first", "other", "verdict"),
    [(12, 8, 2, "better"), (12, 2, 8, "worse"), (12, 4, 4, "chance"), (5, 15, 1, "too few")],
)
def test_verdict_says_whether_a_difference_is_chance(n: int, first: int, other: int, verdict: str) -> None:
    reference = " ".join(["w"] * 20)
    scores = [
        [score(str(at), reference, segments(text), "standard") for at, text in enumerate(recordings(n, wrong, seed))]
        for wrong, seed in ((first, 1), (other, 2))
    ]
    difference = compare(scores[0], scores[1], 0.95)
    assert difference is not None
    assert difference.verdict == verdict
    assert difference.interval.low <= difference.wer <= difference.interval.high
    assert compare(scores[0], scores[1], 0.95) == difference  # the seed is fixed
    assert compare(scores[0][:1], scores[1][:1], 0.95) is None


def test_interval_of_one_recording_holds_its_rate() -> None:
    reference = " ".join(["w"] * 200)
    heard = " ".join((["x"] + ["w"] * 9) * 20)
    one = score("a", reference, segments(heard), "standard")
    assert one.counts.wer == pytest.approx(0.1)
    assert one.interval is not None
    assert one.interval.low == one.interval.high == pytest.approx(0.1)  # every ten words have exactly one error
    assert score("a", "w", segments("w"), "standard").interval is None
