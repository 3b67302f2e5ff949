"""A codec that crashes, hangs or runs out of memory costs one recording and one process."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon import engine
from daemon.config import Config, Folders, ModelSettings, Preprocess, RecordingSettings
from daemon.decode import NotARecordingError
from daemon.errors import JobError, ScribedError, StoppedError, TransientError
from daemon.frontend import FrontEnd
from daemon.pipeline import Forgetful, Recording, RunControl, transcribe
from tests import hostile, media
from tests.conftest import SAMPLES
from tests.integration.instance import wait_until

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

    from daemon.engine import Engine
    from daemon.transcript import Transcript
    from tests.integration.test_daemon import MakeInstance


class Clock:
    """A clock that tests set."""

    def __init__(self) -> None:
        self.now_s = 0.0

    def __call__(self) -> float:
        return self.now_s


class Line:
    """The whole pipeline in this process: one loaded model, one front end, any file."""

    def __init__(self, model: Engine, folder: Path) -> None:
        folders = {name: folder / name for name in Folders.model_fields}
        for path in folders.values():
            path.mkdir()
        self.folder = folder
        self.config = Config(folders=Folders(**folders), preprocess=Preprocess(max_duration_h=100))
        self.model = model
        self.clock = Clock()
        self.strangers = hostile.decoders_of(os.getpid())  # of front ends that other tests share
        self.front_end = FrontEnd(self.config.folders.cache, n_processes=1, monotonic=self.clock)

    def decoders(self) -> list[int]:
        """Return the process ids of its own audio processes."""
        return [pid for pid in hostile.decoders_of(os.getpid()) if pid not in self.strangers]

    def decoder(self) -> int:
        """Return the process id of its only audio process."""
        [pid] = self.decoders()
        return pid

    def transcribe(self, path: Path, raise_if_stopped: Callable[[], None] = lambda: None) -> Transcript:
        recording = Recording("job", path, path.name, RecordingSettings.of(self.config))
        follow = RunControl(raise_if_stopped, lambda _: None, Forgetful())
        return transcribe(recording, self.config, self.front_end, self.model, follow)

    def fails(self, path: Path, raise_if_stopped: Callable[[], None] = lambda: None) -> ScribedError:
        with pytest.raises(ScribedError) as caught:
            self.transcribe(path, raise_if_stopped)
        return caught.value


@pytest.fixture(scope="module")
def shared_line(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Line]:
    folder = tmp_path_factory.mktemp("line")
    model = engine.load(ModelSettings(path=Path("demo"), device="cpu"), folder, lambda _: None)
    made = Line(model, folder)
    yield made
    made.front_end.close()
    model.close()
    assert made.decoders() == []


@pytest.fixture(scope="module")
def said(shared_line: Line) -> str:
    return shared_line.transcribe(SAMPLES / "memo.wav").text


@pytest.fixture
def line(shared_line: Line, said: str) -> Iterator[Line]:
    """Return a pipeline with a running audio process; afterwards, check that model and pipeline still work."""
    assert said
    shared_line.decoder()
    yield shared_line
    assert shared_line.model.is_alive()
    assert shared_line.transcribe(SAMPLES / "memo.wav").text == said
    assert os.listdir(shared_line.config.folders.cache) == []  # noqa: PTH208  # names are wanted


def when_decoding(path: Path, act: Callable[[int], None]) -> Callable[[], None]:
    """Return a function that acts, each time it is called, on the decoder which has the recording open."""

    def raise_if_stopped() -> None:
        for pid in hostile.decoders_of(os.getpid()):
            if str(path) in hostile.open_files_of(pid):
                act(pid)

    return raise_if_stopped


def test_one_process_decodes_many_recordings(line: Line) -> None:
    first = line.decoder()
    line.transcribe(SAMPLES / "reminder.mp3")
    assert line.decoder() == first


@pytest.mark.parametrize("number", [signal.SIGSEGV, signal.SIGABRT, signal.SIGBUS])
def test_crash_of_a_codec_moves_the_recording_to_failed(number: signal.Signals, line: Line) -> None:
    long = hostile.write_long(line.folder / "long.wav", 20)
    error = line.fails(long, when_decoding(long, lambda pid: os.kill(pid, number)))
    assert isinstance(error, JobError)
    assert error.what == f"Decoding this recording crashed the decoder ({number.name})."


def test_process_killed_by_the_oom_killer_is_not_charged_to_the_recording(line: Line) -> None:
    long = hostile.write_long(line.folder / "long.wav", 20)
    error = line.fails(long, when_decoding(long, lambda pid: os.kill(pid, signal.SIGKILL)))
    assert isinstance(error, TransientError)
    assert "was killed (SIGKILL), possibly by the OOM killer" in error.what


def test_memory_limit_refuses_the_recording(line: Line) -> None:
    media.ffmpeg("-i", SAMPLES / "memo.wav", "-c:a", "aac", line.folder / "plain.m4a")
    bomb = hostile.swell(line.folder / "plain.m4a", line.folder / "bomb.m4a", 1 << 30)
    before = line.decoder()
    error = line.fails(bomb)
    assert isinstance(error, JobError)
    assert error.what == "Decoding this recording exceeded the memory limit."
    assert before not in hostile.decoders_of(os.getpid())


def test_hanging_process_is_ended_after_its_time_limit(line: Line) -> None:
    long = hostile.write_long(line.folder / "long.wav", 20)
    stuck = line.decoder()

    def hang(pid: int) -> None:
        os.kill(pid, signal.SIGSTOP)
        line.clock.now_s += 29

    error = line.fails(long, when_decoding(long, hang))
    assert isinstance(error, JobError)
    assert "timed out after" in error.what
    assert stuck not in hostile.decoders_of(os.getpid())
    assert line.clock.now_s > 600  # half a gigabyte may take ten minutes


def test_time_while_the_machine_was_suspended_does_not_count(line: Line) -> None:
    long = hostile.write_long(line.folder / "long.wav", 0.3)
    numbers = iter((signal.SIGSTOP, signal.SIGCONT))

    def freeze(pid: int) -> None:
        if (number := next(numbers, None)) is not None:
            os.kill(pid, number)
            line.clock.now_s += 1e6  # like a virtual machine that was suspended for days

    assert line.transcribe(long, when_decoding(long, freeze)).is_complete
    assert next(numbers, None) is None


def test_stop_ends_a_process_while_it_decodes(line: Line) -> None:
    before = line.decoder()

    def stop(pid: int) -> None:
        assert pid == before
        raise StoppedError("enough")

    long = hostile.write_long(line.folder / "long.wav", 20)
    assert isinstance(line.fails(long, when_decoding(long, stop)), StoppedError)
    assert before not in hostile.decoders_of(os.getpid())


def test_process_that_died_idle_is_replaced(line: Line) -> None:
    before = line.decoder()
    os.kill(before, signal.SIGSEGV)
    os.waitid(os.P_PID, before, os.WEXITED | os.WNOWAIT)
    assert line.transcribe(SAMPLES / "memo.wav").segments


def test_process_has_no_torch_no_gpu_and_only_its_own_files(line: Line) -> None:
    seen: list[str] = []
    maps: list[str] = []

    def look(pid: int) -> None:
        seen.extend(hostile.open_files_of(pid))
        with open(f"/proc/{pid}/maps") as file:  # noqa: PTH123  # no path object needed
            maps.append(file.read())
        raise StoppedError("seen enough")

    long = hostile.write_long(line.folder / "long.wav", 20)
    line.fails(long, when_decoding(long, look))
    assert "libavcodec" in maps[0]
    assert "torch" not in maps[0]
    assert "nvidia" not in maps[0]
    assert [name for name in seen if name.startswith("/") and "/dev/null" not in name and "(deleted)" not in name] == [
        str(long)
    ]


def test_errors_keep_their_type_across_processes(line: Line) -> None:
    (line.folder / "letter.wav").write_text("Dear colleague, " * 100)
    assert isinstance(line.fails(line.folder / "letter.wav"), NotARecordingError)
    assert isinstance(line.fails(line.folder / "gone.wav"), TransientError)


ORPHAN = """
import os, signal, sys
from pathlib import Path
from daemon.config import Preprocess
from daemon.frontend import FrontEnd
from tests import hostile

def leave() -> None:
    [pid] = hostile.decoders_of(os.getpid())
    if sys.argv[2] == "stopped":
        os.kill(pid, signal.SIGSTOP)
    Path(sys.argv[1]).with_suffix(".pid").write_text(str(pid))
    os.kill(os.getpid(), signal.SIGKILL)

front_end = FrontEnd(Path(sys.argv[1]).parent)
front_end.prepare(Path("daemon/demo/recordings/memo.wav"), Preprocess(), "off").close()
front_end.prepare(Path(sys.argv[1]), Preprocess(max_duration_h=100), "off", leave)
"""


@pytest.mark.parametrize("state", ["working", "stopped"])
def test_no_process_outlives_its_daemon(state: str, tmp_path: Path) -> None:
    long = hostile.write_long(tmp_path / "long.wav", 20)
    root = SAMPLES.parent.parent.parent
    done = subprocess.run([sys.executable, "-c", ORPHAN, long, state], check=False, capture_output=True, cwd=root)
    assert done.returncode == -signal.SIGKILL, done.stderr
    orphan = int(long.with_suffix(".pid").read_text())
    wait_until(lambda: str(long) not in hostile.open_files_of(orphan), "the orphan is gone", 10.0)


def test_daemon_and_model_survive_a_crash_of_a_codec(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    media.ffmpeg("-f", "lavfi", "-i", "anullsrc=r=8000:cl=mono", "-t", str(23 * 3600), tmp_path / "crash.flac")
    instance.start()
    assert instance.process is not None
    daemon, loaded_at = instance.process.pid, instance.status()["model"]["loaded_at"]

    def at_work() -> list[int]:
        pids = hostile.decoders_of(daemon)
        return [pid for pid in pids if any(name.endswith("crash.flac") for name in hostile.open_files_of(pid))]

    instance.drop(tmp_path / "crash.flac")
    wait_until(at_work, "a decoder has the recording open")
    os.kill(at_work()[0], signal.SIGSEGV)
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.names("processed") == ["memo.wav"], "the daemon goes on")
    wait_until(lambda: "crash.flac.error.txt" in instance.names("failed"), "the recording moves to failed")
    assert "crashed the decoder (SIGSEGV)" in (instance.folder("failed") / "crash.flac.error.txt").read_text()
    assert instance.is_ready()
    assert instance.status()["model"]["loaded_at"] == loaded_at
    assert instance.stop() == 0
    assert hostile.decoders_of(daemon) == []
