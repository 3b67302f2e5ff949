"""From a checkpoint to an engine that has passed a test inference."""

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
from daemon.decode import SAMPLE_RATE_HZ
from daemon.engine.device import (
    CPU_SLOTS,
    SlotPlan,
    choose_device,
    choose_dtype,
    count_cache_bytes,
    describe,
    measure_matmuls,
    plan_slots,
)
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.failures import one_line
from daemon.engine.protocol import ChunkRequest
from daemon.engine.qwen3_asr import original
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import round_up
from daemon.errors import EngineLostError, EngineUnavailableError, ScribedError, TransientError
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.checkpoint import Checkpoint
    from daemon.config import ModelSettings
    from daemon.engine.slot_model import SlotModel

log = structlog.get_logger()

# Seconds of audio that are convolved at once: 6 MB each in the 1.7B model in bfloat16.
_CONV_S: Final = 128
_CONV_S_SMALL: Final = 60
_SMALL_BYTES: Final = 10_000_000_000

# What transformers and safetensors raise for folders with broken or mismatched contents.
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


def load_engine(
    settings: ModelSettings, found: Checkpoint, report: Callable[[str], None], *, is_captured: bool | None = None
) -> ContinuousEngine:
    """Load a checkpoint, try it, and return its engine; see `daemon.engine.load`."""
    started_s = time.monotonic()
    transformers.utils.logging.set_verbosity_error()
    transformers.utils.logging.disable_progress_bar()
    logs.adopt_library("transformers")
    device = choose_device(settings.device)
    dtype = choose_dtype(settings.dtype, device, _measure_layer(found))
    name, dtype_name = Path(settings.path).name, str(dtype).removeprefix("torch.")
    report(f"Loading {name} ({found.n_bytes / 1e6:,.0f} MB) onto {describe(device)} as {dtype_name}.")
    with ThreadPoolExecutor(1, thread_name_prefix="digest") as hasher:
        digest = hasher.submit(checkpoint.compute_digest, found.weights)
        model = _load_model(found, device, dtype, is_captured=is_captured)
        model.report = report
        plan = choose_slots(model, None if settings.slots == "auto" else settings.slots)
        identity = ModelIdentity(name, digest.result(), dtype_name, str(device))
    report("Trying the model with a test inference.")
    engine = ContinuousEngine(model, identity, plan.n_slots, DeviceLoop(device), plan.slot_tokens)
    _run_test_inference(engine, found)
    engine.note_loaded()
    load_s = round(time.monotonic() - started_s, 1)
    log.info("engine.loaded", model=name, device=str(device), dtype=dtype_name, n_slots=plan.n_slots, load_s=load_s)
    return engine


def choose_slots(model: SlotModel, n_slots: int | None = None, other_bytes: int = 0) -> SlotPlan:
    """Return how many chunks of SLOT_S to decode together, by the memory that is free now.

    Args:
        model: the model, whose weights are loaded.
        n_slots: what the configuration asks for; None for as many as are useful.
        other_bytes: what other resident models on the device still need.
    """
    free_bytes = model.count_free_bytes()
    if free_bytes is None:
        return SlotPlan(n_slots or CPU_SLOTS, model.usual_slot_tokens)
    return count_slots(free_bytes, model, n_slots, other_bytes)


def count_slots(free_bytes: int, model: SlotModel, n_slots: int | None = None, other_bytes: int = 0) -> SlotPlan:
    """Return how many slots of a model fit into free memory; see `plan_slots`."""
    usual = model.usual_slot_tokens
    likely = usual if model.page_tokens is None else round_up(model.likely_slot_tokens, model.page_tokens)
    cache_bytes = count_cache_bytes(free_bytes, model.working_bytes, other_bytes)
    return plan_slots(cache_bytes, model.kv_cache_spec.token_bytes, usual, likely, n_slots)


def _measure_layer(found: Checkpoint) -> Callable[[torch.dtype], float] | None:
    """Return a function that times one layer of the checkpoint in a dtype; see `measure_matmuls`."""
    config = json.loads((found.folder / "config.json").read_bytes())
    text = config.get("thinker_config", config).get("text_config", {})
    return measure_matmuls(int(text.get("hidden_size", 0)), int(text.get("intermediate_size", 0)))


def _load_model(
    found: Checkpoint, device: torch.device, dtype: torch.dtype, *, is_captured: bool | None
) -> ResidentModel:
    """Load processor and weights. Weights are memory-mapped, so that only the device holds a copy of them."""
    folder = str(found.folder)
    try:
        options: dict[str, object] = {}
        if found.is_original:
            processor = original.read_processor(found.folder)
            options = {"config": original.read_config(found.folder), "key_mapping": original.KEY_MAPPING}
        else:
            processor = Qwen3ASRProcessor.from_pretrained(folder, local_files_only=True, trust_remote_code=False)
        model, loading_info = Qwen3ASRForConditionalGeneration.from_pretrained(
            folder,
            dtype=dtype,
            local_files_only=True,
            trust_remote_code=False,
            use_safetensors=True,
            output_loading_info=True,
            **options,
        )
        # transformers would initialize missing weights at random, without an error.
        missing = sorted(map(str, (*loading_info["missing_keys"], *loading_info["mismatched_keys"])))
        if missing:
            raise EngineUnavailableError(
                f"The weights in {folder} do not match its config.json: {len(missing)} are missing, such as "
                f"{missing[0]}.",
                _fetch_again(found),
            )
        return ResidentModel(model.to(device).eval(), processor, _choose_conv_s(device), is_captured=is_captured)
    except torch.OutOfMemoryError as error:
        raise EngineUnavailableError(
            f"The model ({found.n_bytes / 1e9:.1f} GB) does not fit into the free memory of {describe(device)}.",
            "Free memory there (`nvidia-smi` lists the processes that use it), or choose a smaller model.",
        ) from error
    except _LOAD_ERRORS as error:
        raise EngineUnavailableError(
            f"The model at {folder} cannot be loaded: {one_line(error)}.", _fetch_again(found)
        ) from error


def _choose_conv_s(device: torch.device) -> int:
    is_small = device.type == "cuda" and torch.cuda.get_device_properties(device).total_memory < _SMALL_BYTES
    return _CONV_S_SMALL if is_small else _CONV_S


def _run_test_inference(engine: ContinuousEngine, found: Checkpoint) -> None:
    """Transcribe a second of quiet noise, to show that the model works on this machine."""
    noise = np.random.default_rng(0).normal(0, 1e-3, SAMPLE_RATE_HZ).astype(np.float32)
    try:
        engine.submit(ChunkRequest(noise, language=None, hotwords=(), job_id="test")).result()
    except EngineLostError:
        engine.close()
        raise
    except TransientError as error:
        engine.close()
        raise EngineUnavailableError(
            "The model was loaded, but there is too little memory left to use it.",
            "Free memory on the device (on a GPU, `nvidia-smi` lists the processes that use it).",
        ) from error
    except (ScribedError, *_LOAD_ERRORS) as error:
        engine.close()
        raise EngineUnavailableError(
            f"The model was loaded, but its test inference failed: {one_line(error)}.",
            f"Run `scribed check`. If it finds no problem: {_fetch_again(found)}",
        ) from error


def _fetch_again(found: Checkpoint) -> str:
    # fetch-model keeps a folder that looks complete.
    return f"Delete {found.folder}, then fetch it again with `sudo scribed fetch-model`."
