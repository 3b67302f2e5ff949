"""`scribed.yaml` in folders of the inbox."""

from __future__ import annotations

import os
from typing import TYPE_CHECKING

import pytest

from daemon import config
from daemon.config import Config, Output, Preprocess, RecordingSettings, Transcribe
from daemon.config.recording import FOLDER_KEYS
from daemon.config.schema import LATER
from daemon.display import shown_name
from daemon.errors import ConfigError
from daemon.text.corrections import Correction
from tests.configs import write

if TYPE_CHECKING:
    from pathlib import Path

OUTER = RecordingSettings.of(Config())


def test_nearest_folder_wins_key_by_key(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de, hotwords: [a, b]}\noutput: {timestamps: true}\n", "scribed.yaml")
    write(tmp_path, "transcribe: {hotwords: [c]}\npreprocess: {highpass_hz: 0}\n", "x/scribed.yaml")
    write(
        tmp_path,
        "transcribe: {language: auto}\noutput: {formats: [vtt]}\npreprocess: {normalize: off}\n",
        "x/y/scribed.yaml",
    )
    (tmp_path / "x/y/z").mkdir()
    inbox, faults = config.read_folder_settings(tmp_path, "", OUTER)
    assert inbox == RecordingSettings(
        audio=OUTER.audio,
        asr=Transcribe(language="German", hotwords=("a", "b")),
        output=Output(timestamps=True),
    )
    assert faults == ()
    deep, faults = config.read_folder_settings(tmp_path, "x/y/z", OUTER)
    assert deep == RecordingSettings(
        audio=Preprocess(highpass_hz=0, normalize="off"),
        asr=Transcribe(hotwords=("c",)),
        output=Output(formats=("vtt",), timestamps=True),
    )
    assert faults == ()
    assert config.read_folder_settings(tmp_path, "x/gone", OUTER)[0].asr.hotwords == ("c",)


def test_outer_settings_hold_without_a_file(tmp_path: Path) -> None:
    outer = RecordingSettings(
        audio=Preprocess(highpass_hz=120, normalize="loudness"),
        asr=Transcribe(language="Czech", hotwords=("x",)),
        output=Output(formats=("srt",), timestamps=True),
    )
    write(tmp_path, "transcribe:\n", "a/scribed.yaml")
    assert config.read_folder_settings(tmp_path, "a", outer) == (outer, ())
    assert config.read_folder_settings(tmp_path / "gone", "a", outer) == (outer, ())


def test_faulty_file_changes_nothing_and_is_reported(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "scribed.yaml")
    text = "transcribe: {language: fr}\noutput: {formats: [doc], mode: '0600'}\nfolders: {inbox: /x}\nmodel: {}\n"
    write(tmp_path, text, "a/scribed.yaml")
    found, (broken,) = config.read_folder_settings(tmp_path, "a", OUTER)
    assert found.asr.language == "German"
    assert [fault.partition(";")[0] for fault in broken.faults] == [
        "output.mode (line 2): cannot be set for a folder",
        "output.formats (line 2): invalid value 'doc'",
        "folders (line 3): cannot be set for a folder",
        "model (line 4): cannot be set for a folder",
    ]
    valid = broken.faults[0].partition("valid keys: ")[2].split(", ")
    assert {"transcribe.language", "transcribe.language_from_name", "output.formats", "preprocess.normalize"} <= {
        *valid
    }
    assert not LATER & {*valid}
    assert broken.describe().startswith(
        "a/scribed.yaml: output.mode (line 2): cannot be set for a folder; valid keys: "
    )
    assert broken.describe().endswith(" (and 3 more)")


def test_folder_may_set_what_the_contract_lists() -> None:
    keys = {f"{section}.{key}" for section, names in FOLDER_KEYS.items() for key in names}
    assert keys == {f"transcribe.{key}" for key in Transcribe.model_fields} | {
        *(f"output.{key}" for key in ("formats", "timestamps", "sound_events", "listening_copy")),
        *(f"preprocess.{key}" for key in ("highpass_hz", "normalize", "leveling")),
    }


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("transcribe: {hotwords: &a [x]}\noutput: *a\n", "an alias (*name) is not allowed here"),
        ("#" * 20_000, "is larger than 16 KiB"),
        ("transcribe: 5", "transcribe (line 1): invalid value 5"),
        ("hello", "has no sections"),
    ],
)
def test_unsafe_file_is_refused(tmp_path: Path, text: str, what: str) -> None:
    write(tmp_path, text, "scribed.yaml")
    found, (broken,) = config.read_folder_settings(tmp_path, "", OUTER)
    assert found == OUTER
    assert broken.describe().startswith("scribed.yaml: ")
    assert what in broken.describe()


def test_links_and_special_files_are_not_read(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "outside/scribed.yaml")
    inbox = tmp_path / "inbox"
    (inbox / "linked").mkdir(parents=True)
    (inbox / "linked/scribed.yaml").symlink_to(tmp_path / "outside/scribed.yaml")
    (inbox / "fifo").mkdir()
    os.mkfifo(inbox / "fifo/scribed.yaml")
    (inbox / "folder/scribed.yaml").mkdir(parents=True)
    (inbox / "away").symlink_to(tmp_path / "outside")
    for folder, what in (
        ("linked", "is a link"),
        ("fifo", "is not a regular file"),
        ("folder", "is not a regular file"),
    ):
        found, (broken,) = config.read_folder_settings(inbox, folder, OUTER)
        assert found == OUTER
        assert broken.describe().startswith(f"{folder}/scribed.yaml: the file: {what}; ")
    assert config.read_folder_settings(inbox, "away", OUTER) == (OUTER, ())


def test_fault_of_a_folder_with_a_hostile_name_is_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\n\x1b\xff")
    write(tmp_path, "x", f"{name}/scribed.yaml")
    (broken,) = config.read_folder_settings(tmp_path, name, OUTER)[1]
    assert broken.describe().isprintable()


def test_reading_closes_all_files(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "a/b/scribed.yaml")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208  # names are enough
    for folder in ("", "a", "a/b", "a/gone"):
        config.read_folder_settings(tmp_path, folder, OUTER)
    with pytest.raises(ConfigError):
        config.load(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208  # names are enough


def test_hotwords_are_added_once() -> None:
    settings = RecordingSettings(OUTER.audio, Transcribe(hotwords=("a", "b")), OUTER.output)
    assert settings.with_hotwords(["b", "c", "c"]).asr.hotwords == ("a", "b", "c")
    assert settings.with_hotwords([]) == settings


def test_fault_calls_its_folder_as_it_may_be_shown(tmp_path: Path) -> None:
    write(tmp_path, "x", "Ward 7/Doe/scribed.yaml")
    hidden = shown_name("Ward 7/Doe", "hashed")
    (broken,) = config.read_folder_settings(tmp_path, "Ward 7/Doe", OUTER)[1]
    assert broken.describe(lambda path: shown_name(path, "hashed")).startswith(f"{hidden}/scribed.yaml: ")


def test_folder_may_set_corrections_without_regular_expressions(tmp_path: Path) -> None:
    write(tmp_path, "transcribe:\n  corrections:\n  - zh-common\n  - {find: a, replace: b}\n", "a/scribed.yaml")
    settings, broken = config.read_folder_settings(tmp_path, "a", OUTER)
    assert settings.asr.corrections == ("zh-common", Correction("a", "b"))
    assert broken == ()
    text = "transcribe:\n  language: de\n  corrections:\n  - zh-common\n  - {find: a+, replace: b, regex: true}\n"
    write(tmp_path, text, "a/scribed.yaml")
    settings, (refused,) = config.read_folder_settings(tmp_path, "a", OUTER)
    assert settings == OUTER
    (fault,) = refused.faults
    assert fault == (
        "transcribe.corrections (line 5): the regular expression 'a+' cannot be used in a folder; "
        "put it into the main configuration"
    )


@pytest.mark.parametrize(
    ("name", "language"),
    [
        ("talk.yue.m4a", "Cantonese"),
        ("talk.de.wav", "German"),
        ("minutes of 3.4.fil.mp3", "Filipino"),
        ("talk..zh.flac", "Chinese"),
        ("talk.de.WAV", "German"),
        ("talk.DE.wav", None),
        ("talk.deu.wav", None),
        ("talk.en-US.wav", None),
        ("talk.de (2).wav", None),
        ("talk.de.", "German"),
        ("talk.de", None),
        ("de.wav", None),
        (".de.wav", None),
        ("talk de.wav", None),
        ("talk.de.x.wav", None),
        ("", None),
    ],
)
def test_language_in_a_name_is_a_code_right_before_the_ending(name: str, language: str | None) -> None:
    assert config.find_language(name) == language
    settings = OUTER.of_name(name)
    assert settings.asr.forced_language == language
    assert len(settings.notes) == (language is not None)


def test_every_language_of_the_model_can_be_in_a_name() -> None:
    assert {code: config.find_language(f"x.{code}.wav") for code in config.LANGUAGES} == config.LANGUAGES


def test_name_wins_over_the_folder_which_wins_over_the_configuration(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "a/scribed.yaml")
    write(tmp_path, "transcribe: {language_from_name: false}\n", "a/reports/scribed.yaml")
    outer = RecordingSettings.of(Config(transcribe=Transcribe(language="Czech")))
    assert config.read_folder_settings(tmp_path, "", outer)[0].of_name("talk.wav").asr.language == "Czech"
    assert config.read_folder_settings(tmp_path, "a", outer)[0].of_name("talk.wav").asr.language == "German"
    assert config.read_folder_settings(tmp_path, "a", outer)[0].of_name("talk.yue.wav").asr.language == "Cantonese"
    reports = config.read_folder_settings(tmp_path, "a/reports", outer)[0]
    assert reports.of_name("report.it.wav") == reports
