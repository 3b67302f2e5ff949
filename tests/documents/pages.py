"""Transcripts and recordings for the tests of the page, and how they are opened in the browser."""

from __future__ import annotations

import json
import math
import struct
import wave
from dataclasses import dataclass, field, replace
from typing import TYPE_CHECKING, Any, Final

from daemon.documents import Sound, render
from daemon.transcript import Coverage, Gap, Segment, Source, Speaker, Transcript, Word
from tests.unit.test_documents import TALK

if TYPE_CHECKING:
    from pathlib import Path

    from playwright.sync_api import BrowserContext, ConsoleMessage, Dialog, Page


_PATIENCE_MS: Final = 30_000


def spoken(text: str, start_s: float, end_s: float, doubtful: str = "", **more: Any) -> Segment:  # noqa: ANN401  # fields of Segment
    """Return a segment whose words have times; those in `doubtful` have a low confidence."""
    parts = text.split()
    step_s = (end_s - start_s) / len(parts)
    words = tuple(
        Word(part, start_s + at * step_s, start_s + (at + 0.9) * step_s, 0.3 if part in doubtful.split() else 0.95)
        for at, part in enumerate(parts)
    )
    return Segment(start_s, end_s, text, more.pop("language", "English"), words=words, **more)


MEETING = replace(
    TALK,
    source=replace(TALK.source, name="Budget meeting.wav"),
    audio=replace(TALK.audio, duration_s=62.34, peaks=tuple(abs(math.sin(at / 7)) for at in range(400)), notes=()),
    coverage=Coverage(62.34, 50.0, 48.0, (Gap(30.0, 32.0, "no reliable transcription of this section"),)),
    speakers=(Speaker("S1", None, 20.0), Speaker("S2", "王小明", 8.0), Speaker("S3", None, 4.0)),
    segments=(
        spoken("Good morning, and thank you all for coming.", 0.5, 4.5, speaker="S1"),
        spoken("We have three points today.", 4.7, 7.0, speaker="S1"),
        spoken("Ask Mr Quux about the budget, or write to him.", 12.0, 16.5, "Quux", speaker="S1"),
        Segment(
            33.0,
            39.0,
            "今天下午三点我们在会议室讨论明年的预算，然后决定。",  # noqa: RUF001  # as it is written
            "Chinese",
            speaker="S2",
        ),
        Segment(40.0, 44.0, "صباح الخير. لدينا 3 نقاط اليوم.", "Arabic", speaker="S3"),
        Segment(45.0, 52.0, "我们用 WordPress 写，OK? Then the plan.", "Chinese", ("retried",), speaker="S2"),  # noqa: RUF001  # as it is written
        spoken("The budget is 1,250,000 euros, which is more than before.", 53.0, 60.0, "1,250,000", speaker="S1"),
    ),
)
CALL = replace(
    TALK,
    source=replace(TALK.source, name="call.wav"),
    coverage=Coverage(125.5, 30.0, 30.0),
    segments=(
        Segment(0.0, 6.0, "Good morning, this is the hotel. How can I help you?", "English", channel=1),
        Segment(5.0, 9.0, "Hello. I would like to book a room.", "English", channel=2),
        Segment(9.5, 12.0, "Of course.", "English", channel=1),
        Segment(12.1, 30.0, "From Friday to Sunday, please, for two persons, and quiet if you can.", channel=2),
    ),
)
HOSTILE = replace(
    TALK,
    job_id='20260131T093000-1f2e3d4c"><script>alert(1)</script>',
    source=Source("</title><script>alert(2)</script> & \"q\" 'a'.wav", "x", "ab" * 32, 1, "2026-01-30T08:00:00Z"),
    speakers=(Speaker("S1", "<img src=x onerror=alert(3)>", 4.0),),
    segments=(
        Segment(0.5, 4.0, "</script><script>alert(4)</script> <!-- <script> ${x} $policy {{y}}", speaker="S1"),
        Segment(5.0, 9.0, "</noscript><img src=x onerror=alert(5)> ]]> \u2028 &lt;b&gt; \\u003c", speaker="S1"),
    ),
    coverage=Coverage(125.5, 20.0, 18.0, (Gap(30.0, 32.0, "<script>alert(6)</script>"),)),
)


def sample_many(n_segments: int, text: str = "This is what was said in a long meeting about the plan.") -> Transcript:
    """Return a recording of n_segments times five seconds, in turns of two voices."""
    segments = tuple(
        spoken(
            f"{text} Number {at}.",
            5.0 * at,
            5.0 * at + 4.6,
            "Number" if at % 40 == 0 else "",
            speaker=f"S{at // 9 % 2}",
        )
        for at in range(n_segments)
    )
    length_s = 5.0 * n_segments
    audio = replace(TALK.audio, duration_s=length_s, peaks=tuple(0.5 + 0.5 * math.sin(at) for at in range(4000)))
    coverage = Coverage(length_s, length_s, length_s)
    return replace(TALK, job_id="20260131T093000-0000many", audio=audio, coverage=coverage, segments=segments)


def write_audio(path: Path, duration_s: float, rate_hz: int = 8000) -> None:
    """Write a quiet tone."""
    path.parent.mkdir(parents=True, exist_ok=True)
    tone = struct.pack(f"<{rate_hz}h", *(int(2000 * math.sin(at / 5)) for at in range(rate_hz)))
    n_frames = round(duration_s * rate_hz)
    with wave.open(str(path), "wb") as file:
        file.setparams((1, 2, rate_hz, 0, "NONE", ""))
        file.writeframes((tone * (int(duration_s) + 1))[: 2 * n_frames])


@dataclass
class Opened:
    """A page in the browser, with all that it has asked for and complained about.

    Attributes:
        requests: addresses, without that of the page itself.
        errors: of its scripts and of the policy.
    """

    page: Page
    requests: list[str] = field(default_factory=list)
    errors: list[str] = field(default_factory=list)

    def save(self, form: str, folder: Path) -> Path:
        """Save a copy as a reader does, and return where it is."""
        menu = self.page.locator("#save")
        if menu.get_attribute("open") is None:
            menu.locator("summary").click()
        with self.page.expect_download() as waiting:
            menu.locator("button", has_text=f".{form}").click()
        path = folder / str(waiting.value.suggested_filename)
        waiting.value.save_as(path)
        return path

    def correct(self, word: str, text: str) -> None:
        """Double-click a word and type another text in its place."""
        self.page.locator(".word", has_text=word).first.dblclick()
        self.page.keyboard.insert_text(text)
        self.page.keyboard.press("Enter")

    def refuse(self, dialog: Dialog) -> None:
        """Close a dialog: no page of ours opens one, an injected script may."""
        self.errors.append(dialog.message)
        dialog.dismiss()

    def until(self, condition: str) -> None:
        """Wait until an expression of JavaScript is true; playwright's own way needs eval, which the policy forbids."""
        self.page.evaluate(
            f"""() => new Promise((resolve, reject) => {{
                const end = performance.now() + {_PATIENCE_MS};
                const look = async () => {{
                    if ({condition}) resolve();
                    else if (performance.now() > end) reject(new Error("not within {_PATIENCE_MS} ms"));
                    else setTimeout(() => look().catch(reject), 20);
                }};
                look().catch(reject);
            }})"""
        )

    def now(self) -> float:
        """Return the position in seconds."""
        return float(self.page.locator("#timeline").get_attribute("aria-valuenow") or "nan")


def is_fault(message: ConsoleMessage) -> bool:
    """Return whether a message is of an error; a recording that is looked for in vain is none."""
    return message.type == "error" and "ERR_FILE_NOT_FOUND" not in message.text


def open_file(context: BrowserContext, path: Path, *, ready: str = "html.live") -> Opened:
    """Open a page from the disk, as a double click does, and wait for the element of the selector `ready`."""
    page = context.new_page()
    opened = Opened(page)
    page.on("request", lambda request: opened.requests.append(request.url))
    page.on("pageerror", lambda error: opened.errors.append(str(error)))
    page.on("dialog", opened.refuse)
    page.on("console", lambda message: opened.errors.append(message.text) if is_fault(message) else None)
    page.goto(path.as_uri())
    page.wait_for_selector(ready)
    opened.requests.remove(path.as_uri())
    return opened


def open_page(context: BrowserContext, transcript: Transcript, folder: Path, *, has_audio: bool = True) -> Opened:
    """Deliver a page and its recording, and open it."""
    outbox = folder / "outbox"
    outbox.mkdir(exist_ok=True)
    if has_audio:
        write_audio(folder / "processed" / transcript.source.name, transcript.audio.duration_s)
    stem = transcript.source.name.removesuffix(".wav").replace("/", "-")
    path = outbox / f"{stem}.html"
    path.write_bytes(render(transcript, ["html"], has_timestamps=False, sound=Sound(("../processed",)))["html"])
    opened = open_file(context, path)
    if has_audio:
        opened.page.wait_for_selector("#play:enabled")
    return opened


def read_saved(path: Path) -> dict[str, Any]:
    """Return a saved json document."""
    document: dict[str, Any] = json.loads(path.read_bytes())
    return document
