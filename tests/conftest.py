"""What all tests share: no thread is left behind, and where the samples lie."""

from __future__ import annotations

import threading
from importlib import resources
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.frontend import FrontEnd

if TYPE_CHECKING:
    from collections.abc import Iterator

SAMPLES = Path(str(resources.files("daemon"))) / "demo" / "recordings"
# watchdog reads inotify on one thread for the whole process and never ends it; nor does tqdm its
# own, which torch's compiler and the loader of weights start.
_STAYS = {"InotifyFD", "TMonitor"}


@pytest.fixture(scope="session")
def front_end(tmp_path_factory: pytest.TempPathFactory) -> Iterator[FrontEnd]:
    """Return the front end that tests share: a decoder takes a second to start."""
    shared = FrontEnd(tmp_path_factory.mktemp("sound"))
    yield shared
    shared.close()


@pytest.fixture(autouse=True)
def _no_thread_is_left_behind() -> Iterator[None]:
    before = set(threading.enumerate())
    yield
    left = [t for t in threading.enumerate() if t not in before and type(t).__name__ not in _STAYS and not _ends(t)]
    assert not left, f"threads left behind: {left}"


def _ends(thread: threading.Thread) -> bool:
    """Whether the thread ends by itself within a moment, or is a pool's own that waits for the process."""
    thread.join(2.0)
    return not thread.is_alive() or thread.name.startswith("asyncio")
