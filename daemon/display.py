"""How text that strangers chose is shown: valid Unicode, one line, harmless to a terminal, hashed on demand. Pure."""

from __future__ import annotations

import hashlib
import re
from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

# Control characters, line separators, what turns the direction of writing (https://trojansource.codes),
# and the halves of characters by which Python shows bytes that are no UTF-8.
_UNSAFE: Final = re.compile(
    "[\x00-\x1f\x7f-\x9f\u061c\u200e\u200f\u2028-\u202e\u2066-\u206f\ufff9-\ufffb\ud800-\udfff]"
)
# What lies below a shared folder by the service's own doing: claims, by the id of their job, and the status.
_OWN_NAMES: Final = re.compile(r"\.scribed(/[0-9A-Za-z-]+)?(?=[/ .:]|$)/?|STATUS\.txt")
_SENTENCE_END: Final = re.compile(r"[.:;,]?(?= [A-Z]|$)|: ")
_SHORT_ESCAPES: Final = {"\n": r"\n", "\r": r"\r", "\t": r"\t"}


def printable(name: str) -> str:
    r"""Return a file name as valid Unicode: bytes that are not UTF-8 become ``\xNN``."""
    return name.encode("utf-8", "surrogateescape").decode("utf-8", "backslashreplace")


def escape(text: str) -> str:
    r"""Return the text on one line, harmless to a terminal, other languages untouched.

    A backslash stays as it is, so that escaping twice changes nothing. A byte that is no UTF-8
    (as os.fsdecode gives it) is shown as in `ls`: \xff. Everything the service or a command prints goes through here.
    """
    return _UNSAFE.sub(_escape_char, text)


def _escape_char(match: re.Match[str]) -> str:
    char = match.group()
    code = ord(char) - 0xDC00 if "\udc80" <= char <= "\udcff" else ord(char)
    return _SHORT_ESCAPES.get(char) or (f"\\x{code:02x}" if code <= 0xFF else f"\\u{code:04x}")  # noqa: PLR2004  # a byte


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


def conceal_paths(text: str, roots: Iterable[str], known: Iterable[str] = ()) -> str:
    """Return the text with a hash in place of every name below the roots.

    Args:
        text: a sentence that may name files or folders.
        roots: paths of the shared folders; they themselves are no secret.
        known: paths below a root which the text may name; they and the folders above them are found whole, even with
            blanks in them. Where any other name ends is unknown: the rest of its sentence is hidden with it.
    """
    names = {name for path in known for name in with_folders(path)}
    for root in sorted(roots, key=len, reverse=True):
        text = _conceal_below(text, f"{root}/", sorted(names, key=len, reverse=True))
    return text


def with_folders(path: str) -> Iterator[str]:
    """Yield the name of a file, its path, and the paths of the folders above it."""
    yield path.rpartition("/")[2]
    while path:
        yield path
        path = path.rpartition("/")[0]


def _conceal_below(text: str, root: str, names: list[str]) -> str:
    head, found, rest = text.partition(root)
    if not found:
        return text
    own = _OWN_NAMES.match(rest)
    shown_root = root + own.group() if own else root
    rest = rest[own.end() :] if own else rest
    if own and not shown_root.endswith("/"):
        return head + shown_root + _conceal_below(rest, root, names)
    # What goes on in letters is another, longer name.
    fitting = (name for name in names if rest.startswith(name) and not rest[len(name) : len(name) + 1].isalnum())
    name = next(fitting, None)
    if name is None:
        end = _SENTENCE_END.search(rest)
        name = rest[: end.start() if end else len(rest)]
    shown = shown_name(name, "hashed") if name else ""
    return f"{head}{shown_root}{shown}{_conceal_below(rest[len(name) :], root, names)}"
