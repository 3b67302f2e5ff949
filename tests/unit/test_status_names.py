"""STATUS.txt with `status_file: counts` shows no name, whatever a fault says about which file or folder."""

from __future__ import annotations

import errno
import json
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, Literal

import pytest

from daemon.config import Config, Folders, Logging, Output, Settings
from daemon.errors import TransientError
from daemon.host import files
from daemon.host.folders import Folder
from daemon.inbox import FolderFault, Scan
from daemon.job import Job
from daemon.journal import Journal
from daemon.service.hook_runner import HookRunner
from daemon.spool import SharedFolders, Spool
from daemon.status import SNAPSHOT_NAME, STATUS_NAME, Snapshot
from daemon.status.arrival_faults import report_scan
from daemon.status.faults import Faults
from daemon.status.hiding import conceal_names, names_in
from daemon.status.metrics import Counters
from daemon.status.targets import StatusFiles
from daemon.worker import Resources
from daemon.worker.attempts import Attempts
from daemon.worker.folder_settings import FolderSettings
from daemon.worker.outcomes import Outcomes
from tests.scripted_engine import ScriptedEngine
from tests.unit.test_worker import FixedEngine

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator
    from pathlib import Path

    from daemon.frontend import FrontEnd

# Every part of every generated name has it. Its first letter is one in which "in" and "the" do not end.
MARK: Final = "Qx7z"
# What a text could be cut at, or what a pattern could take for something else.
ODD: Final = (
    " ",
    ". ",
    ": ",
    "; Then ",
    "'s ",
    ".wav",
    "(1)",
    "[a-z]",
    "\\d+",
    "*",
    "$",
    "+",
    "-",
    "_",
    "ü",
    "会议",
    "\t",
    "\u202e",
)


@dataclass(slots=True)
class House:
    """The parts of a service that note faults about a recording, and one recording."""

    settings: Settings
    resources: Resources
    outcomes: Outcomes
    path: str = ""

    @property
    def config(self) -> Config:
        return self.settings.current

    @property
    def faults(self) -> Faults:
        return self.resources.faults

    @property
    def job(self) -> Job:
        return Job("job-1", self.path, "2026-01-31T09:30:00Z")

    @property
    def folder(self) -> str:
        return self.path.rpartition("/")[0]

    def delay(self, error: Exception) -> None:
        """Let the work on the recording end with an error that it did not cause."""
        self.outcomes.handle(self.job, error, is_cancelled=False)


def file_is_unreadable(house: House) -> None:
    report_scan(house.faults, Scan(unreadable=(house.path,)), house.config.logging.names)


def files_are_unreadable(house: House) -> None:
    report_scan(house.faults, Scan(unreadable=(house.path, "another.wav")), house.config.logging.names)


def folders_cannot_be_used(house: House) -> None:
    found = tuple(FolderFault(f"{house.path}{number}", "Stale file handle") for number in range(9))
    report_scan(house.faults, Scan(faults=found), house.config.logging.names)


def settings_of_its_folder_are_broken(house: House) -> None:
    folder = house.config.folders.inbox / house.folder
    folder.mkdir(parents=True)
    (folder / "scribed.yaml").write_text("output: {formats: [parchment]}")
    FolderSettings(house.faults).of(house.folder, house.config)


def program_is_left_out(house: House) -> None:
    runner = HookRunner(
        house.settings, house.resources.journal, house.resources.spool.shared, house.faults, house.resources.counters
    )
    runner.leave_out(house.job, "its folder was replaced by a link")


def correction_is_skipped(house: House) -> None:
    house.outcomes.note_skipped(house.job, "correction 1 (x) was skipped in one segment: it took too long")


def file_is_in_the_way_in_the_outbox(house: House) -> None:
    file_is_in_the_way(house, house.config.folders.outbox)


def file_is_in_the_way_in_an_earlier_outbox(house: House) -> None:
    earlier = house.config.folders.outbox.parent / "earlier"
    earlier.mkdir()
    file_is_in_the_way(house, earlier)


def file_is_in_the_way(house: House, root: Path) -> None:
    first, *rest = house.folder.split("/")
    (root / first).mkdir()
    (root / first / rest[0]).write_bytes(b"")
    with Folder.open(root) as opened, pytest.raises(TransientError) as caught:
        opened.make(house.folder)
    house.delay(caught.value)


def folder_of_it_is_read_only(house: House) -> None:
    folder = house.config.folders.outbox / house.folder
    with pytest.raises(TransientError) as caught, files.explained("The transcript cannot be delivered", folder):
        raise OSError(errno.EROFS, "Read-only file system")
    house.delay(caught.value)


def disk_fails_at_it(house: House) -> None:
    house.delay(OSError(errno.EIO, "Input/output error", str(house.config.folders.inbox / house.path)))


def scan_fails_at_it(house: House) -> None:
    error = OSError(errno.EIO, "Input/output error", str(house.config.folders.inbox / house.path))
    what = f"The inbox cannot be listed: {files.describe_error(error)}."
    house.faults.note("inbox", what, "Check its disk.", names=names_in(error, house.config.folders))


FAULTS: Final[tuple[Callable[[House], None], ...]] = (
    file_is_unreadable,
    files_are_unreadable,
    folders_cannot_be_used,
    settings_of_its_folder_are_broken,
    program_is_left_out,
    correction_is_skipped,
    file_is_in_the_way_in_the_outbox,
    file_is_in_the_way_in_an_earlier_outbox,
    folder_of_it_is_read_only,
    disk_fails_at_it,
    scan_fails_at_it,
)


def make_path(chance: random.Random) -> str:
    """Return the path of a recording in two folders, with long and odd names."""

    def part() -> str:
        words = [MARK]
        for _ in range(chance.choice((0, 1, 3, 20))):
            words += [chance.choice(ODD), MARK]
        name = "".join(words)
        while len(name.encode()) > 240:  # a file system takes 255
            name = name[:-1]
        return name

    return "/".join((part(), part(), f"{part()}.wav"))


@pytest.fixture
def make_house(tmp_path: Path, front_end: FrontEnd) -> Iterator[Callable[[str, Literal["full", "hashed"]], House]]:
    journals: list[Journal] = []

    def make(name: str, names: Literal["full", "hashed"]) -> House:
        folders = Folders(**{each: tmp_path / name / each for each in Folders.model_fields})
        config = Config(folders=folders, output=Output(status_file="counts"), logging=Logging(names=names))
        settings, shared = Settings(config), SharedFolders(folders)
        shared.prepare()
        journals.append(journal := Journal(folders.state))
        spool = Spool(shared, journal, lambda _: config.output)
        resources = Resources(spool, journal, Faults(), front_end, FixedEngine(ScriptedEngine()), Counters())
        conceal_names(resources.faults, config, Snapshot("loading", ""))
        return House(settings, resources, Outcomes(resources, settings, Attempts(journal, lambda: config.retry)))

    yield make
    for journal in journals:
        journal.close()


@pytest.mark.parametrize("note", FAULTS, ids=lambda note: note.__name__)
@pytest.mark.parametrize("names", ["full", "hashed"])
def test_status_of_counts_names_nothing_whatever_is_wrong(
    make_house: Callable[[str, Literal["full", "hashed"]], House],
    note: Callable[[House], None],
    names: Literal["full", "hashed"],
    caplog: pytest.LogCaptureFixture,
) -> None:
    chance = random.Random(note.__name__)  # noqa: S311  # the same names each time
    for number in range(12):
        house = make_house(str(number), names)
        house.path = make_path(chance)
        note(house)
        found = house.faults.standing()
        assert found
        StatusFiles(house.faults).show(house.config, Snapshot("ready", "", faults=found))
        text = (house.config.folders.outbox / STATUS_NAME).read_text()
        assert "NEEDS ATTENTION" in text
        assert MARK not in text, text
        shown = json.loads((house.config.folders.state / SNAPSHOT_NAME).read_text())["faults"]
        # Who administers the service has to find the file, unless the names are hidden from them too.
        assert (MARK in json.dumps(shown)) is (names == "full")
        assert set(shown[0]) == {"what", "since", "remedy"}
    if names == "hashed":
        assert MARK not in "".join(record.getMessage() for record in caplog.records if "fault" in record.getMessage())


def test_message_stays_readable_whatever_a_recording_is_called(
    make_house: Callable[[str, Literal["full", "hashed"]], House],
) -> None:
    house = make_house("0", "full")
    house.path = "the/disk/in"
    folder_of_it_is_read_only(house)
    report_scan(house.faults, Scan(unreadable=("in",)), "full")
    StatusFiles(house.faults).show(house.config, Snapshot("ready", "", faults=house.faults.standing()))
    text = (house.config.folders.outbox / STATUS_NAME).read_text()
    assert "The transcript cannot be delivered: Read-only file system." in text
    assert f"{house.config.folders.outbox}/name:" in text
    assert "is read-only here. Allow it in a drop-in of the unit" in text
    assert "The service has no permission to read name:" in text
