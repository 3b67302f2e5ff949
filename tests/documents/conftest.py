"""A real Chromium for the tests of the page."""

from __future__ import annotations

import json
import shutil
from typing import TYPE_CHECKING, Any, Final

import pytest

from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from playwright.sync_api import Browser, BrowserContext, Playwright

# Its sandbox does not work for root, and no one listens.
_OPTIONS: Final = ["--no-sandbox", "--mute-audio"]
_WINDOW: Final[dict[str, Any]] = {
    "accept_downloads": True,
    "viewport": {"width": 1280, "height": 900},
    "locale": "en-GB",
}
_PATIENCE_MS: Final = 90_000  # a busy machine


def find_chromium() -> str:
    """Return Debian's Chromium: playwright's own browsers would be a download of their own."""
    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "Run: sudo apt-get install chromium"
    return program


@pytest.fixture(scope="session")
def playwright() -> Iterator[Playwright]:
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # `make test` collects this file without it

    with sync_playwright() as started:
        yield started


@pytest.fixture(scope="session")
def browser(playwright: Playwright) -> Iterator[Browser]:
    launched = playwright.chromium.launch(executable_path=find_chromium(), args=_OPTIONS)
    yield launched
    launched.close()


def _microphone(sound: Path) -> list[str]:
    """Return the options of a browser whose microphone plays a file over and over; it may be used."""
    return [
        *_OPTIONS,
        "--use-fake-ui-for-media-stream",
        "--use-fake-device-for-media-stream",
        f"--use-file-for-fake-audio-capture={sound}",
    ]


@pytest.fixture(scope="session")
def hearing_browser(playwright: Playwright) -> Iterator[Browser]:
    """A browser that hears the sample memo."""
    launched = playwright.chromium.launch(executable_path=find_chromium(), args=_microphone(SAMPLES / "memo.wav"))
    yield launched
    launched.close()


@pytest.fixture
def hearing(hearing_browser: Browser) -> Iterator[BrowserContext]:
    """A window of it, without any memory of earlier tests."""
    opened = hearing_browser.new_context(**_WINDOW)
    opened.set_default_timeout(_PATIENCE_MS)
    yield opened
    opened.close()


@pytest.fixture
def start_browser(playwright: Playwright, tmp_path: Path) -> Iterator[Callable[..., BrowserContext]]:
    """Start a browser that hears another sound, or that may write into a folder.

    The permission is one that a person has given before: it is in the browser's own settings.
    """
    opened: list[BrowserContext] = []

    def start(sound: Path = SAMPLES / "memo.wav", inbox: Path | None = None) -> BrowserContext:
        profile = tmp_path / "profile"
        if inbox is not None:
            folder = {"path": str(inbox), "display-name": inbox.name, "is-directory": True}
            may_write = {"setting": {"chosen-objects": [folder | {"readable": True, "writable": True}]}}
            exceptions = {
                "file_system_access_chooser_data": {"file:///*,*": may_write},
                "file_system_access_extended_permission": {"file:///*,*": {"setting": 1}},
            }
            settings = {"profile": {"content_settings": {"exceptions": exceptions}}}
            (profile / "Default").mkdir(parents=True)
            (profile / "Default/Preferences").write_text(json.dumps(settings))
        context = playwright.chromium.launch_persistent_context(
            profile, executable_path=find_chromium(), args=_microphone(sound), **_WINDOW
        )
        context.set_default_timeout(_PATIENCE_MS)
        opened.append(context)
        return context

    yield start
    for context in opened:
        context.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser window without any memory of earlier tests."""
    opened = browser.new_context(**_WINDOW)
    opened.set_default_timeout(_PATIENCE_MS)
    yield opened
    opened.close()
