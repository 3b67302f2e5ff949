"""Packed prefills write what `generate` of transformers writes, and always launch the same work on the same memory."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import pytest
import torch
from structlog.testing import capture_logs
from torch.utils._python_dispatch import TorchDispatchMode
from transformers import GenerationConfig, Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.device_loop import DeviceLoop
from daemon.engine.qwen3_asr.decode_attention import PlainAttention
from daemon.engine.qwen3_asr.graphs import Compiler
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.qwen3_asr.packed_prefill import make_packer
from daemon.engine.qwen3_asr.packing import SIZES
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import Generated
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model
from tests.unit.test_engine_model import inputs_of

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from daemon.engine import ChunkRequest, ChunkResponse

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
FEW_SIZES = SIZES[:3]
# Longer and shorter than a window and a block, with and without hotwords; one is shorter than the model hears.
MIXED = [
    make_chunk(2.0, None, (), "a", 1),
    make_chunk(17.37, None, (), "c", 2),
    make_chunk(2.2, None, ("word1", "word2"), "b", 3),
    make_chunk(0.2, None, (), "c", 4),
    make_chunk(8.01, "German", ("word3",), "a", 5),
    make_chunk(1.0, None, (), "a", 6),
    make_chunk(24.0, None, (), "b", 7),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")


@pytest.fixture(scope="module")
def expected(folder: Path) -> list[ChunkResponse]:
    """Return what transformers writes for each chunk alone."""
    model, processor = load(folder), Qwen3ASRProcessor.from_pretrained(folder)
    stock = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    stock.generation_config = GenerationConfig(do_sample=False, eos_token_id=[0, 2], pad_token_id=0)
    responses = []
    for chunk in MIXED:
        prepared, inputs = model.prepare(chunk), inputs_of(processor, chunk)
        with torch.inference_mode():
            output = stock.generate(**inputs, max_new_tokens=prepared.max_new_tokens)
        tokens = output[0, inputs["input_ids"].shape[1] :].tolist()
        responses.append(model.make_response(Generated(tokens, [0.0] * len(tokens)), prepared, has_failed=False))
    return responses


def load(folder: Path) -> ResidentModel:
    """Return a model whose slots share pages, and whose packs have few sizes."""
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    model = ResidentModel(weights, Qwen3ASRProcessor.from_pretrained(folder))
    model._decoder.attention = PlainAttention()
    model._decoder.attention.page_tokens = 64
    model._packer = make_packer(FEW_SIZES, model._mel, model._encoder, model._prompts.audio_token)
    return model


def transcribe(model: ResidentModel, chunks: Sequence[ChunkRequest], n_slots: int) -> list[tuple[str, str | None]]:
    engine = ContinuousEngine(
        model, ModelIdentity("tiny", "0" * 64, "float32", "cpu"), n_slots, DeviceLoop(model.device)
    )
    try:
        responses = [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in chunks]]
    finally:
        engine.close()
    return words_of(responses)


def words_of(responses: Sequence[ChunkResponse]) -> list[tuple[str, str | None]]:
    return [(response.text, response.language) for response in responses]


@pytest.mark.parametrize("n_slots", [2, 7])
def test_packed_chunks_write_the_text_of_generate(folder: Path, expected: list[ChunkResponse], n_slots: int) -> None:
    model = load(folder)
    assert transcribe(model, MIXED, n_slots) == words_of(expected)
    assert model.packed_prefill is not None
    assert len(set(words_of(expected))) > 4


class Operations(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types only parts of itself
    """Records each operation with the shapes of its tensors, and the addresses of those that exist beforehand."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.found: list[tuple[str, Any]] = []
        self._made: dict[int, torch.Tensor] = {}  # held, so that no address is used twice
        self._given: set[int] = set()

    def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:  # noqa: ANN401  # torch's own signature
        del types
        described = torch.utils._pytree.tree_map_only(torch.Tensor, self._describe, (args, kwargs or {}))
        self.found.append((str(func), described))
        result = func(*args, **(kwargs or {}))
        for tensor in torch.utils._pytree.tree_leaves(result):
            if isinstance(tensor, torch.Tensor) and tensor.untyped_storage().data_ptr() not in self._given:
                self._made[tensor.untyped_storage().data_ptr()] = tensor
        return result

    def _describe(self, tensor: torch.Tensor) -> tuple[torch.Size, int | None]:
        address = tensor.untyped_storage().data_ptr()
        if address in self._made:
            return tensor.shape, None
        self._given.add(address)
        return tensor.shape, tensor.data_ptr()


def record(step: Callable[[], None]) -> list[tuple[str, Any]]:
    operations = Operations()
    with operations:
        step()
    return operations.found


class CheckedCapture:
    """Repeats a function as a captured graph would, and checks that it does the same as when it was captured."""

    def __init__(self) -> None:
        self.n_replayed = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        step()
        captured = record(step)
        assert len(captured) > 100
        assert not [name for name, _ in captured if "_local_scalar_dense" in name or "nonzero" in name]

        def replay() -> None:
            assert record(step) == captured
            self.n_replayed += 1

        return replay


def test_replayed_prefill_does_the_same_on_the_same_memory(folder: Path, expected: list[ChunkResponse]) -> None:
    model, capture = load(folder), CheckedCapture()
    model._make_capture = lambda: capture
    assert transcribe(model, MIXED, 3) == words_of(expected)
    assert capture.n_replayed >= 3


def test_prefill_that_cannot_be_captured_is_launched_instead(folder: Path, expected: list[ChunkResponse]) -> None:
    def refuse(step: object) -> Callable[[], None]:
        del step
        raise RuntimeError("operation not permitted when stream is capturing")

    model = load(folder)
    model._make_capture = lambda: refuse
    with capture_logs() as logs:
        assert transcribe(model, MIXED, 3) == words_of(expected)
    assert [log["event"] for log in logs] == ["engine.capture_failed"]


def test_packed_prefill_that_computes_something_else_is_given_up(folder: Path, expected: list[ChunkResponse]) -> None:
    def attend_to_itself(query: torch.Tensor, key: torch.Tensor, value: torch.Tensor, _: object) -> torch.Tensor:
        return value.repeat_interleave(query.shape[1] // key.shape[1], 1)[: len(query)]

    model = load(folder)
    model._make_capture = CheckedCapture
    model._decoder._attend_packed = attend_to_itself
    with capture_logs() as logs:
        assert transcribe(model, MIXED, 3) == words_of(expected)
    assert [(log["event"], log["part"]) for log in logs] == [("engine.fallback", "packed prefill")]
    assert "differ from those of a padded prefill" in logs[0]["reason"]
    assert [fallback.part for fallback in model.fallbacks] == ["packed prefill"]


def test_packed_functions_are_compiled_once_for_all_sizes() -> None:
    compiled: list[tuple[int, ...]] = []

    def count(graph: torch.fx.GraphModule, inputs: Sequence[torch.Tensor]) -> Callable[..., object]:
        compiled.append(tuple(len(tensor.shape) for tensor in inputs if isinstance(tensor, torch.Tensor)))
        return graph.forward

    def scale(pair: tuple[torch.Tensor, torch.Tensor], factor: int) -> torch.Tensor:
        return pair[0] @ pair[1].T * factor

    run = Compiler(count)(scale, is_packed=True)
    for n in (7, 2, 30, 11):
        rows = torch.ones(n, 4)
        assert torch.equal(run((rows, rows), 3), torch.full((n, n), 12.0))
    assert len(compiled) == 1


def test_nothing_is_built_after_the_load(folder: Path, expected: list[ChunkResponse]) -> None:
    """As tests/gpu does it, with a compiler that only traces, and captures that are counted and run again."""

    def capture_with(note: Callable[[], None]) -> Callable[[Callable[[], None]], Callable[[], None]]:
        def capture(step: Callable[[], None]) -> Callable[[], None]:
            note()
            step()
            return step

        return capture

    torch._dynamo.reset()  # it compiles a function only so often, and other tests in this process do it too
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("daemon.engine.qwen3_asr.model.Compiler", lambda: Compiler("eager"))
        patch.setattr("daemon.engine.qwen3_asr.model.GraphCapture", capture_with)
        patch.setattr(ResidentModel, "longest_slot_tokens", 1216)  # the plain attention reads all of them
        model = ResidentModel(weights, Qwen3ASRProcessor.from_pretrained(folder), is_captured=True)
        model._decoder.attention = PlainAttention(Compiler("eager"))
        model._decoder.attention.page_tokens = 64
        model._packer = make_packer(FEW_SIZES, model._mel, model._encoder, model._prompts.audio_token)
        identity = ModelIdentity("tiny", "0" * 64, "float32", "cpu")
        engine = ContinuousEngine(model, identity, 5, DeviceLoop(model.device))
        try:
            with capture_logs() as logs:
                engine.submit(make_chunk()).result(TIMEOUT_S)
                assert engine.count_late_builds() > len(FEW_SIZES) + 3  # what is captured, and what is compiled
                engine.note_loaded()
                written = [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in MIXED]]
            assert words_of(written) == words_of(expected)
            assert logs == []
            assert engine.count_late_builds() == 0
        finally:
            engine.close()
