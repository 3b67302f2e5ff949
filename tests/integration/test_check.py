"""`scribed check`: problems are named with their remedy, and a known recording must be understood."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

import daemon
from daemon import checkpoint
from daemon.cli.check import CHECKS
from tests.conftest import SAMPLES
from tests.integration.instance import environment

if TYPE_CHECKING:
    from tests.integration.test_daemon import MakeInstance

MEMO_TEXT = "please send the invoice before friday and call the doctor at four thirty"


def test_check_lists_problems_and_ends_with_the_code_of_the_first_fault(make_instance: MakeInstance) -> None:
    instance = make_instance()
    ended = instance.run("check")
    assert ended.returncode == 0, ended.stdout
    assert "fault" not in ended.stdout
    shutil.rmtree(instance.folder("processed"))
    ended = instance.run("check")
    assert ended.returncode == 73
    assert f"fault   folder processed: {instance.folder('processed')} does not exist" in ended.stdout
    schema = json.loads(instance.run("check", "--schema").stdout)
    assert "folders" in schema["properties"]


@pytest.mark.parametrize(("kind", "what"), [("file", "is a file, not a folder"), ("link", "is a link to nothing")])
def test_check_names_what_is_in_place_of_the_inbox(make_instance: MakeInstance, kind: str, what: str) -> None:
    instance = make_instance()
    inbox = instance.folder("inbox")
    inbox.rmdir()
    if kind == "file":
        inbox.touch()
    else:
        inbox.symlink_to("nowhere")
    ended = instance.run("check")
    assert ended.returncode == 73
    assert f"folder inbox: {inbox} {what}" in ended.stdout
    assert "does not exist" not in ended.stdout


def test_deep_check_understands_a_sample_of_the_demo_model(make_instance: MakeInstance) -> None:
    ended = make_instance().run("check", "--deep")
    assert ended.returncode == 0, ended.stdout
    assert f'ok      test: demo on cpu as float32 heard "{MEMO_TEXT}"' in ended.stdout


def test_deep_check_compares_a_sample_of_the_user_with_its_text(make_instance: MakeInstance) -> None:
    instance, memo = make_instance(), str(SAMPLES / "memo.wav")
    one_wrong = MEMO_TEXT.replace("friday", "monday")
    ended = instance.run("check", "--deep", "--sample", memo, "--text", one_wrong)
    assert ended.returncode == 0, ended.stdout
    two_wrong = one_wrong.replace("doctor", "lawyer")
    ended = instance.run("check", "--deep", "--sample", memo, "--text", two_wrong)
    assert ended.returncode == 69
    assert "2 of 13 words wrong" in ended.stdout
    assert MEMO_TEXT in ended.stdout
    assert two_wrong in ended.stdout
    for words in (["--sample", memo], ["--deep", "--sample", memo], ["--deep", "--text", "words"]):
        assert instance.run("check", *words).returncode == 2


def test_real_model_is_checked_with_a_real_voice() -> None:
    folder = Path(daemon.__file__).parent / "samples"
    assert (folder / "jfk.flac").stat().st_size < 300_000
    assert "ask not what your country" in (folder / "jfk.txt").read_text()


def test_too_little_memory_is_reported_as_such(make_instance: MakeInstance, tmp_path: Path) -> None:
    # A model of 4 GB whose files are holes: everything about it is right but its contents.
    model = tmp_path / "model"
    shutil.copytree(checkpoint.find_folder("demo"), model)
    write_sparse_weights(model / "model.safetensors", 4_000_000_000)
    instance = make_instance(model={"path": str(model)})
    for words in ("check", f"transcribe {SAMPLES / 'memo.wav'}"):
        command = " ".join([*instance.command()[:3], words, "--config", str(instance.config)])
        ended = subprocess.run(
            ["bash", "-c", f"ulimit -v 1500000; {command}"], capture_output=True, text=True, check=False
        )
        told = ended.stdout + ended.stderr
        assert ended.returncode == 69, told
        assert "memory" in told
        assert "5.0 GB" in told
        assert "ulimit -v" in told
        assert "fetch" not in told
        assert "Traceback" not in told


@pytest.mark.parametrize("limit_kib", [850_000, 1_000_000])
def test_shortage_while_the_model_loads_ends_with_a_plain_message(make_instance: MakeInstance, limit_kib: int) -> None:
    """The weights would fit; the libraries around them do not, wherever in the load that comes out."""
    instance = make_instance()
    command = " ".join(
        [*instance.command()[:3], "transcribe", str(SAMPLES / "memo.wav"), "--config", str(instance.config)]
    )
    ended = subprocess.run(
        ["bash", "-c", f"ulimit -v {limit_kib}; exec {command}"],
        capture_output=True,
        text=True,
        check=False,
        env=environment(),
        timeout=120,  # it once did not end at all
    )
    assert ended.returncode == 69, ended.stderr
    assert "Too little memory for the model" in ended.stderr
    assert "ulimit -v" in ended.stderr
    assert "fetch" not in ended.stderr
    assert "Traceback" not in ended.stderr


def write_sparse_weights(path: Path, n_bytes: int) -> None:
    header = json.dumps({"weight": {"dtype": "F32", "shape": [n_bytes // 4], "data_offsets": [0, n_bytes]}}).encode()
    with path.open("wb") as file:
        file.write(len(header).to_bytes(8, "little") + header)
        file.truncate(8 + len(header) + n_bytes)


def run_python(code: str, *words: str, path: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1"}
    command = [sys.executable, "-c", textwrap.dedent(code), *words]
    return subprocess.run(command, capture_output=True, text=True, check=False, env=environment, cwd=cwd)


def make_foreign_package(folder: Path) -> Path:
    package = folder / "daemon"
    package.mkdir(parents=True)
    (package / "__init__.py").write_text("class DaemonContext: pass\n")
    (folder / "python_daemon-3.1.2.dist-info").mkdir()
    (folder / "python_daemon-3.1.2.dist-info" / "METADATA").write_text("Name: python-daemon\nVersion: 3.1.2\n")
    (folder / "python_daemon-3.1.2.dist-info" / "top_level.txt").write_text("daemon\n")
    return folder


_CHECK = "import sys; from daemon.cli.main import main; sys.argv = ['scribed', *sys.argv[1:]]; main()"


def test_foreign_package_named_daemon_on_the_import_path_is_reported(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    foreign, ours = make_foreign_package(tmp_path / "site"), Path(daemon.__file__).parent.parent
    config = ["check", "--config", str(make_instance().config)]
    ended = run_python(_CHECK, *config, path=f"{ours}:{foreign}", cwd=tmp_path)
    assert ended.returncode == 69, ended.stderr
    assert "python-daemon is installed" in ended.stdout
    assert "pip uninstall python-daemon" in ended.stdout
    assert f"{foreign / 'daemon' / '__init__.py'} is named `daemon` too; scribed's own comes first" in ended.stdout


def test_package_that_has_overwritten_ours_is_reported_by_every_command(tmp_path: Path) -> None:
    site = tmp_path / "site"
    shutil.copytree(Path(daemon.__file__).parent, site / "daemon", ignore=shutil.ignore_patterns("model", "*.flac"))
    (site / "daemon" / "__init__.py").write_text("class DaemonContext: pass\n")
    ended = run_python(_CHECK, "--help", path=str(site), cwd=tmp_path)
    assert ended.returncode == 69
    assert "another Python package named `daemon`" in ended.stderr
    assert "Traceback" not in ended.stderr


def test_checks_are_rows_of_one_registry() -> None:
    assert len({row.name for row in CHECKS}) == len(CHECKS)
    assert [row.name for row in CHECKS if row.is_deep] == ["test"]
