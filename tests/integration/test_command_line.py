"""The command line: what commands read, what they refuse to overwrite, and what they print when that fails."""

from __future__ import annotations

import fcntl
import os
import pty
import shutil
import signal
import subprocess
import termios
from typing import TYPE_CHECKING

import pytest
import soundfile

from tests.conftest import SAMPLES
from tests.integration.instance import environment, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.instance import Instance
    from tests.integration.test_daemon import MakeInstance

MEMO = SAMPLES / "memo.wav"


def shell(instance: Instance, line: str, **paths: Path) -> subprocess.CompletedProcess[str]:
    """Run a line of bash in which $scribed is the command and $config its --config."""
    own = {"scribed": " ".join(instance.command()[:3]), "config": f"--config {instance.config}"}
    named = {name: str(path) for name, path in paths.items()}
    return subprocess.run(
        ["bash", "-c", line], capture_output=True, text=True, check=False, env={**environment(), **own, **named}
    )


def plain(ended: subprocess.CompletedProcess[str]) -> str:
    """Return the one line of an error, which must not be a traceback."""
    assert "Traceback" not in ended.stderr
    assert ended.stderr.startswith("scribed: "), ended.stderr
    assert ended.stderr.count("\n") == 1, ended.stderr
    return ended.stderr


@pytest.fixture
def memo(tmp_path: Path) -> Path:
    path = tmp_path / "memo.wav"
    shutil.copyfile(MEMO, path)
    return path


def test_prepare_never_overwrites_its_recording(make_instance: MakeInstance, memo: Path) -> None:
    instance = make_instance()
    memo.with_name("hard link.wav").hardlink_to(memo)
    memo.with_name("link.wav").symlink_to(memo)
    for name in ("memo.wav", "hard link.wav", "link.wav"):
        for force in ([], ["--force"]):
            ended = instance.run("prepare", str(memo), "-o", str(memo.with_name(name)), *force)
            assert ended.returncode == 73
            assert "is the input itself" in plain(ended)
    assert memo.read_bytes() == MEMO.read_bytes()
    ended = shell(instance, "$scribed prepare - -o $memo --force $config < $memo", memo=memo)
    assert ended.returncode == 73
    assert memo.read_bytes() == MEMO.read_bytes()


def test_prepare_overwrites_another_file_with_force_only(make_instance: MakeInstance, memo: Path) -> None:
    instance, out = make_instance(), memo.with_name("out.wav")
    out.write_text("old")
    memo.with_name("letter.wav").write_text("refused before it is read")
    ended = instance.run("prepare", str(memo.with_name("letter.wav")), "-o", str(out))
    assert ended.returncode == 73
    assert "--force" in plain(ended)
    assert out.read_text() == "old"
    assert instance.run("prepare", str(memo), "-o", str(out), "--force").returncode == 0
    assert soundfile.info(out).samplerate == 16_000


def test_transcribe_refuses_existing_documents_before_it_loads_the_model(
    make_instance: MakeInstance, memo: Path
) -> None:
    instance = make_instance(model={"path": "/nowhere"})  # loading it would end with 69
    folder = memo.with_name("out")
    folder.mkdir()
    (folder / "memo.srt").write_text("corrected by hand")
    ended = instance.run("transcribe", str(memo), "-o", str(folder), "-f", "txt,srt")
    assert ended.returncode == 73
    assert "memo.srt already exists" in plain(ended)
    assert [path.name for path in folder.iterdir()] == ["memo.srt"]
    assert instance.run("transcribe", str(memo), "-o", str(folder), "-f", "txt,srt", "--force").returncode == 69
    assert (folder / "memo.srt").read_text() == "corrected by hand"


def test_transcribe_never_overwrites_a_recording_with_its_text(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(model={"path": "/nowhere"})
    odd = tmp_path / "memo.txt"
    shutil.copyfile(MEMO, odd)
    ended = instance.run("transcribe", str(odd), "-o", str(tmp_path), "-f", "txt", "--force")
    assert ended.returncode == 73
    assert "is the input itself" in plain(ended)
    assert odd.read_bytes() == MEMO.read_bytes()


def test_output_folder_that_is_a_file_is_reported(make_instance: MakeInstance, memo: Path) -> None:
    instance = make_instance(model={"path": "/nowhere"})
    memo.with_name("out").write_text("a file")
    for target in ("out", "out/below"):
        ended = instance.run("transcribe", str(memo), "-o", str(memo.parent / target))
        assert ended.returncode == 73
        assert "out" in plain(ended)


def test_transcribe_reads_pipes_links_and_standard_input(make_instance: MakeInstance, memo: Path) -> None:
    instance, out = make_instance(), memo.with_name("out")
    memo.with_name("link.wav").symlink_to("memo.wav")
    # bash gives the process substitution a number of its own
    line = "cat $memo | $scribed transcribe - $link /dev/fd/9 <(cat $memo) -o $out -f txt $config 9< $memo"
    ended = shell(instance, line, memo=memo, link=memo.with_name("link.wav"), out=out)
    assert ended.returncode == 0, ended.stderr
    names = sorted(path.name for path in out.iterdir())
    assert {"stdin.txt", "link.txt", "9.txt"} < set(names)
    assert len(names) == 4
    texts = {path.read_text() for path in out.iterdir()}
    assert len(texts) == 1
    assert "invoice" in texts.pop()
    assert [path for path in instance.folder("cache").rglob("*") if path.is_file()] == []
    assert memo.read_bytes() == MEMO.read_bytes()


def test_prepare_reads_standard_input(make_instance: MakeInstance, memo: Path) -> None:
    instance = make_instance()
    for number, line in enumerate(
        ("$scribed prepare - -o $out $config < $memo", "cat $memo | $scribed prepare /dev/stdin -o $out $config")
    ):
        out = memo.with_name(f"out{number}.wav")
        ended = shell(instance, line, memo=memo, out=out)
        assert ended.returncode == 0, ended.stderr
        assert soundfile.info(out).duration == pytest.approx(soundfile.info(memo).duration, abs=0.01)


def test_argument_that_is_not_a_file_is_wrong_usage(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    for words in ([str(tmp_path)], ["/dev/zero"], [str(tmp_path / "missing.wav")], ["-", "-"], ["nul\u0301\udcff.wav"]):
        ended = instance.run("transcribe", *words)
        assert ended.returncode == 2, ended.stderr
        plain(ended)


def test_terminal_as_standard_input_is_wrong_usage(make_instance: MakeInstance) -> None:
    ours, theirs = pty.openpty()
    try:
        command = make_instance().command("transcribe", "-")
        ended = subprocess.run(command, stdin=theirs, capture_output=True, text=True, check=False, env=environment())
    finally:
        os.close(ours)
        os.close(theirs)
    assert ended.returncode == 2
    assert "terminal" in plain(ended)


def test_full_device_and_closed_pipe_give_a_plain_error(make_instance: MakeInstance, memo: Path) -> None:
    instance = make_instance()
    for words in ("status", "status --json", "check", "prepare $memo -o $out --json --force", "transcribe $memo"):
        ended = shell(instance, f"$scribed {words} $config > /dev/full", memo=memo, out=memo.with_name("out.wav"))
        assert ended.returncode == 73, words
        assert "No space left on device" in plain(ended), words
    for words in ("status --json", "check"):
        ended = shell(instance, f"$scribed {words} $config | true; exit ${{PIPESTATUS[0]}}")
        assert ended.returncode == 0, words
        assert ended.stderr == "", words
    assert shell(instance, "$scribed status $config >&- 2>&-").returncode == 0


def test_names_cannot_send_escape_sequences_to_the_terminal(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    name = "evil\x1b[2J\x1b]0;owned\x07\n\u202egpj.wav"
    (tmp_path / name).write_text("no audio")
    shutil.copyfile(tmp_path / name, instance.folder("inbox") / name)
    assert instance.run("once").returncode == 1
    for words in (
        ["transcribe", str(tmp_path / name)],
        ["transcribe", str(tmp_path / f"missing{name}")],
        ["prepare", str(tmp_path / name), "-o", str(tmp_path / "out.wav")],
        ["prepare", str(MEMO), "-o", str(tmp_path / name)],
        ["status"],
        ["status", "--json"],
        ["cancel", name],
        ["retry", name],
        ["forget", "another" + name],
    ):
        ended = instance.run(*words)
        printed = ended.stdout + ended.stderr
        assert not any(char in printed for char in "\x1b\x07\u202e"), words
        assert "evil" in printed, words


def test_interrupted_pipe_ends_with_130(make_instance: MakeInstance) -> None:
    command = make_instance().command("transcribe", "-")
    process = subprocess.Popen(  # a shell that runs the tests in the background has SIGINT ignored
        command,
        stdin=subprocess.PIPE,
        stderr=subprocess.PIPE,
        env=environment(),
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),  # noqa: PLW1509  # no threads here
    )
    pipe = process.stdin
    assert pipe is not None
    assert process.stderr is not None
    pipe.write(b"x")
    pipe.flush()
    wait_until(lambda: fcntl.ioctl(pipe, termios.FIONREAD, bytes(4)) == bytes(4), "it has read what there is")
    process.send_signal(signal.SIGINT)  # while it waits for more
    told = process.stderr.read()
    assert process.wait() == 130
    assert b"Traceback" not in told
    pipe.close()
    process.stderr.close()


def test_demo_deletes_only_folders_that_a_demo_made(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()  # the folders of a real service
    (instance.folder("inbox") / "only-copy.wav").write_bytes(b"x")
    command = [*instance.command()[:3], "demo", "--into", str(instance.root)]
    for words in ([], ["--force"]):
        ended = subprocess.run([*command, *words], capture_output=True, text=True, check=False)
        assert ended.returncode == 73
        plain(ended)
    (tmp_path / "file").touch()
    ended = subprocess.run([*command[:5], str(tmp_path / "file")], capture_output=True, text=True, check=False)
    assert ended.returncode == 73
    plain(ended)
    assert (instance.folder("inbox") / "only-copy.wav").read_bytes() == b"x"
