"""A real Chromium for the tests of the page."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

if TYPE_CHECKING:
    from collections.abc import Iterator

    from playwright.sync_api import Browser, BrowserContext


@pytest.fixture(scope="session")
def browser() -> Iterator[Browser]:
    """Debian's Chromium: playwright's own browsers would be a download of their own."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # `make test` collects this file without it

    program = shutil.which("chromium") or shutil.which("chromium-browser")
    assert program is not None, "Run: sudo apt-get install chromium"
    with sync_playwright() as playwright:
        # Its sandbox does not work for root, and sound is not needed.
        launched = playwright.chromium.launch(executable_path=program, args=["--no-sandbox", "--mute-audio"])
        yield launched
        launched.close()


@pytest.fixture
def context(browser: Browser) -> Iterator[BrowserContext]:
    """A browser window without any memory of earlier tests."""
    opened = browser.new_context(accept_downloads=True, viewport={"width": 1280, "height": 900}, locale="en-GB")
    opened.set_default_timeout(90_000)  # a busy machine
    yield opened
    opened.close()
