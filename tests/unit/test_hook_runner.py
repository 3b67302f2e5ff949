"""The hook while the service runs: a real journal, real folders, real programs."""

from __future__ import annotations

import json
import os
import threading
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import pytest

from daemon.config import Config, Folders, Logging, Settings
from daemon.config.schema import Hooks
from daemon.host import mounts
from daemon.host.folders import Folder
from daemon.job import Job
from daemon.journal import Journal
from daemon.journal.records import Reservation, Result
from daemon.service.hook_runner import HookRunner
from daemon.spool import SharedFolders
from daemon.status import Snapshot
from daemon.status.faults import Faults
from daemon.status.hiding import without_names
from daemon.status.metrics import Counters, render
from tests.integration.instance import wait_until
from tests.unit.test_metrics import GAUGES, samples
from tests.unit.test_programs import write_script

if TYPE_CHECKING:
    from collections.abc import Iterator


@dataclass(slots=True)
class Bench:
    """Folders, a journal and a runner; each `start` is another start of the service."""

    root: Path
    settings: Settings
    shared: SharedFolders
    journal: Journal
    faults: Faults
    counters: Counters
    runner: HookRunner | None = None

    def set(self, *command: str | Path, timeout_s: float = 600.0, names: str = "full") -> None:
        delivered = tuple(str(word) for word in command) or None
        hooks, logging = Hooks(delivered=delivered, timeout_s=timeout_s), Logging.model_validate({"names": names})
        self.settings.swap(self.settings.current.model_copy(update={"hooks": hooks, "logging": logging}))

    def deliver(self, name: str, folder: str = "") -> Path:
        """Deliver a transcript as the spool does; return its json document."""
        document = self.shared.roots.outbox / folder / f"{name}.json"
        document.parent.mkdir(exist_ok=True)
        document.write_text("{}")
        job = Job(f"job-{name}", f"{folder}/{name}.wav".lstrip("/"), "2026-01-31T09:30:00Z")
        self.journal.add(job, self.shared.roots)
        self.journal.reserve(
            job.job_id, Reservation(folder, name, f"{name}.wav"), {}, Result(1.0, 1.0, is_complete=True)
        )
        assert self.journal.commit_delivery(job.job_id, document)
        if self.runner is not None:
            self.runner.add(job)
        return document

    def start(self) -> HookRunner:
        self.runner = HookRunner(self.settings, self.journal, self.shared, self.faults, self.counters)
        self.runner.start()
        return self.runner

    def finish(self) -> None:
        """Start if need be, and wait until nothing can be run any more; stop."""
        runner = self.runner or self.start()
        assert runner.is_idle(60)
        runner.close()
        self.runner = None

    def runs(self) -> list[list[str]]:
        """Return the arguments of each run of `program`."""
        log = self.root / "runs"
        return [json.loads(line) for line in log.read_text().splitlines()] if log.exists() else []

    def counts(self) -> tuple[float, float]:
        found = samples(render(GAUGES, self.counters))
        return found["scribed_hooks_total"], found["scribed_hooks_failed_total"]


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    folders = Folders(**{name: tmp_path / name for name in Folders.model_fields})
    shared = SharedFolders(folders)
    shared.prepare()
    journal = Journal(folders.state)
    made = Bench(tmp_path, Settings(Config(folders=folders)), shared, journal, Faults(), Counters())
    yield made
    if made.runner is not None:
        made.runner.close()
    journal.close()


@pytest.fixture
def program(bench: Bench) -> Path:
    """A program that notes its arguments and its job, and ends with the number in the file `code`."""
    line = '["%s", "%s", "%s"]\\n'
    text = f'printf \'{line}\' "$1" "$2" "$SCRIBED_JOB_ID" >>{bench.root}/runs; exit $(cat {bench.root}/code)'
    (bench.root / "code").write_text("0")
    return write_script(bench.root / "program", text)


def faults_of(bench: Bench) -> list[str]:
    return [fault.what for fault in bench.faults.standing()]


def test_program_runs_once_for_each_delivery_in_their_order(bench: Bench, program: Path) -> None:
    bench.set(program, "--new")
    first = bench.deliver("one")
    bench.start()
    documents = [first, bench.deliver("two", "team"), bench.deliver("three")]
    bench.finish()
    assert bench.runs() == [["--new", str(path), f"job-{path.stem}"] for path in documents]
    assert bench.journal.count_hooks() == 0
    bench.finish()  # another start of the service
    assert len(bench.runs()) == 3
    assert faults_of(bench) == []
    assert bench.counts() == (3, 0)


def test_failure_is_reported_and_not_repeated(bench: Bench, program: Path) -> None:
    (bench.root / "code").write_text("3")
    bench.set(program, "--new")
    bench.deliver("one")
    bench.deliver("two")
    for _ in range(2):
        bench.finish()
    assert len(bench.runs()) == 2
    assert faults_of(bench) == ["The program of hooks.delivered failed for two.wav: exit code 3."]
    assert bench.counts() == (2, 2)
    runner = bench.start()
    assert runner.is_idle(60)
    bench.set("true")  # another program: the old one's failures are over
    runner.look()
    bench.finish()
    assert faults_of(bench) == []


@pytest.mark.parametrize("how", ["failed", "left out"])
@pytest.mark.parametrize("names", ["full", "hashed"])
def test_name_of_a_recording_is_hashed_where_that_is_set(
    bench: Bench, names: Literal["full", "hashed"], how: str
) -> None:
    bench.set("false", names=names)
    document = bench.deliver("one")
    if how == "left out":
        document.unlink()
        document.symlink_to("/etc/passwd")
    bench.finish()
    (what,) = faults_of(bench)
    assert ("one" in what) is (names == "full")
    for fault in without_names(Snapshot("ready", "", faults=bench.faults.standing()), bench.settings.current).faults:
        assert "one" not in fault.what
        assert "name:" in fault.what


def test_program_that_hangs_is_killed_and_the_next_one_runs(bench: Bench) -> None:
    hang = write_script(bench.root / "hang", 'case "$1" in *one.json) sleep 1000 & wait;; esac')
    bench.set(hang, timeout_s=1.0)
    bench.deliver("one")
    bench.deliver("two")
    bench.finish()
    assert faults_of(bench) == ["The program of hooks.delivered failed for one.wav: killed after 1 s."]
    assert bench.counts() == (2, 1)
    assert bench.journal.count_hooks() == 0


def test_missing_program_keeps_the_queue_until_it_is_there(bench: Bench, program: Path) -> None:
    program.rename(bench.root / "away")
    bench.set(program, "--new")
    bench.deliver("one")
    bench.deliver("two")
    runner = bench.start()
    assert runner.is_idle(60)
    what = f"The program of hooks.delivered cannot be started (No such file or directory): {program}."
    assert faults_of(bench) == [what]
    assert bench.journal.count_hooks() == 2
    (bench.root / "away").rename(program)
    runner.look()
    bench.finish()
    assert [run[2] for run in bench.runs()] == ["job-one", "job-two"]
    assert faults_of(bench) == []


def test_stop_interrupts_a_program_and_the_next_start_repeats_it(
    bench: Bench, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("daemon.service.hook_runner._STOP_S", 0.0)
    hang = write_script(bench.root / "hang", f'{program} --begun "$1"; exec sleep 1000')
    bench.set(hang)
    document = bench.deliver("one")
    runner = bench.start()
    wait_until(bench.runs, "the program runs")
    runner.close()
    bench.runner = None
    assert bench.journal.count_hooks() == 1
    bench.set(program, "--again")
    bench.finish()
    assert bench.runs() == [["--begun", str(document), "job-one"], ["--again", str(document), "job-one"]]


def test_program_that_ends_while_the_service_stops_is_not_repeated(bench: Bench) -> None:
    (bench.root / "go").touch()
    slow = write_script(bench.root / "slow", f"touch {bench.root}/begun; while [ -e {bench.root}/go ]; do :; done")
    bench.set(slow)
    bench.deliver("one")
    runner = bench.start()
    wait_until((bench.root / "begun").exists, "the program runs")
    runner.stop()
    (bench.root / "go").unlink()
    runner.close()
    bench.runner = None
    assert bench.journal.count_hooks() == 0


def test_program_runs_one_at_a_time(bench: Bench) -> None:
    lock = bench.root / "lock"
    alone = write_script(bench.root / "alone", f"mkdir {lock} || exit 9; : >>{bench.root}/once; rmdir {lock}")
    bench.set(alone)
    runner = bench.start()
    threads = [threading.Thread(target=runner.look) for _ in range(4)]
    for number in range(8):
        bench.deliver(f"talk{number}")
    for thread in threads:
        thread.start()
        thread.join()
    bench.finish()
    assert bench.counts() == (8, 0)


def test_removed_hook_does_not_run_for_waiting_deliveries(bench: Bench, program: Path) -> None:
    bench.set(bench.root / "missing")
    bench.deliver("one")
    bench.finish()
    assert len(faults_of(bench)) == 1
    bench.set()
    bench.start()
    bench.finish()
    assert bench.journal.count_hooks() == 0
    bench.set(program)
    bench.start()
    bench.finish()
    assert bench.runs() == []


@pytest.mark.parametrize("kind", ["link", "folder", "pipe"])
def test_replaced_document_is_not_passed_to_the_program(bench: Bench, program: Path, kind: str) -> None:
    (bench.root / "secret").write_text("secret")
    bench.set(program, "--new")
    document = bench.deliver("one")
    document.unlink()
    if kind == "link":
        document.symlink_to(bench.root / "secret")
    elif kind == "folder":
        document.mkdir()
    else:
        os.mkfifo(document)
    bench.finish()
    assert bench.runs() == []
    assert "its json document is not a file any more" in faults_of(bench)[0]
    assert bench.journal.count_hooks() == 0


def test_link_that_replaced_a_folder_is_not_followed(bench: Bench, program: Path) -> None:
    bench.set(program, "--new")
    document = bench.deliver("one", "team")
    document.parent.rename(bench.root / "elsewhere")
    document.parent.symlink_to(bench.root / "elsewhere")
    bench.finish()
    assert bench.runs() == []
    assert "its folder was replaced by a link" in faults_of(bench)[0]


def test_folder_without_access_does_not_delay_other_deliveries(
    bench: Bench, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    descend = Folder.descend

    def refuse(folder: Folder, relative: str) -> Folder:
        if relative == "closed":
            raise PermissionError
        return descend(folder, relative)

    monkeypatch.setattr(Folder, "descend", refuse)  # root is refused nothing
    bench.set(program, "--new")
    bench.deliver("one", "closed")
    bench.deliver("two")
    bench.finish()
    assert [run[2] for run in bench.runs()] == ["job-two"]
    assert "the service has no access to its folder" in faults_of(bench)[0]


def test_program_runs_even_if_the_document_was_removed(bench: Bench, program: Path) -> None:
    bench.set(program, "--new")
    document = bench.deliver("one", "team")
    document.unlink()
    document.parent.rmdir()
    bench.finish()
    assert bench.runs() == [["--new", str(document), "job-one"]]


def test_program_waits_while_a_share_is_not_mounted(
    bench: Bench, program: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    outbox = bench.shared.folders.outbox
    bench.set(program, "--new")
    bench.deliver("one")
    monkeypatch.setattr(mounts, "top_of", lambda folder: folder if folder == outbox else Path("/"))
    bench.shared.remember_mounts()
    with monkeypatch.context() as patch:
        patch.setattr(mounts, "top_of", lambda _: Path("/"))
        runner = bench.start()
        assert runner.is_idle(60)
        assert bench.runs() == []
    runner.look()
    bench.finish()
    assert len(bench.runs()) == 1


def test_failing_journal_does_not_repeat_what_has_run(bench: Bench, program: Path) -> None:
    """A full disk: what has run is remembered until it can be recorded."""
    bench.set(program, "--new")
    bench.deliver("one")
    bench.deliver("two")
    bench.journal._db.execute("PRAGMA query_only = ON")
    runner = bench.start()
    assert runner.is_idle(60)
    runner.look()
    assert runner.is_idle(60)
    assert len(bench.runs()) == 1
    bench.journal._db.execute("PRAGMA query_only = OFF")
    runner.look()
    bench.finish()
    assert [run[2] for run in bench.runs()] == ["job-one", "job-two"]
