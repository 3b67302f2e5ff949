"""The json document, schema `scribed.transcript/1`, for programs."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any, Final

from pydantic_core import to_json

from daemon.display import printable

if TYPE_CHECKING:
    from daemon.documents.layout import Options
    from daemon.transcript import Calibration, Coverage, Receipt, Segment, Source, TrackFacts, Transcript

SCHEMA: Final = "scribed.transcript/1"
_NO_PEAKS: Final = '"peaks": []'  # nowhere else: within a text, JSON writes quotation marks as \\"
_S_DIGITS: Final = 3  # segment times are far less exact than a millisecond
_DB_DIGITS: Final = 2
_SCORE_DIGITS: Final = 3


def render_json(transcript: Transcript, options: Options) -> str:
    """Return the whole transcript as indented JSON with a newline at its end."""
    del options
    document = as_dict(transcript)
    peaks, document["audio"]["peaks"] = document["audio"]["peaks"], []
    # The standard library writes indented JSON ten times slower, byte for byte the same.
    text = to_json(document, indent=2, inf_nan_mode="null").decode()
    # On one line: thousands of lines of numbers would hide the rest from a person.
    return text.replace(_NO_PEAKS, f'"peaks": {json.dumps(peaks)}', 1) + "\n"


def as_dict(transcript: Transcript) -> dict[str, Any]:
    """Return the document as objects of JSON."""
    model, processing = transcript.model, transcript.processing
    return {
        "schema": SCHEMA,
        "job_id": transcript.job_id,
        "source": _source(transcript.source),
        "audio": _audio(transcript.audio),
        "model": {"name": model.name, "digest": model.digest, "dtype": model.dtype, "device": model.device},
        "language": transcript.language,
        "complete": transcript.is_complete,
        "coverage": _coverage(transcript.coverage),
        "text": transcript.text,
        "segments": [_segment(segment) for segment in transcript.segments],
        "speakers": [
            {"id": speaker.speaker_id, "name": speaker.name, "speech_s": _s(speaker.speech_s)}
            for speaker in transcript.speakers
        ],
        "events": [
            {"start_s": _s(event.start_s), "end_s": _s(event.end_s), "kind": event.kind, "score": _score(event.score)}
            for event in transcript.events
        ],
        "corrected_at": transcript.corrected_at,
        "calibration": _calibration(transcript.calibration),
        "processing": {
            "attempt": processing.attempt,
            "started_at": processing.started_at,
            "finished_at": processing.finished_at,
            "wall_s": _s(processing.wall_s),
            "rtfx": round(float(processing.rtfx), 1),
        },
    }


def _source(source: Source) -> dict[str, Any]:
    return {
        "name": printable(source.name),
        "path": printable(source.path),
        "sha256": source.sha256,
        "bytes": source.n_bytes,
        "modified_at": source.modified_at,
        "duplicate_of": source.duplicate_of,
    }


def _audio(audio: Receipt) -> dict[str, Any]:
    return {
        "duration_s": _s(audio.duration_s),
        "sample_rate_hz": audio.sample_rate_hz,
        "channels": audio.channels,
        "codec": audio.codec,
        "peak_dbfs": _db(audio.peak_dbfs),
        "gain_db": _db(audio.gain_db),
        "leveled_db": _db(audio.leveled_db),
        "clipped_s": _s(audio.clipped_s),
        "notes": list(audio.notes),
        "peaks": list(audio.peaks),
        "tracks": [_track(track) for track in audio.tracks],
        "channel_names": list(audio.channel_names),
        "complete": audio.is_complete,
    }


def _track(track: TrackFacts) -> dict[str, Any]:
    return {
        "index": track.index,
        "codec": track.codec,
        "channels": track.channels,
        "language": None if track.language is None else printable(track.language),
        "title": None if track.title is None else printable(track.title),
        "start_s": _s(track.start_s),
        "duration_s": _s(track.duration_s),
        "used": track.is_used,
        "reason": None if track.reason is None else printable(track.reason),
    }


def _coverage(coverage: Coverage) -> dict[str, Any]:
    gaps = [{"start_s": _s(gap.start_s), "end_s": _s(gap.end_s), "reason": gap.reason} for gap in coverage.gaps]
    return {
        "audio_s": _s(coverage.audio_s),
        "speech_s": _s(coverage.speech_s),
        "transcribed_s": _s(coverage.transcribed_s),
        "gaps": gaps,
    }


def _segment(segment: Segment) -> dict[str, Any]:
    return {
        "start_s": _s(segment.start_s),
        "end_s": _s(segment.end_s),
        "text": segment.text,
        "text_raw": segment.text_raw,
        "language": segment.language,
        "flags": list(segment.flags),
        "confidence": _score(segment.confidence),
        "speaker": segment.speaker,
        "channel": segment.channel,
        "track": segment.track,
        "words": [
            {
                "start_s": _time(word.start_s),
                "end_s": _time(word.end_s),
                "text": word.text,
                "confidence": _score(word.confidence),
            }
            for word in segment.words
        ],
    }


def _calibration(facts: Calibration | None) -> dict[str, Any] | None:
    """Return what the confidence was fitted to; null where it is the model's own probability."""
    if facts is None:
        return None
    return {"fitted_at": facts.fitted_at, "words": facts.n_words, "recordings": facts.n_recordings}


def _s(seconds: float) -> float:
    return round(float(seconds), _S_DIGITS)


def _time(seconds: float | None) -> float | None:
    return None if seconds is None else _s(seconds)


def _score(score: float | None) -> float | None:
    return None if score is None else round(float(score), _SCORE_DIGITS)


def _db(level: float | None) -> float | None:
    """Return a level; null for that of silence, which JSON cannot express."""
    return None if level is None or not math.isfinite(level) else round(float(level), _DB_DIGITS)
