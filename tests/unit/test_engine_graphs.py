"""Captured steps and compiled layers write the same texts; tests/gpu has what only a GPU can show."""

from __future__ import annotations

import itertools
import os
import shutil
import subprocess
import sys
import warnings
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr import few_rows
from daemon.engine.qwen3_asr.decode_attention import PlainAttention
from daemon.engine.qwen3_asr.few_rows import FewRows
from daemon.engine.qwen3_asr.graphs import CapturedSteps, Compiler, sizes_up_to
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import SlotShape
from daemon.transcript import ModelIdentity
from tests.recording_capture import RecordingCapture
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from daemon.engine import ChunkResponse
    from daemon.engine.qwen3_asr.decode_steps import Capture

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
CHUNKS = [make_chunk(0.5 + n % 3, job_id=str(n % 2), seed=n) for n in range(7)]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


def load(folder: Path) -> ResidentModel:
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return ResidentModel(weights, Qwen3ASRProcessor.from_pretrained(folder))


def transcribe_all(model: ResidentModel) -> list[ChunkResponse]:
    identity = ModelIdentity("tiny", "0" * 64, "float32", "cpu")
    engine = ContinuousEngine(model, identity, 3, DeviceLoop(model.device))
    try:
        return [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in CHUNKS]]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[ChunkResponse]:
    return transcribe_all(load(folder))


def test_sizes_end_with_the_largest() -> None:
    assert sizes_up_to(6, (1, 2, 4, 8)) == [1, 2, 4, 6]
    assert sizes_up_to(8, (1, 2, 4, 8)) == [1, 2, 4, 8]
    assert sizes_up_to(1, (1, 2)) == [1]


def capture_steps(model: ResidentModel, capture: Capture) -> None:
    model._steps = CapturedSteps(model._decoder)
    model._make_capture = lambda: capture


def test_captured_steps_write_the_same_text(folder: Path, expected: list[ChunkResponse]) -> None:
    model, capture = load(folder), RecordingCapture()
    capture_steps(model, capture)
    assert transcribe_all(model) == expected
    n_rows, kv_lens = sizes_up_to(3, (1, 2)), sizes_up_to(1184, (512, 640, 768, 1024))
    assert capture.n_captured == len(n_rows) * len(kv_lens)
    assert capture.n_replayed > 30


def test_steps_over_shared_pages_are_captured_once_for_each_number_of_rows(
    folder: Path, expected: list[ChunkResponse]
) -> None:
    model, capture = load(folder), RecordingCapture()
    model._decoder.attention = PlainAttention()
    model._decoder.attention.page_tokens = 64
    model._may_pack = False  # packs are as large as on a GPU
    capture_steps(model, capture)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ResidentModel, "longest_slot_tokens", 512)  # the plain attention reads all of them
        assert transcribe_all(model) == expected
    assert capture.n_captured == len(sizes_up_to(3, (1, 2)))
    assert capture.n_replayed > 30


def test_capture_would_notice_a_tensor_that_was_replaced(folder: Path) -> None:
    model = load(folder)
    capture_steps(model, RecordingCapture())
    with torch.inference_mode():
        slots = model.make_slots(SlotShape(1, 512))
        model.decode_step(slots, 1, 512)
        slots.position.add_(1)
        model.decode_step(slots, 1, 512)
        slots.position = slots.position.clone()
        with pytest.raises(AssertionError, match=r"captured .*, replayed "):
            model.decode_step(slots, 1, 512)


@pytest.mark.parametrize("are_faster", [True, False])
def test_faster_products_are_captured_for_few_rows(
    folder: Path, expected: list[ChunkResponse], *, are_faster: bool
) -> None:
    model, capture = load(folder), RecordingCapture()
    capture_steps(model, capture)
    used: list[int] = []

    def product(rows: torch.Tensor, *arguments: Any, **options: Any) -> torch.Tensor:  # noqa: ANN401  # passed on
        used.append(len(rows))
        return few_rows.product(rows, *arguments, **options)

    decoder = model._decoder
    kernels = SimpleNamespace(MAX_ROWS=2, product=product, gated_product=few_rows.gated_product)
    decoder.few_rows = FewRows(kernels, decoder._layers, decoder.sizes, decoder._norm, decoder._head)
    measured = [2.0, 1.0] if are_faster else [1.0, 2.0]
    times = itertools.cycle(reversed(measured))  # the products for few rows are measured first
    model._steps = CapturedSteps(decoder, lambda _: next(times))
    written = transcribe_all(model)
    assert written == expected
    n_per_step = 3 * len(decoder._layers) + 1
    n_captures = 2 * len(sizes_up_to(1184, (512, 640, 768, 1024)))
    n_while_capturing = 2 * n_captures * n_per_step  # a capture runs the step twice
    assert set(used) == {1, 2}
    assert (len(used) > n_while_capturing) is are_faster


def test_failed_capture_is_logged_once(folder: Path, expected: list[ChunkResponse]) -> None:
    def refuse(step: object) -> Callable[[], None]:
        del step
        raise RuntimeError("operation not permitted when stream is capturing\nand more")

    model = load(folder)
    capture_steps(model, refuse)
    with capture_logs() as logs:
        assert transcribe_all(model) == expected
        assert transcribe_all(model) == expected
    assert [log["event"] for log in logs] == ["engine.capture_failed"]
    assert logs[0]["reason"] == "RuntimeError: operation not permitted when stream is capturing and more"


def test_capture_is_kept_after_running_out_of_memory(folder: Path) -> None:
    n_tried = 0

    def run_out_of_memory_once(step: Callable[[], None]) -> Callable[[], None]:
        nonlocal n_tried
        n_tried += 1
        if n_tried == 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return RecordingCapture()(step)

    model = load(folder)
    capture_steps(model, run_out_of_memory_once)
    with capture_logs() as logs:
        assert len(transcribe_all(model)) == len(CHUNKS)
    assert [log["event"] for log in logs] == ["engine.slots_halved"]
    assert n_tried > 1


def compile_with(model: ResidentModel, compiler: Compiler) -> None:
    decoder = model._decoder
    decoder.attention = PlainAttention(compiler)
    decoder._project, decoder._next_project = compiler(decoder._project), compiler(decoder._next_project)
    model._encoder._layer = compiler(model._encoder._layer)


def test_compiled_layers_write_the_same_text(folder: Path, expected: list[ChunkResponse]) -> None:
    model = load(folder)
    compile_with(model, Compiler("aot_eager"))
    with capture_logs() as logs:
        assert transcribe_all(model) == expected
    assert logs == []


USE_INDUCTOR = """
import torch
from daemon.engine.qwen3_asr import few_rows
from daemon.engine.qwen3_asr.decode_attention import PlainAttention
from daemon.engine.qwen3_asr.few_rows import FewRows
from daemon.engine.qwen3_asr.graphs import Compiler
double = Compiler()(lambda numbers: numbers * 2 + 1)
assert torch.equal(double(torch.ones(3)), torch.full((3,), 3.0))
"""


@pytest.mark.skipif(shutil.which("g++") is None, reason="inductor needs a C++ compiler")
def test_inductor_compiles_where_warnings_are_errors(tmp_path: Path) -> None:
    # In a process of its own, which imports inductor for the first time and ends its threads.
    environment = os.environ | {"TORCHINDUCTOR_CACHE_DIR": str(tmp_path), "TORCHINDUCTOR_COMPILE_THREADS": "1"}
    command = [sys.executable, "-W", "error::DeprecationWarning", "-c", USE_INDUCTOR]
    done = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, "compile_failed" in done.stdout) == (0, False), done.stderr


def test_failing_compilation_is_given_up_after_three_attempts(folder: Path, expected: list[ChunkResponse]) -> None:
    n_tried, now_s = 0, [1_000.0]

    def refuse(*_: object) -> None:
        nonlocal n_tried
        n_tried += 1
        raise RuntimeError("there is no compiler here\nand more")

    model = load(folder)
    compile_with(model, Compiler(refuse, lambda: now_s[0]))
    with capture_logs() as logs:
        assert transcribe_all(model) == expected
        assert n_tried == 2, "the second attempt follows at once, the third after a pause"
        for _ in range(2):
            now_s[0] += 60
            assert transcribe_all(model) == expected
    assert n_tried == 3
    assert [(log["event"], log["will_retry"]) for log in logs] == [
        ("engine.compile_failed", True),
        ("engine.compile_failed", True),
        ("engine.compile_failed", False),
    ]
    assert "there is no compiler here" in logs[0]["reason"]


def test_compilation_that_fails_because_of_a_warning_is_repeated(folder: Path, expected: list[ChunkResponse]) -> None:
    compiled: list[str] = []

    def warn_once(graph: torch.fx.GraphModule, _: object) -> Callable[..., object]:
        if not compiled:
            compiled.append("warned")
            warnings.warn("this function is deprecated", DeprecationWarning, stacklevel=1)  # an error in these tests
        compiled.append("done")
        return graph.forward

    model = load(folder)
    compile_with(model, Compiler(warn_once))
    with capture_logs() as logs:
        assert transcribe_all(model) == expected
    assert [(log["event"], log["will_retry"]) for log in logs] == [("engine.compile_failed", True)]
    assert compiled[:2] == ["warned", "done"]
