"""`hooks.delivered` of a running daemon: a real program after real deliveries."""

from __future__ import annotations

import json
import os
import signal
import sys
from pathlib import Path
from typing import TYPE_CHECKING, Any

from daemon.journal import JOURNAL_NAME
from tests.conftest import SAMPLES
from tests.integration.instance import Instance, wait_until
from tests.unit.test_programs import REPORT, write_script

if TYPE_CHECKING:
    from collections.abc import Callable

    MakeInstance = Callable[..., Instance]

_STOP_S = 120.0  # on a busy machine; a program that held the stop up would do so for an hour


def note_runs(folder: Path, rest: str = "") -> Path:
    """Return a program that adds the name of its document to a file, then does the rest."""
    return write_script(folder / "program", f'printf "%s\\n" "${{1##*/}}" >>{folder}/runs\n{rest}')


def runs(folder: Path) -> list[str]:
    return (folder / "runs").read_text().split() if (folder / "runs").exists() else []


def settings(*command: str | Path, **others: Any) -> dict[str, Any]:  # noqa: ANN401  # as YAML has them
    return {"delivered": [str(word) for word in command], **others}


def test_hook_gets_the_json_document_and_the_job_and_nothing_of_the_daemon(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    (tmp_path / "report.py").write_text(REPORT)
    seen = tmp_path / "seen.json"
    instance = make_instance(hooks=settings(sys.executable, "-I", tmp_path / "report.py", seen))
    instance.start()
    instance.drop(SAMPLES / "memo.wav", "team/-x $(id) memo.wav")
    wait_until(lambda: seen.exists() and seen.read_text().endswith("}"), "the program has run")
    found = json.loads(seen.read_text())
    document = Path(found["argv"][1])
    assert document == instance.folder("outbox") / "team" / "-x $(id) memo.json"
    job_id = json.loads(document.read_text())["job_id"]
    environment = {name: value for name, value in found["environment"].items() if name != "LC_CTYPE"}
    assert environment == {"PATH": "/usr/local/bin:/usr/bin:/bin", "LANG": "C.UTF-8", "SCRIBED_JOB_ID": job_id}
    assert found["open"] == [0, 1, 2]
    assert found["streams"] == ["/dev/null"] * 3
    wait_until(lambda: "hook.finished" in instance.log, "it is logged")
    assert instance.status()["faults"] == []
    assert instance.stop(timeout_s=_STOP_S) == 0


def test_once_ends_when_the_hook_has_run_and_shows_its_failure(make_instance: MakeInstance, tmp_path: Path) -> None:
    program = note_runs(tmp_path, "exit 3")
    instance = make_instance(hooks=settings(program))
    instance.drop(SAMPLES / "memo.wav", "one.wav")
    instance.drop(SAMPLES / "memo.wav", "two.wav")
    assert instance.run("once").returncode == 0
    assert sorted(runs(tmp_path)) == ["one.json", "two.json"]
    text = (instance.folder("outbox") / "STATUS.txt").read_text()
    assert "NEEDS ATTENTION" in text
    assert "The program of hooks.delivered failed for " in text
    assert "exit code 3" in json.loads(instance.run("status", "--json").stdout)["faults"][0]["what"]
    assert instance.run("once").returncode == 0
    assert len(runs(tmp_path)) == 2
    program.unlink()
    checked = instance.run("check")
    assert f"fault   hook: there is no {program}" in checked.stdout
    assert checked.returncode != 0


def test_recordings_do_not_wait_for_a_hook_that_hangs(make_instance: MakeInstance, tmp_path: Path) -> None:
    program = note_runs(tmp_path, "sleep 1000")
    instance = make_instance(hooks=settings(program, timeout_s=3600))
    instance.start()
    for name in ("one.wav", "two.wav", "three.wav"):
        instance.drop(SAMPLES / "memo.wav", name)
        wait_until((instance.folder("processed") / name).exists, f"{name} is delivered")
    wait_until(lambda: runs(tmp_path), "the program runs")
    assert runs(tmp_path) == ["one.json"]
    assert instance.stop(timeout_s=_STOP_S) == 0


def test_stop_while_the_hook_hangs_is_quick_and_repeats_it(make_instance: MakeInstance, tmp_path: Path) -> None:
    program = note_runs(tmp_path, f"[ -e {tmp_path}/go ] || exec sleep 1000")
    instance = make_instance(hooks=settings(program, timeout_s=3600))
    instance.start()
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: runs(tmp_path), "the program runs")
    assert instance.stop(timeout_s=_STOP_S) == 0
    (tmp_path / "go").touch()
    instance.start()
    wait_until(lambda: "hook.finished" in instance.log, "the program has ended")
    assert runs(tmp_path) == ["memo.json", "memo.json"]
    assert instance.stop(timeout_s=_STOP_S) == 0
    instance.start()
    assert instance.stop(timeout_s=_STOP_S) == 0
    assert len(runs(tmp_path)) == 2


def test_kill_before_and_during_the_hook_repeats_it(make_instance: MakeInstance, tmp_path: Path) -> None:
    """Two deliveries: at the kill the program runs for the first, and has not been started for the second."""
    program = note_runs(tmp_path, f"echo $$ >>{tmp_path}/pids\n[ -e {tmp_path}/go ] || exec sleep 1000")
    instance = make_instance(hooks=settings(program, timeout_s=3600))
    instance.start()
    for name in ("one.wav", "two.wav"):
        instance.drop(SAMPLES / "memo.wav", name)
        wait_until((instance.folder("processed") / name).exists, f"{name} is delivered")
    wait_until((tmp_path / "pids").exists, "the program runs")
    instance.stop(signal.SIGKILL)
    os.kill(int((tmp_path / "pids").read_text()), signal.SIGKILL)  # under systemd it is killed with the daemon
    (tmp_path / "go").touch()
    instance.start()
    wait_until(lambda: instance.log.count("hook.finished") == 2, "both are done")
    assert runs(tmp_path) == ["one.json", "one.json", "two.json"]
    assert instance.names("outbox") == ["one.json", "one.txt", "two.json", "two.txt"]
    assert (instance.folder("state") / JOURNAL_NAME).exists()
    assert instance.stop(timeout_s=_STOP_S) == 0


def test_reload_sets_and_unsets_the_hook(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    instance.start()
    assert instance.process is not None
    names = list[str]()
    for command in (None, note_runs(tmp_path), None):
        instance.configure({"hooks": {"delivered": command and [str(command)]}})
        n_before = instance.log.count("config.reloaded")
        instance.process.send_signal(signal.SIGHUP)
        wait_until(lambda n=n_before: instance.log.count("config.reloaded") > n, "it is applied")  # type: ignore[misc]  # mypy cannot type a lambda's default
        names.append(f"memo{len(names)}")
        instance.drop(SAMPLES / "memo.wav", f"{names[-1]}.wav")
        wait_until((instance.folder("processed") / f"{names[-1]}.wav").exists, "it is delivered")
        if command is not None:
            wait_until(lambda: "hook.finished" in instance.log, "the program has run")
    assert instance.stop(timeout_s=_STOP_S) == 0
    assert runs(tmp_path) == ["memo1.json"]
