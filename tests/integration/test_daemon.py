"""A running daemon, as its users see it: real files in, real words out."""

from __future__ import annotations

import json
import shutil
import signal
import sqlite3
import subprocess
from typing import TYPE_CHECKING, Any

import av
import numpy as np
import pytest
import soundfile

from daemon.text import count_word_errors
from tests.conftest import SAMPLES
from tests.integration.instance import Instance, wait_until
from tests.media import read_audio, write_amr

if TYPE_CHECKING:
    from collections.abc import Callable
    from pathlib import Path

    MakeInstance = Callable[..., Instance]

# The ffmpeg options for each format; amr is telephone audio: 8 kHz, 12 kbit/s.
_ENCODINGS = {
    "wav": ["-c:a", "pcm_s16le"],
    "flac": ["-c:a", "flac"],
    "mp3": ["-c:a", "libmp3lame", "-b:a", "96k"],
    "ogg": ["-c:a", "libvorbis"],
    "opus": ["-c:a", "libopus", "-b:a", "48k"],
    "m4a": ["-c:a", "aac", "-b:a", "96k"],
    "mp4": ["-f", "lavfi", "-i", "color=c=black:s=64x64:r=5", "-c:a", "aac", "-c:v", "mpeg4", "-shortest"],
    "webm": ["-c:a", "libopus", "-f", "webm"],
}
_MAX_WORD_ERRORS = 0.1


def encode(source: Path, target: Path) -> None:
    if target.suffix == ".amr":
        write_amr(target, *read_audio(source))
        return
    options = _ENCODINGS[target.suffix[1:]]
    subprocess.run(["ffmpeg", "-v", "error", "-y", "-i", source, *options, target], check=True)


def has_right_words(reference: str, text: str) -> bool:
    n_errors, n_words = count_word_errors(reference, text)
    return n_errors <= _MAX_WORD_ERRORS * n_words


def make_long(target: Path, n_times: int) -> None:
    """Write the meeting several times over: a recording of minutes, with pauses."""
    samples, rate = soundfile.read(SAMPLES / "meeting.flac", dtype="int16")
    soundfile.write(target, np.tile(samples, n_times), rate)


def is_done(instance: Instance, name: str) -> bool:
    return (instance.folder("processed") / name).exists()


def test_every_format_is_transcribed_with_the_right_words(
    make_instance: MakeInstance, tmp_path: Path, references: dict[str, str]
) -> None:
    instance = make_instance(output={"formats": ["txt", "json", "srt", "vtt"]})
    instance.start()
    names = [f"memo-{ending}.{ending}" for ending in (*_ENCODINGS, "amr")]
    for name in names:
        encode(SAMPLES / "memo.wav", tmp_path / name)
        instance.drop(tmp_path / name)
    wait_until(lambda: len(instance.names("processed")) + len(instance.names("failed")) == len(names), "all are done")

    assert instance.names("processed") == sorted(names)
    assert instance.names("failed") == []
    assert instance.names("inbox") == []
    assert instance.claimed() == []
    heard = {name: instance.document(name.partition(".")[0])["text"] for name in names}
    wrong = {name: text for name, text in heard.items() if not has_right_words(references["memo.wav"], text)}
    assert not wrong
    for name in names:
        stem = name.partition(".")[0]
        document = instance.document(stem)
        assert document["schema"] == "scribed.transcript/1"
        assert document["complete"] is True
        assert document["source"]["name"] == name
        assert document["language"] == "English"
        text = (instance.folder("outbox") / f"{stem}.txt").read_text()
        assert text.split() == document["text"].split()
        assert "-->" in (instance.folder("outbox") / f"{stem}.srt").read_text()
        assert (instance.folder("outbox") / f"{stem}.vtt").read_text().startswith("WEBVTT")
    assert instance.stop() == 0


def test_kill_mid_recording_leaves_each_in_one_place_with_one_transcript(
    make_instance: MakeInstance, tmp_path: Path, references: dict[str, str]
) -> None:
    instance = make_instance(model={"slots": 1})  # chunk after chunk, so that some are done before others
    make_long(tmp_path / "long.flac", 2)
    instance.start()
    instance.drop(tmp_path / "long.flac")
    instance.drop(SAMPLES / "memo.wav")
    instance.drop(SAMPLES / "meeting.flac")
    wait_until(lambda: n_chunks_of(instance, "long.flac") >= 2, "the long recording has two chunks done")
    instance.stop(signal.SIGKILL)
    assert [path.name for path in instance.claimed()].count("long.flac") == 1

    instance.start()
    names = ["long.flac", "meeting.flac", "memo.wav"]
    wait_until(lambda: instance.names("processed") == names, "all are delivered after the restart")
    assert instance.names("failed") == []
    assert instance.names("inbox") == []
    assert instance.claimed() == []
    assert instance.names("outbox") == sorted(f"{n.partition('.')[0]}.{e}" for n in names for e in ("json", "txt"))
    assert has_right_words(references["memo.wav"], instance.document("memo")["text"])
    assert "job.resumed" in instance.log
    instance.drop(tmp_path / "long.flac", "undisturbed.flac")
    wait_until(lambda: is_done(instance, "undisturbed.flac"), "the same recording is delivered without a kill")
    assert instance.document("long")["text"] == instance.document("undisturbed")["text"]


def test_stop_within_a_long_recording_resumes_at_the_next_chunk(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(model={"slots": 1})  # chunk after chunk, so that some are done before others
    make_long(tmp_path / "long.flac", 2)
    instance.start()
    instance.drop(tmp_path / "long.flac")
    wait_until(lambda: n_chunks_of(instance, "long.flac") >= 2, "the long recording has two chunks done")
    assert instance.stop(timeout_s=10.0) == 0
    n_done = n_chunks_of(instance, "long.flac")
    assert n_done >= 2
    assert instance.run("status", "--json").returncode == 0

    instance.start()
    wait_until(lambda: is_done(instance, "long.flac"), "the long recording is delivered")
    assert f"n_chunks={n_done}" in next(line for line in instance.log.splitlines() if "job.resumed" in line)
    assert instance.document("long")["processing"]["attempt"] == 1  # an orderly stop is not an attempt
    assert n_chunks_of(instance, "long.flac") == 0  # text is kept only until delivery


def n_chunks_of(instance: Instance, name: str) -> int:
    """Return how many finished chunks of a recording the journal has."""
    path = instance.folder("state") / "journal.sqlite3"
    if not path.exists():
        return 0
    db = sqlite3.connect(path)
    try:
        query = "SELECT count(*) FROM chunks JOIN jobs USING (job_id) WHERE path = ?"
        return int(db.execute(query, (name.encode(),)).fetchone()[0])
    finally:
        db.close()


def test_files_that_are_not_audio_move_to_failed_with_a_reason_and_the_rest_is_delivered(
    make_instance: MakeInstance, tmp_path: Path
) -> None:
    instance = make_instance()
    secret = tmp_path / "secret.wav"
    shutil.copyfile(SAMPLES / "memo.wav", secret)
    bad = {
        "byte.wav": b"R",
        "text.mp3": b"these are words, not audio\n" * 100,
        "playlist.mp3": f"#EXTM3U\n#EXTINF:9,\n{secret}\n".encode(),
        "concat.wav": f"ffconcat version 1.0\nfile '{secret}'\n".encode(),
        "archive.m4a": b"PK\x03\x04" + bytes(5000),
        "minutes.docx": b"PK\x03\x04" + bytes(5000),
        "header.wav": (SAMPLES / "memo.wav").read_bytes()[:44],
    }
    for name, content in bad.items():
        (instance.folder("inbox") / name).write_bytes(content)
    instance.start()
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: is_done(instance, "memo.wav"), "the good recording is delivered")
    wait_until(lambda: len(instance.names("failed")) == 2 * len(bad), "the others are in failed")

    assert instance.names("failed") == sorted([*bad, *(f"{name}.error.txt" for name in bad)])
    for name in bad:
        note = (instance.folder("failed") / f"{name}.error.txt").read_text()
        assert "What was wrong: " in note
        assert "What to do: " in note
        assert "Traceback" not in note
    assert instance.names("outbox") == ["memo.json", "memo.txt"]
    wait_until(lambda: {failed["name"] for failed in instance.status()["failed"]} == set(bad), "the status names them")
    status_txt = instance.folder("outbox") / "STATUS.txt"
    wait_until(lambda: "7 failed" in status_txt.read_text(), "STATUS.txt, written after status.json, counts them")
    assert "text.mp3" in status_txt.read_text()


@pytest.mark.parametrize("sound", ["silence", "hum", "noise"])
def test_recording_without_speech_gives_an_empty_transcript_that_says_so(
    make_instance: MakeInstance, sound: str
) -> None:
    instance = make_instance()
    times = np.arange(8 * 16_000) / 16_000
    rng = np.random.default_rng(7)
    samples = {
        "silence": np.zeros_like(times),
        "hum": 0.3 * np.sin(2 * np.pi * 50 * times) + 0.1 * np.sin(2 * np.pi * 150 * times),
        "noise": 0.05 * rng.standard_normal(len(times)),
    }[sound]
    soundfile.write(instance.folder("inbox") / f"{sound}.wav", samples, 16_000)
    assert instance.run("once").returncode == 0
    document = instance.document(sound)
    assert document["text"] == ""
    assert document["segments"] == []
    assert document["language"] is None
    assert document["complete"] is True
    assert document["coverage"]["speech_s"] == document["coverage"]["transcribed_s"]
    assert (instance.folder("outbox") / f"{sound}.txt").read_bytes() == b""


def test_recordings_with_equal_names_get_documents_of_their_own(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance()
    encode(SAMPLES / "memo.wav", tmp_path / "talk.mp3")
    instance.start()
    for source in (SAMPLES / "memo.wav", tmp_path / "talk.mp3", SAMPLES / "memo.wav"):
        n_before = len(instance.names("processed"))
        instance.drop(source, f"talk{source.suffix}")
        wait_until(lambda n=n_before: len(instance.names("processed")) > n, f"{source.name} is delivered")  # type: ignore[misc]  # mypy cannot type a lambda's default
    instance.drop(SAMPLES / "memo.wav", "client/talk.wav")
    instance.drop(SAMPLES / "memo.wav", "-rf \U0001f3a4.WAV")
    wait_until(lambda: len(instance.names("processed")) == 5, "all are delivered")
    stems = {name.rpartition(".")[0] for name in instance.names("outbox")}
    assert stems == {"talk", "talk.mp3", "talk.wav", "client/talk", "-rf \U0001f3a4"}
    assert instance.names("failed") == []


def test_copies_of_a_recording_name_the_job_that_came_first(make_instance: MakeInstance) -> None:
    instance = make_instance()
    together = ("memo", "memo (conflicted copy)")
    for stem in together:
        instance.drop(SAMPLES / "memo.wav", f"{stem}.wav")
    instance.drop(SAMPLES / "reminder.mp3")
    instance.start()
    wait_until(lambda: len(instance.names("processed")) == 3, "all are delivered")
    documents = [instance.document(stem) for stem in together]
    (first,) = (each["job_id"] for each in documents if each["source"]["duplicate_of"] is None)
    assert {each["source"]["duplicate_of"] for each in documents} == {None, first}
    assert instance.document("reminder")["source"]["duplicate_of"] is None
    assert instance.stop() == 0
    instance.start()  # what came first is known after a restart, too
    instance.drop(SAMPLES / "memo.wav", "memo.sync-conflict-20261127-101500-ABCDEFG.wav")
    wait_until(lambda: len(instance.names("processed")) == 4, "the third copy is delivered")
    late = instance.document("memo.sync-conflict-20261127-101500-ABCDEFG")
    assert late["source"]["duplicate_of"] == first


def test_hotwords_and_settings_of_the_nearest_folder_apply(make_instance: MakeInstance) -> None:
    instance = make_instance()
    client = instance.folder("inbox") / "client"
    client.mkdir()
    (client / "scribed.yaml").write_text("transcribe: {language: English}\noutput: {formats: [srt]}\n")
    (client / "memo.hotwords.txt").write_text("budget\nmeeting\n")
    shutil.copyfile(SAMPLES / "memo.wav", client / "memo.wav")
    broken = instance.folder("inbox") / "broken"
    broken.mkdir()
    (broken / "scribed.yaml").write_text("output: {formats: [parchment]}\n")
    shutil.copyfile(SAMPLES / "memo.wav", broken / "memo.wav")
    assert instance.run("once").returncode == 0
    assert instance.names("outbox") == ["broken/memo.json", "broken/memo.txt", "client/memo.srt"]
    assert instance.names("processed") == ["broken/memo.wav", "client/memo.hotwords.txt", "client/memo.wav"]
    assert instance.names("inbox") == ["broken/scribed.yaml", "client/scribed.yaml"]
    (note,) = instance.document("broken/memo")["audio"]["notes"]
    assert note.startswith("settings were not used: broken/scribed.yaml: output.formats (line 1): invalid value")
    assert "NEEDS ATTENTION" in (instance.folder("outbox") / "STATUS.txt").read_text()
    assert "The settings in broken/scribed.yaml" in (instance.folder("outbox") / "STATUS.txt").read_text()


def test_name_with_a_language_keeps_its_whole_stem(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.drop(SAMPLES / "memo.wav", "memo.en.wav")
    assert instance.run("once").returncode == 0
    assert instance.names("outbox") == ["memo.en.json", "memo.en.txt"]
    assert instance.document("memo.en")["language"] == "English"
    assert instance.document("memo.en")["audio"]["notes"] == [
        "the language, English, is taken from the name of the file"
    ]


def test_second_instance_is_refused(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.start()
    second = instance.run("once")
    assert second.returncode == 75
    assert "Another scribed instance is already using" in second.stderr
    assert "Traceback" not in second.stderr
    assert instance.stop(signal.SIGINT) == 130


def test_cancelled_recording_moves_to_failed_and_can_be_retried(make_instance: MakeInstance, tmp_path: Path) -> None:
    instance = make_instance(model={"slots": 1})  # chunk after chunk, so that some are done before others
    make_long(tmp_path / "long.flac", 3)
    instance.start()
    instance.drop(tmp_path / "long.flac")
    wait_until(lambda: n_chunks_of(instance, "long.flac") >= 1, "the recording is in progress")
    assert instance.run("cancel", "long.flac").returncode == 0
    wait_until(lambda: instance.names("failed") == ["long.flac", "long.flac.error.txt"], "it is in failed")
    assert "cancelled" in (instance.folder("failed") / "long.flac.error.txt").read_text()
    assert instance.run("cancel", "long.flac").returncode == 1

    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("failed") / "long.flac")  # repaired, let us say
    assert instance.run("retry", "long.flac").returncode == 0
    wait_until(lambda: is_done(instance, "long.flac"), "it is delivered at the second try")
    assert instance.names("failed") == []
    assert instance.run("retry", "long.flac").returncode == 1


def test_reload_applies_what_it_can_and_keeps_the_old_settings_when_broken(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.start()
    instance.configure({"output": {"formats": ["srt"]}, "segment": {"max_chunk_s": 20}})
    assert instance.process is not None
    instance.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "config.reloaded" in instance.log, "the configuration is read again")
    wait_until(lambda: instance.status()["faults"], "the change that needs a restart is shown")
    assert "segment.max_chunk_s" in json.dumps(instance.status()["faults"])
    instance.config.write_text("output: {formats: 5}\n")
    instance.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "config.refused" in instance.log, "the broken configuration is refused")
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: is_done(instance, "memo.wav"), "the recording is delivered")
    assert instance.names("outbox") == ["memo.srt"]


def test_reload_applies_the_mode_and_folders_of_documents(make_instance: MakeInstance) -> None:
    instance = make_instance()
    instance.start()
    instance.configure({"output": {"mode": "0640", "mirror_folders": False}})
    assert instance.process is not None
    instance.process.send_signal(signal.SIGHUP)
    wait_until(lambda: "config.reloaded" in instance.log, "the configuration is read again")
    instance.drop(SAMPLES / "memo.wav", "court/memo.wav")
    (instance.folder("inbox") / "words.wav").write_text("no sound at all")
    wait_until(lambda: is_done(instance, "memo.wav"), "the recording is delivered")
    wait_until(lambda: instance.names("failed"), "the other moves to failed")
    for document in (instance.folder("outbox") / "memo.txt", instance.folder("failed") / "words.wav.error.txt"):
        assert document.stat().st_mode & 0o777 == 0o640
    assert instance.status()["faults"] == []


def test_clips_are_in_the_page_of_a_recording_without_pauses(make_instance: MakeInstance) -> None:
    instance = make_instance(
        output={"formats": ["json", "html"], "clips": True}, segment={"max_chunk_s": 5, "overlap_s": 2, "vad": "off"}
    )
    instance.start()
    instance.drop(SAMPLES / "memo.wav")
    wait_until(lambda: is_done(instance, "memo.wav"), "the memo is done")
    document = json.loads((instance.folder("outbox") / "memo.json").read_bytes())
    assert any(segment["flags"] for segment in document["segments"])
    assert '"data":"data:audio/mpeg;base64,' in (instance.folder("outbox") / "memo.html").read_text()


def test_listening_copy_lies_next_to_the_documents_and_the_page_knows_it(make_instance: MakeInstance) -> None:
    instance = make_instance(output={"formats": ["json", "html"], "listening_copy": "m4a"})
    instance.start()
    shutil.copyfile(SAMPLES / "memo.wav", instance.folder("inbox") / "memo.wav")
    wait_until(lambda: is_done(instance, "memo.wav"), "the memo is done")
    assert instance.names("outbox") == ["memo.html", "memo.json", "memo.listen.m4a"]
    container: Any
    with av.open(str(instance.folder("outbox") / "memo.listen.m4a")) as container:
        assert container.duration / av.time_base == pytest.approx(6.1, abs=0.1)
        assert container.metadata["title"] == "memo"
    page = (instance.folder("outbox") / "memo.html").read_text()
    assert '"listening_copies":["listen.m4a"]' in page
    assert '"audio_folders":["../processed","."]' in page
