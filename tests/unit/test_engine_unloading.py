"""An unloaded model leaves no memory behind, and neither does one that could not be loaded."""

from __future__ import annotations

import gc
import json
import subprocess
import sys
import threading
import weakref
from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.config import ModelSettings
from daemon.engine import load, scheduler
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.graphs import Compiler, count_compiled
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineLostError, EngineUnavailableError, StoppedError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model
from tests.unit.test_engine_graphs import compile_with

if TYPE_CHECKING:
    from pathlib import Path

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
IDENTITY = ModelIdentity("tiny", "0" * 64, "float32", "cpu")

# In a process of its own: only there is all memory that of the model.
MEASURE = """
import gc, json, resource, sys, weakref
from pathlib import Path
from daemon.config import ModelSettings
from daemon.engine import load
from daemon.errors import EngineUnavailableError
from tests.tiny_model import make_chunk

def read(index):
    return int(Path("/proc/self/statm").read_text().split()[index]) * resource.getpagesize()

def use():
    engine = load(settings, Path(sys.argv[2]), lambda _: None)
    texts = [future.result() for future in [engine.submit(make_chunk(4 + n, seed=n)) for n in range(3)]]
    return engine, texts

settings = ModelSettings(path=Path(sys.argv[1]), device="cpu", dtype="float32")
resident, unloaded, texts, engines, models = [], [], [], [], []
for _ in range(3):
    engine, written = use()
    resident.append(read(1))
    models.append(weakref.ref(engine._model))
    engine.unload()
    unloaded.append(read(1))
    texts.append([text.text for text in written])
    engines.append((engine, engine.submit, engine.count_late_builds))  # what others may still hold

unlimited = (resource.RLIM_INFINITY, resource.RLIM_INFINITY)
refused = ""
resource.setrlimit(resource.RLIMIT_AS, (read(0) + (16 << 20), resource.RLIM_INFINITY))  # the rest is taken
try:
    use()
except EngineUnavailableError as error:
    refused = str(error)
# The libraries are there already: less than what the first load takes is enough.
resource.setrlimit(resource.RLIMIT_AS, (read(0) + (800 << 20), resource.RLIM_INFINITY))
engine, written = use()
engine.close()
texts.append([text.text for text in written])
print(json.dumps({
    "resident": resident, "unloaded": unloaded, "texts": texts, "refused": refused,
    "n_left": sum(model() is not None for model in models),
}))
"""


def test_memory_of_an_unloaded_model_is_released_and_it_can_be_loaded_again(tmp_path: Path) -> None:
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "head_dim": 64}
    folder = save_tiny_model(tmp_path / "model", **sizes)
    n_bytes = (folder / "model.safetensors").stat().st_size
    assert n_bytes > 100e6
    command = [sys.executable, "-c", MEASURE, str(folder), str(tmp_path / "cache")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    measured = json.loads(done.stdout.splitlines()[-1])
    for resident, unloaded in zip(measured["resident"], measured["unloaded"], strict=True):
        assert resident - unloaded > 0.9 * n_bytes, measured
    # Nothing adds up. Which of malloc's arenas a thread gets is a matter of chance, and so are some megabytes.
    assert measured["unloaded"][2] < measured["unloaded"][0] + 0.5 * n_bytes, measured
    assert measured["n_left"] == 0
    assert all(texts == measured["texts"][0] for texts in measured["texts"])
    assert any(measured["texts"][0])
    assert measured["refused"].startswith("Too little memory for the model: ")
    assert "Raise `ulimit -v`" in measured["refused"]


def count_tensor_bytes() -> int:
    gc.collect()
    tensors = [found for found in gc.get_objects() if issubclass(type(found), torch.Tensor)]
    return sum(tensor.untyped_storage().nbytes() for tensor in tensors)


def test_model_whose_test_inference_fails_leaves_nothing_behind(tmp_path: Path) -> None:
    folder = save_tiny_model(tmp_path / "model", hidden_size=512)
    (folder / "chat_template.jinja").unlink()
    before_bytes = count_tensor_bytes()
    with pytest.raises(EngineUnavailableError, match="test inference failed") as raised:
        load(ModelSettings(path=folder, device="cpu"), tmp_path / "cache", lambda _: None)
    assert raised.value.__traceback__ is not None  # a caller may keep it, and with it all its frames
    assert count_tensor_bytes() <= before_bytes


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def make_model(folder: Path) -> ResidentModel:
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return ResidentModel(weights, Qwen3ASRProcessor.from_pretrained(folder))


def test_compiled_layers_keep_nothing_of_the_model_and_serve_it_again(folder: Path) -> None:
    chunks = [make_chunk(1.5, seed=seed) for seed in range(2)]
    written, n_compiled = [], []
    with capture_logs() as logs:
        for _ in range(10):  # torch gives a function up that it has to compile more than eight times
            model = make_model(folder)
            compile_with(model, Compiler("aot_eager"))
            engine = ContinuousEngine(model, IDENTITY, 2, DeviceLoop(model.device))
            seen = weakref.ref(model)
            del model
            written.append([engine.submit(chunk).result(TIMEOUT_S) for chunk in chunks])
            engine.unload()
            assert seen() is None
            n_compiled.append(count_compiled())
    assert logs == []
    assert all(texts == written[0] for texts in written)
    assert n_compiled == n_compiled[:1] * 10


def test_chunks_of_an_unloaded_engine_end_and_it_can_be_closed(folder: Path) -> None:
    engine = ContinuousEngine(make_model(folder), IDENTITY, 2, DeviceLoop(torch.device("cpu")))
    futures = [engine.submit(make_chunk(30, seed=seed)) for seed in range(6)]
    engine.unload()
    for future in futures:
        with pytest.raises(StoppedError):
            future.result(0)
    engine.close()
    assert not engine.is_alive()


class HangingModel(ResidentModel):
    has_begun: threading.Event
    may_end: threading.Event

    def decode_step(self, *_: object) -> None:
        self.has_begun.set()
        assert self.may_end.wait(TIMEOUT_S)


def test_device_that_does_not_respond_is_lost(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(scheduler, "_UNLOAD_S", 0.1)
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    model = HangingModel(weights, Qwen3ASRProcessor.from_pretrained(folder))
    model.has_begun, model.may_end = threading.Event(), threading.Event()
    engine = ContinuousEngine(model, IDENTITY, 2, DeviceLoop(model.device))
    future = engine.submit(make_chunk())
    assert model.has_begun.wait(TIMEOUT_S)
    try:
        with pytest.raises(EngineLostError, match="the memory of the model was not freed"):
            engine.unload()
    finally:
        model.may_end.set()
    with pytest.raises(StoppedError):
        future.result(TIMEOUT_S)
