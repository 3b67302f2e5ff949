"""From a model's folder to an engine that has proven itself with a test inference."""

from __future__ import annotations

import json
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np
import structlog
import torch
import transformers
from jinja2 import TemplateError
from safetensors import SafetensorError
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon import checkpoint, logs
from daemon.engine.protocol import SAMPLE_RATE_HZ, SLOT_S, ChunkRequest
from daemon.engine.qwen3_asr import original
from daemon.engine.qwen3_asr.model import ResidentModel, count_slot_tokens
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineUnavailableError, ScribedError
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.checkpoint import Checkpoint
    from daemon.config import ModelSettings
    from daemon.engine.qwen3_asr.slots import CacheSizes

_LOG = structlog.get_logger(__name__)

# Beyond this many rows a step takes longer and no more pieces come out of it (roofline, performance.md).
_MAX_SLOTS: Final = 256
_CPU_SLOTS: Final = 8
# Left free beside the slots for kernels, the widest layers of a prefill, and fragments.
_RESERVE_BYTES: Final = 450_000_000
# Seconds of sound that are convolved at once: 6 MB each in the real model in bfloat16.
_CONV_S: Final = 128
_CONV_S_SMALL: Final = 60
_SMALL_BYTES: Final = 10_000_000_000

# Compute capabilities: Ampere has tensor cores for bfloat16, Volta and Turing for float16.
_HAS_BFLOAT16: Final = (8, 0)
_HAS_FAST_FLOAT16: Final = (7, 0)
# Another type means other texts after the comma: it has to be clearly faster, not by chance.
_CLEARLY: Final = 1.3
_MIN_PRODUCT: Final = 1_000_000

# What transformers and safetensors raise for folders that hold something else than they say.
_LOAD_ERRORS: Final = (
    OSError,
    RuntimeError,
    ValueError,
    LookupError,
    TypeError,
    AttributeError,
    SafetensorError,
    TemplateError,
)


def load_engine(settings: ModelSettings, report: Callable[[str], None]) -> ContinuousEngine:
    """Load the model that the settings name, try it, and return its engine; see `daemon.engine.load`."""
    started_at = time.monotonic()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logs.adopt_library("transformers")
    found = checkpoint.inspect(checkpoint.find_folder(settings.path))
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, _measure_for(found))
    name, dtype_name = Path(settings.path).name, str(dtype).removeprefix("torch.")
    report(f"Loading {name} ({found.n_bytes / 1e6:,.0f} MB) onto {_describe(device)} as {dtype_name}.")
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as hasher:
        digest = hasher.submit(checkpoint.compute_digest, found.weights)
        model = _load_model(found, device, dtype)
        n_slots = choose_slots(model) if settings.slots == "auto" else settings.slots
        identity = ModelIdentity(name, digest.result(), dtype_name, str(device))
    report("Trying the model with a test inference.")
    engine = ContinuousEngine(model, identity, n_slots)
    _try_out(engine, found)
    load_s = round(time.monotonic() - started_at, 1)
    _LOG.info("engine.loaded", model=name, device=str(device), dtype=dtype_name, n_slots=n_slots, load_s=load_s)
    return engine


def choose_device(setting: str, root: Path = Path("/")) -> torch.device:
    """Return the device that `model.device` means here.

    Args:
        setting: "auto", "cuda", "cuda:N" or "cpu".
        root: where /dev and /proc are.

    Raises:
        EngineUnavailableError: a GPU is asked for, or present and so expected, and cannot be used.
    """
    # torch too is asked, for under WSL a GPU has no such device.
    has_gpu = any(root.glob("dev/nvidia[0-9]*")) or any(root.glob("proc/driver/nvidia/gpus/*"))
    if setting == "cpu" or (setting == "auto" and not has_gpu and not torch.cuda.is_available()):
        return torch.device("cpu")
    device = torch.device("cuda", 0) if setting in ("auto", "cuda") else torch.device(setting)
    try:
        torch.zeros(1, device=device)
    except (RuntimeError, AssertionError) as error:  # the latter from a torch built without CUDA
        n_gpus = torch.cuda.device_count()
        if torch.version.cuda is None:
            why, remedy = "this torch was built without CUDA", "Install the torch for CUDA"
        elif 0 < n_gpus <= device.index:
            why, remedy = f"this machine has {n_gpus}, counted from 0", "Set model.device to one of them"
        else:
            why, remedy = _tell(error), "See that `nvidia-smi` lists the GPU"
        raise EngineUnavailableError(
            f"The GPU {device} cannot be used: {why}.",
            f"{remedy}, or set model.device to cpu, which is many times slower.",
        ) from error
    return device


def choose_dtype(
    setting: str, device: torch.device, measure: Callable[[torch.dtype], float] | None = None
) -> torch.dtype:
    """Return the type of the weights that `model.dtype` means on this device.

    "auto" is the model's own bfloat16 where the GPU computes with it (compute capability 8.0 on), float16 on
    the cards before (7.0 on: Volta, Turing), whose sums the decoder then keeps in float32, and float32 on older
    ones. On a CPU it is what is faster here.

    Args:
        setting: "auto" or a type's name.
        device: where the model is to run.
        measure: returns the seconds that a share of the model's work takes in a type; None stands for too
            small a model to tell.
    """
    if setting != "auto":
        dtype: torch.dtype = getattr(torch, setting)
        return dtype
    if device.type == "cpu":
        is_faster = measure is not None and measure(torch.bfloat16) * _CLEARLY < measure(torch.float32)
        return torch.bfloat16 if is_faster else torch.float32
    capability = torch.cuda.get_device_capability(device)
    if capability >= _HAS_BFLOAT16:
        return torch.bfloat16
    return torch.float16 if capability >= _HAS_FAST_FLOAT16 else torch.float32


def measure_products(n_in: int, n_out: int) -> Callable[[torch.dtype], float] | None:
    """Return what times the products of one layer for one chunk: read side by side, then written in eight slots.

    Returns:
        a function from a type to seconds; None for layers so small that not the products take the time.
    """
    if n_in * n_out < _MIN_PRODUCT:
        return None

    def measure(dtype: torch.dtype) -> float:
        weight = torch.ones(n_out, n_in, dtype=dtype)
        return sum(n_times * _time_product(weight, n_rows) for n_rows, n_times in ((420, 1), (_CPU_SLOTS, 15)))

    return measure


def _time_product(weight: torch.Tensor, n_rows: int) -> float:
    rows = torch.ones(n_rows, weight.shape[1], dtype=weight.dtype)
    times_s = []
    for _ in range(4):
        begun_s = time.perf_counter()
        torch.nn.functional.linear(rows, weight)
        times_s.append(time.perf_counter() - begun_s)
    return min(times_s)


def _measure_for(found: Checkpoint) -> Callable[[torch.dtype], float] | None:
    config = json.loads((found.folder / "config.json").read_bytes())
    text = config.get("thinker_config", config).get("text_config", {})
    return measure_products(int(text.get("hidden_size", 0)), int(text.get("intermediate_size", 0)))


def choose_slots(model: ResidentModel) -> int:
    """Return how many pieces of 30 s can be in work together, by the memory that is free now."""
    free_bytes = model.count_free_bytes()
    return _CPU_SLOTS if free_bytes is None else count_slots(free_bytes, model)


def count_slots(free_bytes: int, model: ResidentModel) -> int:
    """Return how many slots fit into so much memory, beside what the work itself takes."""
    return fit_slots(free_bytes, model.cache_sizes, model.convolution_bytes)


def fit_slots(free_bytes: int, sizes: CacheSizes, convolution_bytes: int) -> int:
    """Return how many slots fit; see `count_slots`."""
    slot_bytes = count_slot_tokens(SLOT_S) * sizes.token_bytes
    return max(1, min(_MAX_SLOTS, (free_bytes - _RESERVE_BYTES - convolution_bytes) // slot_bytes))


def _load_model(found: Checkpoint, device: torch.device, dtype: torch.dtype) -> ResidentModel:
    """Load processor and weights. The weights are mapped, not read, so that memory holds them on the device alone."""
    folder = str(found.folder)
    try:
        options: dict[str, object] = {}
        if found.is_original:
            processor = original.read_processor(found.folder)
            options = {"config": original.read_config(found.folder), "key_mapping": original.KEY_MAPPING}
        else:
            processor = Qwen3ASRProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, told = Qwen3ASRForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        # Weights that are missing would be drawn at random, without a word.
        lacking = sorted(map(str, (*told["missing_keys"], *told["mismatched_keys"])))
        if lacking:
            raise EngineUnavailableError(
                f"The weights in {folder} do not fit its config.json: {len(lacking)} lack, such as {lacking[0]}.",
                _anew(found),
            )
        return ResidentModel(model.to(device).eval(), processor, _choose_conv_s(device))
    except torch.OutOfMemoryError as error:
        raise EngineUnavailableError(
            f"The model ({found.n_bytes / 1e9:.1f} GB) does not fit into the free memory of {_describe(device)}.",
            "Free memory there (`nvidia-smi` shows who uses it) or choose a smaller model.",
        ) from error
    except _LOAD_ERRORS as error:
        raise EngineUnavailableError(
            f"The model at {folder} cannot be loaded: {_tell(error)}.", _anew(found)
        ) from error


def _choose_conv_s(device: torch.device) -> int:
    is_small = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < _SMALL_BYTES
    return _CONV_S_SMALL if is_small else _CONV_S


def _try_out(engine: ContinuousEngine, found: Checkpoint) -> None:
    """Transcribe a second of quiet noise: a model that is ready has shown that it works here."""
    noise = np.random.default_rng(0).normal(0, 1e-3, SAMPLE_RATE_HZ).astype(np.float32)
    try:
        engine.submit(ChunkRequest(noise, language=None, hotwords=(), job_id="test")).result()
    except (ScribedError, *_LOAD_ERRORS) as error:
        engine.close()
        raise EngineUnavailableError(
            f"The model was loaded, but its test inference failed: {_tell(error)}.",
            f"Run `scribed check`. If it finds nothing: {_anew(found)}",
        ) from error


def _anew(found: Checkpoint) -> str:
    # fetch-model leaves alone what looks whole.
    return f"Delete {found.folder}, then fetch it again with `sudo scribed fetch-model`."


def _describe(device: torch.device) -> str:
    """Return a device's name as people know it."""
    return f"{device} ({torch.cuda.get_device_name(device)})" if device.type == "cuda" else "the CPU"


def _tell(error: Exception) -> str:
    """Return an error of a library on one line."""
    what = error.what if isinstance(error, ScribedError) else f"{type(error).__name__}: {error}"
    return " ".join(what.split()).rstrip(".")[:500]
