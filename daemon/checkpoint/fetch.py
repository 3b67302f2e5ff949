"""`scribed fetch-model`: copy a model from a hub or a folder to where the daemon looks for it.

The only code in this package that uses the network; the daemon never calls it.
"""

from __future__ import annotations

import importlib
import os
import re
import shutil
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Final

from huggingface_hub import snapshot_download
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # the base of GatedRepoError

from daemon import checkpoint
from daemon.errors import CannotWriteError, EngineUnavailableError, TransientError, UsageError
from daemon.host import files
from daemon.host.locks import Lock

if TYPE_CHECKING:
    from collections.abc import Callable

DEFAULT_MODEL: Final = "Qwen/Qwen3-ASR-1.7B-hf"
DEFAULT_FOLDER: Final = Path("/var/lib/scribed/models")

HUB: Final = "hub"
MODELSCOPE: Final = "modelscope"

# What a model is made of. Pickled weights (*.bin, *.pt) run code when loaded and are never fetched.
_PATTERNS: Final = ("*.safetensors", "*.json", "*.jinja", "*.txt")
_MODEL_ID: Final = re.compile(r"(?:\w[\w.-]*/)?(?P<name>\w[\w.-]*)")
_SPARE_BYTES: Final = 200_000_000


def fetch(model_id: str, source: str, target: Path, report: Callable[[str], None], *, is_forced: bool = False) -> Path:
    """Put a model into a folder of models, complete or not at all.

    The files are collected under a hidden name in the same folder, checked, and then renamed; an interrupted
    download is resumed there. A complete model of that name is left alone unless `is_forced`.

    Args:
        model_id: such as DEFAULT_MODEL; its last part is the name of the folder.
        source: HUB, MODELSCOPE, or the path of a folder which holds the model.
        target: the folder of models, such as DEFAULT_FOLDER; created if missing.
        report: called with a sentence at each step.
        is_forced: whether whatever has the model's name is replaced.

    Returns:
        The model's folder.

    Raises:
        UsageError: the ID is malformed, or the source needs a package that is not installed.
        CannotWriteError: something else has the model's name, or the source is that very folder.
        EngineUnavailableError: the source cannot be reached, or holds no complete model of the right kind.
        TransientError: the disk is full.
        NoPermissionError: the folder is not writable.
        AlreadyRunningError: another process is fetching this model.
    """
    match = _MODEL_ID.fullmatch(model_id)
    if match is None:
        raise UsageError(f"{model_id!r} is not a model ID.", f"An ID looks like this: {DEFAULT_MODEL}.")
    folder = target / match["name"]
    partial = target / f".{folder.name}.partial"
    lock = Lock(target / f".{folder.name}.lock")
    with files.explained(f"The model could not be put into {folder}", target):
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock.acquire(f"the download of {folder.name}")
        try:
            if not is_forced and _is_complete(folder):
                report(f"{folder} is already complete. Use --force to fetch it again.")
                return folder
            _refuse_taken(folder, partial, source, is_forced=is_forced)
            partial.mkdir(exist_ok=True)
            _collect(model_id, source, partial, report)
            report("Checking the model.")
            _check(partial)
            _put_in_place(partial, folder)
        finally:
            lock.release()
    report(f"The model is at {folder}.")
    return folder


def _refuse_taken(folder: Path, partial: Path, source: str, *, is_forced: bool) -> None:
    """Make sure that the model may have its name, before anything is fetched."""
    if not is_forced and os.path.lexists(folder):
        raise CannotWriteError(
            f"{folder} exists and is not a complete model.", "Use --force to replace it, or move it away."
        )
    origin = Path(source).expanduser()
    for path in (folder, partial):
        if source not in (HUB, MODELSCOPE) and path.exists() and origin.exists() and path.samefile(origin):
            raise CannotWriteError(f"{origin} is the destination folder itself.", "Pass another folder to --from.")


def _collect(model_id: str, source: str, partial: Path, report: Callable[[str], None]) -> None:
    if source == HUB:
        report(f"Downloading {model_id} from huggingface.co.")
        _from_hub(model_id, partial)
    elif source == MODELSCOPE:
        report(f"Downloading {model_id} from modelscope.cn.")
        _from_modelscope(model_id, partial)
    else:
        report(f"Copying the model from {source}.")
        _from_folder(Path(source).expanduser(), partial)


def _from_hub(model_id: str, partial: Path) -> None:
    try:
        plan = snapshot_download(model_id, local_dir=partial, allow_patterns=list(_PATTERNS), dry_run=True)
        _check_space(partial, sum(file.file_size or 0 for file in plan if file.will_download))
        snapshot_download(model_id, local_dir=partial, allow_patterns=list(_PATTERNS))
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last two come from its transfer library
        cause = error.__cause__ or error
        if isinstance(cause, RepositoryNotFoundError):
            raise EngineUnavailableError(
                f"huggingface.co has no {model_id}, or it requires signing in.",
                f"Check the ID; the default is {DEFAULT_MODEL}.",
            ) from error
        raise _not_fetched(model_id, cause) from error


def _from_modelscope(model_id: str, partial: Path) -> None:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError as error:
        raise UsageError(
            "Fetching from modelscope.cn needs the Python package modelscope.",
            f"Install it: {sys.executable} -m pip install modelscope",
        ) from error
    try:
        modelscope.snapshot_download(model_id, local_dir=str(partial), allow_patterns=list(_PATTERNS))
    except Exception as error:  # the errors of an optional package cannot be imported here
        raise _not_fetched(model_id, error) from error


def _from_folder(source: Path, partial: Path) -> None:
    found = checkpoint.inspect(source)
    _check_space(partial, found.n_bytes)
    for path in sorted(path for pattern in _PATTERNS for path in source.glob(pattern)):
        shutil.copyfile(path, partial / path.name)


def _not_fetched(model_id: str, error: BaseException) -> EngineUnavailableError:
    why = " ".join(str(error).split())[:300] or type(error).__name__
    return EngineUnavailableError(
        f"{model_id} could not be fetched: {why}.",
        "Check the network and the disk, then run the same command again: it resumes where it stopped. "
        "Or fetch the model on another machine and name its folder with --from.",
    )


def _check_space(folder: Path, n_bytes: int) -> None:
    free_bytes = files.free_bytes(folder)
    if n_bytes + _SPARE_BYTES > free_bytes:
        raise TransientError(
            f"The model needs {(n_bytes + _SPARE_BYTES) / 1e9:.1f} GB in {folder.parent}, but only "
            f"{free_bytes / 1e9:.1f} GB are free.",
            "Free some space there.",
        )


def _is_complete(folder: Path) -> bool:
    try:
        checkpoint.inspect(folder)
    except EngineUnavailableError:
        return False
    return True


def _check(partial: Path) -> None:
    """Refuse an incomplete model and delete it, so that the next try does not resume it."""
    try:
        checkpoint.inspect(partial)
    except EngineUnavailableError:
        shutil.rmtree(partial)
        raise


def _put_in_place(partial: Path, folder: Path) -> None:
    """Give a checked model its name, replacing whatever has it."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # the hub client's records of the download
            continue
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.chmod(0o755)
    files.sync_folder(partial)
    old = folder.with_name(f".{folder.name}.old")
    _remove(old)
    if os.path.lexists(folder):
        folder.rename(old)
    partial.rename(folder)
    files.sync_folder(folder.parent)
    _remove(old)


def _remove(old: Path) -> None:
    """Delete a replaced model: a folder, or the link or file that had its name."""
    if old.is_dir() and not old.is_symlink():
        shutil.rmtree(old, ignore_errors=True)
    else:
        old.unlink(missing_ok=True)
