"""How text that strangers chose is shown: valid Unicode, one line, harmless to a terminal, hashed on demand. Pure."""

from __future__ import annotations

import hashlib
import re

# Control characters, line separators, what turns the direction of writing (https://trojansource.codes),
# and the halves of characters by which Python shows bytes that are no UTF-8.
_UNSAFE = re.compile("[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]")
_SHORT_ESCAPES = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(name: str) -> str:
    r"""Return a file name as valid Unicode: bytes that are not UTF-8 become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape(text: str) -> str:
    r"""Return the text on one line, harmless to a terminal, other languages untouched.

    A backslash stays as it is, so that escaping twice changes nothing. A byte that is no UTF-8
    (as os.fsdecode gives it) is shown as in `ls`: \xff.
    """
    return _UNSAFE.sub(_escape_char, text)


def _escape_char(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char) - 0xDC00 if "\udc80" <= char <= "\udcff" else ord(char)
    return _SHORT_ESCAPES.get(char) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")  # noqa: PLR2004 - a byte


def shown_name(name: str, names: str) -> str:
    """Return the name of a recording as `logging.names` ("full" or "hashed") wants it shown."""
    if names != "hashed":
        return escape(name)
    # surrogatepass, because every name has a hash, whatever bytes it is made of.
    return f"name:{hashlib.sha256(name.encode('utf-8', 'surrogatepass')).hexdigest()[:12]}"


def shortened(text: str, max_chars: int = 120) -> str:
    """Return the text, or its two ends where it is longer than this."""
    if len(text) <= max_chars:
        return text
    kept = (max_chars - 3) // 2
    return f"{text[:kept]}...{text[-kept:]}"
