"""`model.idle_unload_min` in the real daemon: unloaded, loaded again, and what happens when that is not possible."""

from __future__ import annotations

import json
import resource
import shutil
import signal
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

from daemon.checkpoint import find_folder
from tests.conftest import SAMPLES
from tests.integration.instance import wait_until
from tests.tiny_model import save_tiny_model

if TYPE_CHECKING:
    from tests.integration.instance import Instance
    from tests.integration.test_daemon import MakeInstance

SOON: dict[str, Any] = {"path": "demo", "device": "cpu", "idle_unload_min": 0.02}
UNLOADED = "scribed is running. The speech model is unloaded and will be loaded for the next recording."
SCAN: dict[str, Any] = {"settle_s": 0.5, "scan_s": 0.2}


def read_status_txt(instance: Instance) -> str:
    return (instance.folder("outbox") / "STATUS.txt").read_text()


def wait_for_state(instance: Instance, state: str) -> None:
    wait_until(lambda: instance.status().get("state") == state or not instance.is_running(), f"the state is {state}")
    assert instance.is_running(), instance.log


def wait_for_transcript(instance: Instance, stem: str) -> str:
    wait_until(lambda: f"{stem}.wav" in instance.names("processed") or not instance.is_running(), f"{stem} is done")
    assert instance.is_running(), instance.log
    text: str = instance.document(stem)["text"]
    return text


def test_model_is_unloaded_without_work_and_loaded_for_the_next_recording(
    make_instance: MakeInstance, heard: list[str], tmp_path: Path
) -> None:
    figures = tmp_path / "scribed.prom"
    instance = make_instance(model=SOON, watch=SCAN, metrics={"textfile": str(figures)})
    instance.start()
    texts = set()
    for stem, n_done in (("first", 0), ("second", 1)):  # the second time everything has been imported and used before
        wait_for_state(instance, "idle")
        model = instance.status()["model"]
        assert (model["name"], model["device"], model["loaded_at"]) == ("demo", "cpu", None)
        wait_until(lambda: read_status_txt(instance).startswith(UNLOADED), "STATUS.txt shows it")
        line = f"STATUS=idle, model unloaded, 0 waiting, {n_done} done today"
        wait_until(partial(heard.__contains__, line), "it is reported")
        instance.drop(SAMPLES / "memo.wav", f"{stem}.wav")
        texts.add(wait_for_transcript(instance, stem))
        assert "STATUS=Loading the model again." in heard
    assert len(texts) == 1
    assert texts != {""}
    wait_for_state(instance, "idle")
    wait_until(
        lambda: {"scribed_model_in_memory 0", "scribed_ready 1"} <= set(figures.read_text().splitlines()),
        "the metrics show it",
    )
    assert json.loads(instance.run("status", "--json").stdout)["state"] == "idle"
    assert "idle, model demo unloaded" in instance.run("status").stdout
    assert heard.count("READY=1") == 1
    assert instance.status()["faults"] == []

    instance.configure(instance.settings | {"output": {"formats": ["srt"]}})
    assert instance.process is not None
    instance.process.send_signal(signal.SIGHUP)
    wait_until(lambda: heard.count("READY=1") == 2, "the reload is reported")
    instance.drop(SAMPLES / "memo.wav", "third.wav")
    wait_until(lambda: "third.srt" in instance.names("outbox"), "the reload holds for the next one")
    wait_for_state(instance, "idle")
    heard.clear()
    wait_until(lambda: heard.count("WATCHDOG=1") > 1, "the watchdog is fed")
    assert instance.stop() == 0


def test_model_stays_in_memory_by_default(make_instance: MakeInstance) -> None:
    instance = make_instance(watch=SCAN)
    instance.start()
    loaded_at = instance.status()["model"]["loaded_at"]
    instance.drop(SAMPLES / "memo.wav")
    wait_for_transcript(instance, "memo")
    assert instance.status()["model"]["loaded_at"] == loaded_at
    assert "engine.unloading" not in instance.log


def expect_fault(instance: Instance, heard: list[str], what: str, remedy: str) -> None:
    """Wait until a fault is shown everywhere; the recording waits, and the service goes on."""
    wait_until(lambda: instance.status().get("faults") or not instance.is_running(), "the fault is shown")
    assert instance.is_running(), instance.log
    status = instance.status()
    assert [fault["what"] for fault in status["faults"]] == [what]
    assert remedy in status["faults"][0]["remedy"]
    assert "Recordings wait. The next attempt is at " in status["faults"][0]["remedy"]
    assert status["state"] == "loading"
    wait_until(lambda: f": {what}\n  What to do: {remedy}" in read_status_txt(instance), "STATUS.txt shows it")
    assert read_status_txt(instance).startswith("scribed is loading the speech model.")
    wait_until(lambda: any(line.startswith(f"STATUS={what}") for line in heard), "systemd receives it")
    wait_until(lambda: instance.status()["queue"]["waiting"] == ["memo.wav"], "the recording waits")
    assert instance.names("failed") == []
    heard.clear()
    wait_until(lambda: heard.count("WATCHDOG=1") > 1, "the watchdog is fed")


def test_recordings_wait_for_a_model_that_is_missing_when_it_is_loaded_again(
    make_instance: MakeInstance, heard: list[str], tmp_path: Path
) -> None:
    model = tmp_path / "model"
    shutil.copytree(find_folder("demo"), model)
    instance = make_instance(model=SOON | {"path": str(model)}, watch=SCAN)
    instance.start()
    wait_for_state(instance, "idle")
    model.rename(tmp_path / "elsewhere")
    instance.drop(SAMPLES / "memo.wav")
    expect_fault(instance, heard, f"There is no model at {model}.", "Fetch it with `sudo scribed fetch-model`")
    (tmp_path / "elsewhere").rename(model)
    assert wait_for_transcript(instance, "memo")
    wait_until(lambda: instance.status()["faults"] == [], "the fault is gone")
    wait_for_state(instance, "idle")
    assert instance.document("memo")["processing"]["attempt"] == 1
    assert instance.stop() == 0


def test_recordings_wait_while_other_programs_have_the_memory(
    make_instance: MakeInstance, heard: list[str], tmp_path: Path
) -> None:
    sizes: dict[str, Any] = {"hidden_size": 1024, "intermediate_size": 2048, "num_hidden_layers": 4, "head_dim": 64}
    model = save_tiny_model(tmp_path / "model", **sizes)
    n_bytes = (model / "model.safetensors").stat().st_size
    instance = make_instance(model=SOON | {"path": str(model)}, watch=SCAN)
    instance.start()
    wait_for_state(instance, "idle")
    assert instance.process is not None
    pid = instance.process.pid
    taken = int(Path(f"/proc/{pid}/statm").read_text().split()[0]) * resource.getpagesize()
    resource.prlimit(pid, resource.RLIMIT_AS, (taken + n_bytes // 2, resource.RLIM_INFINITY))
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: instance.status().get("faults"), "the fault is shown")
    what = instance.status()["faults"][0]["what"]
    assert what.startswith("Too little memory for the model: ")
    expect_fault(instance, heard, what, "Raise `ulimit -v` or LimitAS=.")
    resource.prlimit(pid, resource.RLIMIT_AS, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    wait_for_transcript(instance, "memo")
    wait_until(lambda: instance.status()["faults"] == [], "the fault is gone")
    assert instance.stop() == 0


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGKILL])
def test_end_while_the_model_is_loaded_again_loses_nothing(
    make_instance: MakeInstance, heard: list[str], number: signal.Signals
) -> None:
    instance = make_instance(model=SOON, watch=SCAN)
    instance.start()
    wait_for_state(instance, "idle")
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: "STATUS=Loading the model again." in heard, "it is being loaded")
    assert instance.process is not None
    instance.process.send_signal(signal.SIGHUP)
    assert instance.stop(number) == (0 if number == signal.SIGTERM else -number)
    assert instance.names("failed") == []
    instance.start()
    assert wait_for_transcript(instance, "memo")
    assert instance.document("memo")["processing"]["attempt"] == 1
    assert instance.stop() == 0
