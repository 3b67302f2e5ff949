"""Slots that share pages: chunks write the same tokens, and when pages run out none is lost."""

from __future__ import annotations

from typing import TYPE_CHECKING

import pytest
import torch
from structlog.testing import capture_logs
from transformers import Qwen3ASRForConditionalGeneration, Qwen3ASRProcessor

from daemon.engine.device_loop import DeviceLoop
from daemon.engine.pages import SPARE_PAGE, PageTable
from daemon.engine.qwen3_asr.decode_attention import PlainAttention
from daemon.engine.qwen3_asr.model import ResidentModel
from daemon.engine.scheduler import ContinuousEngine
from daemon.engine.slots import KVCacheSpec, Slots, SlotShape
from daemon.transcript import ModelIdentity
from tests.tiny_model import make_chunk, save_tiny_model

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence
    from pathlib import Path

    from daemon.engine import ChunkRequest, ChunkResponse
    from daemon.engine.slot_model import PreparedChunk

TIMEOUT_S = 600.0  # only to find out what hangs, however busy the machine
SPEC = KVCacheSpec(1, 2, 4, torch.float32, torch.device("cpu"))
MIXED = [make_chunk(0.5 + n % 5, job_id=str(n % 3), seed=n) for n in range(24)]


class PagedModel(ResidentModel):
    """The real model with pages of few tokens, which the plain attention reads too."""

    min_rows_ahead: int | None = None

    def use_pages(self, page_tokens: int | None) -> None:
        attention = PlainAttention()
        attention.page_tokens = page_tokens
        self._decoder.attention = attention
        self.n_prefilled = 0

    def prefill(
        self, slots: Slots, chunks: Sequence[PreparedChunk], rows: Sequence[int], heartbeat: Callable[[], None]
    ) -> None:
        self.n_prefilled += len(chunks)
        super().prefill(slots, chunks, rows, heartbeat)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> PagedModel:
    folder: Path = save_tiny_model(tmp_path_factory.mktemp("models") / "tiny")
    weights = Qwen3ASRForConditionalGeneration.from_pretrained(folder, dtype=torch.float32).eval()
    return PagedModel(weights, Qwen3ASRProcessor.from_pretrained(folder))


def transcribe(
    model: PagedModel, chunks: Sequence[ChunkRequest], n_slots: int, slot_tokens: int | None = None
) -> list[ChunkResponse]:
    identity = ModelIdentity("tiny", "0" * 64, "float32", "cpu")
    engine = ContinuousEngine(model, identity, n_slots, DeviceLoop(model.device), slot_tokens)
    try:
        return [future.result(TIMEOUT_S) for future in [engine.submit(chunk) for chunk in chunks]]
    finally:
        engine.close()


@pytest.fixture(scope="module")
def expected(model: PagedModel) -> list[ChunkResponse]:
    """Return what the model writes with one page for each slot."""
    model.use_pages(None)
    return transcribe(model, MIXED, n_slots=4)


@pytest.mark.parametrize("min_rows_ahead", [None, 1])
@pytest.mark.parametrize("page_tokens", [32, 64])
def test_shared_pages_change_no_text(
    model: PagedModel, expected: list[ChunkResponse], page_tokens: int, min_rows_ahead: int | None
) -> None:
    model.use_pages(page_tokens)
    model.min_rows_ahead = min_rows_ahead
    assert transcribe(model, MIXED, n_slots=6) == expected
    assert model.n_prefilled == len(MIXED), "there are pages for all"


@pytest.mark.parametrize("min_rows_ahead", [None, 1])
def test_when_pages_run_out_chunks_are_put_back_and_write_the_same_text(
    model: PagedModel, expected: list[ChunkResponse], min_rows_ahead: int | None
) -> None:
    model.use_pages(32)
    model.min_rows_ahead = min_rows_ahead
    with pytest.MonkeyPatch.context() as patch, capture_logs() as logs:
        # Chunks are scheduled as if they would write hardly anything, so that all of them grow into one another.
        patch.setattr("daemon.engine.slot_model.LIKELY_SHARE", 0.0)
        patch.setattr(PagedModel, "usual_slot_tokens", 192)
        assert transcribe(model, MIXED, n_slots=12, slot_tokens=16) == expected
    n_put_back = [log["event"] for log in logs].count("engine.chunk_put_back")
    assert n_put_back > 5
    assert model.n_prefilled == len(MIXED) + n_put_back


def test_long_and_short_chunks_share_pages(model: PagedModel) -> None:
    chunks = [make_chunk(seconds, seed=seconds) for seconds in (1, 70, 2, 3, 1, 2)]
    model.use_pages(None)
    alone = transcribe(model, chunks, n_slots=1)
    model.use_pages(64)
    assert transcribe(model, chunks, n_slots=4, slot_tokens=704) == alone


def test_page_table_gives_each_page_to_one_row() -> None:
    table = PageTable(n_rows=4, pages_per_row=5, n_pages=7)
    assert table.take_changed() is None
    assert table.grow(0, 3)
    assert table.grow(1, 2)
    assert not table.grow(2, 3), "two are left"
    assert table.grow(2, 2)
    changed = table.take_changed()
    assert changed is not None
    assert sorted(changed[changed != SPARE_PAGE].tolist()) == [1, 2, 3, 4, 5, 6, 7]
    assert (table.n_free, table.count_held(2)) == (0, 2)
    first = changed[1].tolist()
    table.release(0)
    table.move(1, 3)
    assert table.grow(3, 5)
    changed = table.take_changed()
    assert changed is not None
    assert changed[3].tolist()[:2] == first[:2], "the row that moved keeps its pages"
    assert changed[:2].tolist() == [[SPARE_PAGE] * 5] * 2
    assert table.n_free == 0


def test_prompts_are_written_page_by_page_and_fillers_to_the_spare_page() -> None:
    slots = Slots(SlotShape(3, 12, page_tokens=4, n_pages=6), SPEC)
    assert slots.grow(0, 6)
    assert slots.grow(2, 12)
    slots.upload_pages()
    rows = torch.tensor([2, 0, slots.spare_row])
    new = torch.arange(3 * 2 * 8 * 4, dtype=torch.float32).view(3, 2, 8, 4) + 1
    slots.write_prompts(0, slots.locate(rows, 8), new, -new)
    for index, row in enumerate((2, 0)):
        pages = slots.pages[row, :2].long()
        assert SPARE_PAGE not in pages.tolist()
        assert torch.equal(slots.keys[0][pages].transpose(0, 1).flatten(1, 2), new[index])
        assert torch.equal(slots.values[0][pages].transpose(0, 1).flatten(1, 2), -new[index])
    unused = [page for page in range(1, 7) if page not in slots.pages[:, :2]]
    assert not slots.keys[0][unused].any()
