"""The page that records from the microphone, in a real Chromium whose microphone plays a file."""

from __future__ import annotations

import json
import shutil
import stat
import subprocess
import sys
import wave
from typing import TYPE_CHECKING, Any

import pytest

from daemon.documents.recorder_page import render_recorder
from daemon.inbox.names import is_temporary
from tests.conftest import SAMPLES
from tests.documents.pages import Opened, open_file
from tests.integration.instance import Instance
from tests.integration.test_daemon import has_right_words

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    from playwright.sync_api import BrowserContext, Page

    Start = Callable[..., BrowserContext]

pytestmark = pytest.mark.documents

# The folder is dropped onto the page, because no program can operate the dialog that asks for it. The folder, the
# permission and the writing are real.
_TAKE_DROPPED_FOLDER = """() => new Promise((ready) => {
    addEventListener("dragover", (event) => event.preventDefault());
    addEventListener("drop", (event) => {
        event.preventDefault();
        const folder = event.dataTransfer.items[0].getAsFileSystemHandle();
        window.showDirectoryPicker = () => folder;
    });
    ready();
})"""
_SECONDS = "document.getElementById('time').textContent.split(':').reduce((sum, part) => 60 * sum + Number(part), 0)"


def open_recorder(context: BrowserContext, folder: Path) -> Opened:
    path = folder / "record.html"
    path.write_text(render_recorder(), encoding="utf-8")
    return open_file(context, path, ready="#desk:visible")


def record(opened: Opened, seconds: int = 2, *, has_stop: bool = True) -> None:
    opened.page.locator("#record").click()
    opened.until(f"{_SECONDS} >= {seconds}")
    if has_stop:
        opened.page.locator("#stop").click()
        opened.page.wait_for_selector("#list li")


def download(opened: Opened, folder: Path) -> Path:
    with opened.page.expect_download() as waiting:
        opened.page.get_by_role("button", name="Download").first.click()
    path = folder / str(waiting.value.suggested_filename)
    waiting.value.save_as(path)
    return path


def offer_folder(page: Page, folder: Path) -> None:
    page.evaluate(_TAKE_DROPPED_FOLDER)
    session = page.context.new_cdp_session(page)
    for kind in ("dragEnter", "dragOver", "drop"):
        data = {"items": [], "files": [str(folder)], "dragOperationsMask": 1}
        session.send("Input.dispatchDragEvent", {"type": kind, "x": 400, "y": 60, "data": data})


def prepared(recording: Path, folder: Path) -> dict[str, Any]:
    """Return what the decoder of scribed says about a file."""
    command = [sys.executable, "-m", "daemon", "prepare", str(recording), "-o", str(folder / "out.wav"), "--json"]
    ended = subprocess.run([*command, "--force"], capture_output=True, text=True, check=True, cwd=folder)
    receipt: dict[str, Any] = json.loads(ended.stdout)
    return receipt


def test_nothing_leaves_the_page(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    record(opened)
    opened.page.get_by_role("button", name="Listen").click()
    opened.page.wait_for_selector("#list audio")
    assert [url for url in opened.requests if not url.startswith("blob:")] == []
    assert opened.errors == []
    assert opened.page.evaluate("fetch('https://example.org/x').then(() => 'sent', () => 'refused')") == "refused"
    assert "http" not in render_recorder().replace("http-equiv", "").replace("https address", "")


def test_recording_is_put_into_the_inbox_and_transcribed(start_browser: Start, tmp_path: Path) -> None:
    instance = Instance(tmp_path / "scribed")
    inbox = instance.folder("inbox")
    with wave.open(str(SAMPLES / "memo.wav")) as memo:
        length = memo.getnframes() // memo.getframerate()
    opened = open_recorder(start_browser(inbox=inbox), tmp_path)
    offer_folder(opened.page, inbox)
    record(opened, 2 * length + 1)  # the microphone may be anywhere in its file
    opened.page.keyboard.insert_text("Memo: Friday?")
    opened.page.keyboard.press("Enter")
    opened.page.keyboard.press("Enter")
    opened.until("document.getElementById('message').textContent.includes('removed from this browser')")
    assert "“Memo Friday.webm” was saved to “inbox”" in opened.page.locator("#message").inner_text()
    assert opened.page.locator("#list li").count() == 0
    assert instance.names("inbox") == ["Memo Friday.webm"]
    assert opened.errors == []
    assert instance.run("once").returncode == 0
    document = json.loads((instance.folder("outbox") / "Memo Friday.json").read_bytes())
    assert document["complete"] is True
    assert document["audio"]["notes"] == []
    memo_text = json.loads((SAMPLES / "references.json").read_bytes())["memo.wav"]
    words, n_words = document["text"].split(), len(memo_text.split())
    assert any(has_right_words(memo_text, " ".join(words[at : at + n_words])) for at in range(len(words)))


def test_unfinished_file_in_the_inbox_has_a_temporary_name(start_browser: Start, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    opened = open_recorder(start_browser(inbox=inbox), tmp_path)
    offer_folder(opened.page, inbox)
    opened.page.evaluate(
        """async () => {
            const file = await (await showDirectoryPicker()).getFileHandle("talk.webm", { create: true });
            window.stream = await file.createWritable();
            await window.stream.write(new Uint8Array(1e6));
        }"""
    )
    assert {path.name for path in inbox.iterdir() if path.stat().st_size} == {"talk.webm.crswap"}
    assert is_temporary("talk.webm.crswap")
    opened.page.evaluate("() => window.stream.close()")
    assert [(path.name, path.stat().st_size) for path in inbox.iterdir()] == [("talk.webm", 1_000_000)]


def test_file_in_the_inbox_is_never_overwritten(start_browser: Start, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    (inbox / "talk (2).webm").mkdir(parents=True)
    (inbox / "talk.webm").write_text("another")
    opened = open_recorder(start_browser(inbox=inbox), tmp_path)
    offer_folder(opened.page, inbox)
    record(opened, 1)
    opened.page.keyboard.insert_text("talk")
    opened.page.get_by_role("button", name="Save to the inbox").click()
    opened.until("document.getElementById('message').textContent.includes('removed from this browser')")
    assert (inbox / "talk.webm").read_text() == "another"
    assert (inbox / "talk (3).webm").stat().st_size > 1000
    assert stat.S_IMODE((inbox / "talk (3).webm").stat().st_mode) & stat.S_IRUSR


def test_recording_is_kept_when_the_folder_is_missing(start_browser: Start, tmp_path: Path) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    opened = open_recorder(start_browser(inbox=inbox), tmp_path)
    offer_folder(opened.page, inbox)
    record(opened, 1)
    shutil.rmtree(inbox)
    opened.page.get_by_role("button", name="Save to the inbox").click()
    opened.until("document.getElementById('message').textContent.includes('was not found')")
    assert opened.page.locator("#list li").count() == 1
    assert download(opened, tmp_path).stat().st_size > 1000


def test_recording_with_a_pause_is_read_completely(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    page = opened.page
    record(opened, 2, has_stop=False)
    page.locator("#pause").click()
    assert page.title().startswith("❚❚ 0:0")
    page.locator("#pause", has_text="Resume").click()
    opened.until(f"{_SECONDS} >= 4")
    page.locator("#stop").click()
    page.wait_for_selector("#list li")
    shown = page.locator("#list .facts span").all_inner_texts()[1]
    receipt = prepared(download(opened, tmp_path), tmp_path)
    assert receipt["complete"] is True
    assert receipt["notes"] == []
    assert receipt["codec"] == "opus"
    assert receipt["duration_s"] == pytest.approx(int(shown.partition(":")[2]), abs=1.5)
    page.get_by_role("button", name="Listen").click()
    page.wait_for_selector("#list audio")
    opened.until("Number.isFinite(document.querySelector('audio').duration)")


def test_crash_of_the_tab_loses_at_most_two_seconds(hearing: BrowserContext, tmp_path: Path) -> None:
    from playwright.sync_api import Error  # noqa: PLC0415  # `make test` collects this file without it

    opened = open_recorder(hearing, tmp_path)
    record(opened, 5, has_stop=False)
    with pytest.raises(Error):
        opened.page.goto("chrome://crash")
    again = open_recorder(hearing, tmp_path)
    assert "A recording was interrupted." in again.page.locator("#message").inner_text()
    assert "interrupted" in again.page.locator("#list .facts").inner_text()
    receipt = prepared(download(again, tmp_path), tmp_path)
    assert receipt["complete"] is True
    assert receipt["duration_s"] >= 5 - 2


def test_crash_while_paused_loses_nothing(hearing: BrowserContext, tmp_path: Path) -> None:
    from playwright.sync_api import Error  # noqa: PLC0415  # `make test` collects this file without it

    opened = open_recorder(hearing, tmp_path)
    record(opened, 3, has_stop=False)
    opened.page.locator("#pause").click()
    opened.until(
        """await new Promise((resolve) => {
            const request = indexedDB.open("scribed-recorder");
            request.onsuccess = () => {
                const all = request.result.transaction("recordings").objectStore("recordings").getAll();
                all.onsuccess = () => resolve(all.result[0].seconds >= 3);
            };
        })"""
    )
    with pytest.raises(Error):
        opened.page.goto("chrome://crash")
    again = open_recorder(hearing, tmp_path)
    assert prepared(download(again, tmp_path), tmp_path)["duration_s"] >= 3 - 0.2


def test_second_tab_does_not_take_a_recording_in_progress_for_an_interrupted_one(
    hearing: BrowserContext, tmp_path: Path
) -> None:
    opened = open_recorder(hearing, tmp_path)
    record(opened, 2, has_stop=False)
    other = open_recorder(hearing, tmp_path)
    assert other.page.locator("#kept").is_hidden()
    opened.page.locator("#stop").click()
    opened.page.wait_for_selector("#list li")
    other.page.reload()
    other.page.wait_for_selector("#list li")
    assert other.page.locator(".broken").count() == 0


def test_full_storage_ends_the_recording_and_loses_nothing(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    record(opened, 2, has_stop=False)
    session = hearing.new_cdp_session(opened.page)
    session.send("Storage.overrideQuotaForOrigin", {"origin": "file://", "quotaSize": 1})
    opened.until("document.getElementById('message').textContent.includes('storage is full')")
    session.send("Storage.overrideQuotaForOrigin", {"origin": "file://"})
    opened.page.wait_for_selector("#list li")
    receipt = prepared(download(opened, tmp_path), tmp_path)
    assert receipt["complete"] is True
    assert receipt["duration_s"] >= 2


def test_names_are_valid_on_every_system(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    record(opened, 1)
    names = {
        "..~ talk of 3/4: who? <all>|*\\": "talk of 3 4 who all.webm",
        "会议 三点": "会议 三点.webm",
        "talk.yue": "talk.yue.webm",
        "x" * 300: "x" * 80 + ".webm",
    }
    for typed, written in names.items():
        opened.page.locator("#list input").select_text()
        opened.page.keyboard.insert_text(typed)
        assert download(opened, tmp_path).name == written
        assert not is_temporary(written)
    opened.page.reload()
    assert opened.page.locator("#list input").input_value() + ".webm" == written


def test_recording_is_deleted_only_after_a_second_press(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    page = opened.page
    record(opened, 1)
    page.get_by_role("button", name="Delete").click()
    assert page.locator("#list li").count() == 1
    page.locator("#list input").focus()
    page.get_by_role("button", name="Delete").click()
    page.get_by_role("button", name="Delete permanently").click()
    opened.until("document.querySelectorAll('#list li').length === 0")
    page.reload()
    page.wait_for_selector("#desk:visible")
    assert page.locator("#kept").is_hidden()


def test_page_works_with_the_keyboard_alone(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    page = opened.page
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Record
    opened.until(f"{_SECONDS} >= 1")
    page.keyboard.press("Space")  # Pause
    opened.until("document.documentElement.classList.contains('paused')")
    page.keyboard.press("Space")  # Resume
    page.keyboard.press("Tab")
    page.keyboard.press("Enter")  # Stop
    page.wait_for_selector("#list li")
    page.keyboard.insert_text("By hand")
    page.keyboard.press("Enter")
    page.keyboard.press("Tab")
    with page.expect_download() as waiting:
        page.keyboard.press("Enter")
    assert waiting.value.suggested_filename == "By hand.webm"


def test_microphone_without_sound_is_reported(start_browser: Start, tmp_path: Path) -> None:
    silence = tmp_path / "silence.wav"
    with wave.open(str(silence), "wb") as file:
        file.setparams((1, 2, 16000, 0, "NONE", ""))
        file.writeframes(bytes(2 * 16000))
    opened = open_recorder(start_browser(silence), tmp_path)
    opened.page.locator("#try").click()
    opened.until("document.getElementById('message').textContent.includes('no sound from the microphone')")
    assert opened.page.locator("#level").get_attribute("aria-valuenow") == "0"
    assert opened.page.locator("#stop").is_hidden()


def test_refused_microphone_is_explained(context: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(context, tmp_path)
    opened.page.locator("#record").click()
    opened.until("!document.getElementById('message').hidden")
    assert opened.page.locator("#message").inner_text().startswith(("The browser was not allowed", "No microphone"))
    assert opened.page.locator("#record").is_enabled()
    assert opened.page.locator("#kept").is_hidden()


def test_page_over_plain_http_explains_why_it_cannot_record(context: BrowserContext) -> None:
    page = context.new_page()
    page.route(
        "http://intranet.example/", lambda route: route.fulfill(body=render_recorder(), content_type="text/html")
    )
    page.goto("http://intranet.example/")
    page.wait_for_selector("#unable:visible")
    assert "only on pages opened from a file or from an https address" in page.locator("#unable").inner_text()
    assert page.locator("#desk").is_hidden()


@pytest.mark.parametrize("size", [(1280, 900), (375, 740)], ids=["desk", "phone"])
@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_recorder_has_no_accessibility_fault_that_axe_finds(
    hearing: BrowserContext, tmp_path: Path, scheme: str, size: tuple[int, int]
) -> None:
    from axe_playwright_python.sync_playwright import Axe  # noqa: PLC0415  # `make test` collects this file without it

    opened = open_recorder(hearing, tmp_path)
    page = opened.page
    page.set_viewport_size({"width": size[0], "height": size[1]})
    page.emulate_media(color_scheme=scheme, reduced_motion="reduce")

    def check(state: str) -> None:
        found = Axe().run(page).response["violations"]
        faults = [(each["id"], node["html"], node["failureSummary"]) for each in found for node in each["nodes"]]
        assert faults == [], f"{scheme}, {size}, {state}"

    check("as opened")
    page.locator("#try").click()
    page.wait_for_selector("#choice:visible")
    check("while the microphone is tried")
    record(opened, 1, has_stop=False)
    check("while it records")
    page.locator("#stop").click()
    page.wait_for_selector("#list li")
    page.get_by_role("button", name="Listen").click()
    page.get_by_role("button", name="Delete").click()
    check("with a recording")


def test_recorder_fits_on_a_phone(hearing: BrowserContext, tmp_path: Path) -> None:
    opened = open_recorder(hearing, tmp_path)
    opened.page.set_viewport_size({"width": 320, "height": 640})
    record(opened, 1)
    assert opened.page.evaluate("document.documentElement.scrollWidth") <= 320
