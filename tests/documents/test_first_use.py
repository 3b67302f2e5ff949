"""The first use of the page, by someone who reads only what is on it: a call in stereo, from the recording to Word."""

from __future__ import annotations

from typing import TYPE_CHECKING

import av
import docx
import numpy as np
import pytest
import soundfile

from tests.conftest import SAMPLES
from tests.documents.pages import open_file
from tests.integration.instance import Instance

if TYPE_CHECKING:
    from pathlib import Path
    from typing import Any

    from numpy.typing import NDArray
    from playwright.sync_api import BrowserContext

pytestmark = pytest.mark.documents


def read_mono(path: Path, rate_hz: int) -> NDArray[np.float32]:
    container: Any
    with av.open(str(path)) as container:
        resampler = av.AudioResampler("flt", "mono", rate_hz)
        frames = [part for frame in container.decode(audio=0) for part in resampler.resample(frame)]
    return np.concatenate([frame.to_ndarray().ravel() for frame in frames])


def write_call(path: Path) -> None:
    """Write a call: the hotel speaks on the left, then its guest on the right."""
    rate_hz = 16_000
    hotel, guest = (read_mono(SAMPLES / name, rate_hz) for name in ("voicemail.m4a", "memo.wav"))
    pause = np.zeros(rate_hz // 2, np.float32)
    left = np.concatenate([hotel, pause, np.zeros_like(guest)])
    right = np.concatenate([np.zeros_like(hotel), pause, guest])
    soundfile.write(path, np.stack([left, right], axis=1), rate_hz)


def test_a_word_is_corrected_a_channel_named_and_a_word_document_saved_by_what_the_page_says(
    context: BrowserContext, tmp_path: Path
) -> None:
    instance = Instance(tmp_path / "scribed")
    write_call(tmp_path / "call.wav")
    ended = instance.run("transcribe", str(tmp_path / "call.wav"), "-o", str(tmp_path), "-f", "html")
    assert ended.returncode == 0, ended.stderr
    opened = open_file(context, tmp_path / "call.html")
    page = opened.page
    page.wait_for_selector("#play:enabled")

    # What can be done is said at the top.
    hint = page.get_by_text("Click a word to hear it, double-click it to correct it.")
    assert hint.is_visible()
    assert page.get_by_text("Click a name to change it.").is_visible()

    page.get_by_text("doctor", exact=True).click()
    opened.until("!document.getElementById('audio').paused")
    page.get_by_text("doctor", exact=True).dblclick()
    page.keyboard.insert_text("dentist")
    page.get_by_role("button", name="Done").click()
    assert page.get_by_text("Unsaved").is_visible()

    page.get_by_text("Channel 2", exact=True).first.click()
    page.keyboard.insert_text("Mrs Ling")
    page.keyboard.press("Enter")
    assert page.get_by_text("Channel 2", exact=True).count() == 0

    page.get_by_text("Save", exact=True).click()
    with page.expect_download() as waiting:
        page.get_by_role("button", name="Word .docx").click()
    path = tmp_path / str(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    assert page.get_by_text(f"Saved as {path.name} in your downloads.").is_visible()
    paragraphs = [paragraph.text for paragraph in docx.Document(str(path)).paragraphs]
    (guest,) = [text for text in paragraphs if text.startswith("Mrs Ling: ")]
    assert "call the dentist at four thirty" in guest
    assert any(text.startswith("Channel 1: hello this is the hotel") for text in paragraphs)
    assert opened.errors == []
