"""The json document, schema `scribed.transcript/1`: what a program reads."""

from __future__ import annotations

import json
import math
from typing import TYPE_CHECKING, Any

from daemon.display import printable

if TYPE_CHECKING:
    from daemon.transcript import Transcript

SCHEMA = "scribed.transcript/1"
_S_DIGITS = 3  # a millisecond is far below what segment times are good for
_DB_DIGITS = 2


def render_json(transcript: Transcript) -> str:
    """Return the whole transcript as indented JSON with a newline at its end."""
    return json.dumps(_as_dict(transcript), ensure_ascii=False, indent=2, allow_nan=False) + "\n"


def _as_dict(transcript: Transcript) -> dict[str, Any]:
    source, audio, model, coverage = transcript.source, transcript.audio, transcript.model, transcript.coverage
    processing = transcript.processing
    return {
        "schema": SCHEMA,
        "job_id": transcript.job_id,
        "source": {
            "name": printable(source.name),
            "path": printable(source.path),
            "sha256": source.sha256,
            "bytes": source.n_bytes,
            "modified_at": source.modified_at,
        },
        "audio": {
            "duration_s": _s(audio.duration_s),
            "sample_rate_hz": audio.sample_rate_hz,
            "channels": audio.channels,
            "codec": audio.codec,
            "peak_dbfs": _db(audio.peak_dbfs),
            "gain_db": _db(audio.gain_db),
            "clipped_s": _s(audio.clipped_s),
            "notes": list(audio.notes),
        },
        "model": {"name": model.name, "digest": model.digest, "dtype": model.dtype, "device": model.device},
        "language": transcript.language,
        "complete": transcript.is_complete,
        "coverage": {
            "audio_s": _s(coverage.audio_s),
            "speech_s": _s(coverage.speech_s),
            "transcribed_s": _s(coverage.transcribed_s),
            "gaps": [
                {"start_s": _s(gap.start_s), "end_s": _s(gap.end_s), "reason": gap.reason} for gap in coverage.gaps
            ],
        },
        "text": transcript.text,
        "segments": [
            {
                "start_s": _s(segment.start_s),
                "end_s": _s(segment.end_s),
                "text": segment.text,
                "language": segment.language,
                "flags": list(segment.flags),
            }
            for segment in transcript.segments
        ],
        "processing": {
            "attempt": processing.attempt,
            "started_at": processing.started_at,
            "finished_at": processing.finished_at,
            "wall_s": _s(processing.wall_s),
            "rtfx": round(float(processing.rtfx), 1),
        },
    }


def _s(seconds: float) -> float:
    return round(float(seconds), _S_DIGITS)


def _db(level: float | None) -> float | None:
    """Return a level as JSON can tell it: silence has none."""
    return None if level is None or not math.isfinite(level) else round(float(level), _DB_DIGITS)
