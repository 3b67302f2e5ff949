"""`hooks.delivered` under the unit: where its program can be, and what it can do there."""

from __future__ import annotations

import json

import pytest

from tests.conftest import SAMPLES
from tests.system.unit import TIMEOUT_S, Unit, wait_until

pytestmark = [pytest.mark.systemd, pytest.mark.timeout(TIMEOUT_S)]

PROGRAM = """\
#!/opt/scribed/venv/bin/python -I
import json, os, pwd, socket, sys

def fails(action, *words):
    try:
        action(*words)
    except OSError as error:
        return type(error).__name__
    return ""

seen = {
    "document": sys.argv[1],
    "text": json.load(open(sys.argv[1]))["text"],
    "job": os.environ["SCRIBED_JOB_ID"],
    "user": pwd.getpwuid(os.getuid()).pw_name,
    "inet": fails(socket.socket, socket.AF_INET, socket.SOCK_STREAM),
    "interfaces": [line.split(":")[0].strip() for line in open("/proc/net/dev")][2:],
    "write to etc": fails(open, "/etc/scribed/made", "w"),
    "log": fails(socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM).connect, "/dev/log"),
}
with open(f"/var/lib/scribed/seen-{os.path.basename(sys.argv[1])}", "w") as stream:
    json.dump(seen, stream)
"""


def install(unit: Unit, path: str) -> None:
    unit.box.write(path, PROGRAM)
    unit.box.do("chmod", "0755", path)
    unit.configure(hooks={"delivered": [path]})


def test_hook_runs_in_the_sandbox_of_the_unit(unit: Unit) -> None:
    install(unit, "/usr/local/bin/file-it")
    unit.start()
    unit.drop(SAMPLES / "memo.wav", "filed.wav")
    document = unit.wait_for("filed.wav")
    wait_until(lambda: unit.entries("SCRIBED_EVENT=hook.finished"), "the program has run")
    seen = json.loads(unit.path("state", "seen-filed.json").read_text())
    assert seen.pop("inet") in {"OSError", "PermissionError"}
    assert seen.pop("write to etc") in {"OSError", "PermissionError"}
    assert seen == {
        "document": "/srv/scribed/outbox/filed.json",
        "text": document["text"],
        "job": document["job_id"],
        "user": "scribed",
        "interfaces": ["lo"],
        "log": "",
    }
    (entry,) = unit.entries("SCRIBED_EVENT=hook.finished", f"SCRIBED_JOB_ID={document['job_id']}")
    assert entry["SCRIBED_PATH"] == "filed.wav"
    checked = unit.box.run("scribed", "check").stdout
    assert "ok      hook: /usr/local/bin/file-it" in checked
    assert "NoExecPaths" not in checked


def test_hook_that_the_unit_does_not_execute_is_named_and_runs_once_it_is_allowed(unit: Unit) -> None:
    install(unit, "/etc/scribed/file-it")
    assert "keeps the service from executing /etc/scribed/file-it" in unit.box.run("scribed", "check").stdout
    unit.start()
    unit.drop(SAMPLES / "memo.wav", "late.wav")
    unit.wait_for("late.wav")
    wait_until(lambda: unit.status()["faults"], "the status shows it")
    assert "cannot be started (Permission denied): /etc/scribed/file-it" in unit.status()["faults"][0]["what"]
    unit.drop_in("[Service]\nExecPaths=/etc/scribed/file-it\n")
    assert "keeps the service from executing" not in unit.box.run("scribed", "check").stdout
    unit.stop()
    unit.start()
    wait_until(lambda: unit.path("state", "seen-late.json").exists(), "the program has run")
    wait_until(lambda: not unit.status()["faults"], "nothing is wrong any more")
