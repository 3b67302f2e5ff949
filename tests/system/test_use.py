"""A running service in use: drop, collect, read the journal, reload."""

from __future__ import annotations

import shutil
from typing import TYPE_CHECKING

import pytest

from tests.conftest import SAMPLES
from tests.system.unit import FOLDERS, TIMEOUT_S, Unit, wait_until, words_of

if TYPE_CHECKING:
    from pathlib import Path

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]


def test_group_members_share_recordings_and_strangers_see_nothing(running: Unit) -> None:
    box = running.box
    running.drop(SAMPLES / "memo.wav", "between-people.wav", user="dora")
    document = running.wait_for("between-people.wav")
    outbox = running.folder("outbox")
    assert box.do("cat", f"{outbox}/between-people.txt", user="rita").split() == document["text"].split()
    line = "  between-people.wav  today "  # written within a second
    wait_until(lambda: line in box.do("cat", f"{outbox}/STATUS.txt", user="rita"), "STATUS.txt shows it")
    for folder in (*FOLDERS, "state", "cache"):
        assert box.run("ls", running.folder(folder), user="stranger").returncode != 0
    owner = box.do("stat", "--format=%U:%G:%a", f"{outbox}/between-people.txt").strip()
    assert owner == "scribed:scribed:660"
    box.do("rm", f"{outbox}/between-people.txt", f"{outbox}/between-people.json", user="rita")


@pytest.mark.parametrize("umask", ["022", "077"])
def test_recording_in_a_folder_that_a_member_made_is_delivered(umask: str, running: Unit) -> None:
    """As `mkdir court; cp memo.wav court/` does it: the default ACL of the inbox opens the folder to the service."""
    box, name = running.box, f"court-{umask}"
    shutil.copyfile(SAMPLES / "memo.wav", box.path("/run/memo.wav"))
    box.do("chmod", "0644", "/run/memo.wav")
    made = f"{running.folder('inbox')}/{name}"
    box.do("sh", "-c", f"umask {umask}; mkdir {made} && cp /run/memo.wav {made}/", user="dora")
    document = running.wait_for(f"{name}/memo.wav")
    assert running.status()["faults"] == []
    text = box.do("cat", f"{running.folder('outbox')}/{name}/memo.txt", user="rita")
    assert text.split() == document["text"].split()
    box.do("rm", f"{running.folder('outbox')}/{name}/memo.txt", user="rita")
    assert box.run("ls", f"{running.folder('outbox')}/{name}", user="stranger").returncode != 0


def test_moves_are_renames_under_the_unit(running: Unit) -> None:
    """Mounts of its own for each folder would make every move a copy (EXDEV)."""
    inode = running.drop(SAMPLES / "memo.wav", "renamed.wav")
    running.wait_for("renamed.wav")
    assert running.path("processed", "renamed.wav").stat().st_ino == inode


def test_recordings_of_any_mode_are_delivered_across_two_disks(unit: Unit) -> None:
    """A copy to another disk must not take over set-id bits: the unit forbids them, and they would be ours."""
    box, processed = unit.box, unit.folder("processed")
    box.do("mount", "-t", "tmpfs", "-o", "mode=2770,uid=scribed,gid=scribed", "tmpfs", processed)
    try:
        unit.start()
        modes = ("2664", "4755", "0444")
        for mode in modes:
            unit.drop(SAMPLES / "memo.wav", f"mode-{mode}.wav", mode=mode)
        for mode in modes:
            assert unit.wait_for(f"mode-{mode}.wav")["complete"] is True
            audio = unit.path("processed", f"mode-{mode}.wav")
            assert audio.read_bytes() == (SAMPLES / "memo.wav").read_bytes()
            assert audio.stat().st_mode & 0o7111 == 0
            assert unit.path("outbox", f"mode-{mode}.txt").stat().st_mode & 0o7111 == 0
        wait_until(lambda: not unit.status()["queue"]["running"], "all is done")
        assert unit.status()["faults"] == []
        assert not list(unit.path("inbox").rglob("*.wav"))
        unit.stop()
    finally:
        unit.stop()
        box.do("umount", processed)


def test_journalctl_selects_by_job_and_by_priority_and_never_shows_text(running: Unit, tmp_path: Path) -> None:
    (tmp_path / "text.mp3").write_bytes(b"these are words, not audio\n" * 100)
    running.drop(tmp_path / "text.mp3", "no-audio.mp3")
    running.drop(SAMPLES / "memo.wav", "logged.wav")
    document = running.wait_for("logged.wav")
    wait_until(lambda: running.path("failed", "no-audio.mp3").exists(), "the other moves to failed")

    job = running.entries(f"SCRIBED_JOB_ID={document['job_id']}")
    assert [entry["SCRIBED_EVENT"] for entry in job if entry["SCRIBED_EVENT"].startswith("job.")][-1] == "job.delivered"
    assert {entry["SCRIBED_PATH"] for entry in job if "SCRIBED_PATH" in entry} == {"logged.wav"}
    assert float(job[-1]["SCRIBED_RTFX"]) > 0
    warned = running.entries("--priority=warning", "SCRIBED_PATH=no-audio.mp3")
    assert [(entry["SCRIBED_EVENT"], entry["PRIORITY"]) for entry in warned] == [("job.failed", "4")]
    everything = running.box.do("journalctl", "--output=export")
    assert words_of(document["text"]) not in everything


def test_reload_applies_a_good_configuration_and_survives_a_bad_one(running: Unit) -> None:
    box, pid = running.box, running.show("MainPID")
    running.configure(output={"formats": ["srt", "json"]})
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: running.entries("SCRIBED_EVENT=config.reloaded", f"_PID={pid}"), "it is applied")
    running.drop(SAMPLES / "memo.wav", "as-subtitles.wav")
    running.wait_for("as-subtitles.wav")
    assert running.path("outbox", "as-subtitles.srt").exists()

    box.write(running.config, "output: {formats: parchment}\n")
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: running.entries("SCRIBED_EVENT=config.refused", f"_PID={pid}"), "it is refused")
    wait_until(lambda: running.status()["faults"], "the status shows it")
    assert running.is_active()
    assert running.show("MainPID") == pid
    running.configure()
    box.do("systemctl", "reload", running.name)
    wait_until(lambda: not running.status()["faults"], "the fault is gone")


def test_two_instances_work_side_by_side(running: Unit) -> None:
    box, court = running.box, Unit(running.box, "court")
    folders = [court.folder(name) for name in FOLDERS]
    box.do("install", "-d", "-o", "scribed", "-g", "scribed", "-m", "2770", "/srv/scribed-court", *folders)
    court.configure()
    try:
        court.start()
        court.drop(SAMPLES / "memo.wav", "hearing.wav")
        running.drop(SAMPLES / "memo.wav", "letter.wav")
        assert court.wait_for("hearing.wav")["text"] == running.wait_for("letter.wav")["text"]
        assert not running.path("outbox", "hearing.json").exists()
        assert not court.path("outbox", "letter.json").exists()
    finally:
        court.stop()


def test_killed_audio_process_does_not_end_the_service(running: Unit) -> None:
    """As the kernel does it to the greediest process when memory is short; OOMPolicy=stop would end them all."""
    box, pid = running.box, running.show("MainPID")
    running.drop(SAMPLES / "memo.wav", "before-the-kill.wav")
    running.wait_for("before-the-kill.wav")
    processes = box.do("cat", f"/sys/fs/cgroup{running.show('ControlGroup')}/cgroup.procs").split()
    decoders = [process for process in processes if process != pid]
    assert decoders
    box.do("kill", "-KILL", *decoders)
    running.drop(SAMPLES / "memo.wav", "after-the-kill.wav")
    assert running.wait_for("after-the-kill.wav")["complete"] is True
    assert running.show("MainPID") == pid
    assert running.show("OOMPolicy") == "continue"


def test_running_service_has_only_its_own_loopback(running: Unit) -> None:
    devices = running.box.path(f"/proc/{running.show('MainPID')}/net/dev").read_text().splitlines()[2:]
    assert [line.split(":")[0].strip() for line in devices] == ["lo"]
