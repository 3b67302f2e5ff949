"""`scribed fetch-model`: a model from a hub, or from a folder, to where the daemon looks for it.

The only code of this package that uses the network; the daemon never calls it.
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
from huggingface_hub.errors import HTTPError, RepositoryNotFoundError  # of which a gated one is a kind

from daemon import checkpoint
from daemon.errors import EngineUnavailableError, TransientError, UsageError
from daemon.host import files

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


def fetch(model_id: str, source: str, target: Path, report: Callable[[str], None]) -> Path:
    """Put a model into a folder of models, whole or not at all.

    It is gathered under a hidden name beside its own and renamed when it has been checked; what an
    interrupted download left there is gone on with. A model that stands there whole is left alone.

    Args:
        model_id: such as DEFAULT_MODEL; its last part is the name of the folder.
        source: HUB, MODELSCOPE, or the path of a folder which holds the model.
        target: the folder of models, such as DEFAULT_FOLDER; made where it is missing.
        report: called with a sentence at each step.

    Returns:
        The model's folder.

    Raises:
        UsageError: no such kind of ID, or the source needs a package that is not installed.
        EngineUnavailableError: the source cannot be reached, or does not hold a whole model of the right kind.
        TransientError: the disk is full.
        NoPermissionError: the folder may not be written.
        AlreadyRunningError: another process is fetching this model.
    """
    match = _MODEL_ID.fullmatch(model_id)
    if match is None:
        raise UsageError(f"{model_id!r} is not the ID of a model.", f"It looks like {DEFAULT_MODEL}.")
    folder = target / match["name"]
    partial = target / f".{folder.name}.partial"
    lock = files.Lock(target / f".{folder.name}.lock")
    with files.explained(f"The model could not be put into {folder}", target):
        target.mkdir(mode=0o755, parents=True, exist_ok=True)
        lock.acquire(f"the download of {folder.name}")
        try:
            if _is_whole(folder):
                report(f"{folder} is there and whole. To fetch it anew, delete it first.")
                return folder
            partial.mkdir(exist_ok=True)
            _gather(model_id, source, partial, report)
            report("Checking it.")
            _check(partial)
            _put_in_place(partial, folder)
        finally:
            lock.release()
    report(f"The model is at {folder}.")
    return folder


def _gather(model_id: str, source: str, partial: Path, report: Callable[[str], None]) -> None:
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
    except (HTTPError, OSError, RuntimeError, ValueError) as error:  # the last two from its transfer library
        cause = error.__cause__ or error
        if isinstance(cause, RepositoryNotFoundError):
            raise EngineUnavailableError(
                f"huggingface.co has no {model_id} that may be fetched without signing in.",
                f"Check the ID; the usual one is {DEFAULT_MODEL}.",
            ) from error
        raise _not_fetched(model_id, cause) from error


def _from_modelscope(model_id: str, partial: Path) -> None:
    try:
        modelscope = importlib.import_module("modelscope")
    except ImportError as error:
        raise UsageError(
            "To fetch from modelscope.cn, its package is needed.",
            f"Install it: {sys.executable} -m pip install modelscope",
        ) from error
    try:
        modelscope.snapshot_download(model_id, local_dir=str(partial), allow_patterns=list(_PATTERNS))
    except Exception as error:  # the errors of an optional package cannot be named here
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
        "Check the network and the disk, then run the same command again: it goes on where it stopped. "
        "Or fetch the model on another machine and name its folder with --from.",
    )


def _check_space(folder: Path, n_bytes: int) -> None:
    free_bytes = files.free_bytes(folder)
    if n_bytes + _SPARE_BYTES > free_bytes:
        raise TransientError(
            f"The model needs {(n_bytes + _SPARE_BYTES) / 1e9:.1f} GB at {folder.parent}, and "
            f"{free_bytes / 1e9:.1f} GB are free.",
            "Free some space there.",
        )


def _is_whole(folder: Path) -> bool:
    try:
        checkpoint.inspect(folder)
    except EngineUnavailableError:
        return False
    return True


def _check(partial: Path) -> None:
    """Refuse what is not a whole model, and leave nothing of it that the next try would go on with."""
    try:
        checkpoint.inspect(partial)
    except EngineUnavailableError:
        shutil.rmtree(partial)
        raise


def _put_in_place(partial: Path, folder: Path) -> None:
    """Give a checked model its name, in place of a broken one if there is one."""
    for path in partial.iterdir():
        if path.is_dir():
            shutil.rmtree(path)  # what the hub's client remembers of the download
            continue
        path.chmod(0o644)
        with path.open("rb") as file:
            os.fsync(file.fileno())
    partial.chmod(0o755)
    files.sync_folder(partial)
    old = folder.with_name(f".{folder.name}.old")
    shutil.rmtree(old, ignore_errors=True)
    if folder.exists():
        folder.rename(old)
    partial.rename(folder)
    files.sync_folder(folder.parent)
    shutil.rmtree(old, ignore_errors=True)
