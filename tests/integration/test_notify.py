"""What a real daemon reports to systemd, from start to stop."""

from __future__ import annotations

import json
import shutil
import signal
import subprocess
from typing import TYPE_CHECKING

from daemon.checkpoint import find_folder
from tests.conftest import SAMPLES
from tests.integration.instance import wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance


def test_service_reports_its_state_to_systemd(make_instance: MakeInstance, heard: list[str], tmp_path: Path) -> None:
    figures = tmp_path / "scribed.prom"
    instance = make_instance(watch={"scan_s": 0.2}, logging={"names": "hashed"}, metrics={"textfile": str(figures)})
    instance.start()
    assert "scribed_up 1" in figures.read_text()
    wait_until(lambda: "READY=1" in heard, "the start is reported")
    loading = heard[: heard.index("READY=1")]
    assert "EXTEND_TIMEOUT_USEC=300000000" in loading
    assert any(line.startswith("STATUS=Loading demo") for line in loading)
    assert "STATUS=Trying the model with a test inference." in loading
    assert "WATCHDOG=1" not in loading
    wait_until(lambda: "WATCHDOG=1" in heard, "the watchdog is fed")

    instance.drop(SAMPLES / "meeting.flac")
    wait_until(lambda: "meeting.flac" in instance.names("processed"), "the recording is delivered")
    wait_until(lambda: "STATUS=idle, 0 waiting, 1 done today" in heard, "the delivery is reported")
    assert not any("meeting" in line for line in heard)  # names are hashed here too

    assert instance.process is not None
    heard.clear()
    instance.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "READY=1" in heard, "the reload is reported")
    told = [line for line in heard if line != "WATCHDOG=1"]
    assert told[0] == "RELOADING=1"
    assert told[1].startswith("MONOTONIC_USEC=")
    assert told[2] == "READY=1"

    assert instance.stop() == 0
    wait_until(lambda: "STOPPING=1" in heard, "the stop is reported")
    assert "scribed_up 0" in figures.read_text()
    assert "scribed_recording_audio_seconds_count 1" in figures.read_text()


def test_service_without_a_model_is_never_ready_and_says_so_in_status_txt(
    make_instance: MakeInstance, heard: list[str], tmp_path: Path
) -> None:
    instance = make_instance(model={"path": str(tmp_path / "nowhere")})
    assert instance.run("run").returncode == 69
    assert "READY=1" not in heard
    status = (instance.folder("outbox") / "STATUS.txt").read_text()
    assert "NEEDS ATTENTION" in status
    assert "There is no model at" in status
    assert "fetch-model" in status


def test_service_backs_off_after_failed_starts_and_loads_the_model_when_it_appears(
    make_instance: MakeInstance, heard: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    instance = make_instance(model={"path": str(model)}, watch={"scan_s": 0.2})
    record = instance.folder("state") / "starts.json"

    def start_after_many_failed_ones() -> None:
        assert instance.run("run").returncode == 69
        record.write_text(json.dumps(json.loads(record.read_text()) | {"n": 8}))
        heard.clear()
        with (instance.root / "log").open("ab") as stream:
            instance.process = subprocess.Popen(instance.command("run"), stdout=stream, stderr=stream)
        waiting = f"STATUS=There is no model at {model}."
        wait_until(
            lambda: any(line.startswith(waiting) and "The next attempt is at" in line for line in heard), "it waits"
        )
        wait_until(lambda: instance.status().get("faults"), "the status shows it")
        assert instance.status()["state"] == "loading"
        assert "The next attempt is at" in instance.status()["faults"][0]["remedy"]
        assert "EXTEND_TIMEOUT_USEC=300000000" in heard
        assert "engine.loading" not in instance.log

    start_after_many_failed_ones()
    assert instance.stop() == 0
    assert not record.exists()

    start_after_many_failed_ones()
    shutil.copytree(find_folder("demo"), model)
    wait_until(lambda: "READY=1" in heard, "the model is there, and it is ready")
    wait_until(lambda: instance.status()["faults"] == [], "the fault is gone")
    assert not record.exists()
    assert instance.stop() == 0
