"""The way back: a transcript from its json document, as it was delivered or as a person corrected it."""

from __future__ import annotations

import json
import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final, NoReturn

from daemon.documents.json_document import SCHEMA
from daemon.errors import ScribedError
from daemon.transcript import (
    Calibration,
    Coverage,
    Gap,
    ModelIdentity,
    Processing,
    Receipt,
    Segment,
    SoundEvent,
    Source,
    Speaker,
    TrackFacts,
    Transcript,
    Word,
)

if TYPE_CHECKING:
    from collections.abc import Iterator

_REMEDY: Final = "Use a json document that scribed delivered, or a corrected copy of one."
_LONGEST_S: Final = (
    1e8  # three years; subtitles cannot write infinite times, which multiplying the largest numbers gives
)
_SURROGATE: Final = re.compile("[\ud800-\udfff]")  # JSON can spell them, UTF-8 cannot
_NAMES: Final = {str: "a text", bool: "true or false", int: "a whole number", list: "a list", dict: "an object"}


class UnreadableDocumentError(ScribedError):
    """A file is not a json document of scribed, or has been damaged; the message says where."""

    def __init__(self, what: str) -> None:
        super().__init__(what, _REMEDY)


def read_json(content: bytes) -> Transcript:
    """Return the transcript of a json document, schema `scribed.transcript/1`.

    Keys that are unknown are ignored, those that earlier versions did not write may be missing. What
    follows from the rest (`text`, `language`, `complete`) is not read. Words that no longer fit a
    corrected text are dropped.

    Raises:
        UnreadableDocumentError: it is not such a document; the message names the first fault.
    """
    try:
        value = json.loads(content, parse_constant=_refuse_constant)
    except UnicodeDecodeError:
        raise UnreadableDocumentError("It is not JSON: the text is not in UTF-8.") from None
    except json.JSONDecodeError as error:
        raise UnreadableDocumentError(f"It is not JSON: {error.msg} (line {error.lineno}).") from None
    except (RecursionError, ValueError) as error:  # the latter for numbers of thousands of digits
        raise UnreadableDocumentError(f"It is not JSON that can be read: {error}.") from None
    if not isinstance(value, dict) or value.get("schema") != SCHEMA:
        raise UnreadableDocumentError(f"It is not a transcript: `schema` is not {SCHEMA}.")
    return _transcript(_Object(value, ""))


@dataclass(frozen=True, slots=True)
class _Object:
    """An object of the document; `path` is where it is, for messages, such as `segments[3].`."""

    values: dict[str, Any]
    path: str

    def text(self, key: str) -> str:
        return _SURROGATE.sub("\ufffd", self._get(key, str))

    def maybe_text(self, key: str) -> str | None:
        return None if self.values.get(key) is None else self.text(key)

    def whole(self, key: str) -> int:
        return int(self._get(key, int))

    def maybe_whole(self, key: str) -> int | None:
        return None if self.values.get(key) is None else self.whole(key)

    def number(self, key: str) -> float:
        value = self.values.get(key)
        if isinstance(value, bool) or not isinstance(value, int | float):
            self.refuse(key, "a number")
        try:
            number = float(value)
        except OverflowError:
            number = math.inf
        return number if math.isfinite(number) else self.refuse(key, "a number within range")

    def maybe_number(self, key: str) -> float | None:
        return None if self.values.get(key) is None else self.number(key)

    def duration(self, key: str) -> float:
        seconds = self.number(key)
        if seconds > _LONGEST_S:
            self.refuse(key, f"{_LONGEST_S:.0f} or less")
        return seconds if seconds >= 0 else self.refuse(key, "0 or more")

    def span(self) -> tuple[float, float]:
        start_s, end_s = self.duration("start_s"), self.duration("end_s")
        return (start_s, end_s) if start_s <= end_s else self.refuse("end_s", "`start_s` or later")

    def flag(self, key: str) -> bool:
        return bool(self._get(key, bool))

    def part(self, key: str) -> _Object:
        return _Object(self._get(key, dict), f"{self.path}{key}.")

    def parts(self, key: str) -> list[_Object]:
        """Return the objects of a list; none where the key is missing."""
        values = self._get(key, list) if key in self.values else []
        parts = [_Object(value, f"{self.path}{key}[{index}].") for index, value in enumerate(values)]
        return [part if isinstance(part.values, dict) else self.refuse(key, "a list of objects") for part in parts]

    def texts(self, key: str) -> tuple[str, ...]:
        values = self._get(key, list)
        if not all(isinstance(value, str) for value in values):
            self.refuse(key, "a list of texts")
        return tuple(_SURROGATE.sub("\ufffd", value) for value in values)

    def levels(self, key: str) -> tuple[float, ...]:
        """Return a list of numbers from 0 to 1; none where the key is missing."""
        values = self._get(key, list) if key in self.values else []
        is_right = all(type(value) in {int, float} and 0 <= value <= 1 for value in values)  # true is an int
        if not is_right:
            self.refuse(key, "a list of numbers from 0 to 1")
        return tuple(float(value) for value in values)

    def refuse(self, key: str, expected: str) -> NoReturn:
        """Raise the error of a value that is missing or wrong."""
        fault = "is not" if key in self.values else "is missing; it must be"
        raise UnreadableDocumentError(f"`{self.path}{key}` {fault} {expected}.")

    def _get(self, key: str, kind: type) -> Any:  # noqa: ANN401  # a value of JSON
        value = self.values.get(key)
        is_right = isinstance(value, kind) and (kind is bool or not isinstance(value, bool))
        return value if is_right else self.refuse(key, _NAMES[kind])


def _transcript(top: _Object) -> Transcript:
    model, processing = top.part("model"), top.part("processing")
    coverage = _coverage(top.part("coverage"))
    return Transcript(
        job_id=top.text("job_id"),
        source=_source(top.part("source")),
        # The first version did not say whether gaps are all that is missing.
        audio=_receipt(top.part("audio"), is_complete=top.flag("complete") or bool(coverage.gaps)),
        model=ModelIdentity(model.text("name"), model.text("digest"), model.text("dtype"), model.text("device")),
        coverage=coverage,
        processing=Processing(
            processing.whole("attempt"),
            processing.text("started_at"),
            processing.text("finished_at"),
            processing.number("wall_s"),
            processing.number("rtfx"),
        ),
        segments=tuple(_segment(part) for part in top.parts("segments")),
        speakers=tuple(
            Speaker(part.text("id"), part.maybe_text("name"), part.duration("speech_s"))
            for part in top.parts("speakers")
        ),
        events=tuple(SoundEvent(*part.span(), part.text("kind"), part.number("score")) for part in top.parts("events")),
        corrected_at=top.maybe_text("corrected_at"),
        calibration=_calibration(top),
    )


def _calibration(top: _Object) -> Calibration | None:
    if top.values.get("calibration") is None:
        return None
    part = top.part("calibration")
    return Calibration(part.text("fitted_at"), part.whole("words"), part.whole("recordings"))


def _source(part: _Object) -> Source:
    return Source(
        name=part.text("name"),
        path=part.text("path"),
        sha256=part.text("sha256"),
        n_bytes=part.whole("bytes"),
        modified_at=part.text("modified_at"),
        duplicate_of=part.maybe_text("duplicate_of"),
    )


def _receipt(part: _Object, *, is_complete: bool) -> Receipt:
    return Receipt(
        duration_s=part.duration("duration_s"),
        sample_rate_hz=part.whole("sample_rate_hz"),
        channels=part.whole("channels"),
        codec=part.text("codec"),
        peak_dbfs=part.maybe_number("peak_dbfs"),
        gain_db=part.maybe_number("gain_db") or 0.0,
        clipped_s=part.duration("clipped_s"),
        is_complete=part.flag("complete") if "complete" in part.values else is_complete,
        notes=part.texts("notes"),
        leveled_db=part.maybe_number("leveled_db") or 0.0,
        peaks=part.levels("peaks"),
        tracks=tuple(_track(track) for track in part.parts("tracks")),
        channel_names=part.texts("channel_names") if "channel_names" in part.values else (),
    )


def _track(part: _Object) -> TrackFacts:
    return TrackFacts(
        index=part.whole("index"),
        codec=part.text("codec"),
        channels=part.whole("channels"),
        language=part.maybe_text("language"),
        title=part.maybe_text("title"),
        start_s=part.duration("start_s"),
        duration_s=part.duration("duration_s"),
        is_used=part.flag("used"),
        reason=part.maybe_text("reason"),
    )


def _coverage(part: _Object) -> Coverage:
    return Coverage(
        audio_s=part.duration("audio_s"),
        speech_s=part.duration("speech_s"),
        transcribed_s=part.duration("transcribed_s"),
        gaps=tuple(Gap(*gap.span(), gap.text("reason")) for gap in part.parts("gaps")),
    )


def _segment(part: _Object) -> Segment:
    start_s, end_s = part.span()
    text, words = part.text("text"), tuple(_words(part))
    return Segment(
        start_s=start_s,
        end_s=end_s,
        text=text,
        language=part.maybe_text("language"),
        flags=part.texts("flags"),
        words=words if _squeeze("".join(word.text for word in words)) == _squeeze(text) else (),
        speaker=part.maybe_text("speaker"),
        channel=part.maybe_whole("channel"),
        track=part.maybe_whole("track"),
        text_raw=part.maybe_text("text_raw"),
        confidence=part.maybe_number("confidence"),
    )


def _words(segment: _Object) -> Iterator[Word]:
    values = segment.values.get("words")
    if not isinstance(values, list) or not all(type(value) is dict for value in values):
        values = [part.values for part in segment.parts("words")]
    for index, value in enumerate(values):
        yield _plain_word(value) or _word(_Object(value, f"{segment.path}words[{index}]."))


def _plain_word(value: dict[str, Any]) -> Word | None:
    """Return a word as scribed writes it, of which an hour has ten thousand; None for one that needs a closer look."""
    text, start_s, end_s, confidence = map(value.get, ("text", "start_s", "end_s", "confidence"))
    if type(text) is not str or not text.isascii():
        return None
    for number in (start_s, end_s, confidence):
        if number is not None and not (type(number) is float and math.isfinite(number)):
            return None
    return Word(text, start_s, end_s, confidence)


def _word(part: _Object) -> Word:
    return Word(
        text=part.text("text"),
        start_s=part.maybe_number("start_s"),
        end_s=part.maybe_number("end_s"),
        confidence=part.maybe_number("confidence"),
    )


def _squeeze(text: str) -> str:
    return "".join(text.split())


def _refuse_constant(name: str) -> NoReturn:
    raise UnreadableDocumentError(f"It is not JSON: it contains {name}.")
