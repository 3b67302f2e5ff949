"""The time of day, as documents, the journal and the status write it."""

from __future__ import annotations

from datetime import UTC, datetime


def now() -> str:
    """Return the current time as ISO 8601 in UTC, to the millisecond."""
    return iso(datetime.now(UTC))


def iso(at: datetime, timespec: str = "milliseconds") -> str:
    """Return a time that knows its zone as ISO 8601 in UTC, such as "2026-01-31T09:30:00.000Z"."""
    return at.astimezone(UTC).isoformat(timespec=timespec).replace("+00:00", "Z")


def file_stamp() -> str:
    """Return the current time in UTC for use in a file name, such as "20260131T093000"."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}"
