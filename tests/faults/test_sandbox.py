"""Hostile code in a decoder process finds no path, no network, no program and no other process."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.config import Preprocess
from daemon.errors import JobError
from daemon.frontend import FrontEnd
from daemon.host import sandbox, seccomp
from tests import escape, hostile, media
from tests.conftest import SAMPLES

if TYPE_CHECKING:
    from collections.abc import Iterator

MISSING = [found.what for found in sandbox.find_missing()]
HAS_LANDLOCK = not any("Landlock" in what for what in MISSING)
HAS_SECCOMP = seccomp.is_available()
needs_landlock = pytest.mark.skipif(not HAS_LANDLOCK, reason=f"not tried with Landlock: {MISSING}")
needs_seccomp = pytest.mark.skipif(not HAS_SECCOMP, reason=f"not tried with seccomp: {MISSING}")


@dataclass(frozen=True, slots=True)
class Scene:
    """A service's folders with something worth stealing, and an attack in the shape of a recording."""

    folder: Path
    aims: escape.Aims
    attack: Path

    def run(self, monkeypatch: pytest.MonkeyPatch, lacking: str = "") -> dict[str, str]:
        """Let the attack take over a decoder; return what each attempt came to."""
        monkeypatch.setattr(sys, "executable", str(escape.write_launcher(self.folder / "launcher", self.aims, lacking)))
        front_end = FrontEnd(self.folder, n_processes=1)
        try:
            with pytest.raises(JobError) as caught:
                front_end.prepare(self.attack, Preprocess(), "silero")
            outcomes: dict[str, str] = json.loads(caught.value.what)
            if lacking != "seccomp":  # the same process still does its work
                with front_end.prepare(SAMPLES / "memo.wav", Preprocess(), "silero").waveform as waveform:
                    assert waveform.n_samples > 0
        finally:
            front_end.close()
        return outcomes

    def is_untouched(self) -> bool:
        names = {path.name for path in self.folder.iterdir()} - {"launcher"}
        return names == {"state", "attack.wav"} and os.listdir(self.folder / "state") == ["journal"]  # noqa: PTH208  # names are wanted


@pytest.fixture
def scene(tmp_path: Path) -> Iterator[Scene]:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / "journal").write_text("what was said in confidence")
    media.sox("-n", "-r", "16000", "-b", "16", tmp_path / "attack.wav", "synth", "1", "sine", "440")
    content = bytearray((tmp_path / "attack.wav").read_bytes())
    content[escape.MARK_AT : escape.MARK_AT + len(escape.MARK)] = escape.MARK
    (tmp_path / "attack.wav").write_bytes(content)
    with subprocess.Popen(["sleep", "1000"]) as victim:
        aims = escape.Aims(str(tmp_path / "state" / "journal"), str(tmp_path / "state"), os.getpid(), victim.pid)
        yield Scene(tmp_path, aims, tmp_path / "attack.wav")
        assert victim.poll() is None  # it was not killed
        victim.kill()


ATTACK_FREELY = """
import json, os, sys
from tests import escape
aims = escape.Aims(**json.loads(sys.argv[1]))
recording = os.open(sys.argv[2], os.O_RDONLY)
ways = escape.attempts(aims, recording)
print(json.dumps({name: escape.outcome(attempt) for name, attempt in ways.items() if "by a descriptor" not in name}))
"""


def test_without_a_sandbox_the_attempts_succeed(scene: Scene) -> None:
    """Else the other tests would show nothing."""
    words = [sys.executable, "-c", ATTACK_FREELY, json.dumps(vars_of(scene.aims)), str(scene.attack)]
    root = Path(__file__).parents[2]
    done = subprocess.run(words, capture_output=True, text=True, check=True, cwd=root)
    outcomes = json.loads(done.stdout)
    # Containers and hardened kernels refuse some of these to everyone.
    may_fail = {
        "bpf", "io_uring", "key ring", "performance events", "user faults", "netlink socket", "inet6 socket", "ptrace",
        "read another's memory", "open a file with openat2", "signal by an ioctl", "make a file without a name",
        "handle of another process",
    }  # fmt: skip
    assert {name: result for name, result in outcomes.items() if result != "done" and name not in may_fail} == {}


def vars_of(aims: escape.Aims) -> dict[str, object]:
    return {name: getattr(aims, name) for name in aims.__slots__}


@needs_seccomp
@needs_landlock
def test_hostile_code_in_an_audio_process_is_refused_everything(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = scene.run(monkeypatch)
    assert {name: result for name, result in outcomes.items() if result not in escape.REFUSED} == {}
    assert scene.is_untouched()


@needs_seccomp
def test_seccomp_alone_refuses_everything(scene: Scene, monkeypatch: pytest.MonkeyPatch) -> None:
    outcomes = scene.run(monkeypatch, lacking="landlock")
    assert {name: result for name, result in outcomes.items() if result not in escape.REFUSED} == {}
    assert scene.is_untouched()


@needs_landlock
def test_landlock_alone_refuses_paths_programs_and_other_processes(
    scene: Scene, monkeypatch: pytest.MonkeyPatch
) -> None:
    outcomes = scene.run(monkeypatch, lacking="seccomp")
    for way in (
        "read a file",
        "list a folder",
        "read its own memory map",
        "open the recording again",
        "write a file",
        "make a file",
        "make a file in /tmp",
        "make a folder",
        "rename a file",
        "link a file",
        "make a symbolic link",
        "make a pipe with a name",
        "remove a file",
        "run a program",
        "ptrace",
    ):
        assert outcomes[way] in escape.REFUSED, way


@needs_seccomp
def test_audio_process_has_one_thread_and_cannot_regain_rights(front_end: FrontEnd) -> None:
    with front_end.prepare(SAMPLES / "memo.wav", Preprocess(), "silero").waveform:
        pass
    for pid in hostile.decoders_of(os.getpid()):
        status = dict(
            line.split(":\t", 1) for line in Path(f"/proc/{pid}/status").read_text().splitlines() if ":\t" in line
        )
        assert status["NoNewPrivs"] == "1"
        assert status["Seccomp"] == "2"
        assert status["Threads"] == "1"
