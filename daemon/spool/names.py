"""Names of jobs, documents and moved audio; pure."""

from __future__ import annotations

import hashlib
import os
import secrets
from datetime import UTC, datetime
from functools import lru_cache
from itertools import count
from typing import TYPE_CHECKING, Final

from daemon.inbox import ERROR_SUFFIX, HOTWORDS_SUFFIX

if TYPE_CHECKING:
    from collections.abc import Iterator

NAME_BYTES: Final = 255  # NAME_MAX of every common file system
_LONGEST_ENDING: Final = len(".listen.opus")
_MAX_ENDING_BYTES: Final = 32  # longer ones are names with a dot in them, not endings
_HASH_DIGITS: Final = 8
_RESERVED_STEM: Final = "status"


def new_job_id() -> str:
    """Return a unique id that sorts by time."""
    return f"{datetime.now(UTC):%Y%m%dT%H%M%S}-{secrets.token_hex(4)}"


def fit(name: str, n_spare: int) -> str:
    """Shorten a name so that `n_spare` bytes fit behind it; a hash keeps similar names distinct."""
    room = NAME_BYTES - n_spare
    encoded = os.fsencode(name)
    if len(encoded) <= room:
        return name
    mark = f"~{hashlib.sha256(encoded).hexdigest()[:_HASH_DIGITS]}"
    kept = encoded[: room - len(mark)]
    while kept and kept[-1] & 0xC0 == 0x80:  # noqa: PLR2004  # never cut within a UTF-8 letter: walk back over its tail
        kept = kept[:-1]
    if kept and kept[-1] & 0xC0 == 0xC0:  # noqa: PLR2004  # and over its first byte
        kept = kept[:-1]
    return os.fsdecode(kept) + mark


def outcome_names(name: str) -> Iterator[tuple[str, str]]:
    """Yield (stem of the documents, name of the moved audio), the simplest first, without end.

    `talk.wav` gives talk, then talk.wav, then talk.wav (2), talk.wav (3) and so on. The audio is
    called like the stem, with or without its own ending, so that both are found together.
    """
    stem, ending = _split(name)
    whole = fit(name, _LONGEST_ENDING)
    for candidate, audio_name in ((fit(stem, _LONGEST_ENDING), name), (whole, name), (whole, _join(whole, ending))):
        if candidate.casefold() != _RESERVED_STEM:
            yield candidate, audio_name
    for number in count(2):
        numbered = numbered_stem(name, number, _LONGEST_ENDING)
        yield numbered, _join(numbered, ending)


def failure_names(name: str) -> Iterator[str]:
    """Yield names for audio that moves to failed: talk.wav, talk (2).wav and so on, without end."""
    yield name
    stem, ending = _split(name)
    for number in count(2):
        yield _join(numbered_stem(stem, number, len(os.fsencode(ending))), ending)


def numbered_stem(stem: str, number: int, n_spare: int) -> str:
    """Return `stem (number)`, with room for `n_spare` more bytes."""
    mark = f" ({number})"
    return fit(stem, len(mark) + n_spare) + mark


def error_note_name(audio_name: str) -> str:
    """Return the name of the error note next to audio in failed."""
    return fit(audio_name, len(ERROR_SUFFIX)) + ERROR_SUFFIX


@lru_cache(maxsize=1024)  # each recording asks for it several times
def hotwords_name(audio_name: str) -> str:
    """Return the name of the hotwords file next to a recording."""
    return fit(_split(audio_name)[0], len(HOTWORDS_SUFFIX)) + HOTWORDS_SUFFIX


def _split(name: str) -> tuple[str, str]:
    stem, ending = os.path.splitext(name)  # noqa: PTH122  # Path drops the dot of "talk."
    return (stem, ending) if len(os.fsencode(ending)) <= _MAX_ENDING_BYTES else (name, "")


def _join(stem: str, ending: str) -> str:
    return fit(stem, len(os.fsencode(ending))) + ending
