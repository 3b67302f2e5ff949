"""GPU kernels compute what their definitions say, here in Triton's interpreter; tests/gpu runs them on a GPU.

Each test runs in a process of its own, because Triton has to know when it is imported that it is to interpret.
"""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from structlog.testing import capture_logs

from daemon.engine import Fallback
from daemon.engine.qwen3_asr import choice
from daemon.engine.qwen3_asr.decode_attention import PlainAttention
from daemon.engine.qwen3_asr.layers import DecoderSizes
from daemon.engine.qwen3_asr.self_check import (
    MismatchError,
    compare_attention,
    compare_choices,
    find_attention_kernel,
)
from tests.tiny_model import save_tiny_model

if TYPE_CHECKING:
    from daemon.engine.qwen3_asr.decode_attention import Attend, StepContext
    from daemon.engine.slots import Slots

needs_triton = pytest.mark.skipif(find_spec("triton") is None, reason="Triton exists for Linux alone")

ROOT = Path(__file__).parents[2]
CPU = torch.device("cpu")


def run_interpreted(code: str, *arguments: str | Path) -> str:
    environment = os.environ | {"TRITON_INTERPRET": "1"}
    command = [sys.executable, "-c", code, *map(str, arguments)]
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


COMPARE = """
import torch
from daemon.engine.kernels import decode_attention
from daemon.engine.qwen3_asr.decode_attention import KernelAttention
from daemon.engine.qwen3_asr.layers import DecoderSizes
from daemon.engine.qwen3_asr.self_check import compare_attention

count_splits, attention = decode_attention._count_splits, KernelAttention(decode_attention.attend)
n_done = 0
for dtype in (torch.float32, torch.float16):
    for n_heads, n_kv_heads, head_dim in ((4, 2, 16), (3, 1, 32), (2, 2, 64)):
        for n_splits in (1, 2, 8):
            decode_attention._count_splits = lambda _: n_splits
            sizes = DecoderSizes(n_heads, n_kv_heads, head_dim, 1e-6)
            compare_attention(attention, sizes, 4, dtype, torch.device("cpu"))
            n_done += 1
print(n_done)
"""


@needs_triton
def test_attention_kernel_equals_its_definition() -> None:
    assert run_interpreted(COMPARE) == "18\n"


DEAD_ROWS = """
import torch
from daemon.engine.kernels.decode_attention import attend
from daemon.engine.qwen3_asr.decode_attention import StepContext

torch.manual_seed(0)
keys, values = torch.randn(4, 1, 16, 16), torch.randn(4, 1, 16, 16)
before = keys.clone(), values.clone()
context = StepContext(
    torch.randn(32, 16), torch.randn(32, 16), torch.tensor([[1, 2], [3, 0]]).int(),
    torch.tensor([20, 5]), torch.tensor([0, 1]), 1e-6,
)
attended = attend(torch.randn(2, 48), torch.ones(2, 1, 16), keys, values, context)
assert attended.isfinite().all()
assert torch.equal(keys[:3], before[0][:3]) and torch.equal(values[:3], before[1][:3]), "the pages of the dead row"
assert not torch.equal(keys[3], before[0][3])
"""


@needs_triton
def test_row_that_is_not_live_writes_no_page() -> None:
    run_interpreted(DEAD_ROWS)


TRANSCRIBE = """
import sys, torch
from pathlib import Path
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor
from daemon.engine.device_loop import DeviceLoop
from daemon.engine.kernels import choice, decode_attention, few_rows
from daemon.engine.qwen3_asr.decode_attention import KernelAttention
from daemon.engine.qwen3_asr.few_rows import FewRows
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk

weights = Qwen3ASRForConditionalGeneration.from_pretrained(Path(sys.argv[1]), dtype=torch.float32).eval()
processor = Qwen3ASRProcessor.from_pretrained(Path(sys.argv[1]))
model = ResidentModel(weights, processor, count_max_new_tokens=lambda _: 16)  # the interpreter is slow
decode_attention._count_splits = lambda _: 2
chunks = [make_chunk(0.5 + n, seed=n) for n in range(3)]
decoder, written = model._decoder, []
for has_kernels in (False, True):
    if has_kernels:
        decoder.attention = KernelAttention(decode_attention.attend)
        few = FewRows(few_rows, decoder._layers, decoder.sizes, decoder._norm, decoder._head)
        decoder._run_layers, decoder._settle = few.run_layers, choice.settle
    engine = ContinuousEngine(model, ModelIdentity("tiny", "0" * 64, "float32", "cpu"), 2, DeviceLoop(model.device))
    written.append([future.result(300) for future in [engine.submit(chunk) for chunk in chunks]])
    engine.close()
assert written[0] == written[1], written
print(sum(len(response.text.split()) for response in written[0]))
"""


@needs_triton
def test_engine_writes_the_same_text_with_the_kernels(tmp_path: Path) -> None:
    assert int(run_interpreted(TRANSCRIBE, save_tiny_model(tmp_path / "tiny"))) > 20


COMPARE_PRODUCTS = """
import torch
from daemon.engine.kernels import few_rows
from daemon.engine.qwen3_asr.layers import DecoderLayer, DecoderSizes
from daemon.engine.qwen3_asr.self_check import compare_products

sizes = DecoderSizes(4, 2, 16, 1e-6)
for dtype in (torch.float32, torch.float16):
    torch.manual_seed(1)
    draw = lambda *shape: torch.randn(*shape).div(8).to(dtype)
    layer = DecoderLayer(  # a width that is no power of two
        draw(96), draw(128, 96), None, draw(6, 1, 16), draw(96, 64), None, draw(96), draw(2 * 72, 96), draw(96, 72)
    )
    for n_rows in (1, 2, 5):
        compare_products(few_rows, layer, sizes, n_rows)
print("equal")
"""


@needs_triton
def test_products_for_few_rows_equal_their_definition() -> None:
    assert run_interpreted(COMPARE_PRODUCTS) == "equal\n"


COMPARE_CHOICES = """
import torch
from daemon.engine.kernels.choice import settle
from daemon.engine.qwen3_asr.self_check import compare_choices

for dtype in (torch.float32, torch.float16):
    for n_rows, n_vocab in ((3, 100), (5, 9000)):
        compare_choices(settle, n_rows, n_vocab, dtype, torch.tensor([7, 11, 20]))
print("equal")
"""


@needs_triton
def test_choice_kernel_equals_its_definition() -> None:
    assert run_interpreted(COMPARE_CHOICES) == "equal\n"


# --- the check at load


class WrongAttention(PlainAttention):
    """Forgets to scale by the norm."""

    page_tokens = 32

    def start(self, context: StepContext, kv_len: int, page_tokens: int) -> Attend:
        attend = super().start(context, kv_len, page_tokens)
        return lambda qkv, qk_norm, keys, values: attend(qkv, torch.ones_like(qk_norm), keys, values)


SIZES = DecoderSizes(4, 2, 16, 1e-6)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_check_passes_the_definition_itself_in_every_dtype(dtype: str) -> None:
    attention = PlainAttention()
    attention.page_tokens = 32
    compare_attention(attention, SIZES, 5, getattr(torch, dtype), CPU)


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_check_finds_a_wrong_attention(dtype: str) -> None:
    with pytest.raises(MismatchError, match="5 rows differ from their definition by"):
        compare_attention(WrongAttention(), SIZES, 5, getattr(torch, dtype), CPU)


def test_check_finds_a_wrong_choice() -> None:
    def forget_the_end(slots: Slots, logits: torch.Tensor, end_tokens: torch.Tensor) -> None:
        choice.settle(slots, logits, end_tokens[:1])

    ends = torch.tensor([3, 5])
    compare_choices(choice.settle, 4, 50, torch.float32, ends)
    with pytest.raises(MismatchError, match="the state 'is_live' of 4 rows"):
        compare_choices(forget_the_end, 4, 50, torch.float32, ends)


def test_kernel_that_cannot_run_is_replaced_and_logged_once() -> None:
    with capture_logs() as logs:
        found = find_attention_kernel(SIZES, torch.float32, CPU)  # the kernel runs on GPUs alone
    assert isinstance(found, Fallback)
    assert found.part == "attention kernel"
    assert [log["event"] for log in logs] == ["engine.fallback"]
    assert logs[0]["reason"] == found.reason
    assert found.remedy
