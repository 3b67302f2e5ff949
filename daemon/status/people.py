"""Times, durations and progress as people read them. Pure."""

from __future__ import annotations

from datetime import datetime, timedelta
from typing import Final

_S_PER_MINUTE: Final = 60
_MINUTES_PER_HOUR: Final = 60
_UNKNOWN: Final = "an unknown time"


def say_when(when: str | None, now: datetime | None) -> str:
    """Return a time in the local time zone, such as "today 14:05", "yesterday 9:30" or "24 November 14:05".

    Args:
        when: ISO 8601, UTC; None or "" where it is unknown.
        now: the time at which it is read; None where that is unknown, so that only the date can be given.
    """
    if not when:
        return _UNKNOWN
    try:
        at = datetime.fromisoformat(when).astimezone()
    except (ValueError, OverflowError):
        return _UNKNOWN
    clock = f"{at.hour}:{at:%M}"
    if now is None:
        return f"{at.day} {at:%B %Y} {clock}"
    today = now.astimezone().date()
    if at.date() == today:
        return f"today {clock}"
    if at.date() == today - timedelta(days=1):
        return f"yesterday {clock}"
    return f"{at.day} {at:%B}{'' if at.year == today.year else f' {at.year}'} {clock}"


def say_clock(when: str) -> str:
    """Return the local time of day of a time (ISO 8601, UTC), to the second."""
    at = datetime.fromisoformat(when).astimezone()
    return f"{at.hour}:{at:%M:%S}"


def is_on_day_of(when: str, now: datetime) -> bool:
    """Whether a time (ISO 8601, UTC) is on the same local day as another."""
    try:
        return datetime.fromisoformat(when).astimezone().date() == now.astimezone().date()
    except (ValueError, OverflowError):
        return False


def say_fully(when: datetime) -> str:
    """Return a time with everything that tells it from others, such as "Friday 27 November 2026, 14:05 CET"."""
    at = when.astimezone()
    return f"{at:%A} {at.day} {at:%B %Y}, {at.hour}:{at:%M} {at:%Z}".rstrip()


def say_left(progress: float, audio_s: float | None, rtfx: float | None) -> str:
    """Return about how long a recording in progress still takes, "" where that cannot be said yet.

    Args:
        progress: what is done, 0 to 1.
        audio_s: length of the recording in seconds.
        rtfx: seconds of audio per second of work so far.
    """
    if not audio_s or not rtfx or progress <= 0:
        return ""
    left_s = audio_s * max(0.0, 1 - progress) / rtfx
    if left_s < _S_PER_MINUTE:
        return "less than a minute left"
    hours, minutes = divmod(round(left_s / _S_PER_MINUTE), _MINUTES_PER_HOUR)
    return f"about {hours} h {minutes} min left" if hours else f"about {minutes} min left"


def bar(progress: float, width: int = 20) -> str:
    """Return progress (0 to 1) as a bar that every text editor shows."""
    n_full = round(min(max(progress, 0.0), 1.0) * width)
    return f"[{'#' * n_full}{'.' * (width - n_full)}]"
