"""`scribed render`: other documents from a finished or corrected json document, without the model."""

from __future__ import annotations

import os
import sys
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from daemon import configfile
from daemon.cli import config_option, outputs
from daemon.cli.formats import choose_formats, make_folder
from daemon.display import escape
from daemon.documents import Sound, UnreadableDocumentError, read_json
from daemon.documents import render as render_documents
from daemon.errors import ExitCode, NoPermissionError, UsageError
from daemon.host import files

if TYPE_CHECKING:
    from collections.abc import Sequence
    from os import stat_result
    from pathlib import Path

    from daemon.config.schema import Folders

# A day of speech is a tenth of this.
_MAX_BYTES: Final = 256 << 20
# These formats are the same whatever the configuration says.
_ALIKE: Final = frozenset({"srt", "vtt", "json"})


def render(sources: Sequence[Path], folder: Path | None, formats: str, option: Path | None, *, is_forced: bool) -> int:
    """Write documents of each file; one that is not a transcript is named, and the others go on.

    Args:
        sources: json documents.
        folder: for the new documents, None for that of each source.
        formats: such as "docx,srt".
        option: the configuration file, None for the usual places.
        is_forced: whether existing documents may be overwritten; a source never is.
    """
    wanted = choose_formats(formats)
    options = _read_options(option) if not _ALIKE.issuperset(wanted) else _find_options(option)
    read = [_look_up(source) for source in sources]
    if folder is not None:
        make_folder(folder)
    targets = [_name_documents(source, folder, wanted) for source in sources]
    every = [path for documents in targets for path in documents.values()]
    if len(set(every)) < len(every):
        raise UsageError("Two of the files have the same name.", "Render them into different folders.")
    outputs.refuse_taken(every, read, is_forced=is_forced)
    n_failed = 0
    for source, documents in zip(sources, targets, strict=True):
        try:
            transcript = read_json(_read(source))
        except (UnreadableDocumentError, NoPermissionError) as error:
            sys.stderr.write(f"scribed: {escape(f'{source}: {error}')}\n")
            n_failed += 1
            continue
        rendered = render_documents(
            transcript,
            wanted,
            has_timestamps=options.has_timestamps,
            sound=Sound(tuple(_audio_folders(source, folder or source.parent, options.folders))),
        )
        for name, content in rendered.items():
            outputs.write_file(documents[name], content, is_forced=is_forced)
            sys.stderr.write(f"{escape(str(documents[name]))}\n")
    return ExitCode.SOME_FAILED if n_failed else ExitCode.OK


def _name_documents(source: Path, folder: Path | None, formats: Sequence[str]) -> dict[str, Path]:
    stem = source.name.removesuffix(".json")
    return {ending: (folder or source.parent) / f"{stem}.{ending}" for ending in formats}


@dataclass(frozen=True, slots=True)
class _Options:
    """What the configuration says about documents; `folders` is None where it is not needed."""

    has_timestamps: bool = False
    folders: Folders | None = None


def _read_options(option: Path | None) -> _Options:
    config = config_option.read(option)[0]
    return _Options(config.output.timestamps, config.folders)


def _find_options(option: Path | None) -> _Options:
    """Only look for the configuration: loading its schema takes as long as all the rest."""
    configfile.find(option)
    return _Options()


def _audio_folders(source: Path, target: Path, folders: Folders | None) -> list[str]:
    """Return where the recording may be, from the folder of the new documents: in processed, or next to the json."""
    here = source.absolute().parent
    places = [here]
    if folders is not None and here.is_relative_to(folders.outbox):
        places.insert(0, folders.processed / here.relative_to(folders.outbox))
    return [os.path.relpath(place, target.absolute()) for place in places]


def _look_up(source: Path) -> stat_result:
    shown = escape(str(source))
    try:
        facts = source.stat()
    except FileNotFoundError:
        raise UsageError(f"No such file: {shown}.") from None
    except PermissionError as error:
        raise NoPermissionError(f"{shown} is not readable.", "Check the permissions of its folder.") from error
    except (OSError, ValueError) as error:  # the latter for a null character
        raise UsageError(f"{shown} cannot be opened: {getattr(error, 'strerror', None) or error}.") from None
    if source.is_dir():
        raise UsageError(f"{shown} is a folder.", "Name the json documents in it.")
    return facts


def _read(source: Path) -> bytes:
    try:
        return files.read_named(source, _MAX_BYTES)
    except PermissionError as error:
        raise NoPermissionError("It is not readable.", "Check its permissions.") from error
    except OSError as error:
        raise UnreadableDocumentError(f"It cannot be read: {error.strerror}.") from None
