from __future__ import annotations

import io
import json
import logging
import os
import pty
import re
import socket
import stat
import sys
import threading
import unicodedata
import warnings
from pathlib import Path
from typing import Any, Literal

import pytest
import structlog
from hypothesis import given
from hypothesis import strategies as st

from daemon import display, logs
from daemon.config import Logging
from daemon.errors import ConfigError, JobError

log = structlog.get_logger()

HOSTILE = "a\nERROR job.failed\r\x1b[31m\u202e\u2028\x9b\x00 \udcff.wav"
ANY_TEXT = st.text(st.characters(codec=None))


@pytest.fixture(autouse=True)
def _logging_undone() -> Any:  # noqa: ANN401  # a fixture's generator
    yield
    logs.close()


def make_log(**settings: Any) -> io.StringIO:  # noqa: ANN401  # as Logging takes them
    stream = io.StringIO()
    logs.configure(Logging(**settings), stream=stream)
    return stream


def read_json(stream: io.StringIO) -> list[dict[str, Any]]:
    return [json.loads(line) for line in stream.getvalue().splitlines()]


def fail_with(error: Exception) -> None:
    try:
        raise error
    except type(error):
        log.exception("job.failed")


@given(ANY_TEXT)
def test_escaped_text_is_one_harmless_line(text: str) -> None:
    escaped = display.escape(text)
    escaped.encode()  # no half characters
    assert len(f"{escaped}.".splitlines()) == 1
    assert not any(unicodedata.category(char) in {"Cc", "Cs", "Zl", "Zp"} for char in escaped)
    assert not any(
        unicodedata.bidirectional(char) in {"LRE", "RLE", "LRO", "RLO", "PDF", "LRI", "RLI", "FSI", "PDI"}
        for char in escaped
    )
    assert display.escape(escaped) == escaped


@pytest.mark.parametrize("name", ["Besprechung Müller.wav", "会议.m4a", "اجتماع.mp3", "👩‍⚕️.ogg", r"back\slash.wav"])
def test_names_in_any_language_stay_readable(name: str) -> None:
    assert display.escape(name) == name


def test_escaped_names_stay_distinct() -> None:
    assert display.escape(HOSTILE) == r"a\nERROR job.failed\r\x1b[31m\u202e\u2028\x9b\x00 \xff.wav"


@given(ANY_TEXT)
def test_every_name_has_a_hash(name: str) -> None:
    assert re.fullmatch(r"name:[0-9a-f]{12}", display.shown_name(name, "hashed"))
    assert display.shown_name(name, "full") == display.escape(name)


def test_plain_line_has_time_level_event_and_values() -> None:
    stream = make_log()
    log.info("job.delivered", job_id="j1", rtfx=12.5, n_chunks=3, name="my talk.wav", formats=("txt", "json"), gap=None)
    (line,) = stream.getvalue().splitlines()
    time, rest = line.split(" ", 1)
    assert re.fullmatch(r"\d{4}-\d\d-\d\dT\d\d:\d\d:\d\d\.\d+Z", time)
    assert (
        rest == 'info job.delivered job_id=j1 rtfx=12.5 n_chunks=3 name="my talk.wav" formats=["txt", "json"] gap=null'
    )


@pytest.mark.parametrize("format_", ["auto", "console", "json"])
@pytest.mark.parametrize("key", ["name", "reason", "event"])
def test_hostile_value_cannot_forge_a_line_or_colour_the_terminal(format_: str, key: str) -> None:
    stream = make_log(format=format_)
    if key == "event":
        log.warning(HOSTILE, nested={HOSTILE: [HOSTILE]})
    else:
        log.warning("job.failed", nested={HOSTILE: [HOSTILE]}, **{key: HOSTILE})
    (line,) = stream.getvalue().splitlines()
    assert line.isprintable()


def test_value_cannot_look_like_another_key() -> None:
    stream = make_log()
    log.info("job.claimed", name='x" level=error job_id=forged', folder="a=b", empty="")
    assert stream.getvalue().rstrip().endswith(r'name="x\" level=error job_id=forged" folder="a=b" empty=""')


def test_json_keeps_numbers_and_stays_json_for_any_value() -> None:
    stream = make_log(format="json")
    log.info("job.measured", rtfx=2.5, level_dbfs=float("-inf"), n=7, is_ok=True, path=Path("/x"), nothing=None)
    (line,) = read_json(stream)
    assert line.pop("timestamp")
    assert line == {
        "level": "info",
        "event": "job.measured",
        "rtfx": 2.5,
        "level_dbfs": "-inf",
        "n": 7,
        "is_ok": True,
        "path": "/x",
        "nothing": None,
    }


def test_endless_value_is_cut_before_journald_cuts_the_line() -> None:
    stream = make_log()
    log.info("decoder.complained", reason="x" * 100_000)
    assert len(stream.getvalue()) < 5000


@pytest.mark.parametrize(("level", "n_lines"), [("debug", 4), ("info", 3), ("warning", 2), ("error", 1)])
def test_level_filters_and_a_reload_changes_it_for_loggers_in_use(level: str, n_lines: int) -> None:
    make_log(level="error")
    log.info("job.claimed")  # in use before
    stream = make_log(level=level)
    for write in (log.debug, log.info, log.warning, log.error):
        write("job.noticed")
    assert len(stream.getvalue().splitlines()) == n_lines


def test_exception_is_one_line_and_has_a_traceback_only_at_debug() -> None:
    for level, has_traceback in (("info", False), ("debug", True)):
        for format_ in ("auto", "json"):
            stream = make_log(level=level, format=format_)
            fail_with(JobError("It is not audio.", "Send a recording."))
            shown = stream.getvalue()
            assert "JobError: It is not audio. Send a recording." in shown
            assert ("Traceback (most recent call last)" in shown) == has_traceback
            first, *below = shown.splitlines()
            assert "job.failed" in first
            assert all(line.startswith("    ") for line in below)


def test_exc_info_accepts_an_exception() -> None:
    stream = make_log(format="json")
    log.error("job.failed", exc_info=ValueError("bad\nvalue"))
    assert read_json(stream)[0]["exception"] == r"ValueError: bad\nvalue"


@pytest.mark.parametrize("level", ["info", "debug"])
@pytest.mark.parametrize("format_", ["auto", "json"])
def test_hashed_names_are_shown_nowhere(format_: str, level: str, tmp_path: Path) -> None:
    stream = make_log(names="hashed", format=format_, level=level)
    missing = tmp_path / "Erika Müst'ermann\n.wav"
    log.info("job.claimed", name=missing.name, path=f"a/{missing.name}", files=1, reason=f"{missing.name} is empty")
    log.info("queue.counted", name=[missing.name, "Erika"], more={"source": missing.name})
    log.info("queue.counted", more={"source": missing.name})
    try:
        missing.read_bytes()
    except OSError:
        log.exception("job.failed")
    try:
        try:
            missing.read_bytes()
        except OSError as error:
            raise JobError(f"cannot read {missing}") from error
    except JobError:
        log.exception("job.failed", job_id="j1")
    assert "Erika" not in stream.getvalue()
    assert stream.getvalue().count(display.shown_name(missing.name, "hashed")) >= 4


@pytest.mark.parametrize("format_", ["auto", "json"])
def test_hashed_names_hold_for_sub_folders_in_any_text(format_: Literal["auto", "json"], tmp_path: Path) -> None:
    stream = io.StringIO()
    settings = Logging(names="hashed", format=format_)
    logs.configure(settings, shared=(tmp_path / "inbox", tmp_path / "outbox"), stream=stream)
    log.warning("service.fault_found", what=f"{tmp_path}/outbox/Ward 7/Doe is not writable.", remedy="Look.")
    log.warning("inbox.scanned", folders=[f"{tmp_path}/inbox/Ward 7"], error=f"[Errno 5] {tmp_path}/inbox/Doe: bad")
    assert "Ward" not in stream.getvalue()
    assert "Doe" not in stream.getvalue()
    assert f"{tmp_path}/outbox/name:" in stream.getvalue()


def test_full_names_are_shown() -> None:
    stream = make_log(names="full")
    log.info("job.claimed", name="Erika.wav")
    assert "name=Erika.wav" in stream.getvalue()


def test_libraries_and_warnings_are_logged_from_warning_on() -> None:
    stream = make_log(format="json", level="debug")
    library = logging.getLogger("some.package")
    library.setLevel(logging.DEBUG)  # as some do by themselves
    library.info("no one needs this")
    library.warning("look at %s", "this\nthing")
    with warnings.catch_warnings():
        warnings.simplefilter("always")
        warnings.warn("it is old", UserWarning, stacklevel=1)
    first, second = read_json(stream)
    assert (first["event"], first["library"], first["message"]) == (
        "library.warned",
        "some.package",
        r"look at this\nthing",
    )
    assert second["library"] == "py.warnings"
    assert "UserWarning: it is old" in second["message"]


def test_library_below_our_level_is_silent() -> None:
    stream = make_log(level="error")
    logging.getLogger("some.package").warning("look")
    logging.getLogger("some.package").error("look harder")
    assert [line.split()[1] for line in stream.getvalue().splitlines()] == ["error"]


def test_library_with_its_own_handler_is_adopted() -> None:
    stream, its_own = make_log(), io.StringIO()
    library = logging.getLogger("other.package")  # set up as transformers does it
    library.addHandler(logging.StreamHandler(its_own))
    library.propagate = False
    logs.adopt_library("other.package")
    library.warning("look")
    assert its_own.getvalue() == ""
    assert "library.warned library=other.package message=look" in stream.getvalue()


def test_bound_context_is_in_each_line() -> None:
    stream = make_log(format="json")
    with structlog.contextvars.bound_contextvars(job_id="j1"):
        log.info("job.claimed")
    assert read_json(stream)[0]["job_id"] == "j1"


def test_journal_entries_have_fields_to_select_by(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    address = str(tmp_path / "socket")
    with (tmp_path / "journal").open("w+") as stream, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as journald:
        journald.bind(address)
        found = os.fstat(stream.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.configure(Logging(), stream=stream, journal=address)
        log.warning("job.failed", job_id="j1", path=HOSTILE, n_tries=2, gap=None, formats=["txt"])
        entry = journald.recv(10_000).decode().splitlines()
        logging.getLogger("some.package").error("look")
        library = journald.recv(10_000).decode().splitlines()
        logs.close()
        assert stream.tell() == 0
    shown = display.escape(HOSTILE)
    assert entry[0].startswith("MESSAGE=warning job.failed job_id=j1 path=")
    assert entry[1:] == [
        "PRIORITY=4",
        "SYSLOG_IDENTIFIER=scribed",
        "SCRIBED_EVENT=job.failed",
        "SCRIBED_JOB_ID=j1",
        f"SCRIBED_PATH={shown}",
        "SCRIBED_N_TRIES=2",
        'SCRIBED_FORMATS=["txt"]',
    ]
    assert library[:2] == ["MESSAGE=error library.warned library=some.package message=look", "PRIORITY=3"]


def test_lines_carry_their_priority_where_journald_does_not_answer(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = str(tmp_path / "absent")
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        logs.configure(Logging(level="debug"), stream=journal, journal=absent)
        log.info("job.claimed", name="<0>forged.wav")
        fail_with(ValueError("bad"))
        logs.configure(Logging(format="json"), stream=journal, journal=absent)
        log.warning("queue.grown", n=5)
        journal.seek(0)
        claimed, failed, *traceback, grown = journal.read().splitlines()
    assert claimed == "<6>info job.claimed name=<0>forged.wav"
    assert failed == '<3>error job.failed exception="ValueError: bad"'
    assert traceback
    assert all(line.startswith("<3>    ") for line in traceback)
    assert grown.startswith('<4>{"timestamp"')


def test_error_that_ends_a_command_has_its_priority_in_the_journal(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    logs.write_error("scribed: one\n  two")
    assert capsys.readouterr().err == "scribed: one\n  two\n"
    with (tmp_path / "journal").open("w+") as journal:
        found = os.fstat(journal.fileno())
        monkeypatch.setenv("JOURNAL_STREAM", f"{found.st_dev}:{found.st_ino}")
        monkeypatch.setattr(sys, "stderr", journal)
        logs.write_error("scribed: one\n  two")
        journal.seek(0)
        assert journal.read() == "<3>scribed: one\n<3>  two\n"


def test_stream_redirected_away_from_the_journal_has_no_priorities(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOURNAL_STREAM", "9:12345")
    stream = make_log()
    log.info("job.claimed")
    assert not stream.getvalue().startswith("<")


@pytest.mark.parametrize("is_plain", [False, True])
def test_terminal_has_colour_unless_no_color_is_set(is_plain: bool, monkeypatch: pytest.MonkeyPatch) -> None:  # noqa: FBT001  # a parameter of pytest
    monkeypatch.delenv("NO_COLOR", raising=False)
    if is_plain:
        monkeypatch.setenv("NO_COLOR", "1")
    leader, follower = pty.openpty()
    with os.fdopen(leader, "rb", buffering=0) as screen, os.fdopen(follower, "w") as terminal:
        logs.configure(Logging(), stream=terminal)
        log.info("job.claimed")
        assert (b"\x1b[" in screen.read(1000)) != is_plain


def test_log_file_has_json_lines_readable_by_its_group_only(tmp_path: Path) -> None:
    path = tmp_path / "scribed.log"
    path.write_text('{"event": "job.old"}\n')
    path.chmod(0o640)
    for name in ("first.wav", HOSTILE):
        stream = make_log(file=path)
        log.info("job.claimed", name=name)
        assert stream.getvalue().count("\n") == 1
    logs.close()
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    assert [line["event"] for line in lines] == ["job.old", "job.claimed", "job.claimed"]
    assert lines[2]["name"] == display.escape(HOSTILE)


def test_new_log_file_is_not_world_readable(tmp_path: Path) -> None:
    old_mask = os.umask(0)
    try:
        make_log(file=tmp_path / "scribed.log")
    finally:
        os.umask(old_mask)
    assert stat.S_IMODE((tmp_path / "scribed.log").stat().st_mode) == 0o640


def test_full_log_file_is_rotated(tmp_path: Path) -> None:
    path = tmp_path / "scribed.log"
    path.write_bytes(b"x" * 9_999_990 + b"\n")
    make_log(file=path)
    log.info("job.claimed")
    logs.close()
    assert (tmp_path / "scribed.log.1").stat().st_size == 9_999_991
    assert json.loads(path.read_text())["event"] == "job.claimed"


def test_log_file_that_cannot_be_opened_is_a_config_fault_and_old_settings_hold(tmp_path: Path) -> None:
    stream = make_log()
    with pytest.raises(ConfigError) as caught:
        logs.configure(Logging(file=tmp_path / "missing" / "scribed.log"), stream=io.StringIO())
    (fault,) = caught.value.faults
    assert fault.startswith("logging.file: ")
    assert "No such file or directory" in fault
    log.info("job.claimed")
    assert "job.claimed" in stream.getvalue()


def test_log_file_below_a_shared_folder_is_reached_without_following_links(tmp_path: Path) -> None:
    inbox, private = tmp_path / "inbox", tmp_path / "private"
    (inbox / "logs").mkdir(parents=True)
    private.mkdir()
    shared = (inbox,)
    logs.configure(Logging(file=inbox / "logs" / "scribed.log"), shared=shared, stream=io.StringIO())
    log.info("job.claimed")
    (inbox / "logs").rename(inbox / "old")  # as a member of the group may at any moment
    (inbox / "logs").symlink_to(private)
    log.info("job.delivered")
    assert (inbox / "old" / "scribed.log").read_text().count("job.") == 2
    for path in (inbox / "logs" / "scribed.log", inbox / "old" / "link.log"):
        (inbox / "old" / "link.log").unlink(missing_ok=True)
        (inbox / "old" / "link.log").symlink_to(private / "scribed.log")
        with pytest.raises(ConfigError, match="The log file cannot be used"):
            logs.configure(Logging(file=path), shared=shared, stream=io.StringIO())
    assert list(private.iterdir()) == []
    logs.configure(Logging(file=inbox / "logs" / "scribed.log"), stream=io.StringIO())  # elsewhere links are followed
    assert list(private.iterdir()) == [private / "scribed.log"]


@pytest.mark.parametrize("has_reader", [False, True])
def test_pipe_in_place_of_a_log_file_in_a_shared_folder_is_refused(tmp_path: Path, *, has_reader: bool) -> None:
    os.mkfifo(tmp_path / "scribed.log")
    reader = os.open(tmp_path / "scribed.log", os.O_RDONLY | os.O_NONBLOCK) if has_reader else None
    with pytest.raises(ConfigError, match="The log file cannot be used"):
        logs.configure(Logging(file=tmp_path / "scribed.log"), shared=(tmp_path,), stream=io.StringIO())
    if reader is not None:
        os.close(reader)


def test_rotation_below_a_shared_folder_stays_in_the_folder_that_was_opened(tmp_path: Path) -> None:
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "scribed.log").write_bytes(b"x" * 9_999_990 + b"\n")
    logs.configure(Logging(file=tmp_path / "logs" / "scribed.log"), shared=(tmp_path,), stream=io.StringIO())
    (tmp_path / "logs").rename(tmp_path / "old")
    (tmp_path / "logs").mkdir()
    (tmp_path / "logs" / "scribed.log").write_text("of another program")
    log.info("job.claimed")
    logs.close()
    assert sorted(path.name for path in (tmp_path / "old").iterdir()) == ["scribed.log", "scribed.log.1"]
    assert [path.name for path in (tmp_path / "logs").iterdir()] == ["scribed.log"]


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="needs /dev/full")
def test_full_disk_under_the_log_file_is_reported_once() -> None:
    stream = make_log(file=Path("/dev/full"), format="json")
    for _ in range(3):
        log.info("job.claimed")
    events = [line["event"] for line in read_json(stream)]
    assert events.count("job.claimed") == 3
    assert events.count("log_file.write_failed") == 1


def test_reload_loses_no_line_of_another_thread(tmp_path: Path) -> None:
    stream = io.StringIO()
    logs.configure(Logging(), stream=stream)
    is_logging = threading.Event()

    def write_lines() -> None:
        for number in range(300):
            log.info("job.claimed", number=number)
            is_logging.set()

    writer = threading.Thread(target=write_lines)
    writer.start()
    is_logging.wait(timeout=10)
    for _ in range(10):
        logs.configure(Logging(file=tmp_path / "scribed.log"), stream=stream)
    writer.join(timeout=30)
    numbers = [int(line.rpartition("=")[2]) for line in stream.getvalue().splitlines()]
    assert numbers == list(range(300))


def test_line_logged_after_a_reload_leaves_no_file_open(tmp_path: Path) -> None:
    path = tmp_path / "scribed.log"
    logs.configure(Logging(file=path), stream=io.StringIO())
    (handler,) = (handler for handler in logging.getLogger().handlers if handler.name == "scribed.file")
    logs.configure(Logging(), stream=io.StringIO())
    logging.getLogger("other").addHandler(handler)  # as a thread that had asked for the handlers before
    try:
        logging.getLogger("other").error("late")
    finally:
        logging.getLogger("other").removeHandler(handler)
    assert "late" in path.read_text()
    assert isinstance(handler, logging.FileHandler)
    assert handler.stream is None


def test_stderr_is_looked_up_when_it_is_needed(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = io.StringIO()
    monkeypatch.setattr(sys, "stderr", stream)
    logs.configure(Logging())
    log.info("job.claimed")
    assert "job.claimed" in stream.getvalue()
