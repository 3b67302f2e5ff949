from __future__ import annotations

import json
import os
import stat
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

import pytest

from daemon.errors import ScribedError
from daemon.host import files
from daemon.status import (
    LOCK_NAME,
    SNAPSHOT_NAME,
    Done,
    Failed,
    Fault,
    Model,
    Running,
    Snapshot,
    as_dict,
    read_status,
    render_status_txt,
    write_snapshot,
)

if TYPE_CHECKING:
    from pathlib import Path

ODD = os.fsdecode(b"caf\xe9\n\x1b[31m.wav")
BUSY = Snapshot(
    state="ready",
    updated_at="2026-01-31T09:30:00.000Z",
    model=Model("Qwen3-ASR-1.7B-hf", "cuda:0", "2026-01-31T09:00:00Z"),
    arriving=("slow.wav",),
    waiting=("next.wav", ODD),
    running=(Running("talk.wav", 0.25, 60.0, 12.5), Running("new.wav", 0.0, None, None)),
    done_today=7,
    recent=(
        Done("done.wav", "2026-01-31T09:29:00Z", 60.0, 5.0, complete=True),
        Done("holes.wav", "2026-01-31T09:28:00Z", 60.0, 5.0, complete=False),
        Done("old.wav", "2026-01-31T09:27:00Z", None, None, complete=None),
    ),
    failed=(Failed("zip.mp3", "It is no sound.", 1),),
    faults=(Fault("The disk of /srv/outbox is full.", "2026-01-31T09:20:00Z", "Free some space."),),
)


def test_the_json_has_what_the_contract_names() -> None:
    status = as_dict(BUSY)
    assert status["schema"] == "scribed.status/1"
    assert status["state"] == "ready"
    assert status["model"] == {"name": "Qwen3-ASR-1.7B-hf", "device": "cuda:0", "loaded_at": "2026-01-31T09:00:00Z"}
    queue = status["queue"]
    assert queue["arriving"] == ["slow.wav"]
    assert queue["running"][0] == {"name": "talk.wav", "progress": 0.25, "audio_s": 60.0, "rtfx": 12.5}
    assert status["done_today"] == 7
    assert [done["name"] for done in status["recent"]] == ["done.wav", "holes.wav", "old.wav"]
    assert status["failed"] == [{"name": "zip.mp3", "reason": "It is no sound.", "attempts": 1}]
    assert set(status["faults"][0]) == {"what", "since", "remedy"}
    assert as_dict(Snapshot("loading", ""))["model"] == {"name": None, "device": None, "loaded_at": None}


def test_long_lists_are_cut_and_counted() -> None:
    names = tuple(f"{number}.wav" for number in range(250))
    failed = tuple(Failed(name, "", 1) for name in names)
    status = as_dict(replace(BUSY, waiting=names, arriving=names, failed=failed))
    queue = status["queue"]
    assert (len(queue["waiting"]), queue["n_waiting"], queue["n_arriving"], status["n_failed"]) == (100, 250, 250, 250)
    text = render_status_txt(replace(BUSY, waiting=names), shows_names=True, names="full")
    assert "and 150 more" in text
    assert "250 waiting" in text


def test_a_snapshot_is_written_for_the_group_and_read_again(tmp_path: Path) -> None:
    write_snapshot(tmp_path, BUSY)
    assert stat.S_IMODE((tmp_path / SNAPSHOT_NAME).stat().st_mode) == 0o640
    lock = files.Lock(tmp_path / LOCK_NAME)
    lock.acquire("it")
    assert read_status(tmp_path) == json.loads(json.dumps(as_dict(BUSY)))
    lock.release()
    stopped = read_status(tmp_path)
    assert (stopped["state"], stopped["queue"]["running"]) == ("stopped", [])
    assert stopped["queue"]["n_waiting"] == 2


def test_before_the_first_start_it_is_stopped(tmp_path: Path) -> None:
    assert read_status(tmp_path)["state"] == "stopped"
    assert read_status(tmp_path / "nowhere")["queue"]["waiting"] == []


@pytest.mark.parametrize("content", [b"", b"{", b"[]", b"{}", b'{"schema": "other/1"}', b"\xff\xfe"])
def test_a_damaged_snapshot_is_told(tmp_path: Path, content: bytes) -> None:
    (tmp_path / SNAPSHOT_NAME).write_bytes(content)
    with pytest.raises(ScribedError, match=r"status.json is damaged. It is written anew"):
        read_status(tmp_path)


_READ_AS_OTHER = """
import os, sys
from pathlib import Path
from daemon.errors import NoPermissionError
from daemon.status import read_status
if os.geteuid() == 0:
    os.setgroups([]), os.setgid(65534), os.setuid(65534)
try:
    read_status(Path(sys.argv[1]))
except NoPermissionError as error:
    print(error)
"""


@pytest.mark.parametrize("closed", [".", SNAPSHOT_NAME])
def test_who_may_not_read_it_is_told_whom_to_ask(tmp_path: Path, closed: str) -> None:
    write_snapshot(tmp_path, BUSY)
    (tmp_path / closed).chmod(0)
    command = [sys.executable, "-c", _READ_AS_OTHER, str(tmp_path)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    (tmp_path / closed).chmod(0o700)
    assert "member of the service's group" in done.stdout, done.stderr


def test_status_txt_says_all_that_people_ask_for() -> None:
    assert render_status_txt(BUSY, shows_names=True, names="full") == (
        "scribed is running.\n"
        "1 arriving, 2 waiting, 2 in work, 7 done today, 1 failed.\n"
        "\n"
        "NEEDS ATTENTION since 2026-01-31T09:20:00Z: The disk of /srv/outbox is full.\n"
        "  Free some space.\n"
        "\n"
        "In work:\n"
        "  talk.wav  25%\n"
        "  new.wav  0%\n"
        "\n"
        "Arriving:\n"
        "  slow.wav\n"
        "\n"
        "Waiting:\n"
        "  next.wav\n"
        "  caf\\xe9\\n\\x1b[31m.wav\n"
        "\n"
        "Failed (see the note beside each in the folder of failed recordings):\n"
        "  zip.mp3: It is no sound.\n"
        "\n"
        "Done last:\n"
        "  done.wav\n"
        "  holes.wav  (incomplete)\n"
        "  old.wav\n"
        "\n"
        "As of 2026-01-31T09:30:00.000Z (UTC).\n"
    )


@pytest.mark.parametrize("state", ["loading", "ready", "draining", "stopped"])
def test_every_state_has_its_words(state: str) -> None:
    assert render_status_txt(Snapshot(state, ""), shows_names=True, names="full").startswith("scribed is ")


def test_counts_alone_name_nobody() -> None:
    text = render_status_txt(BUSY, shows_names=False, names="full")
    assert ".wav" not in text
    assert ".mp3" not in text
    assert "NEEDS ATTENTION" in text


def test_hashed_names_name_nobody() -> None:
    text = render_status_txt(BUSY, shows_names=True, names="hashed")
    assert ".wav" not in text
    assert text.count("name:") == 9


def test_no_name_can_break_the_status(tmp_path: Path) -> None:
    """A fault may tell of a file whose name is no text; that must not end the service."""
    hostile = replace(
        BUSY,
        faults=(Fault(f"{ODD} may not be read.", "", f"Look at {ODD}."),),
        failed=(Failed(ODD, f"{ODD} is broken.", 1),),
        recent=(Done(ODD, "", None, None, complete=True),),
        running=(Running(ODD, 0.5, None, None),),
    )
    write_snapshot(tmp_path, hostile)
    assert read_status(tmp_path)["faults"][0]["what"].startswith("caf\\xe9")
    text = render_status_txt(hostile, shows_names=True, names="full").encode().decode()
    assert "\x1b" not in text
    assert text.count("caf\\xe9\\n\\x1b[31m.wav") == 7
