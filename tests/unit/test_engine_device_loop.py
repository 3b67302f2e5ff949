"""One thread serves several resident models."""

from __future__ import annotations

import platform
import subprocess
import sys
import threading
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.errors import EngineLostError, StoppedError
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator, Sequence

    from daemon.engine import ChunkResponse
    from daemon.engine.slots import Slots

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
CHUNKS = [make_chunk(0.5 + n % 3, job_id=str(n % 2), seed=n) for n in range(5)]


class ObservedModel(ResidentModel):
    """The real model, which notes the thread of each decode step and can be made to fail."""

    def observe(self) -> None:
        self.threads: set[int] = set()
        self.on_step: Callable[[], None] = lambda: None

    def decode_step(self, slots: Slots, n_rows: int, kv_len: int) -> None:
        self.threads.add(threading.get_ident())
        self.on_step()
        super().decode_step(slots, n_rows, kv_len)


@pytest.fixture(scope="module")
def models(tmp_path_factory: pytest.TempPathFactory) -> list[ObservedModel]:
    folder = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    weights = [Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval() for _ in range(2)]
    with torch.no_grad():
        weights[1].get_output_embeddings().weight.mul_(-1)  # so that the two models write different texts
    return [ObservedModel(model, Qwen3ASRProcessor.from_pretrained(folder)) for model in weights]


@pytest.fixture
def engines(models: list[ObservedModel]) -> Iterator[list[ContinuousEngine]]:
    for model in models:
        model.observe()
    loop = DeviceLoop(models[0].device)
    engines = [
        ContinuousEngine(model, ModelIdentity(name, "0" * 64, "float32", "cpu"), 2, loop)
        for name, model in zip("ab", models, strict=True)
    ]
    yield engines
    for engine in engines:
        engine.close()


def transcribe_all(engines: Sequence[ContinuousEngine]) -> list[list[ChunkResponse]]:
    futures = [[engine.submit(chunk) for engine in engines] for chunk in CHUNKS]
    return [[pair[index].result(TIMEOUT_S) for pair in futures] for index in range(len(engines))]


def test_two_models_share_one_thread_and_write_what_they_write_alone(
    models: list[ObservedModel], engines: list[ContinuousEngine]
) -> None:
    alone = [transcribe_all([engine])[0] for engine in engines]
    assert alone[0] != alone[1]
    assert transcribe_all(engines) == alone
    assert len(models[0].threads | models[1].threads) == 1


def test_model_with_much_work_does_not_block_the_other(
    models: list[ObservedModel], engines: list[ContinuousEngine]
) -> None:
    busy, other = engines
    long = [busy.submit(make_chunk(30, seed=seed)) for seed in range(6)]
    assert other.submit(make_chunk(0.5)).result(TIMEOUT_S)
    assert not all(future.done() for future in long)
    assert models[1].threads


def test_closing_one_model_leaves_the_other_running(engines: list[ContinuousEngine]) -> None:
    first, second = engines
    running = first.submit(make_chunk(30))
    first.close()
    with pytest.raises(StoppedError):
        running.result(TIMEOUT_S)
    assert not first.is_alive()
    assert second.is_alive()
    assert second.submit(make_chunk()).result(TIMEOUT_S)
    second.close()
    assert "engine" not in {thread.name for thread in threading.enumerate()}


def test_lost_device_ends_all_models(models: list[ObservedModel], engines: list[ContinuousEngine]) -> None:
    def break_down() -> None:
        raise torch.AcceleratorError("CUDA error: an illegal memory access was encountered")

    models[0].on_step = break_down
    futures = [engine.submit(make_chunk(30)) for engine in engines for _ in range(3)]
    for future in futures:
        with pytest.raises(EngineLostError, match="illegal memory access"):
            future.result(TIMEOUT_S)
    assert not any(engine.is_alive() for engine in engines)
    late = ContinuousEngine(models[1], engines[1].identity, 2, engines[1]._loop)
    with pytest.raises(EngineLostError):
        late.submit(make_chunk()).result(TIMEOUT_S)


def test_memory_of_other_models_is_counted(models: list[ObservedModel], engines: list[ContinuousEngine]) -> None:
    loop = engines[0]._loop
    assert loop.count_other_bytes(engines[0]) == models[1].working_bytes > 0
    engines[1].close()
    assert loop.count_other_bytes(engines[0]) == 0


def test_loop_starts_again_after_its_last_model_was_closed(models: list[ObservedModel]) -> None:
    loop = DeviceLoop(models[0].device)
    for model in models:
        model.observe()
        engine = ContinuousEngine(model, ModelIdentity("a", "0" * 64, "float32", "cpu"), 2, loop)
        assert engine.submit(make_chunk()).result(TIMEOUT_S)
        engine.close()
        assert "engine" not in {thread.name for thread in threading.enumerate()}


_COUNT_FAULTS = """
import resource
from threading import Event
import torch
from daemon.engine.device_loop import DeviceLoop

class Client:
    is_closed, working_bytes, n_left = False, 0, 12
    faults, done = [], Event()

    def has_work(self):
        return self.n_left > 0

    def run_iteration(self):
        before = resource.getrusage(resource.RUSAGE_SELF).ru_minflt
        buffers = [bytearray(24 << 20) for _ in range(3)]
        for buffer in buffers:
            buffer[::4096] = bytes([1]) * len(buffer[::4096])
        self.faults.append(resource.getrusage(resource.RUSAGE_SELF).ru_minflt - before)
        self.n_left -= 1
        if self.n_left == 0:
            self.done.set()

client = Client()
DeviceLoop(torch.device("cpu")).add(client)
client.done.wait(60)
print(sum(client.faults[8:]))
"""


@pytest.mark.skipif(platform.libc_ver()[0] != "glibc", reason="only glibc has mallopt")
def test_cpu_iterations_reuse_the_buffers_of_earlier_ones() -> None:
    output = subprocess.run([sys.executable, "-c", _COUNT_FAULTS], capture_output=True, text=True, check=True)
    assert int(output.stdout) < 500
