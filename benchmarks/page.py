"""How the page of ten hours opens and scrolls in headless Chromium, and what a listening copy of ten hours takes.

    python benchmarks/page.py [scroll | copy]

`scroll` compares the page with its rival: the same text as plain paragraphs, without a script. It needs `make
test-documents`' browser. `copy` encodes ten hours and ten minutes of noise in this process, as an audio process does.
Machines are shared: figures of one run belong together. Nothing here passes or fails.
"""

from __future__ import annotations

import argparse
import io
import os
import re
import resource
import shutil
import sys
import tempfile
import time
from pathlib import Path
from typing import TYPE_CHECKING, Final

import numpy as np

sys.path.insert(0, str(Path(__file__).parents[1]))  # ahead of this folder, whose daemon.py is not the package

from daemon.decode import SAMPLE_RATE_HZ, Waveform, stored_bytes
from daemon.decode.encoding import ENCODED_FORMATS, encode
from daemon.documents import render
from tests.documents.pages import sample_many

if TYPE_CHECKING:
    from playwright.sync_api import Browser, CDPSession

N_HOURS: Final = 10
LATE_MS: Final = 50
# Scrolls by 300 pixels at each frame for ten seconds, and notes the time between frames.
SCROLL: Final = """() => new Promise((done) => {
    const gaps = [];
    const end = performance.now() + 10000;
    let before = performance.now();
    const step = (now) => {
        gaps.push(now - before);
        before = now;
        scrollBy(0, 300);
        if (performance.now() < end) requestAnimationFrame(step);
        else done(gaps.slice(1));
    };
    requestAnimationFrame(step);
})"""


def main() -> None:
    """Measure what is asked for."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", nargs="*", choices=["scroll", "copy"], default=["scroll", "copy"])
    what = parser.parse_args().what
    if "scroll" in what:
        measure_scrolling()
    if "copy" in what:
        measure_copy()


def measure_scrolling() -> None:
    """Open and scroll the page of ten hours, and the same text without a script."""
    from playwright.sync_api import sync_playwright  # noqa: PLC0415  # the other measurement works without it

    page = render(sample_many(N_HOURS * 720), ["html"], has_timestamps=False)["html"].decode()
    found = re.search(r"<noscript>(.*?)</noscript>", page, re.DOTALL)
    if found is None:
        raise AssertionError("the page has its text for programs without scripts")
    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox"])
        for name, text in (("plain", f"<!doctype html><meta charset=utf-8>{found[1]}"), ("page", page)) * 2:
            path = Path(folder) / f"{name}.html"
            path.write_text(text, encoding="utf-8")
            _scroll(browser, name, path)
        browser.close()


def _scroll(browser: Browser, name: str, path: Path) -> None:
    tab = browser.new_page(viewport={"width": 1280, "height": 900})
    began_s = time.monotonic()
    tab.goto(path.as_uri())
    if name == "page":
        tab.wait_for_selector("html.live")
    opened_s = time.monotonic() - began_s
    session = tab.context.new_cdp_session(tab)
    session.send("Performance.enable", {"timeDomain": "threadTicks"})  # processor time, whatever else the machine does
    opening_s = _processor_time(session)
    gaps_ms = np.array(tab.evaluate(SCROLL))
    frame_ms = 1000 * (_processor_time(session) - opening_s) / len(gaps_ms)
    moved = tab.evaluate("scrollY")
    tab.close()
    shares = [f"{np.quantile(gaps_ms, share):.0f}" for share in (0.5, 0.95, 0.99)]
    print(
        f"{name:5} {path.stat().st_size / 1e6:5.1f} MB, opened in {opened_s:.2f} s; {len(gaps_ms)} frames, {moved} px, "
        f"{frame_ms:.1f} ms of processor time each; "
        f"gaps of frames: median {shares[0]} ms, 95 % {shares[1]}, 99 % {shares[2]}, longest {gaps_ms.max():.0f}; "
        f"{np.mean(gaps_ms > LATE_MS):.1%} over {LATE_MS} ms"
    )


def _processor_time(session: CDPSession) -> float:
    """Return the seconds that the page's own thread has worked."""
    metrics = session.send("Performance.getMetrics")["metrics"]
    return float(next(metric["value"] for metric in metrics if metric["name"] == "TaskDuration"))


def measure_copy() -> None:
    """Encode silence of ten minutes, then ten hours: memory depends on the number of frames, not on their sound."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "empty"
        path.touch()
        for form in ENCODED_FORMATS:
            for n_minutes in (10, 60 * N_HOURS):
                n_samples = 60 * n_minutes * SAMPLE_RATE_HZ
                os.truncate(path, stored_bytes(n_samples))  # a hole takes no room
                silence = Waveform(io.FileIO(path), n_samples)
                with silence.file, io.FileIO(Path(folder) / form, "w+") as target:
                    began_s = time.process_time()
                    encode(silence, target, form, {"title": "silence"})
                    took_s = time.process_time() - began_s
                    n_bytes = target.seek(0, io.SEEK_END)
                peak_mib = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
                print(
                    f"{form:4} of {n_minutes} min: {took_s:.1f} s of processor time, {n_bytes / 1e6:.1f} MB, "
                    f"at most {peak_mib:.0f} MiB in this process so far",
                    flush=True,
                )


if __name__ == "__main__":
    main()
