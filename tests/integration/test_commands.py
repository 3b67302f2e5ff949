"""The commands: their output, their files and their exit codes."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
from typing import TYPE_CHECKING

import numpy as np
import pytest
import soundfile

from daemon.documents import FORMATS
from tests.conftest import SAMPLES
from tests.integration.test_daemon import has_right_words

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance

COMMANDS = (
    "run",
    "once",
    "transcribe",
    "prepare",
    "recorder",
    "render",
    "status",
    "retry",
    "cancel",
    "forget",
    "check",
    "fetch-model",
    "demo",
    "eval",
    "bench",
)

_SLOW_WRITER = """
import sys, threading
stream = open(sys.argv[1], "wb", buffering=0)
end = threading.Event()
threading.Thread(target=lambda: (sys.stdin.read(), end.set()), daemon=True).start()
while not end.wait(0.1): stream.write(b"x")
"""


def test_help_names_every_command(make_instance: MakeInstance) -> None:
    instance = make_instance()
    shown = subprocess.run(
        [sys.executable, "-m", "daemon", "--help"], capture_output=True, text=True, check=True
    ).stdout
    assert all(command in shown for command in COMMANDS)
    assert "..." not in shown.partition("Commands:")[2]  # no summary is cut off
    for command in COMMANDS:
        ended = instance.run(command, "--help")
        assert ended.returncode == 0
        assert not re.search(r"<[a-z]", ended.stdout), f"{command} shows a Python type"
        if command in {"transcribe", "render"}:
            assert all(name in ended.stdout for name in FORMATS)


def test_recorder_writes_its_page_once(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance, page = make_instance(), tmp_path / "record.html"
    ended = instance.run("recorder", "-o", str(page))
    assert (ended.returncode, ended.stderr) == (0, f"{page}\n")
    assert "<title>Record</title>" in page.read_text()
    page.write_text("mine")
    assert instance.run("recorder", "-o", str(page)).returncode == 73
    assert page.read_text() == "mine"
    assert instance.run("recorder", "-o", str(page), "--force").returncode == 0
    assert instance.run("recorder", "-o", str(tmp_path / "record.txt")).returncode == 2
    assert instance.run("recorder", "-o", str(tmp_path / "missing/record.html")).returncode == 73


@pytest.mark.parametrize("words", [["--help"], ["status"], ["check"]])
def test_help_status_and_check_never_import_torch(make_instance: MakeInstance, words: list[str]) -> None:
    instance = make_instance()
    config = [] if words == ["--help"] else ["--config", str(instance.config)]
    code = (
        "import sys; from daemon.cli import main; sys.argv = ['scribed', *sys.argv[1:]]\n"
        "try: main.main()\n"
        "except SystemExit: pass\n"
        "slow = {'torch', 'transformers', 'scipy', 'av'} & set(sys.modules)\n"
        "sys.exit(f'imported {slow}' if slow else 0)"
    )
    shown = subprocess.run([sys.executable, "-c", code, *words, *config], capture_output=True, text=True, check=False)
    assert shown.returncode == 0, shown.stderr


def test_status_skips_the_schema_for_a_configuration_the_daemon_has_validated(make_instance: MakeInstance) -> None:
    instance = make_instance()
    assert instance.run("once").returncode == 0
    command = [sys.executable, "-X", "importtime", *instance.command("status")[1:]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert "scribed stopped" in shown.stdout
    assert "| daemon.cli.status" in shown.stderr  # else the list of imports is empty
    assert not re.search(r"\| +daemon\.config$", shown.stderr, re.MULTILINE)
    instance.config.write_text(instance.config.read_text() + "whatever: 1\n")
    assert instance.run("status").returncode == 78


def test_wrong_usage_exits_with_2(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    for words in (
        [],
        ["dance"],
        ["status", "--js"],  # abbreviations are not accepted: a longer option may be added
        ["transcribe"],
        ["transcribe", str(tmp_path / "missing.wav")],
        ["transcribe", str(SAMPLES / "memo.wav"), "-f", "parchment"],
        ["prepare", str(SAMPLES / "memo.wav"), "-o", str(tmp_path / "out.xyz")],
        ["retry"],
    ):
        ended = instance.run(*words)
        assert ended.returncode == 2, words
        assert "Traceback" not in ended.stderr


def test_wrong_configuration_exits_with_78_and_lists_every_fault(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.config.write_text("watch:\n  settle_s: soon\noutput:\n  formats: [parchment]\nwhatever: 1\n")
    for words in (["once"], ["status"], ["check"]):
        ended = instance.run(*words)
        told = ended.stderr + ended.stdout
        assert ended.returncode == 78
        for key, line in (("watch.settle_s", 2), ("output.formats", 4), ("whatever", 5)):
            assert key in told
            assert f"line {line}" in told
        assert "Traceback" not in told
    assert not (instance.folder("inbox") / ".scribed").exists()


@pytest.mark.parametrize("model", [{"path": "/nowhere/model"}, {"path": "demo", "device": "cuda"}])
def test_missing_model_or_gpu_exits_with_69(make_instance: MakeInstance, model: dict[str, object]) -> None:
    if model.get("device") == "cuda" and os.path.exists("/dev/nvidia0"):  # noqa: PTH110  # a device
        pytest.skip("this machine has the GPU whose absence is tested")
    instance = make_instance(model=model)
    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("inbox") / "memo.wav")
    for words in (["once"], ["run"], ["transcribe", str(SAMPLES / "memo.wav")]):
        ended = instance.run(*words)
        assert ended.returncode == 69, ended.stderr
        assert "Traceback" not in ended.stderr
    assert instance.run("check").returncode == 69
    assert instance.names("processed") == []
    left = [*instance.names("inbox"), *(path.name for path in instance.claimed())]
    assert left == ["memo.wav"]


def test_once_transcribes_the_inbox_and_leaves_growing_files(make_instance: MakeInstance) -> None:
    instance = make_instance()
    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("inbox") / "memo.wav")
    growing = instance.folder("inbox") / "growing.wav"
    content = (SAMPLES / "memo.wav").read_bytes()
    # A writer that has not finished: one byte every tenth of a second until its standard input closes.
    writer = subprocess.Popen([sys.executable, "-c", _SLOW_WRITER, str(growing)], stdin=subprocess.PIPE)
    ended = instance.run("once")
    assert writer.stdin is not None
    writer.stdin.close()
    assert writer.wait(10) == 0
    assert ended.returncode == 0, ended.stderr
    assert "growing.wav" in ended.stderr
    assert instance.names("processed") == ["memo.wav"]
    assert instance.names("inbox") == ["growing.wav"]
    growing.write_bytes(content[:1000] + b"not sound" * 10)
    growing.rename(instance.folder("inbox") / "broken.txt.wav")
    (instance.folder("inbox") / "broken.txt.wav").write_text("no sound at all")
    assert instance.run("once").returncode == 1
    assert "broken.txt.wav" in instance.names("failed")


def test_once_with_an_empty_inbox_exits_with_0(make_instance: MakeInstance) -> None:
    assert make_instance().run("once").returncode == 0


def test_transcribe_writes_documents_and_leaves_the_recording_in_place(
    make_instance: MakeInstance, tmp_path: Path, references: dict[str, str]
) -> None:
    instance = make_instance()
    memo = tmp_path / "memo.wav"
    shutil.copyfile(SAMPLES / "memo.wav", memo)
    printed = instance.run("transcribe", str(memo))
    assert printed.returncode == 0, printed.stderr
    assert has_right_words(references["memo.wav"], printed.stdout)

    words = ["transcribe", str(memo), str(SAMPLES / "reminder.mp3"), "-o", str(tmp_path / "out"), "-f", "txt,srt"]
    assert instance.run(*words).returncode == 0
    found = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert found == ["memo.srt", "memo.txt", "reminder.srt", "reminder.txt"]
    assert memo.exists()

    (tmp_path / "text.wav").write_text("no sound")
    ended = instance.run("transcribe", str(tmp_path / "text.wav"), str(memo))
    assert ended.returncode == 1
    assert "text.wav" in ended.stderr
    assert has_right_words(references["memo.wav"], ended.stdout.replace("== memo.wav ==", ""))


@pytest.mark.parametrize(("name", "leveling"), [("memo.wav", "auto"), ("meeting.flac", "off")])
def test_prepare_writes_the_same_samples_as_sox(
    make_instance: MakeInstance, tmp_path: Path, name: str, leveling: str
) -> None:
    instance = make_instance(preprocess={"leveling": leveling})  # one person in the meeting is far quieter
    source, ours, theirs = SAMPLES / name, tmp_path / "ours.wav", tmp_path / "theirs.wav"
    ended = instance.run("prepare", str(source), "-o", str(ours), "--json")
    assert ended.returncode == 0, ended.stderr
    receipt = json.loads(ended.stdout)
    assert receipt["complete"] is True
    command = ["sox", str(source), "-c", "1", "-e", "float", "-b", "32", str(theirs)]
    subprocess.run([*command, "highpass", "80", "rate", "16k", "gain", "-n", "-3"], check=True)
    got, wanted = soundfile.read(ours, dtype="float64")[0], soundfile.read(theirs, dtype="float64")[0]
    assert abs(len(got) - len(wanted)) <= 2
    n_samples = min(len(got), len(wanted))
    assert np.abs(got[:n_samples] - wanted[:n_samples]).max() < 1e-3


def test_status_shows_results_after_the_daemon_has_stopped(make_instance: MakeInstance) -> None:
    instance = make_instance()
    before = json.loads(instance.run("status", "--json").stdout)
    assert before["state"] == "stopped"
    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("inbox") / "memo.wav")
    assert instance.run("once").returncode == 0
    after = json.loads(instance.run("status", "--json").stdout)
    assert after["schema"] == "scribed.status/1"
    assert after["state"] == "stopped"
    assert after["done_today"] == 1
    assert [done["name"] for done in after["recent"]] == ["memo.wav"]
    assert set(after) >= {"model", "queue", "failed", "faults"}
    assert "memo.wav" in instance.run("status").stdout

    assert instance.run("forget", "memo.wav").returncode == 0
    assert instance.run("forget", "memo.wav").returncode == 1
    raw = b"".join(path.read_bytes() for path in instance.folder("state").iterdir() if path.is_file())
    assert b"memo.wav" not in raw


def test_bench_prints_figures_of_this_machine(make_instance: MakeInstance) -> None:
    ended = make_instance(model={"path": "demo", "device": "cpu", "slots": 1}).run("bench", "--json")
    assert ended.returncode == 0, ended.stderr
    report = json.loads(ended.stdout)
    assert report["model"]["device"] == "cpu"
    assert [figure["n_chunks"] for figure in report["figures"]] == [1, 2]
    assert all(figure["rtfx_low"] <= figure["rtfx"] <= figure["rtfx_high"] for figure in report["figures"])
    assert all(figure["rtfx_low"] > 0 for figure in report["figures"])


def test_fetch_model_copies_a_model_from_a_folder(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(model={"path": str(tmp_path / "models" / "tiny")})
    source = SAMPLES.parent / "model"
    ended = instance.run("fetch-model", "tiny", "--from", str(source))
    assert ended.returncode == 0, ended.stderr
    assert (tmp_path / "models" / "tiny" / "model.safetensors").exists()
    assert instance.run("transcribe", str(SAMPLES / "memo.wav")).returncode == 0
    assert instance.run("fetch-model", "tiny2", "--from", str(tmp_path)).returncode == 69


def test_demo_prints_transcripts_with_their_word_error_rates(tmp_path: Path) -> None:
    command = [sys.executable, "-m", "daemon", "demo", "--into", str(tmp_path)]
    ended = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert ended.returncode == 0, ended.stderr
    assert ended.stdout.count("word error rate") == 4
    assert str(tmp_path / "outbox") in ended.stdout


def test_unsupported_file_stays_in_the_inbox_if_configured(make_instance: MakeInstance) -> None:
    instance = make_instance(watch={"unsupported": "ignore"})
    (instance.folder("inbox") / "agenda.docx").write_bytes(b"PK\x03\x04" + bytes(1000))
    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("inbox") / "memo.wav")
    assert instance.run("once").returncode == 0
    assert instance.names("inbox") == ["agenda.docx"]
    assert instance.names("processed") == ["memo.wav"]
    assert instance.names("failed") == []
