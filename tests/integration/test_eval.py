"""`scribed eval` as a process, with the demo model."""

from __future__ import annotations

import json
import shutil
import signal
import stat
import subprocess
from typing import TYPE_CHECKING, Any

import pytest

from daemon.cli.eval import refuse_busy_gpu
from daemon.config import ModelSettings
from daemon.errors import EngineUnavailableError
from daemon.status.heartbeat import sign_of_life
from daemon.status.snapshot import SNAPSHOT_NAME, Model, Snapshot, as_dict
from tests import media
from tests.conftest import SAMPLES
from tests.integration.instance import environment, wait_until

if TYPE_CHECKING:
    from pathlib import Path

    from tests.integration.test_daemon import MakeInstance


@pytest.fixture
def talks(tmp_path: Path, references: dict[str, str]) -> Path:
    """Return a folder of two recordings with the words that are spoken in them."""
    folder = tmp_path / "talks"
    folder.mkdir()
    for name in ("memo.wav", "reminder.mp3"):
        shutil.copy(SAMPLES / name, folder / name)
        (folder / f"{name}.ref.txt").write_text(references[name].title() + ".")
    return folder


def test_known_recordings_are_measured_and_compared(make_instance: MakeInstance, talks: Path, tmp_path: Path) -> None:
    instance = make_instance()
    shutil.copy(talks / "memo.wav", talks / "quiet.wav")
    (talks / "quiet.wav.ref.txt").write_text("")
    (talks / "broken.wav").write_bytes(b"RIFF")
    (talks / "broken.ref.txt").write_text("hello")
    page = tmp_path / "report.html"
    words = ["eval", str(talks), "--json", "--compare", "preprocess.highpass_hz=0", "--html", str(page)]
    ended = instance.run(*words)
    assert ended.returncode == 1, ended.stderr
    assert "broken.wav" in ended.stderr
    report = json.loads(ended.stdout)
    assert [arm["name"] for arm in report["arms"]] == ["as configured", "preprocess.highpass_hz=0"]
    rows = {row["name"]: row for row in report["arms"][0]["recordings"]}
    assert set(rows) == {"memo.wav", "reminder.mp3", "quiet.wav"}
    assert rows["memo.wav"]["wer"] < 0.2
    assert rows["quiet.wav"]["wer"] is None
    assert rows["quiet.wav"]["insertions"] > 5
    assert [one["name"] for one in report["failed"]] == ["broken.wav"]
    assert report["arms"][1]["difference"]["verdict"] == "too few"
    assert "Content-Security-Policy" in page.read_text()
    assert stat.S_IMODE(page.stat().st_mode) & 0o007 == 0
    assert list((instance.folder("cache") / "eval").iterdir()) == []
    again = instance.run(*words)
    assert again.returncode == 73
    assert "report.html already exists" in again.stderr


def mean_confidence(document: dict[str, Any]) -> float:
    words = [word["confidence"] for segment in document["segments"] for word in segment["words"]]
    return float(sum(words) / len(words))


def test_measured_confidence_is_in_later_documents(
    make_instance: MakeInstance, references: dict[str, str], tmp_path: Path
) -> None:
    instance = make_instance(output={"formats": ["json"]})
    # Every fifth word of these references is not spoken, and the model cannot know: it is sure of them all.
    words = references["memo.wav"].split()
    text = " ".join("other" if at % 5 == 0 else word for at, word in enumerate(words))
    samples, rate_hz = media.read_audio(SAMPLES / "memo.wav")
    talks = tmp_path / "talks"
    talks.mkdir()
    for number in range(10):
        media.write_audio(talks / f"{number}.wav", samples * (1 - 0.05 * number), rate_hz)
        (talks / f"{number}.ref.txt").write_text(text)
    recording = str(SAMPLES / "memo.wav")

    def transcribed() -> dict[str, Any]:
        ended = instance.run("transcribe", recording, "-f", "json")
        assert ended.returncode == 0, ended.stderr
        document: dict[str, Any] = json.loads(ended.stdout)
        return document

    before = transcribed()
    assert before["calibration"] is None
    ended = instance.run("eval", str(talks), "--json")
    assert ended.returncode == 0, ended.stderr
    fit = json.loads(ended.stdout)["calibration"]
    assert fit["reason"] is None
    (stored,) = instance.folder("state").glob("calibration-*")
    assert f"Documents show calibrated confidence from now on: {stored}" in ended.stderr
    assert not {"other", "invoice", "memo"} & set(stored.read_text().split('"'))
    after = transcribed()
    assert after["text"] == before["text"]
    assert after["calibration"]["words"] == fit["n_words"]
    right = 1 - fit["n_wrong"] / fit["n_words"]
    assert abs(mean_confidence(after) - right) < 0.05 < abs(mean_confidence(before) - right)
    shutil.copy(recording, instance.folder("inbox") / "memo.wav")
    assert instance.run("once").returncode == 0
    delivered = json.loads((instance.folder("outbox") / "memo.json").read_text())
    assert delivered["calibration"] == after["calibration"]
    assert delivered["segments"][0]["confidence"] == pytest.approx(after["segments"][0]["confidence"], abs=0.01)


def test_interrupted_measurement_goes_on_where_it_stopped(
    make_instance: MakeInstance, references: dict[str, str], tmp_path: Path
) -> None:
    instance = make_instance(segment={"max_chunk_s": 5, "overlap_s": 1})
    talks = tmp_path / "talks"
    talks.mkdir()
    shutil.copy(SAMPLES / "meeting.flac", talks / "long.flac")
    words = references["meeting.flac"].split()
    (talks / "long.ref.txt").write_text(" ".join("other" if at % 5 == 0 else word for at, word in enumerate(words)))
    command = instance.command("eval", str(talks), "--json")
    texts = instance.folder("cache") / "eval"
    process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env=environment(), text=True)
    wait_until(lambda: process.poll() is not None or any(texts.glob("*")), "the first text is kept")
    process.send_signal(signal.SIGTERM)
    _, errors = process.communicate()
    assert process.returncode == 130, errors
    assert "goes on where it stopped" in errors
    (kept,) = texts.iterdir()
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600
    lines = [line for line in kept.read_text().splitlines() if line]
    # What is kept is used: change it, and the page has the other text.
    start, stop, said = json.loads(lines[0])
    said["text"] = f"xylophone {said['text']}"
    kept.write_text("\n".join([json.dumps([start, stop, said]), *lines[1:]]) + "\n")
    page = tmp_path / "report.html"
    ended = instance.run("eval", str(talks), "--html", str(page), "--no-calibrate")
    assert ended.returncode == 0, ended.stderr
    assert "calibrated confidence" in page.read_text()  # there is a curve, which this user does not want in documents
    assert list(instance.folder("state").glob("calibration-*")) == []
    assert "xylophone" in page.read_text()
    assert list(texts.iterdir()) == []


def test_wrong_words_end_before_the_model_is_loaded(make_instance: MakeInstance, talks: Path, tmp_path: Path) -> None:
    instance = make_instance()
    for code, words in (
        (2, [str(tmp_path / "missing")]),
        (2, [str(SAMPLES / "memo.wav")]),
        (2, [str(talks), "--normalize", "some"]),
        (2, [str(talks), "--compare", "output.mode=0660"]),
        (78, [str(talks), "--compare", "preprocess.highpass_hz=loud"]),
        (69, [str(talks), "--compare", f"model.path={tmp_path / 'missing'}"]),
        (73, [str(talks), "--html", str(talks / "memo.wav"), "--force"]),
        (73, [str(talks), "--html", str(talks / "memo.wav.ref.txt"), "--force"]),
        (2, [str(talks), "--html", str(tmp_path / "missing/report.html")]),
    ):
        ended = instance.run("eval", *words)
        assert ended.returncode == code, ended.stderr
        assert ended.stderr.startswith("scribed: ")
        assert "Traceback" not in ended.stderr
        assert not list((instance.folder("cache") / "eval").glob("*"))


@pytest.mark.parametrize(
    ("held", "wanted", "is_refused"),
    [
        ("cuda:0", "auto", True),
        ("cuda:0", "cuda", True),
        ("cuda:0", "cuda:0", True),
        ("cuda:0", "cuda:1", False),
        ("cuda:0", "cpu", False),
        ("cpu", "auto", False),
    ],
)
def test_running_service_on_the_same_gpu_is_named(held: str, wanted: str, tmp_path: Path, *, is_refused: bool) -> None:
    snapshot = Snapshot("ready", "2026-01-01T00:00:00Z", Model("m", held, "2026-01-01T00:00:00Z"))
    path = tmp_path / SNAPSHOT_NAME
    path.write_text(json.dumps(as_dict(snapshot) | sign_of_life()))
    settings = ModelSettings(device=wanted)
    if is_refused:
        with pytest.raises(EngineUnavailableError, match="occupies the GPU") as caught:
            refuse_busy_gpu(tmp_path, settings)
        assert caught.value.exit_code == 69
        assert "systemctl stop scribed" in caught.value.remedy
    else:
        refuse_busy_gpu(tmp_path, settings)
    path.write_text(json.dumps(as_dict(snapshot)))  # a service that has crashed holds nothing
    refuse_busy_gpu(tmp_path, settings)
