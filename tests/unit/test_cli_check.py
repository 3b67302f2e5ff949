"""Single checks, on folders and limits made for the test."""

from __future__ import annotations

import os
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from daemon.cli.check import device, folders, kernel, transcription
from daemon.cli.check.finding import Installation
from daemon.cli.check.folders import check_folders
from daemon.config import Config, Folders, ModelSettings, Watch
from daemon.errors import ExitCode, UsageError
from daemon.host import compiler, gpu, sandbox
from daemon.job import Job
from daemon.journal import JOURNAL_NAME, Journal
from daemon.journal.records import Roots
from daemon.transcript import ModelIdentity

if TYPE_CHECKING:
    from daemon.frontend import FrontEnd


@pytest.fixture
def installation(tmp_path: Path) -> Installation:
    paths = {name: tmp_path / name for name in Folders.model_fields}
    for folder in paths.values():
        folder.mkdir()
    return Installation(Config(folders=Folders(**paths)), None)


@pytest.mark.parametrize(("mode", "is_named"), [(0o750, False), (0o1777, False), (0o2770, True), (0o757, True)])
def test_folder_around_the_shared_ones_that_others_can_write_to_is_a_warning(
    installation: Installation, tmp_path: Path, mode: int, *, is_named: bool
) -> None:
    for folder in (installation.config.folders.inbox, installation.config.folders.outbox):
        folder.chmod(0o2770)
    tmp_path.chmod(mode)
    found = [finding for finding in check_folders(installation) if "others can write" in finding.what]
    assert [finding.what.split(":")[0] for finding in found] == (["folder inbox", "folder outbox"] if is_named else [])
    assert all(finding.level == "warning" and f"chmod g-w,o-w {tmp_path}" in finding.remedy for finding in found)


def write_limits(root: Path, **limits: int) -> Path:
    for name, value in limits.items():
        path = root / name.replace("__", "/")
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(f"{value}\n")
    return root


def test_inotify_limits_that_are_high_enough_are_ok(installation: Installation, tmp_path: Path) -> None:
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=8192, fs__inotify__max_user_instances=128)
    assert [found.level for found in kernel.check_inotify(installation, root)] == ["ok"]


@pytest.mark.parametrize(
    ("name", "limit"),
    [
        ("fs__inotify__max_user_watches", 30),
        ("user__max_inotify_watches", 8191),
        ("fs__inotify__max_user_instances", 10),
        ("user__max_inotify_instances", 0),
    ],
)
def test_low_inotify_limit_is_named_with_the_command_that_raises_it(
    name: str, limit: int, installation: Installation, tmp_path: Path
) -> None:
    root = write_limits(tmp_path / "sys", **{name: limit})
    (found,) = kernel.check_inotify(installation, root)
    sysctl = name.replace("__", ".")
    assert found.level == "warning"
    assert f"{sysctl} is {limit}" in found.what
    assert f"{sysctl}=" in found.remedy


def test_inbox_with_more_folders_than_half_the_watches_is_a_warning(
    installation: Installation, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(kernel, "_COUNT_S", 60.0)  # however busy the machine
    for number in range(20):
        (installation.config.folders.inbox / f"{number}" / "sub").mkdir(parents=True)
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=8192)
    assert [found.level for found in kernel.check_inotify(installation, root)] == ["ok"]
    for number in range(4100):
        (installation.config.folders.inbox / "0" / f"{number}").mkdir()
    (found,) = kernel.check_inotify(installation, root)
    assert "the inbox has 4141 folders" in found.what


def test_polled_inbox_needs_no_watches(installation: Installation, tmp_path: Path) -> None:
    polled = installation.config.model_copy(update={"watch": Watch(mode="poll")})
    root = write_limits(tmp_path / "sys", fs__inotify__max_user_watches=0)
    assert list(kernel.check_inotify(Installation(polled, None), root)) == []


@pytest.mark.parametrize("missing", [[], ["C compiler"], ["C compiler", "headers of Python"]])
def test_gpu_without_a_compiler_is_a_warning(
    installation: Installation, monkeypatch: pytest.MonkeyPatch, missing: list[str]
) -> None:
    monkeypatch.setattr(gpu, "is_present", lambda: True)
    monkeypatch.setattr(gpu, "read_driver", lambda: "NVRM version: 580.159.04")
    monkeypatch.setattr(gpu, "query", list)
    monkeypatch.setattr(compiler, "find_missing", lambda: missing)
    driver, *others = device.check_device(installation)
    assert driver.level == "ok"
    assert [(found.level, found.remedy) for found in others] == (
        [("warning", "Run: sudo apt-get install gcc python3-dev")] if missing else []
    )
    assert all(name in found.what for name in missing for found in others)


@pytest.mark.parametrize("name", ["cuda", "inductor", "triton"])
def test_kernels_that_others_could_have_changed_are_a_fault_on_every_device(
    installation: Installation, name: str
) -> None:
    for _, other in compiler.CACHES:
        (installation.config.folders.cache / other).mkdir(0o700, parents=True)
    assert list(device.check_kernels(installation)) == []
    folder = installation.config.folders.cache / name
    folder.chmod(0o720)
    (found,) = device.check_kernels(installation)
    assert (found.level, found.exit_code) == ("fault", ExitCode.MODEL_UNAVAILABLE)
    assert f"compiled kernels in {folder}" in found.what
    assert f"rm -r {folder}" in found.remedy


def test_kernels_that_cannot_be_written_are_a_warning_on_a_gpu(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "access", lambda path, _: path.name != "triton")  # root may write everywhere
    for _, name in compiler.CACHES:
        (installation.config.folders.cache / name).mkdir(0o500, parents=True)
    monkeypatch.setattr(gpu, "is_present", lambda: False)
    assert list(device.check_kernels(installation)) == []
    monkeypatch.setattr(gpu, "is_present", lambda: True)
    (found,) = device.check_kernels(installation)
    assert found.level == "warning"
    assert f"{installation.config.folders.cache / 'triton'} is not readable and writable" in found.what


def test_missing_confinement_of_decoders_is_a_warning(
    installation: Installation, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert [found.level for found in kernel.check_confinement(installation)] in (["ok"], ["warning"], ["warning"] * 2)
    missing = (sandbox.Missing("This kernel has no Landlock.", "Use Linux 5.13 or newer."),)
    monkeypatch.setattr(sandbox, "find_missing", lambda: missing)
    (found,) = kernel.check_confinement(installation)
    assert (found.level, found.what) == ("warning", "decoder: This kernel has no Landlock.")


def test_real_model_is_checked_with_a_real_voice(
    installation: Installation, front_end: FrontEnd, tmp_path: Path
) -> None:
    with ExitStack() as stack:
        sample = transcription._choose_sample(installation, stack)
        assert sample.path.name == "jfk.flac"
        assert sample.text.startswith("And so, my fellow Americans, ask not")
        prepared = front_end.prepare(sample.path, installation.config.preprocess, "silero")
        with prepared.waveform as waveform:
            assert waveform.duration_s == pytest.approx(11.0, abs=0.01)
        assert sum(span.stop - span.start for span in prepared.streams[0].speech) > 5 * 16_000
        demo = installation.config.model_copy(update={"model": ModelSettings.model_validate({"path": "demo"})})
        assert transcription._choose_sample(Installation(demo, None), stack).path.name == "memo.wav"
    with pytest.raises(UsageError, match="No such file"), ExitStack() as stack:
        transcription._choose_sample(Installation(demo, None, tmp_path / "gone.wav", "words"), stack)


@pytest.mark.parametrize(
    ("heard", "level"),
    [
        ("And so my fellow Americans ask not what your country can do", "ok"),
        ("and so, my fellow american, ask not what your country can do.", "ok"),
        ("and so my fellow american asks not what your country can do", "fault"),
        ("", "fault"),
    ],
)
def test_at_most_one_word_may_be_wrong(heard: str, level: str) -> None:
    text = "And so, my fellow Americans, ask not what your country can do"
    sample = transcription._Sample(Path("sample.wav"), text, is_bundled=True)
    identity = ModelIdentity("model", "d" * 64, "bfloat16", "cuda:0")
    found = transcription._compare(sample, identity, heard, " without CUDA graphs")
    assert found.level == level
    assert "cuda:0 as bfloat16 without CUDA graphs" in found.what
    assert (text in found.what) == (level == "fault")


def content_of(folder: Path) -> dict[str, tuple[int, bytes]]:
    kept = (path for path in folder.iterdir() if not path.name.endswith("-shm"))  # where readers leave their marks
    return {path.name: (path.stat().st_mtime_ns, path.read_bytes()) for path in kept}


@pytest.mark.parametrize("is_running", [False, True])
def test_recordings_claimed_in_an_earlier_inbox_are_named_without_writing(
    installation: Installation, tmp_path: Path, *, is_running: bool
) -> None:
    named = installation.config.folders
    roots = Roots(named.inbox, named.outbox, named.processed, named.failed)
    old = replace(roots, inbox=tmp_path / "old inbox")
    journal = Journal(named.state)
    for number, place in enumerate((roots, old, old, old)):
        journal.add(Job(f"job-{number}", "talk.wav", "2026-01-01T00:00:00Z"), place)
    journal.fail("job-3")
    if not is_running:
        journal.close()
    before = content_of(named.state)
    (found,) = folders.check_displaced(installation)
    assert content_of(named.state) == before
    assert found.level == "warning"
    assert f"2 recordings are unfinished in {tmp_path / 'old inbox'}" in found.what
    journal.close()


@pytest.mark.parametrize("journal", [None, b"", b"not a database"])
def test_state_folder_without_a_readable_journal_has_no_displaced_recordings(
    installation: Installation, journal: bytes | None
) -> None:
    if journal is not None:
        (installation.config.folders.state / JOURNAL_NAME).write_bytes(journal)
    before = content_of(installation.config.folders.state)
    assert list(folders.check_displaced(installation)) == []
    assert content_of(installation.config.folders.state) == before
