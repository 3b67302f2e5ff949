"""A model's folder: where it is, whether it is whole, and which weights it holds. Standard library only.

A checkpoint is safetensors weights, `config.json` and the files of tokenizer and processor, as
`transformers` saves them. Pickled weights are never read: loading them runs code.
"""

from __future__ import annotations

import hashlib
import json
from dataclasses import dataclass
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING, Final

from daemon.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

DEMO: Final = "demo"
MODEL_TYPE: Final = "qwen3_asr"

_FETCH: Final = "Fetch it again with `sudo scribed fetch-model`."
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
# The library's own bound on a header (safetensors format, "Notes"); a longer one is not a header.
_MAX_HEADER_BYTES: Final = 100_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose files are all there and as long as they say.

    Attributes:
        weights: files, sorted by name.
        is_original: the layout is that of the model's authors (`thinker.*`), not that of transformers.
    """

    folder: Path
    weights: tuple[Path, ...]
    is_original: bool = False

    @property
    def n_bytes(self) -> int:
        """Size of the weights."""
        return sum(path.stat().st_size for path in self.weights)


def find_folder(path: str | Path) -> Path:
    """Return the folder that `model.path` means: "demo" is the model inside this package."""
    if str(path) == DEMO:
        return Path(str(resources.files("daemon") / "demo" / "model"))
    return Path(path)


def inspect(folder: Path) -> Checkpoint:
    """Look whether a folder holds a whole checkpoint of the right kind, without loading it.

    Reads only the small files and the headers of the weights: milliseconds, whatever the size.

    Raises:
        EngineUnavailableError: something is missing, broken or of another kind; it names the file.
    """
    try:
        if not folder.is_dir():
            raise EngineUnavailableError(
                f"There is no model at {folder}.",
                "Fetch it with `sudo scribed fetch-model`, or set model.path to the folder that holds one.",
            )
        is_original = _check_config(folder / "config.json")
        weights = _find_weights(folder)
        tensors = {name for path in weights for name in _read_tensor_names(path)}
        if is_original != any(name.startswith("thinker.") for name in tensors):
            raise EngineUnavailableError(
                f"{folder} mixes two layouts: config.json and the weights do not belong together.", _FETCH
            )
        if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            raise EngineUnavailableError(f"{folder} has no tokenizer.json, so the model could not write.", _FETCH)
        if not (folder / "processor_config.json").is_file() and not (folder / "preprocessor_config.json").is_file():
            raise EngineUnavailableError(f"{folder} has no processor_config.json, so the model could not hear.", _FETCH)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Checkpoint(folder, weights, is_original)


def compute_digest(weights: Iterable[Path]) -> str:
    """Return what tells these weights from any others, in hexadecimal.

    One file: its sha256, as `sha256sum` prints it. Several: the sha256 of the lines that `sha256sum`
    prints for them ("<sha256>  <name>"), sorted by name.

    Raises:
        EngineUnavailableError: a file cannot be read to its end.
    """
    digests = {}
    for path in weights:
        try:
            with path.open("rb") as file:
                digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
        except OSError as error:
            raise _unreadable(path, error) from error
    if len(digests) == 1:
        return next(iter(digests.values()))
    lines = "".join(f"{digests[name]}  {name}\n" for name in sorted(digests))
    return hashlib.sha256(lines.encode()).hexdigest()


def _unreadable(path: Path, error: OSError) -> EngineUnavailableError:
    return EngineUnavailableError(
        f"The model cannot be read: {error.strerror or error} ({error.filename or path}).",
        "See that its folder and files may be read by the user that the daemon runs as.",
    )


def _check_config(path: Path) -> bool:
    """Look whether it describes the right kind of model; return whether in the original layout."""
    if not path.is_file():
        raise EngineUnavailableError(f"{path.parent} has no config.json, so it holds no model.", _FETCH)
    config = _read_json(path)
    kind = config.get("model_type")
    if kind != MODEL_TYPE:
        raise EngineUnavailableError(
            f"{path} describes a model of type {kind!r}; scribed runs Qwen3-ASR ({MODEL_TYPE!r}).",
            "Fetch the right one with `sudo scribed fetch-model`.",
        )
    return "thinker_config" in config


def _find_weights(folder: Path) -> tuple[Path, ...]:
    """Return the files that transformers would load: the single one, else those that the index names."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if not (folder / _INDEX).is_file():
        raise EngineUnavailableError(
            f"{folder} holds no {_SINGLE}; pickled weights (*.bin, *.pt) are never loaded.", _FETCH
        )
    by_tensor = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(by_tensor, dict) or not by_tensor:
        raise EngineUnavailableError(f"{folder / _INDEX} names no weights.", _FETCH)
    names = sorted({str(name) for name in by_tensor.values()})
    # A name, never a path: the index must not lead out of the folder.
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise EngineUnavailableError(f"{folder} lacks {missing[0]}, which its index names.", _FETCH)
    return tuple(folder / name for name in names)


def _read_tensor_names(path: Path) -> list[str]:
    """Return the names in a safetensors header after checking that the file is as long as it says.

    The format: 8 bytes of header length (little endian), a JSON header with the offsets of each
    tensor, then the data (https://github.com/huggingface/safetensors#format).
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        n_header_bytes = int.from_bytes(file.read(8), "little")
        if not 0 < n_header_bytes <= min(n_bytes - 8, _MAX_HEADER_BYTES):
            raise EngineUnavailableError(f"{path} is broken: it does not begin as safetensors do.", _FETCH)
        try:
            header = json.loads(file.read(n_header_bytes))
            ends = {name: tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"}
            n_expected_bytes = 8 + n_header_bytes + max(ends.values(), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineUnavailableError(f"{path} is broken: its list of tensors cannot be read.", _FETCH) from error
    if n_bytes != n_expected_bytes:
        raise EngineUnavailableError(
            f"{path} is not whole: it has {n_bytes:,} of {n_expected_bytes:,} bytes.",
            _FETCH,
        )
    return list(ends)


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise EngineUnavailableError(f"{path} is broken: it is not JSON.", _FETCH) from error
    if not isinstance(content, dict):
        raise EngineUnavailableError(f"{path} is broken: it is not a JSON object.", _FETCH)
    return content
