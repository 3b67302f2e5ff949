"""Word documents in LibreOffice, which converts them to PDF."""

from __future__ import annotations

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from daemon.documents import render
from daemon.transcript import Coverage, Gap, Segment, Speaker, Transcript, Word
from tests.unit.test_documents import TALK

pytestmark = pytest.mark.documents

DOUBTFUL = "Ask Mr Quux about it, or write to the office on the second floor."
MEETING = replace(
    TALK,
    source=replace(TALK.source, name="Budget meeting.wav"),
    coverage=Coverage(125.5, 60.0, 58.0, (Gap(30.0, 32.0, "no reliable transcription of this section"),)),
    speakers=(Speaker("S1", "Zoë Lüders", 20.0), Speaker("S2", "王小明", 8.0), Speaker("S3", "سارة", 4.0)),
    segments=(
        Segment(
            0.5, 9.0, "Good morning, and thank you all for coming. We have three points today.", "English", speaker="S1"
        ),
        Segment(
            12.0,
            20.0,
            DOUBTFUL,
            "English",
            words=tuple(Word(word, confidence=0.3 if word == "Quux" else 0.95) for word in DOUBTFUL.split()),
            speaker="S1",
        ),
        Segment(32.5, 40.0, "今天下午三点我们在会议室讨论明年的预算，然后决定。", "Chinese", speaker="S2"),  # noqa: RUF001  # as it is written
        Segment(41.0, 45.0, "صباح الخير. لدينا ثلاث نقاط اليوم.", "Arabic", speaker="S3"),
    ),
)


def convert(transcript: Transcript, folder: Path) -> str:
    """Return the text of the page as LibreOffice sets it; the PDF is left in the folder."""
    source = folder / "meeting.docx"
    source.write_bytes(render(transcript, ["docx"], has_timestamps=True)["docx"])
    command = ["soffice", "--headless", f"-env:UserInstallation=file://{folder}/profile", "--convert-to", "pdf"]
    ended = subprocess.run(
        [*command, "--outdir", str(folder), str(source)], capture_output=True, text=True, timeout=120, check=False
    )
    pdf = folder / "meeting.pdf"
    assert pdf.exists(), ended.stdout + ended.stderr
    return subprocess.run(["pdftotext", "-layout", str(pdf), "-"], capture_output=True, text=True, check=True).stdout


def test_libreoffice_opens_the_document_and_shows_all_of_it(tmp_path: Path) -> None:
    into = Path(os.environ.get("SCRIBED_DOCUMENTS", tmp_path))
    text = " ".join(convert(MEETING, into).split())
    assert "Budget meeting Date: 2026-01-30 Duration: 00:02:05 Language: English Speakers: Zoë Lüders" in text
    assert "[00:00:00] Zoë Lüders: Good morning, and thank you all for coming." in text
    assert "Ask Mr Quux about it" in text
    assert "[00:00:30] [not transcribed, 00:00:30 to 00:00:32: no reliable transcription of this section]" in text
    assert "今天下午三点我们在会议室讨论明年的预算" in text
