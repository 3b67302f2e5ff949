"""Values of the configuration: defaults, ranges, conflicts, reload."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pydantic import ValidationError

from daemon import config
from daemon.config import Config, RecordingSettings, read_folder_settings
from daemon.documents import FORMATS
from daemon.errors import ConfigError
from daemon.text.corrections import Correction
from tests.configs import KEYS, faults_of, load_text, write

NAMES = ", ".join(FORMATS)
EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"


# --- defaults


def test_defaults_without_a_file() -> None:
    loaded = config.load(None)
    assert loaded == Config()
    assert loaded.folders.inbox == Path("/srv/scribed/inbox")
    assert loaded.model.path == Path("/var/lib/scribed/models/Qwen3-ASR-1.7B-hf")
    assert loaded.output.formats == ("txt", "json")
    assert loaded.output.mode_bits == 0o660
    assert loaded.transcribe.forced_language is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n", "watch:\nmodel:\n", "\ufeffwatch: {}\n"])
def test_file_without_keys_gives_the_defaults(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text) == Config()


def test_configuration_is_frozen() -> None:
    with pytest.raises(ValidationError):
        Config().watch.settle_s = 1.0


def test_import_loads_no_slow_library() -> None:
    script = "import sys, daemon.config; print(*sys.modules)"
    loaded = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True).stdout.split()
    assert not {"torch", "transformers", "numpy", "scipy", "structlog", "rich"} & set(loaded)


# --- values


@pytest.mark.parametrize(
    ("text", "key", "value"),
    [
        ("watch: {settle_s: 1}", "watch.settle_s", 1.0),
        ("watch: {scan_s: 2e-1}", "watch.scan_s", 0.2),
        ("watch: {ignore: ['*.bak', drafts/*]}", "watch.ignore", ("*.bak", "drafts/*")),
        ("preprocess: {highpass_hz: 0}", "preprocess.highpass_hz", 0.0),
        ("preprocess: {normalize: off}", "preprocess.normalize", "off"),
        ("preprocess: {leveling: on}", "preprocess.leveling", "on"),
        ("segment: {vad: off}", "segment.vad", "off"),
        ("output: {status_file: off}", "output.status_file", "off"),
        ("output: {mode: '640'}", "output.mode_bits", 0o640),
        ("output: {formats: [vtt]}", "output.formats", ("vtt",)),
        ("model: {slots: 8}", "model.slots", 8),
        ("model: {slots: auto}", "model.slots", "auto"),
        ("model: {device: 'cuda:1'}", "model.device", "cuda:1"),
        ("model: {device: cuda}", "model.device", "cuda"),
        ("transcribe: {hotwords: [' Müller ']}", "transcribe.hotwords", ("Müller",)),
        ("transcribe: {chinese_script: simplified}", "transcribe.chinese_script", "simplified"),
        (
            r"transcribe: {corrections: [zh-common, {find: a, replace: ''}, {find: (b), replace: \1, regex: true}]}",
            "transcribe.corrections",
            ("zh-common", Correction("a", ""), Correction("(b)", r"\1", is_regex=True)),
        ),
        (
            "transcribe: {corrections: [{find: per cent, replace: '%', example: 5 per cent, expect: 5 %}]}",
            "transcribe.corrections",
            (Correction("per cent", "%"),),
        ),
        ("transcribe: {language: german}", "transcribe.forced_language", "German"),
        ("transcribe: {language: YUE}", "transcribe.forced_language", "Cantonese"),
        ("transcribe: {language: Auto}", "transcribe.forced_language", None),
    ],
)
def test_valid_values_are_converted(tmp_path: Path, text: str, key: str, value: object) -> None:
    section, name = key.split(".")
    found = getattr(getattr(load_text(tmp_path, text), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'watch: {settle_s: "5"}',
            "watch.settle_s: invalid value '5'; expected a number from 0.5 to 3600",
        ),
        ("watch: {settle_s: true}", "watch.settle_s: invalid value true; expected a number from 0.5 to 3600"),
        (
            "watch: {settle_s: 0.4}",
            "watch.settle_s: invalid value 0.4; expected a number from 0.5 to 3600",
        ),
        (
            "watch: {scan_s: .nan}",
            "watch.scan_s: invalid value nan; expected a number from 0.2 to 3600",
        ),
        (
            "watch: {settle_s: .inf}",
            "watch.settle_s: invalid value inf; expected a number from 0.5 to 3600",
        ),
        (
            "watch: {settle_s: 1:30}",
            "watch.settle_s: invalid value '1:30'; expected a number from 0.5 to 3600",
        ),
        (
            "watch: {settle_s: }",
            "watch.settle_s: invalid value null; expected a number from 0.5 to 3600",
        ),
        ("watch: {recursive: yes}", "watch.recursive: invalid value 'yes'; expected true or false"),
        ("watch: {recursive: 1}", "watch.recursive: invalid value 1; expected true or false"),
        ("watch: {mode: evnts}", "watch.mode: invalid value 'evnts'; expected one of auto, events, poll"),
        ("watch: []", "watch: invalid value (an empty list); expected keys, such as mode"),
        ("watch: 5", "watch: invalid value 5; expected keys, such as mode"),
        ("watch: {setle_s: 5}", "watch.setle_s: unknown key; did you mean settle_s?"),
        ("watch: {highpass_hz: 80}", "watch.highpass_hz: unknown key; did you mean preprocess.highpass_hz?"),
        ("retry: {zzz: 5}", "retry.zzz: unknown key; valid keys: max_attempts, backoff_s"),
        ("wtch: {}", "wtch: unknown key; did you mean watch?"),
        ("settle_s: 5", "settle_s: unknown key; did you mean watch.settle_s?"),
        ("5: {}", "5: unknown key; valid keys: " + ", ".join(KEYS)),
        ("segment: {vad: false}", "segment.vad: invalid value false; expected one of silero, energy, off"),
        (
            "preprocess: {max_duration_h: 0}",
            "preprocess.max_duration_h: invalid value 0; expected a number above 0 and up to 168",
        ),
        (
            "preprocess: {highpass_hz: 9}",
            "preprocess.highpass_hz: invalid value 9; expected 0 (no filter), or a number from 10 to 1000",
        ),
        (
            "preprocess: {highpass_hz: low}",
            "preprocess.highpass_hz: invalid value 'low'; expected 0, or a number from 10 to 1000",
        ),
        *(
            (f"transcribe: {{corrections: [{entry}]}}", f"transcribe.corrections: invalid value {fault}")
            for entry, fault in (
                ("zh", "'zh'; expected zh-common, or the keys find and replace"),
                ("{find: a}", "(a group of keys); expected zh-common, or the keys find and replace"),
                (
                    "{find: a, replace: b, re: true}",
                    "(a group of keys); must not have the key re; valid keys: find, replace, regex, example, expect",
                ),
                ("{find: 5, replace: b}", "(a group of keys); must have a text in quotes for find"),
                (
                    "{find: '', replace: b}",
                    "(a group of keys); must have up to 500 characters for find, no control characters",
                ),
                ("{find: a, replace: b, regex: 1}", "(a group of keys); must have true or false for regex"),
                (
                    "{find: a, replace: b, example: a}",
                    "(a group of keys); must have both example and expect, or neither",
                ),
                (
                    "{find: a, replace: b, example: cat, expect: cut}",
                    "(a group of keys); must turn its example into 'cut', but gives 'cbt'",
                ),
                (
                    "{find: '(', replace: b, regex: true}",
                    (
                        "(a group of keys); must have a regular expression in find and its groups in replace: "
                        "missing ) at position 1"
                    ),
                ),
                (
                    f"{{find: '(a|aa)+$', replace: b, regex: true, example: {'a' * 80}b, expect: c}}",
                    "(a group of keys); must be a faster regular expression: its example takes more than 0.1 s",
                ),
            )
        ),
        (
            "model: {slots: 0}",
            "model.slots: invalid value 0; expected auto, or a whole number from 1 to 1024",
        ),
        (
            "model: {slots: 1.0}",
            "model.slots: invalid value 1.0; expected auto, or a whole number from 1 to 1024",
        ),
        (
            "model: {device: gpu}",
            "model.device: invalid value 'gpu'; expected auto, cuda, cuda:N with the number of a GPU, or cpu",
        ),
        (
            "output: {formats: []}",
            (f"output.formats: invalid value (an empty list); expected a list of at least 1, each one of {NAMES}"),
        ),
        (
            "output: {formats: txt}",
            f"output.formats: invalid value 'txt'; expected a list of at least 1, each one of {NAMES}",
        ),
        (
            "output: {formats: [txt, doc]}",
            f"output.formats: invalid value 'doc'; expected one of {NAMES}",
        ),
        ("output: {formats: [txt, txt]}", "output.formats: invalid value (a list); expected each entry only once"),
        (
            "transcribe: {language: englisch}",
            "transcribe.language: invalid value 'englisch'; did you mean English? (or use auto)",
        ),
        (
            "transcribe: {hotwords: [a, '']}",
            "transcribe.hotwords: invalid value ''; must not be empty or contain control characters",
        ),
        (
            'transcribe: {hotwords: ["a\\nb"]}',
            "transcribe.hotwords: invalid value 'a\\nb'; must not be empty or contain control characters",
        ),
        (
            "watch: {settle_s: 0x" + "f" * 5000 + "}",
            "watch.settle_s: has a value that cannot be read as int; use a plain value, without a tag (!)",
        ),
        (
            "segment: {overlap_s: x, max_chunk_s: 8}",
            "segment.overlap_s: invalid value 'x'; expected a number from 0 to 15",
        ),
        (
            "folders: {inbox: ~/in}",
            "folders.inbox: invalid value '~/in'; expected an absolute path (~ is not expanded)",
        ),
        (
            "folders: {inbox: 5}",
            "folders.inbox: invalid value 5; expected a path in quotes, such as '/srv/scribed/inbox'",
        ),
        (
            'folders: {inbox: "/a\\0b"}',
            "folders.inbox: invalid value '/a\\x00b'; expected a path without control characters",
        ),
        (
            "folders: {inbox: !secret /x}",
            "folders.inbox: has a value that cannot be read as !secret; use a plain value, without a tag (!)",
        ),
        (
            "segment: {max_chunk_s: 8}",
            "segment.max_chunk_s: overlap_s (5) must be less than half of max_chunk_s (8); lower overlap_s",
        ),
    ],
)
def test_fault_names_key_line_problem_and_remedy(tmp_path: Path, text: str, fault: str) -> None:
    assert faults_of(tmp_path, text) == (fault.replace(": ", " (line 1): ", 1),)


@pytest.mark.parametrize("mode", ["0660", "'0777'", "'0460'", "'4660'", "'66'", "rw"])
def test_invalid_mode_is_refused(tmp_path: Path, mode: str) -> None:
    (fault,) = faults_of(tmp_path, f"output: {{mode: {mode}}}")
    assert "expected an octal mode in quotes, such as '0660'" in fault


def test_languages_are_those_of_the_model() -> None:
    # Read as text: importing transformers takes seconds.
    (package,) = [path for path in map(Path, sys.path) if (path / "transformers").is_dir()]
    source = (package / "transformers/models/qwen3_asr/processing_qwen3_asr.py").read_text(encoding="utf-8")
    table = source.partition("LANGUAGE_CODE_TO_NAME = {")[2].partition("}")[0]
    assert dict(re.findall(r'"(\w+)": "(\w+)"', table)) == config.LANGUAGES


@pytest.mark.parametrize("word", ["klingonisch", "no", "5"])
def test_unknown_language_is_refused_with_the_known_ones(tmp_path: Path, word: str) -> None:
    (fault,) = faults_of(tmp_path, f"transcribe: {{language: {word}}}")
    assert fault.startswith("transcribe.language (line 1): ")
    assert "Arabic (ar)" in fault or "did you mean" in fault


def test_all_faults_are_reported_at_once_in_line_order(tmp_path: Path) -> None:
    text = """
folders: {inbox: /srv/a, outbox: /srv/a/out, state: 5}
watch:
  settle_s: never
  settle_s: 4
  mode: evnts
model: {aligner: /x}
segment: [5]
segment: {vad: silero}
logging: {level: loud, file: /srv/a/log}
speed: fast
"""
    faults = faults_of(tmp_path, text)
    assert [fault.partition(":")[0] for fault in faults] == [
        "folders.state (line 2)",
        "folders.outbox (line 2)",
        "watch.settle_s (line 5)",
        "watch.mode (line 6)",
        "model.aligner (line 7)",
        "segment (line 8)",
        "segment (line 9)",
        "logging.level (line 10)",
        "logging.file (line 10)",
        "speed (line 11)",
    ]


@pytest.mark.parametrize(
    ("text", "key"),
    [
        ("model: {aligner: /models/a}", "model.aligner"),
        ("transcribe: {speakers: auto}", "transcribe.speakers"),
        ("model: {device: all}", "model.device"),
        ("cluster: {address: 'gpu:6379'}", "cluster.address"),
    ],
)
def test_key_that_is_not_implemented_is_refused(tmp_path: Path, text: str, key: str) -> None:
    (fault,) = faults_of(tmp_path, text)
    assert fault.startswith(f"{key} (line 1): ")
    assert "not implemented yet; remove" in fault


# "Items marked **new** ... accepted at their default": the keys of the interface, with their defaults.
NEW = {
    "model": {"idle_unload_min": 0, "aligner": None, "speakers": "draft", "events": None},
    "transcribe": {
        "channels": "auto",
        "channel_names": [],
        "tracks": "auto",
        "language_from_name": True,
        "speakers": "off",
        "chinese_script": "as-is",
        "corrections": [],
    },
    "output": {"sound_events": False, "listening_copy": None, "clips": False},
    "search": {"enabled": False},
    "hooks": {"delivered": None, "timeout_s": 60},
    "cluster": {"address": None},
}


def test_keys_that_are_not_implemented_are_accepted_at_their_default(tmp_path: Path) -> None:
    assert load_text(tmp_path, yaml.safe_dump(NEW)) == Config()
    assert load_text(tmp_path, EXAMPLE.read_text(encoding="utf-8")) == Config()


def test_format_that_does_not_exist_is_refused_with_its_line(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, "output:\n  formats:\n  - txt\n  - doc\n")
    assert [fault.partition(";")[0] for fault in faults] == ["output.formats (line 4): invalid value 'doc'"]


# --- hooks


def test_program_is_a_path_or_the_name_of_an_installed_one(tmp_path: Path) -> None:
    def given(text: str) -> tuple[str, ...] | None:
        return load_text(tmp_path, f"hooks: {{delivered: {text}}}").hooks.delivered

    assert given("[/usr/local/bin/file-it, --new, '', ' a b ']") == ("/usr/local/bin/file-it", "--new", "", " a b ")
    assert given("[logger, -t, talk]") == ("logger", "-t", "talk")
    assert given("[./file-it]") == (str(tmp_path / "file-it"),)
    assert given("null") is None


@pytest.mark.parametrize(
    ("value", "why"),
    [
        ("[]", "expected a list of up to 100"),
        ("logger -t talk", "expected a list of up to 100"),
        ("{a: 1}", "expected a list of up to 100"),
        ("[logger, 5]", "expected a text of up to 4000 characters"),
        ("['']", "must begin with a program"),
        ("[~/bin/file-it]", "expected an absolute path (~ is not expanded)"),
        ('[logger, "a\\0b"]', "must not contain control characters"),
    ],
)
def test_command_that_cannot_be_run_is_refused(tmp_path: Path, value: str, why: str) -> None:
    (fault,) = faults_of(tmp_path, f"hooks: {{delivered: {value}}}\n")
    assert fault.startswith("hooks.delivered")
    assert why in fault


def test_program_without_json_documents_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "hooks: {delivered: [logger]}\noutput: {formats: [txt]}\n")
    assert fault == (
        "hooks.delivered (line 1): the program needs the json document, but output.formats does not include json; "
        "add json to output.formats"
    )


@pytest.mark.parametrize("name", ["inbox", "outbox", "processed", "failed"])
def test_program_in_a_shared_folder_is_refused(tmp_path: Path, name: str) -> None:
    folder = tmp_path / name
    folder.mkdir()
    (folder / "file-it").touch()
    (tmp_path / "link").symlink_to(folder / "file-it")
    (fault,) = faults_of(tmp_path, f"folders: {{{name}: ./{name}}}\nhooks: {{delivered: [./link]}}\n")
    assert f"hooks.delivered (line 2): {folder}/file-it is in the {name}, where others could replace it;" in fault


@pytest.mark.parametrize("text", ["hooks: {delivered: [logger]}", "hooks: {timeout_s: 5}"])
def test_folder_cannot_set_a_program(tmp_path: Path, text: str) -> None:
    inbox = tmp_path / "inbox"
    inbox.mkdir()
    (inbox / "scribed.yaml").write_text(text)
    settings, (broken,) = read_folder_settings(inbox, "", RecordingSettings.of(Config()))
    assert settings == RecordingSettings.of(Config())
    assert "cannot be set for a folder" in broken.describe()


# --- folders


def test_search_without_json_documents_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "search: {enabled: true}\noutput: {formats: [txt]}\n")
    assert fault == (
        "search.enabled (line 1): the search index is made from json documents, and output.formats has none; "
        "add json to output.formats"
    )
    assert load_text(tmp_path, "search: {enabled: true}").search.enabled


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "folders: {inbox: in, outbox: ./a/out}\nmodel: {path: ./demo}\n", "etc/config.yaml")
    monkeypatch.chdir(tmp_path)
    loaded = config.load(Path("etc/config.yaml"))
    assert loaded.folders.inbox == tmp_path / "etc/in"
    assert loaded.folders.outbox == tmp_path / "etc/a/out"
    assert loaded.model.path == tmp_path / "etc/demo"


def test_demo_is_not_a_relative_path(tmp_path: Path) -> None:
    assert load_text(tmp_path, "model: {path: demo}").model.path == Path("demo")


def test_path_in_code_must_be_absolute() -> None:
    with pytest.raises(ValidationError, match="an absolute path"):
        config.Folders(inbox=Path("in"))


@pytest.mark.parametrize("one", KEYS["folders"])
@pytest.mark.parametrize("other", KEYS["folders"])
def test_folder_inside_another_is_refused(tmp_path: Path, one: str, other: str) -> None:
    if one == other:
        assert load_text(tmp_path, f"folders: {{{one}: /srv/x}}")
        return
    (fault,) = faults_of(tmp_path, f"folders: {{{one}: /srv/x, {other}: /srv/x/y}}")
    assert fault.startswith(f"folders.{other} (line 1): /srv/x/y is inside folders.{one}, /srv/x; ")
    (fault,) = faults_of(tmp_path, f"folders: {{{one}: /srv/x, {other}: /srv/y/../x/}}")
    assert "is the same folder as" in fault


def test_folders_with_a_common_prefix_are_separate(tmp_path: Path) -> None:
    assert load_text(tmp_path, "folders: {inbox: /srv/in, outbox: /srv/inbox}")


def test_conflict_with_a_default_names_the_key_in_the_file(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "watch: {}\nfolders:\n  cache: /var/lib\n")
    assert fault.startswith("folders.cache (line 3): ")


def test_folders_are_compared_with_links_resolved(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    (fault,) = faults_of(tmp_path, "folders: {inbox: in, outbox: link/deep}")
    assert "is inside folders.inbox" in fault
    (tmp_path / "ring").symlink_to("ring")
    assert load_text(tmp_path, "folders: {inbox: in, outbox: ring/out}")


def test_log_file_in_the_inbox_is_refused(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "folders: {inbox: in}\nlogging: {file: in/sub/scribed.log}")
    assert fault.startswith("logging.file (line 2): ")
    assert load_text(tmp_path, "folders: {inbox: in}\nlogging: {file: scribed.log}")


# --- SIGHUP


def test_reload_applies_some_sections_and_names_the_rest(tmp_path: Path) -> None:
    old = load_text(tmp_path, "logging: {level: info}")
    text = """
folders: {inbox: /srv/other}
watch: {settle_s: 9}
transcribe: {language: de}
output: {formats: [srt]}
retry: {max_attempts: 5}
model: {device: cpu}
logging: {level: debug, names: hashed}
"""
    merged, refused = config.reload(old, write(tmp_path, text))
    assert refused == ("folders.inbox", "model.device", "logging.names")
    assert merged.watch.settle_s == 9
    assert merged.transcribe.forced_language == "German"
    assert merged.output.formats == ("srt",)
    assert merged.retry.max_attempts == 5
    assert merged.logging == config.Logging(level="debug")
    assert merged.folders == old.folders
    assert merged.model == old.model


def test_reload_of_a_faulty_file_is_refused(tmp_path: Path) -> None:
    old = load_text(tmp_path, "watch: {settle_s: 9}")
    with pytest.raises(ConfigError):
        config.reload(old, write(tmp_path, "watch: {settle_s: 0}"))
    assert config.reload(old, None) == (Config(), ())
