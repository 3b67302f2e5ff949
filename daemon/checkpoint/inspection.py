"""A model's folder: where it is, whether it is complete, and which weights it holds. Standard library only.

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

from daemon.configfile import DEMO_MODEL
from daemon.errors import EngineUnavailableError

if TYPE_CHECKING:
    from collections.abc import Iterable

MODEL_TYPE: Final = "qwen3_asr"

_FETCH: Final = "Fetch it again with `sudo scribed fetch-model --force`."
_SINGLE: Final = "model.safetensors"
_INDEX: Final = "model.safetensors.index.json"
# The library's own bound on a header (safetensors format, "Notes"); a longer one is not a header.
_MAX_HEADER_BYTES: Final = 100_000_000
# Measured with the demo model of 3 MB and torch 2.13 for CPUs: 600 MB of address space are mapped after the imports,
# 1.1 GB after the first inference, of which 440 MB are resident. Below that no load succeeds, and none may begin: where
# OpenBLAS, which scipy loads, can map no memory, it tries again without end, and no signal ends that.
_LIBRARIES_ADDRESS_BYTES: Final = 1_000_000_000
_LIBRARIES_BYTES: Final = 500_000_000


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A folder whose files are all there and have the length that their headers give.

    Attributes:
        folder: the model's folder.
        weights: files, sorted by name.
        is_original: whether the layout is that of the model's authors (`thinker.*`), not that of transformers.
    """

    folder: Path
    weights: tuple[Path, ...]
    is_original: bool = False

    @property
    def n_bytes(self) -> int:
        """Size of the weights."""
        return sum(path.stat().st_size for path in self.weights)

    @property
    def address_bytes(self) -> int:
        """Address space without which loading cannot succeed: the libraries, and the weights mapped once."""
        return _LIBRARIES_ADDRESS_BYTES + self.n_bytes

    def memory_bytes(self, *, is_cpu: bool) -> int:
        """Return about how much memory the program takes with this model: on a CPU the weights may be float32."""
        return _LIBRARIES_BYTES + (2 if is_cpu else 1) * self.n_bytes


def find_folder(path: str | Path) -> Path:
    """Return the folder that `model.path` names: "demo" is the model inside this package."""
    if str(path) == DEMO_MODEL:
        return Path(str(resources.files("daemon") / "demo" / "model"))
    return Path(path)


def inspect(folder: Path) -> Checkpoint:
    """Check that a folder holds a complete checkpoint of the right kind, without loading it.

    Reads only the small files and the headers of the weights: milliseconds, whatever the size.

    Raises:
        EngineUnavailableError: something is missing, damaged or of another kind; the message names the file.
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
                f"{folder} mixes two layouts: its config.json and its weights do not belong together.", _FETCH
            )
        if not (folder / "tokenizer.json").is_file() and not (folder / "vocab.json").is_file():
            raise EngineUnavailableError(f"{folder} has no tokenizer.json.", _FETCH)
        if not (folder / "processor_config.json").is_file() and not (folder / "preprocessor_config.json").is_file():
            raise EngineUnavailableError(f"{folder} has no processor_config.json.", _FETCH)
    except OSError as error:
        raise _unreadable(folder, error) from error
    return Checkpoint(folder, weights, is_original)


def compute_digest(weights: Iterable[Path]) -> str:
    """Return a digest of the weights, in hexadecimal.

    One file: its sha256, as `sha256sum` prints it. Several: the sha256 of the lines that `sha256sum`
    prints for them ("<sha256>  <name>"), sorted by name.

    Raises:
        EngineUnavailableError: a file cannot be read to the end.
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
        "Give the service's user read permission on the folder and its files.",
    )


def _check_config(path: Path) -> bool:
    """Check that it describes the right kind of model; return whether it has the original layout."""
    if not path.is_file():
        raise EngineUnavailableError(f"{path.parent} has no config.json, so it is not a model.", _FETCH)
    config = _read_json(path)
    kind = config.get("model_type")
    if kind != MODEL_TYPE:
        raise EngineUnavailableError(
            f"{path} describes a model of type {kind!r}; scribed runs Qwen3-ASR ({MODEL_TYPE!r}).",
            "Fetch the right model with `sudo scribed fetch-model`.",
        )
    return "thinker_config" in config


def _find_weights(folder: Path) -> tuple[Path, ...]:
    """Return the files that transformers would load: the single one, or those that the index names."""
    if (folder / _SINGLE).is_file():
        return (folder / _SINGLE,)
    if not (folder / _INDEX).is_file():
        raise EngineUnavailableError(
            f"{folder} has no {_SINGLE}; pickled weights (*.bin, *.pt) are never loaded.", _FETCH
        )
    by_tensor = _read_json(folder / _INDEX).get("weight_map")
    if not isinstance(by_tensor, dict) or not by_tensor:
        raise EngineUnavailableError(f"{folder / _INDEX} lists no weights.", _FETCH)
    names = sorted({str(name) for name in by_tensor.values()})
    # Names only: a path in the index could lead out of the folder.
    missing = [name for name in names if Path(name).name != name or not (folder / name).is_file()]
    if missing:
        raise EngineUnavailableError(f"{folder} lacks {missing[0]}, which its index lists.", _FETCH)
    return tuple(folder / name for name in names)


def _read_tensor_names(path: Path) -> list[str]:
    """Return the tensor names in a safetensors header, after checking the length of the file against it.

    The format: 8 bytes of header length (little endian), a JSON header with the offsets of each
    tensor, then the data (https://github.com/huggingface/safetensors#format).
    """
    n_bytes = path.stat().st_size
    with path.open("rb") as file:
        n_header_bytes = int.from_bytes(file.read(8), "little")
        if not 0 < n_header_bytes <= min(n_bytes - 8, _MAX_HEADER_BYTES):
            raise EngineUnavailableError(f"{path} is damaged: it does not begin like a safetensors file.", _FETCH)
        try:
            header = json.loads(file.read(n_header_bytes))
            ends = {name: tensor["data_offsets"][1] for name, tensor in header.items() if name != "__metadata__"}
            n_expected_bytes = 8 + n_header_bytes + max(ends.values(), default=0)
        except (ValueError, LookupError, TypeError, AttributeError) as error:
            raise EngineUnavailableError(f"{path} is damaged: its list of tensors cannot be read.", _FETCH) from error
    if n_bytes != n_expected_bytes:
        raise EngineUnavailableError(
            f"{path} is incomplete: it has {n_bytes:,} of {n_expected_bytes:,} bytes.",
            _FETCH,
        )
    return list(ends)


def _read_json(path: Path) -> dict[str, object]:
    try:
        content = json.loads(path.read_bytes())
    except ValueError as error:
        raise EngineUnavailableError(f"{path} is damaged: it is not JSON.", _FETCH) from error
    if not isinstance(content, dict):
        raise EngineUnavailableError(f"{path} is damaged: it is not a JSON object.", _FETCH)
    return content
