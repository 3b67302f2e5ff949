"""Where the calibration of a model's confidence is kept: numbers alone, one file for each model in the state folder."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Final

from daemon.evaluation.calibration import Curve
from daemon.host import files
from daemon.transcript import Calibration

if TYPE_CHECKING:
    from pathlib import Path

    from daemon.transcript import ModelIdentity

SCHEMA: Final = "scribed.calibration/1"
_MODE: Final = 0o640
_MAX_BYTES: Final = 1 << 16
_DIGITS_IN_NAME: Final = 16


@dataclass(frozen=True, slots=True)
class StoredCurve:
    """A curve and what documents say about it."""

    curve: Curve
    facts: Calibration


def curve_path(state: Path, model: ModelIdentity) -> Path:
    """Return the file of a model's curve."""
    return state / f"calibration-{model.digest[:_DIGITS_IN_NAME]}.json"


def write_curve(state: Path, model: ModelIdentity, stored: StoredCurve) -> None:
    """Store a model's curve in place of an earlier one.

    Raises:
        NoPermissionError, TransientError: the state folder cannot be written.
    """
    curve, facts = stored.curve, stored.facts
    values = {
        "schema": SCHEMA,
        "model": model.digest,
        "fitted_at": facts.fitted_at,
        "words": facts.n_words,
        "recordings": facts.n_recordings,
        "a": curve.a,
        "b": curve.b,
        "c": curve.c,
    }
    with files.explained("The calibration cannot be stored", state):
        files.replace(curve_path(state, model), (json.dumps(values, indent=2) + "\n").encode(), _MODE)


def read_curve(state: Path, model: ModelIdentity) -> StoredCurve | None:
    """Return the curve of exactly this model; None where there is none, or none that can be read."""
    try:
        values: dict[str, Any] = json.loads(files.read_named(curve_path(state, model), _MAX_BYTES))
        if values["schema"] != SCHEMA or values["model"] != model.digest:
            return None
        a, b, c = (float(values[name]) for name in "abc")
        facts = Calibration(str(values["fitted_at"]), int(values["words"]), int(values["recordings"]))
    except (OSError, ValueError, TypeError, KeyError, RecursionError):
        return None
    return StoredCurve(Curve(a, b, c), facts) if all(map(math.isfinite, (a, b, c))) and min(a, b) >= 0 else None


class CurveReader:
    """Reads a model's curve for each recording; the file is read again only if it has changed.

    Any thread may call: two that find it changed both read it.

    Args:
        state: the state folder.
    """

    def __init__(self, state: Path) -> None:
        self._state = state
        self._known: tuple[tuple[str, int, int, int], StoredCurve | None] | None = None  # model and facts of the file

    def read(self, model: ModelIdentity) -> StoredCurve | None:
        """Return the curve of exactly this model; None where there is none, or none that can be read."""
        try:
            facts = curve_path(self._state, model).stat()
        except OSError:
            return None
        key = model.digest, facts.st_ino, facts.st_size, facts.st_mtime_ns
        known = self._known
        if known is None or known[0] != key:
            known = self._known = key, read_curve(self._state, model)
        return known[1]
