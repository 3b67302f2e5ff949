"""Reference texts and the recordings they belong to.

A reference is a text next to its recording (`talk.wav` with `talk.ref.txt` or `talk.wav.ref.txt`), a transcript in
JSON that a person has corrected, or a row of a table with the columns `file` and `text`.
"""

from __future__ import annotations

import json
import os
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

from daemon.display import escape
from daemon.errors import NoPermissionError, UsageError
from daemon.evaluation import tables
from daemon.host import files
from daemon.text import join_texts

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator, Sequence


REFERENCE_SUFFIX: Final = ".ref.txt"
_MAX_BYTES: Final = 64 << 20
# Files next to recordings that are not audio.
_NOT_AUDIO: Final = (".txt", ".json", ".srt", ".vtt", ".md", ".html", ".docx", ".yaml", *tables.SUFFIXES)
_HOW: Final = f"Put the words spoken in talk.wav into talk{REFERENCE_SUFFIX} next to it; see docs/accuracy.md."


@dataclass(frozen=True, slots=True)
class Reference:
    """A recording and the words that are spoken in it.

    Attributes:
        sources: the files that have the text.
    """

    audio: Path
    text: str
    sources: tuple[Path, ...]


def find_references(words: Sequence[str], processed: Path) -> list[Reference]:
    """Return the recordings that folders and files on a command line lead to, each once, in the order of their paths.

    Args:
        words: as typed: folders, recordings, reference texts, corrected JSON documents, tables.
        processed: where the audio of corrected documents may lie.

    Raises:
        NoPermissionError: files are not readable; all are named.
        UsageError: something is missing or fits to nothing.
    """
    denied: list[str] = []
    found: dict[Path, Reference] = {}
    for word in words:
        for reference in _guarded(_read(Path(word), processed, denied), word, denied):
            audio = Path(os.path.realpath(reference.audio))
            other = found.get(audio)
            if other is not None and other.text.split() != reference.text.split():
                raise UsageError(f"{escape(str(audio))} has two different reference texts.", "Remove one of them.")
            sources = (*other.sources, *reference.sources) if other else reference.sources
            found[audio] = Reference(audio, reference.text, sources)
    denied += [str(audio) for audio in found if not _is_readable(audio)]
    if denied:
        raise NoPermissionError(
            f"Not readable for this user: {', '.join(map(escape, dict.fromkeys(denied)))}.",
            "Give the service's user read permission, or run `scribed eval` as the owner of the files.",
        )
    if not found:
        raise UsageError("No recording with a reference text was found.", _HOW)
    return [found[audio] for audio in sorted(found)]


def _is_readable(audio: Path) -> bool:
    try:
        facts = audio.stat()
    except PermissionError:
        return False
    except OSError:
        raise UsageError(f"{escape(str(audio))} does not exist.", "A link or a table leads to it.") from None
    if not stat.S_ISREG(facts.st_mode):
        raise UsageError(f"{escape(str(audio))} is not a file.", "Name the recording itself.")
    return os.access(audio, os.R_OK, effective_ids=True)


def _is_text(path: Path) -> bool:
    return path.name.lower().endswith(REFERENCE_SUFFIX)


def _guarded(references: Iterator[Reference], word: str, denied: list[str]) -> Iterator[Reference]:
    """Yield references; note what is not readable."""
    try:
        yield from references
    except PermissionError as error:
        denied.append(os.fsdecode(error.filename or word))
    except FileNotFoundError as error:
        raise UsageError(f"{escape(os.fsdecode(error.filename or word))} does not exist.") from None
    except OSError as error:
        raise UsageError(f"{escape(word)} cannot be read: {error.strerror}.", "Look at its disk.") from None


def _read(path: Path, processed: Path, denied: list[str]) -> Iterator[Reference]:
    if stat.S_ISDIR(path.stat().st_mode):
        yield from _read_folder(path, processed, denied)
    elif _is_text(path):
        yield _of_text(path, _names_in(path.parent))
    elif path.suffix.lower() in tables.SUFFIXES:
        rows = _read_table(path)
        if rows is None:
            raise UsageError(f"{escape(str(path))} has no columns `file` and `text`.", "Name them in its first line.")
        yield from rows
    elif path.suffix.lower() == ".json":
        document = _read_document(path)
        if document is None:
            remedy = "A model's own text is no reference: correct it first, or write the words into a text file."
            raise UsageError(f"{escape(str(path))} is not a transcript that a person has corrected.", remedy)
        yield _of_document(path, document, processed)
    else:
        yield _of_recording(path)


def _read_folder(folder: Path, processed: Path, denied: list[str]) -> Iterator[Reference]:
    """Yield what a folder and its sub-folders have; recordings without a reference are passed over."""
    for where, inner, names in os.walk(folder, onerror=lambda error: denied.append(str(error.filename))):
        inner[:] = sorted(name for name in inner if not name.startswith("."))
        for path in (Path(where, name) for name in sorted(names)):
            yield from _guarded(_read_member(path, names, processed), str(path), denied)


def _read_member(path: Path, names: Iterable[str], processed: Path) -> Iterator[Reference]:
    if _is_text(path):
        yield _of_text(path, names)
    elif path.suffix.lower() in tables.SUFFIXES:
        yield from _read_table(path) or ()
    elif path.suffix.lower() == ".json" and (document := _read_document(path)) is not None:
        yield _of_document(path, document, processed)


def _names_in(folder: Path) -> list[str]:
    return [entry.name for entry in os.scandir(folder) if entry.is_file()]


def _of_text(path: Path, names: Iterable[str]) -> Reference:
    """Return the reference of a text next to a recording."""
    stem = path.name[: -len(REFERENCE_SUFFIX)]
    audio = [name for name in names if not name.startswith(".") and not name.lower().endswith(_NOT_AUDIO)]
    fitting = [name for name in audio if name == stem] or sorted(name for name in audio if Path(name).stem == stem)
    if not fitting:
        raise UsageError(f"The recording of {escape(str(path))} is missing.", f"It belongs to {escape(stem)}.wav, say.")
    if len(fitting) > 1:
        shown = ", ".join(map(escape, fitting))
        remedy = f"Name it after one of them, such as {escape(fitting[0])}{REFERENCE_SUFFIX}."
        raise UsageError(f"{escape(str(path))} may belong to {shown}.", remedy)
    return Reference(path.with_name(fitting[0]), _read_text(path), (path,))


def _of_recording(path: Path) -> Reference:
    for text in (path.with_name(path.name + REFERENCE_SUFFIX), path.with_name(path.stem + REFERENCE_SUFFIX)):
        if text.exists():
            return Reference(path, _read_text(text), (text,))
    raise UsageError(f"{escape(str(path))} has no reference text.", _HOW)


def _read_table(path: Path) -> list[Reference] | None:
    """Return the rows of a table, None where its first line does not name the columns."""
    rows = tables.read_rows(path, _read_text(path))
    if rows is None:
        return None
    references = []
    for line, name, text in rows:
        audio = path.parent / name
        if not _may_exist(audio):
            what = f"Line {line} of {escape(str(path))} names {escape(name)}, which does not exist."
            raise UsageError(what, "Paths start at the folder of the table.")
        references.append(Reference(audio, text, (path,)))
    return references


def _may_exist(path: Path) -> bool:
    """Whether there is such a file, as far as this user can see."""
    try:
        return path.exists()
    except PermissionError:
        return True  # it is named together with all others that are not readable
    except OSError:  # such as a name that is too long
        return False


def _read_document(path: Path) -> dict[str, Any] | None:
    """Return a corrected transcript, None for any other JSON."""
    try:
        document = json.loads(_read_text(path))
    except (ValueError, RecursionError, UsageError):
        return None
    is_ours = isinstance(document, dict) and str(document.get("schema", "")).startswith("scribed.transcript/")
    return document if is_ours and document.get("corrected_at") else None


def _of_document(path: Path, document: dict[str, Any], processed: Path) -> Reference:
    """Return the reference of a corrected document; its audio is known by its sha256."""
    try:
        source, segments = document["source"], document["segments"]
        text = join_texts(str(segment["text"]) for segment in segments)
        places = [path.parent / Path(source["name"]).name, processed / source["path"].lstrip("/")]
        sha256 = str(source["sha256"])
    except (KeyError, TypeError, AttributeError):
        raise UsageError(f"{escape(str(path))} is damaged.", "Save it again, or leave it out.") from None
    for audio in places:
        if audio.is_file() and ".." not in audio.parts and files.sha256_of(Path(os.path.realpath(audio))) == sha256:
            return Reference(audio, text, (path,))
    shown = " and ".join(escape(str(place)) for place in places)
    raise UsageError(
        f"The audio of {escape(str(path))} is missing.", f"It was looked for at {shown}. Copy it next to the document."
    )


def _read_text(path: Path) -> str:
    """Return the content of a text file in UTF-8."""
    try:
        text = files.read_named(path, _MAX_BYTES).decode("utf-8-sig")
    except (FileNotFoundError, PermissionError):
        raise
    except OSError as error:  # such as a pipe, a device, or a file that is too large
        raise UsageError(
            f"{escape(str(path))} cannot be read: {error.strerror}.",
            f"Leave it out; a text of at most {_MAX_BYTES >> 20} MiB is expected.",
        ) from None
    except UnicodeDecodeError:
        text = "\0"
    if "\0" in text:  # UTF-16 without its mark looks like this
        raise UsageError(f"{escape(str(path))} is not UTF-8 text.", "Save it as UTF-8.")
    return text
