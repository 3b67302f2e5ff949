"""`scribed render`, as people call it."""

from __future__ import annotations

import os
import re
import resource
import subprocess
import sys
from dataclasses import replace
from typing import TYPE_CHECKING

from daemon.documents import render
from daemon.transcript import Segment
from tests.unit.test_documents import TALK

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance


def write(path: Path, n_segments: int = 4) -> Path:
    segments = tuple(Segment(5.0 * at, 5.0 * at + 4.0, f"This is sentence number {at}.") for at in range(n_segments))
    path.write_bytes(render(replace(TALK, segments=segments), ["json"], has_timestamps=False)["json"])
    return path


def test_render_writes_documents_next_to_the_json_and_overwrites_none(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance()
    source = write(tmp_path / "talk.json")
    ended = instance.run("render", str(source), "-f", "txt,srt,docx")
    assert ended.returncode == 0, ended.stderr
    assert {path.name for path in tmp_path.glob("talk.*")} == {"talk.json", "talk.txt", "talk.srt", "talk.docx"}
    (tmp_path / "talk.txt").write_text("mine")
    ended = instance.run("render", str(source), "-f", "md,txt")
    assert ended.returncode == 73
    assert "talk.txt already exists" in ended.stderr
    assert not (tmp_path / "talk.md").exists()
    assert instance.run("render", str(source), "-f", "txt", "--force").returncode == 0
    assert "sentence number 3" in (tmp_path / "talk.txt").read_text()


def test_render_never_overwrites_its_input(make_instance: MakeInstance, tmp_path: Path) -> None:
    source = write(tmp_path / "talk.json")
    before = source.read_bytes()
    ended = make_instance().run("render", str(source), "-f", "json", "--force")
    assert ended.returncode == 73
    assert "is the input itself" in ended.stderr
    assert source.read_bytes() == before


def test_render_names_a_bad_file_and_goes_on(make_instance: MakeInstance, tmp_path: Path) -> None:
    bad, good = tmp_path / "bad.json", write(tmp_path / "good.json")
    bad.write_text('{"schema": "scribed.transcript/1"}')
    ended = make_instance().run("render", str(bad), str(good), "-f", "txt", "-o", str(tmp_path / "new" / "folder"))
    assert ended.returncode == 1
    assert "bad.json: `model` is missing; it must be an object." in ended.stderr
    assert "Traceback" not in ended.stderr
    assert [path.name for path in (tmp_path / "new" / "folder").iterdir()] == ["good.txt"]


def test_render_reads_the_configuration_only_for_formats_that_depend_on_it(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance()
    source = write(tmp_path / "talk.json")
    subtitles, text = ([*instance.command("render"), str(source), "-f", form] for form in ("srt,vtt", "txt,srt"))
    command = [sys.executable, "-X", "importtime", *subtitles[1:]]
    shown = subprocess.run(command, capture_output=True, text=True, check=True)
    assert re.search(r"\| +daemon\.documents\.cues$", shown.stderr, re.MULTILINE)  # else the list is empty
    assert not re.search(r"\| +daemon\.config$", shown.stderr, re.MULTILINE)
    assert (tmp_path / "talk.vtt").exists()
    instance.config.write_text("whatever: 1\n")
    assert subprocess.run([*text, "--force"], capture_output=True, check=False).returncode == 78
    assert subprocess.run([*subtitles, "--force"], capture_output=True, check=False).returncode == 0
    instance.config.unlink()
    ended = subprocess.run([*subtitles, "--force"], capture_output=True, text=True, check=False)
    assert ended.returncode == 78
    assert "does not exist" in ended.stderr


def test_render_with_wrong_words_is_a_usage_error(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    source = write(tmp_path / "talk.json")
    assert instance.run("render", str(source), "-f", "pdf").returncode == 2
    assert instance.run("render", str(tmp_path / "none.json"), "-f", "txt").returncode == 2
    assert instance.run("render", str(tmp_path), "-f", "txt").returncode == 2
    (tmp_path / "other").mkdir()
    twin = write(tmp_path / "other" / "talk.json")
    assert instance.run("render", str(source), str(twin), "-f", "txt", "-o", str(tmp_path)).returncode == 2


def test_documents_of_an_hour_are_rendered_in_a_fraction_of_a_minute(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    source = write(tmp_path / "hour.json", n_segments=720)
    began_s = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
    ended = make_instance().run("render", str(source), "-f", "txt,md,docx,srt,vtt")
    assert ended.returncode == 0, ended.stderr
    # Half a second of processor time on an idle machine; the clock on the wall says how busy the machine is.
    assert resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - began_s < 10


def test_pipes_devices_and_huge_files_do_not_hold_render_up(make_instance: MakeInstance, tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe.json")
    (tmp_path / "zero.json").symlink_to("/dev/zero")
    with (tmp_path / "huge.json").open("wb") as huge:
        huge.truncate(1 << 40)
    good = write(tmp_path / "good.json")
    sources = [str(tmp_path / f"{name}.json") for name in ("pipe", "zero", "huge")]
    ended = make_instance().run("render", *sources, str(good), "-f", "txt")
    assert ended.returncode == 1
    assert "pipe.json: It cannot be read: Not a regular file." in ended.stderr
    assert "zero.json: It cannot be read: Not a regular file." in ended.stderr
    assert "huge.json: It cannot be read: File too large." in ended.stderr
    assert (tmp_path / "good.txt").exists()
