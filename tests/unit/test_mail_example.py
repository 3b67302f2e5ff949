"""The example that mails new transcripts."""

from __future__ import annotations

import base64
import email
import os
import subprocess
from pathlib import Path

import pytest

SCRIPT = Path(__file__).parents[2] / "systemd/examples/scribed-mail.sh"


class Office:
    """An outbox, and a program that keeps what is mailed."""

    def __init__(self, root: Path) -> None:
        self.outbox, self.mails, self.state = root / "outbox", root / "mails", root / "state"
        for folder in (self.outbox, self.mails, self.state):
            folder.mkdir()
        self.sender = root / "send"
        self.sender.write_text(f'#!/bin/sh\ncat >"$(mktemp {self.mails}/XXXXXX)"\n')
        self.sender.chmod(0o755)

    def deliver(self, stem: str, text: str) -> None:
        (self.outbox / f"{stem}.txt").write_text(text)
        (self.outbox / f"{stem}.json").write_text("{}")

    def run(self, sender: str | None = None) -> int:
        environment = {
            "PATH": os.environ["PATH"],
            "MAIL_TO": "office@example.org",
            "SENDMAIL": sender or str(self.sender),
            "OUTBOX": str(self.outbox),
            "STATE_DIRECTORY": str(self.state),
        }
        return subprocess.run(["sh", SCRIPT], env=environment, check=False).returncode

    def sent(self) -> list[tuple[str, str]]:
        """Return (subject, text) of all messages."""
        messages = [email.message_from_bytes(path.read_bytes()) for path in self.mails.iterdir()]
        assert all(list(message) == [*("To", "Subject", "MIME-Version"), *list(message)[3:]] for message in messages)
        subjects = [message["Subject"].removeprefix("=?UTF-8?B?").removesuffix("?=") for message in messages]
        texts = [base64.b64decode(str(message.get_payload())).decode() for message in messages]
        return sorted(zip([base64.b64decode(subject).decode() for subject in subjects], texts, strict=True))


@pytest.fixture
def office(tmp_path: Path) -> Office:
    made = Office(tmp_path)
    made.deliver("old", "delivered before this was set up")
    assert made.run() == 0
    assert made.sent() == []
    return made


def test_each_new_transcript_is_mailed_once(office: Office) -> None:
    office.deliver("talk", "Grüße\n")
    (office.outbox / "STATUS.txt").write_text("scribed is running.")
    (office.outbox / "unfinished.txt").write_text("its json document is not there yet")
    for _ in range(2):
        assert office.run() == 0
    assert office.sent() == [("talk.txt", "Grüße\n")]


def test_name_cannot_add_a_header_or_a_command(office: Office) -> None:
    names = ["a\nBcc: eve@example.org", "$(touch pwned)", "-rf *", "'; exit 1; '"]
    for name in names:
        office.deliver(name, name)
    assert office.run() == 0
    assert office.sent() == sorted((f"{name}.txt", name) for name in names)


def test_links_are_not_mailed(office: Office, tmp_path: Path) -> None:
    (tmp_path / "secret").write_text("secret")
    (office.outbox / "link.txt").symlink_to(tmp_path / "secret")
    (office.outbox / "link.json").write_text("{}")
    assert office.run() == 0
    assert office.sent() == []


def test_message_that_cannot_be_sent_is_tried_again(office: Office) -> None:
    office.deliver("talk", "words")
    assert office.run(sender="false") != 0
    assert office.run() == 0
    assert office.sent() == [("talk.txt", "words")]
