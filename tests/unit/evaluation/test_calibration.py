"""The curve of the model's confidence: what it is fitted to, where it is kept, and what it changes."""

from __future__ import annotations

import json
import math
import random
import stat
from itertools import pairwise
from typing import TYPE_CHECKING

import pytest

from daemon.evaluation import Curve, CurveReader, StoredCurve, curve_path, read_curve, score, write_curve
from daemon.evaluation.calibration import MIN_WORDS, MIN_WRONG, fit_curve
from daemon.pipeline.confidence import calibrate
from daemon.transcript import Calibration, ModelIdentity, Segment, Word

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.evaluation import Score

MODEL = ModelIdentity("demo", "0123456789abcdef" * 4, "float32", "cpu")
FACTS = Calibration("2026-01-31T09:30:00.000Z", 1834, 12)


def logistic(score: float) -> float:
    return 1 / (1 + math.exp(-score))


def overconfident(confidence: float) -> float:
    return logistic(0.5 * math.log(confidence / (1 - confidence)) - 0.3)


def measured(share_right: Callable[[float], float], n_recordings: int, n_words: int, seed: int = 1) -> list[Score]:
    """Return scores of recordings whose words are right as often as `share_right` says for their confidence."""
    rng = random.Random(seed)  # noqa: S311  # test data
    scores = []
    for index in range(n_recordings):
        confidences = [logistic(rng.gauss(2.0, 1.5)) for _ in range(n_words)]
        words = ["right" if rng.random() < share_right(one) else "wrong" for one in confidences]
        known = tuple(Word(word, confidence=one) for word, one in zip(words, confidences, strict=True))
        heard = [Segment(0.0, 1.0, " ".join(words), words=known)]
        scores.append(score(f"{index}.wav", " ".join(["right"] * n_words), heard, "standard"))
    return scores


def test_texts_of_other_recordings_make_no_curve() -> None:
    fit = fit_curve(measured(lambda _: 0.05, 12, 100))
    assert fit.curve is None
    assert fit.reason is not None
    assert "belong to another recording" in fit.reason
    assert fit.n_wrong > 1000


@pytest.mark.parametrize("n_recordings", [1, 20])
def test_curve_finds_how_often_words_are_right(n_recordings: int) -> None:
    fit = fit_curve(measured(overconfident, n_recordings, 6000 // n_recordings))
    assert fit.curve is not None
    for confidence in (0.3, 0.6, 0.9, 0.98):
        assert fit.curve.at(confidence) == pytest.approx(overconfident(confidence), abs=0.04)
    assert fit.error is not None
    assert fit.error > 0.1
    assert (fit.calibrated_error or 1) < 0.03
    assert (fit.n_words, fit.n_recordings) == (6000, n_recordings)
    assert sum(one.n_words for one in fit.bins) == 6000
    assert [one.confidence for one in fit.bins] == sorted(one.confidence for one in fit.bins)


def test_confidence_that_is_right_stays_nearly_as_it_is() -> None:
    fit = fit_curve(measured(lambda confidence: confidence, 20, 300))
    assert fit.error is not None
    assert fit.error < 0.03
    if fit.curve is not None:
        for confidence in (0.1, 0.5, 0.9, 0.99):
            assert fit.curve.at(confidence) == pytest.approx(confidence, abs=0.05)


def test_curve_never_falls_even_where_sure_words_are_wrong_more_often() -> None:
    fit = fit_curve(measured(lambda confidence: 1 - 0.4 * confidence, 10, 200))
    assert fit.curve is not None
    shares = [fit.curve.at(confidence / 100) for confidence in range(101)]
    assert all(before <= after for before, after in pairwise(shares))
    assert fit.curve.at(0.9) == pytest.approx(0.68, abs=0.05)  # the share of all words: the confidence says nothing


@pytest.mark.parametrize("confidence", [0.0, 1e-300, 1e-9, 0.5, 1 - 1e-12, 1.0])
def test_every_confidence_has_a_finite_share(confidence: float) -> None:
    share = Curve(1.3, 0.4, -0.2).at(confidence)
    assert 0.0 <= share <= 1.0


@pytest.mark.parametrize(("n_words", "right"), [(MIN_WORDS - 1, 0.5), (1000, 1.0), (0, 0.5)])
def test_too_few_words_or_errors_give_no_curve(n_words: int, right: float) -> None:
    fit = fit_curve(measured(lambda _: right, 1, n_words) if n_words else [])
    assert fit.curve is None
    assert fit.reason is not None
    assert f"at least {MIN_WORDS} and {MIN_WRONG}" in fit.reason


def test_confidence_belongs_to_the_word_that_the_model_wrote() -> None:
    text = "Yes, the twenty-one re\u2019ports. 你好 - now"
    known = tuple(
        Word(word, confidence=confidence)
        for word, confidence in zip(
            ["Yes,", "the", "twenty-one", "re\u2019ports.", "你", "好", "-", "now"],
            [0.1, 0.2, 0.3, 0.4, 0.5, 0.6, 0.7, 0.8],
            strict=True,
        )
    )
    one = score("a", "yes that twenty reports 你好 not now", [Segment(0.0, 1.0, text, words=known)], "standard")
    got = [(column.got.key, column.confidence, column.is_right) for column in one.columns if column.got]
    assert got == [
        ("yes", 0.1, True),
        ("the", 0.2, False),
        ("twenty", 0.3, True),
        ("one", 0.3, False),
        ("reports", 0.4, True),
        ("你", 0.5, True),
        ("好", 0.6, True),
        ("now", 0.8, True),
    ]
    assert [column.confidence for column in one.columns if column.got is None] == [None]


def test_text_without_known_words_has_no_confidence() -> None:
    known = (Word("other", confidence=0.5),)
    one = score("a", "one two", [Segment(0, 1, "one two", words=known), Segment(1, 2, "three")], "standard")
    assert {column.confidence for column in one.columns} == {None}


def test_stored_curve_is_read_back_for_its_model_only(tmp_path: Path) -> None:
    stored = StoredCurve(Curve(0.5, 0.25, -0.125), FACTS)
    write_curve(tmp_path, MODEL, stored)
    assert read_curve(tmp_path, MODEL) == stored
    near = ModelIdentity("demo", MODEL.digest[:16] + "0" * 48, "float32", "cpu")
    assert curve_path(tmp_path, near) == curve_path(tmp_path, MODEL)
    assert read_curve(tmp_path, near) is None
    write_curve(tmp_path, MODEL, StoredCurve(Curve(1.0, 1.0, 0.0), FACTS))
    assert read_curve(tmp_path, MODEL) == StoredCurve(Curve(1.0, 1.0, 0.0), FACTS)
    assert len(list(tmp_path.iterdir())) == 1


def test_curve_is_read_again_when_its_file_or_the_model_has_changed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    reader = CurveReader(tmp_path)
    assert reader.read(MODEL) is None
    for slope in (1.0, 2.0):
        stored = StoredCurve(Curve(slope, 1.0, 0.0), FACTS)
        write_curve(tmp_path, MODEL, stored)
        assert reader.read(MODEL) == stored
    with monkeypatch.context() as patch:
        patch.setattr("daemon.evaluation.curve_files.read_curve", None)
        assert reader.read(MODEL) == stored
    near = ModelIdentity("demo", MODEL.digest[:16] + "0" * 48, "float32", "cpu")
    assert reader.read(near) is None
    curve_path(tmp_path, MODEL).unlink()
    assert reader.read(MODEL) is None


def test_stored_curve_has_numbers_and_no_text(tmp_path: Path) -> None:
    write_curve(tmp_path, MODEL, StoredCurve(Curve(0.5, 0.25, -0.125), FACTS))
    path = curve_path(tmp_path, MODEL)
    values = json.loads(path.read_text())
    texts = {name: value for name, value in values.items() if isinstance(value, str)}
    assert texts == {"schema": "scribed.calibration/1", "model": MODEL.digest, "fitted_at": FACTS.fitted_at}
    assert all(isinstance(value, int | float) for name, value in values.items() if name not in texts)
    assert stat.S_IMODE(path.stat().st_mode) & 0o007 == 0


@pytest.mark.parametrize(
    "change", [{"a": -1.0}, {"b": "x"}, {"c": math.inf}, {"a": None}, {"words": []}, {"schema": 2}]
)
def test_damaged_curve_is_not_used(change: dict[str, object], tmp_path: Path) -> None:
    write_curve(tmp_path, MODEL, StoredCurve(Curve(0.5, 0.25, -0.125), FACTS))
    path = curve_path(tmp_path, MODEL)
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    assert read_curve(tmp_path, MODEL) is None
    path.write_bytes(b"\xff{")
    assert read_curve(tmp_path, MODEL) is None


def test_segments_get_the_share_of_words_that_are_right() -> None:
    curve = Curve(0.5, 0.5, 0.0)
    words = (Word("one", 0.5, 1.0, 0.9), Word("two", confidence=None), Word("three", confidence=0.5))
    (segment,) = calibrate([Segment(0.0, 2.0, "one two three", words=words, confidence=0.67)], curve)
    assert [word.confidence for word in segment.words] == [pytest.approx(0.75), None, pytest.approx(0.5)]
    assert segment.confidence == pytest.approx(math.sqrt(0.75 * 0.5))
    assert segment.words[0].end_s == 1.0
    (bare,) = calibrate([Segment(0.0, 2.0, "one two three")], curve)
    assert bare.confidence is None
