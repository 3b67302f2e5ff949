"""Take the pictures in docs/images: the review page of the demo meeting (light, dark, phone, print), and the recorder.

Run `make demo` and `make test-documents` first; the latter installs what drives the browser.
"""

from __future__ import annotations

import argparse
import shutil
import tempfile
from pathlib import Path
from typing import TYPE_CHECKING, Final

from playwright.sync_api import sync_playwright

from daemon.documents.recorder_page import render_recorder

if TYPE_CHECKING:
    from playwright.sync_api import Page, Playwright

IMAGES: Final = Path(__file__).parents[1] / "docs" / "images"
SAMPLES: Final = Path(__file__).parents[1] / "daemon" / "demo" / "recordings"
DESK: Final = (1180, 800)
PHONE: Final = (390, 780)


def main() -> None:
    """Open the page in each look and take its picture."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("page", type=Path, nargs="?", default=Path("build/demo/outbox/meeting.html"))
    parser.add_argument("--into", type=Path, default=IMAGES)
    arguments = parser.parse_args()
    looks = {"light": ("light", DESK), "dark": ("dark", DESK), "phone": ("light", PHONE)}
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=["--no-sandbox", "--mute-audio"]
        )
        for name, (scheme, size) in looks.items():
            page = browser.new_page(
                viewport={"width": size[0], "height": size[1]},
                color_scheme=scheme,
                device_scale_factor=2 if name == "phone" else 1,
                reduced_motion="reduce",
            )
            _play(page, arguments.page)
            page.screenshot(path=arguments.into / f"page-{name}.png")
        page = browser.new_page(viewport={"width": 794, "height": 1123})  # A4 at 96 dots an inch
        _play(page, arguments.page)
        page.emulate_media(media="print")
        page.evaluate("dispatchEvent(new Event('beforeprint'))")
        page.screenshot(path=arguments.into / "page-print.png")
        browser.close()
        _record(playwright, arguments.into / "recorder.png")


def _record(playwright: Playwright, picture: Path) -> None:
    """Open the recorder, record the sample memo as if it were spoken, and take a picture while it does."""
    microphone = [
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={SAMPLES / 'memo.wav'}",
    ]
    browser = playwright.chromium.launch(
        executable_path=shutil.which("chromium"), args=["--no-sandbox", "--mute-audio", *microphone]
    )
    page = browser.new_page(viewport={"width": 860, "height": 700}, color_scheme="light")
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "record.html"
        path.write_text(render_recorder(), encoding="utf-8")
        page.goto(path.as_uri())
        page.click("#record")
        page.wait_for_timeout(5_000)
        page.mouse.move(5, 5)
        page.screenshot(path=picture)
    browser.close()


def _play(page: Page, path: Path) -> None:
    """Open the page and stop at a word in the middle of the screen."""
    page.goto(path.absolute().as_uri())
    page.wait_for_selector("#play:enabled")
    page.evaluate("document.getElementById('audio').currentTime = 17.6")
    page.wait_for_selector(".now")
    page.mouse.move(5, 5)


if __name__ == "__main__":
    main()
