from __future__ import annotations

import hashlib
import math
import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from daemon import config, configfile
from daemon.config import Config, Output, Preprocess, RecordingSettings, Transcribe
from daemon.config.schema import LATER
from daemon.configfile import SYSTEM_PATH
from daemon.errors import ConfigError, ExitCode

EXAMPLE = Path(__file__).parents[2] / "config.example.yaml"
KEYS = {section: list(getattr(Config(), section).model_dump()) for section in Config.model_fields}
OUTER = RecordingSettings.of(Config())
FAULT = re.compile(r"  .+?( \(line \d+\))?: .+?; .+")


def write(folder: Path, text: str | bytes, name: str = "config.yaml") -> Path:
    path = folder / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(text if isinstance(text, bytes) else text.encode())
    return path


def load_text(folder: Path, text: str | bytes) -> Config:
    return config.load(write(folder, text))


def faults_of(folder: Path, text: str | bytes) -> tuple[str, ...]:
    with pytest.raises(ConfigError) as caught:
        load_text(folder, text)
    assert caught.value.exit_code == ExitCode.BAD_CONFIG
    assert all(FAULT.fullmatch(line) for line in str(caught.value).splitlines()[1:]), str(caught.value)
    return caught.value.faults


# --- defaults, the example and the JSON Schema


def test_without_a_file_the_defaults_hold() -> None:
    loaded = config.load(None)
    assert loaded == Config()
    assert loaded.folders.inbox == Path("/srv/scribed/inbox")
    assert loaded.model.path == Path("/var/lib/scribed/models/Qwen3-ASR-1.7B-hf")
    assert loaded.output.formats == ("txt", "json")
    assert loaded.output.mode_bits == 0o660
    assert loaded.transcribe.forced_language is None


@pytest.mark.parametrize("text", ["", "# nothing\n", "---\n", "~\n", "watch:\nmodel:\n", "\ufeffwatch: {}\n"])
def test_a_file_that_sets_nothing_is_all_defaults(tmp_path: Path, text: str) -> None:
    assert load_text(tmp_path, text) == Config()


def test_the_example_has_every_key_its_default_and_a_comment() -> None:
    assert config.load(EXAMPLE) == Config()
    text = EXAMPLE.read_text(encoding="utf-8")
    assert {section: list(keys) for section, keys in yaml.safe_load(text).items()} == KEYS
    lines = [line for line in text.splitlines() if line.startswith("  ")]
    assert len(lines) == sum(len(keys) for keys in KEYS.values())
    for line in lines:
        assert re.fullmatch(r"  \w+: .+ # .+", line), line


def test_the_example_marks_what_is_not_built_yet() -> None:
    section = ""
    for line in EXAMPLE.read_text(encoding="utf-8").splitlines():
        if match := re.match(r"( *)(\w+):", line):
            section = match[2] if not match[1] else section
            assert ("# (later)" in line) == (f"{section}.{match[2]}" in LATER), line


def test_the_json_schema_is_closed_and_describes_every_key() -> None:
    schema = config.json_schema()
    assert schema["$schema"] == "https://json-schema.org/draft/2020-12/schema"
    assert list(schema["properties"]) == list(KEYS)
    assert not schema["additionalProperties"]
    for section, place in schema["properties"].items():
        known = schema["$defs"][place["$ref"].rpartition("/")[2]]
        assert list(known["properties"]) == KEYS[section]
        assert not known["additionalProperties"]
        assert all(key["description"] for key in known["properties"].values())
        assert all("default" in key for key in known["properties"].values())
    assert schema["$defs"]["Output"]["properties"]["formats"]["items"]["enum"] == ["txt", "json", "srt", "vtt"]
    assert schema["$defs"]["ModelSettings"]["properties"]["aligner"]["const"] is None


def test_the_configuration_cannot_be_changed() -> None:
    with pytest.raises(ValidationError):
        Config().watch.settle_s = 1.0


def test_importing_it_takes_no_slow_library() -> None:
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
        ("segment: {vad: off}", "segment.vad", "off"),
        ("output: {status_file: off}", "output.status_file", "off"),
        ("output: {mode: '640'}", "output.mode_bits", 0o640),
        ("output: {formats: [vtt]}", "output.formats", ("vtt",)),
        ("model: {slots: 8}", "model.slots", 8),
        ("model: {slots: auto}", "model.slots", "auto"),
        ("model: {device: 'cuda:1'}", "model.device", "cuda:1"),
        ("model: {device: cuda}", "model.device", "cuda"),
        ("transcribe: {hotwords: [' Müller ']}", "transcribe.hotwords", ("Müller",)),
        ("transcribe: {language: german}", "transcribe.forced_language", "German"),
        ("transcribe: {language: YUE}", "transcribe.forced_language", "Cantonese"),
        ("transcribe: {language: Auto}", "transcribe.forced_language", None),
    ],
)
def test_good_values(tmp_path: Path, text: str, key: str, value: object) -> None:
    section, name = key.split(".")
    found = getattr(getattr(load_text(tmp_path, text), section), name)
    assert found == value
    assert type(found) is type(value)


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (
            'watch: {settle_s: "5"}',
            "watch.settle_s: the text '5' does not fit; write a number from 0.5 to 3600",
        ),
        ("watch: {settle_s: true}", "watch.settle_s: true does not fit; write a number from 0.5 to 3600"),
        (
            "watch: {settle_s: 0.4}",
            "watch.settle_s: the number 0.4 does not fit; write a number from 0.5 to 3600",
        ),
        (
            "watch: {scan_s: .nan}",
            "watch.scan_s: the number nan does not fit; write a number from 0.2 to 3600",
        ),
        (
            "watch: {settle_s: .inf}",
            "watch.settle_s: the number inf does not fit; write a number from 0.5 to 3600",
        ),
        (
            "watch: {settle_s: 1:30}",
            "watch.settle_s: the text '1:30' does not fit; write a number from 0.5 to 3600",
        ),
        (
            "watch: {settle_s: }",
            "watch.settle_s: nothing (null) does not fit; write a number from 0.5 to 3600",
        ),
        ("watch: {recursive: yes}", "watch.recursive: the text 'yes' does not fit; write true or false"),
        ("watch: {recursive: 1}", "watch.recursive: the number 1 does not fit; write true or false"),
        ("watch: {mode: evnts}", "watch.mode: the text 'evnts' does not fit; write one of auto, events, poll"),
        ("watch: []", "watch: an empty list does not fit; write keys below it, such as mode"),
        ("watch: 5", "watch: the number 5 does not fit; write keys below it, such as mode"),
        ("watch: {setle_s: 5}", "watch.setle_s: unknown key; did you mean settle_s?"),
        ("watch: {highpass_hz: 80}", "watch.highpass_hz: unknown key; did you mean preprocess.highpass_hz?"),
        ("retry: {zzz: 5}", "retry.zzz: unknown key; what can stand here: max_attempts, backoff_s"),
        ("wtch: {}", "wtch: unknown key; did you mean watch?"),
        ("settle_s: 5", "settle_s: unknown key; did you mean watch.settle_s?"),
        ("5: {}", "5: unknown key; what can stand here: " + ", ".join(KEYS)),
        ("segment: {vad: false}", "segment.vad: false does not fit; write one of silero, energy, off"),
        (
            "preprocess: {max_duration_h: 0}",
            "preprocess.max_duration_h: the number 0 does not fit; write a number above 0 and up to 168",
        ),
        (
            "preprocess: {highpass_hz: 9}",
            "preprocess.highpass_hz: the number 9 does not fit; write 0 (no filter), or a number from 10 to 1000",
        ),
        (
            "preprocess: {highpass_hz: low}",
            "preprocess.highpass_hz: the text 'low' does not fit; write 0, or a number from 10 to 1000",
        ),
        (
            "model: {slots: 0}",
            "model.slots: the number 0 does not fit; write auto, or a whole number from 1 to 1024",
        ),
        (
            "model: {slots: 1.0}",
            "model.slots: the number 1.0 does not fit; write auto, or a whole number from 1 to 1024",
        ),
        (
            "model: {device: gpu}",
            "model.device: the text 'gpu' does not fit; write auto, cuda, cuda:N with the number of a GPU, or cpu",
        ),
        (
            "output: {formats: []}",
            "output.formats: an empty list does not fit; write a list of at least 1, each one of txt, json, srt, vtt",
        ),
        (
            "output: {formats: txt}",
            "output.formats: the text 'txt' does not fit; write a list of at least 1, each one of txt, json, srt, vtt",
        ),
        (
            "output: {formats: [txt, doc]}",
            "output.formats: the text 'doc' does not fit; write one of txt, json, srt, vtt",
        ),
        ("output: {formats: [txt, txt]}", "output.formats: a list does not fit; write each one once"),
        (
            "transcribe: {language: englisch}",
            "transcribe.language: the text 'englisch' does not fit; write English if that is meant, or auto",
        ),
        (
            "transcribe: {hotwords: [a, '']}",
            "transcribe.hotwords: the text '' does not fit; write words without control characters",
        ),
        (
            'transcribe: {hotwords: ["a\\nb"]}',
            "transcribe.hotwords: the text 'a\\nb' does not fit; write words without control characters",
        ),
        (
            "watch: {settle_s: 0x" + "f" * 5000 + "}",
            "watch.settle_s: has a value that cannot be read as int; write a plain value, without a tag (!)",
        ),
        (
            "segment: {overlap_s: x, max_chunk_s: 8}",
            "segment.overlap_s: the text 'x' does not fit; write a number from 0 to 15",
        ),
        (
            "folders: {inbox: ~/in}",
            "folders.inbox: the text '~/in' does not fit; write the full path: ~ is another folder for each user",
        ),
        (
            "folders: {inbox: 5}",
            "folders.inbox: the number 5 does not fit; write a path in quotes, such as '/srv/scribed/inbox'",
        ),
        (
            'folders: {inbox: "/a\\0b"}',
            "folders.inbox: the text '/a\\x00b' does not fit; write a path without control characters",
        ),
        (
            "folders: {inbox: !secret /x}",
            "folders.inbox: has a value that cannot be read as !secret; write a plain value, without a tag (!)",
        ),
        (
            "segment: {max_chunk_s: 8}",
            "segment.max_chunk_s: overlap_s (5) is not less than half of max_chunk_s (8); lower overlap_s",
        ),
    ],
)
def test_a_fault_says_where_what_and_what_to_do(tmp_path: Path, text: str, fault: str) -> None:
    assert faults_of(tmp_path, text) == (fault.replace(": ", " (line 1): ", 1),)


@pytest.mark.parametrize("mode", ["0660", "'0777'", "'0460'", "'4660'", "'66'", "rw"])
def test_a_bad_mode_is_refused(tmp_path: Path, mode: str) -> None:
    (fault,) = faults_of(tmp_path, f"output: {{mode: {mode}}}")
    assert "write an octal mode in quotes, such as '0660'" in fault


def test_the_languages_are_those_of_the_model() -> None:
    # Read as text: importing transformers takes seconds.
    (package,) = [path for path in map(Path, sys.path) if (path / "transformers").is_dir()]
    source = (package / "transformers/models/qwen3_asr/processing_qwen3_asr.py").read_text(encoding="utf-8")
    table = source.partition("LANGUAGE_CODE_TO_NAME = {")[2].partition("}")[0]
    assert dict(re.findall(r'"(\w+)": "(\w+)"', table)) == config.LANGUAGES


@pytest.mark.parametrize("word", ["klingonisch", "no", "5"])
def test_an_unknown_language_lists_the_known_ones(tmp_path: Path, word: str) -> None:
    (fault,) = faults_of(tmp_path, f"transcribe: {{language: {word}}}")
    assert fault.startswith("transcribe.language (line 1): ")
    assert "Arabic (ar)" in fault or "if that is meant" in fault


def test_every_fault_is_told_at_once_in_the_order_of_the_lines(tmp_path: Path) -> None:
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
        ("transcribe: {chinese_script: simplified}", "transcribe.chinese_script"),
        ("transcribe: {corrections: [a]}", "transcribe.corrections"),
        ("output: {formats: [txt, md]}", "output.formats"),
        ("output: {formats: [html]}", "output.formats"),
        ("output: {listening_copy: true}", "output.listening_copy"),
        ("hooks: {delivered: {a: 1}}", "hooks.delivered"),
    ],
)
def test_what_is_not_built_yet_is_refused(tmp_path: Path, text: str, key: str) -> None:
    (fault,) = faults_of(tmp_path, text)
    assert fault.startswith(f"{key} (line 1): ")
    assert "not built yet" in fault


def test_each_choice_that_is_not_built_yet_is_told_with_its_line(tmp_path: Path) -> None:
    faults = faults_of(tmp_path, "output:\n  formats:\n  - doc\n  - html\n  - txt\n  - md\n")
    assert [fault.partition(";")[0] for fault in faults] == [
        "output.formats (line 3): the text 'doc' does not fit",
        "output.formats (line 4): html is not built yet",
        "output.formats (line 6): md is not built yet",
    ]


# --- folders


def test_relative_paths_start_at_the_folder_of_the_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path, "folders: {inbox: in, outbox: ./a/out}\nmodel: {path: ./demo}\n", "etc/config.yaml")
    monkeypatch.chdir(tmp_path)
    loaded = config.load(Path("etc/config.yaml"))
    assert loaded.folders.inbox == tmp_path / "etc/in"
    assert loaded.folders.outbox == tmp_path / "etc/a/out"
    assert loaded.model.path == tmp_path / "etc/demo"


def test_the_demo_model_is_a_word_and_no_path(tmp_path: Path) -> None:
    assert load_text(tmp_path, "model: {path: demo}").model.path == Path("demo")


def test_a_path_in_code_must_be_absolute() -> None:
    with pytest.raises(ValidationError, match="a full path"):
        config.Folders(inbox=Path("in"))


@pytest.mark.parametrize("one", KEYS["folders"])
@pytest.mark.parametrize("other", KEYS["folders"])
def test_no_folder_lies_inside_another(tmp_path: Path, one: str, other: str) -> None:
    if one == other:
        assert load_text(tmp_path, f"folders: {{{one}: /srv/x}}")
        return
    (fault,) = faults_of(tmp_path, f"folders: {{{one}: /srv/x, {other}: /srv/x/y}}")
    assert fault.startswith(f"folders.{other} (line 1): /srv/x/y lies inside folders.{one}, /srv/x; ")
    (fault,) = faults_of(tmp_path, f"folders: {{{one}: /srv/x, {other}: /srv/y/../x/}}")
    assert "is the same folder as" in fault


def test_folders_with_like_names_are_apart(tmp_path: Path) -> None:
    assert load_text(tmp_path, "folders: {inbox: /srv/in, outbox: /srv/inbox}")


def test_a_folder_inside_a_default_is_told_at_the_key_of_the_file(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "watch: {}\nfolders:\n  cache: /var/lib\n")
    assert fault.startswith("folders.cache (line 3): ")


def test_folders_are_compared_behind_their_links(tmp_path: Path) -> None:
    (tmp_path / "in").mkdir()
    (tmp_path / "link").symlink_to("in")
    (fault,) = faults_of(tmp_path, "folders: {inbox: in, outbox: link/deep}")
    assert "lies inside folders.inbox" in fault
    (tmp_path / "ring").symlink_to("ring")
    assert load_text(tmp_path, "folders: {inbox: in, outbox: ring/out}")


def test_the_log_file_does_not_lie_in_the_inbox(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "folders: {inbox: in}\nlogging: {file: in/sub/scribed.log}")
    assert fault.startswith("logging.file (line 2): ")
    assert load_text(tmp_path, "folders: {inbox: in}\nlogging: {file: scribed.log}")


# --- files that are no configuration


@pytest.mark.parametrize(
    ("text", "fault"),
    [
        (b"watch: {}\na: \xff\n", "the file (line 2): is not UTF-8 text"),
        ("watch:\n\tmode: auto\n", "the file (line 2): cannot be read: found character '\\t'"),
        ("watch: {\n", "the file (line 2): cannot be read: expected"),
        ("watch: [a\nb: ]]\n", "the file (line 2): cannot be read: "),
        ("watch: *gone\n", "the file (line 1): cannot be read: found undefined alias"),
        ("a: 1\n--- \nb: 2\n", "the file (line 2): cannot be read: but found another document"),
        ("- a\n", "the file (line 1): has no sections"),
        ("just words\n", "the file (line 1): has no sections"),
        ("watch: {}\n\x00\n", "the file (line 2): has a character that YAML does not allow"),
        ('watch: {mode: "\\UFFFFFFFF"}\n', "the file (line 1): cannot be read"),
        ("[" * 3000, "the file (line 1): cannot be read: it is nested too deeply"),
        ("watch: &a {mode: *a}\n", "watch.mode"),
        ("? [a]\n: 1\n", "the file (line 1): has a key that is no word"),
    ],
)
def test_what_is_no_configuration_is_told_with_its_line(tmp_path: Path, text: str | bytes, fault: str) -> None:
    assert faults_of(tmp_path, text)[0].startswith(fault)


def test_aliases_may_be_used_and_may_not_explode(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "watch: {settle_s: &quick 1.5, scan_s: *quick}")
    assert loaded.watch.scan_s == 1.5
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    (fault,) = faults_of(tmp_path, bomb)
    assert "holds too much" in fault


def test_a_huge_file_is_not_read(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "#" * 300_000)
    assert fault == "the file: is larger than 256 KiB; make it shorter"


def test_what_is_no_file_is_a_fault(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, what in (("missing", "does not exist"), ("fifo", "is no regular file"), (".", "is no regular file")):
        with pytest.raises(ConfigError) as caught:
            config.load(tmp_path / name)
        assert what in caught.value.faults[0]


def test_an_unreadable_file_is_a_fault(tmp_path: Path) -> None:
    path = write(tmp_path, "")
    path.chmod(0)
    user = os.geteuid()
    if user == 0:
        os.seteuid(65534)  # root may read everything
    try:
        with pytest.raises(ConfigError) as caught:
            config.load(path)
    finally:
        os.seteuid(user)
    assert "may not be read by this user" in caught.value.faults[0]


SCALARS = (
    st.none()
    | st.booleans()
    | st.integers()
    | st.floats()
    | st.text()
    | st.dates()
    | st.binary()
    | st.sampled_from(["auto", "off", "txt", "md", "demo", "/srv/x", "~", "cuda:0", "en", "0660", "../..", "as-is"])
)
ANYTHING = st.recursive(
    SCALARS,
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text() | st.integers(), inner, max_size=3),
    max_leaves=5,
)
SECTIONS = {
    section: st.dictionaries(st.sampled_from(keys) | st.text(), ANYTHING, max_size=4) | ANYTHING
    for section, keys in KEYS.items()
}
MAPPINGS = st.fixed_dictionaries({}, optional=SECTIONS) | st.dictionaries(st.text(), ANYTHING, max_size=4)
AT_EASE = settings(
    max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow], deadline=None
)


def load_or_refuse(path: Path) -> Config | ConfigError:
    try:
        return config.load(path)
    except ConfigError as error:
        return error


def assert_whole(found: Config | ConfigError) -> None:
    if isinstance(found, ConfigError):
        assert found.faults
        assert all(line.isprintable() and FAULT.fullmatch(f"  {line}") for line in found.faults), found.faults
    else:
        assert math.isfinite(found.watch.settle_s)
        assert all(path.is_absolute() for _, path in found.folders)


@AT_EASE
@given(MAPPINGS)
def test_any_mapping_is_a_configuration_or_has_faults(tmp_path: Path, mapping: dict[str, Any]) -> None:
    assert_whole(load_or_refuse(write(tmp_path, yaml.safe_dump(mapping, allow_unicode=True))))


@AT_EASE
@given(st.binary() | st.text("&*!|>{}[],:?-'\"\\ \n\t#%@x09~.<").map(str.encode) | st.text().map(str.encode))
def test_any_bytes_are_a_configuration_or_have_faults(tmp_path: Path, raw: bytes) -> None:
    assert_whole(load_or_refuse(write(tmp_path, raw)))
    read, faults = config.read_folder_settings(write(tmp_path, raw, "in/scribed.yaml").parent, "", OUTER)
    assert all(line.startswith("scribed.yaml: ") for line in faults)
    assert read == OUTER


# --- where the file is looked for


def test_the_file_is_looked_for_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRIBED_CONFIG", raising=False)
    assert configfile.find(None) == (SYSTEM_PATH if SYSTEM_PATH.exists() else None)
    write(tmp_path, "")
    assert configfile.find(None) == Path("config.yaml")
    monkeypatch.setenv("SCRIBED_CONFIG", str(write(tmp_path, "", "named.yaml")))
    assert configfile.find(None) == tmp_path / "named.yaml"
    assert configfile.find(write(tmp_path, "", "given.yaml")) == tmp_path / "given.yaml"
    monkeypatch.setenv("SCRIBED_CONFIG", "")
    assert configfile.find(None) == Path("config.yaml")


def test_a_file_that_was_asked_for_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--config names .*gone.yaml, which does not exist"):
        configfile.find(tmp_path / "gone.yaml")
    monkeypatch.setenv("SCRIBED_CONFIG", str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match=r"\$SCRIBED_CONFIG names"):
        configfile.find(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_a_configuration_left_by_another_user_is_not_taken(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRIBED_CONFIG", raising=False)
    path = write(tmp_path, "")
    os.chown(path, 65534, 65534)
    assert configfile.find(None) != Path("config.yaml")
    path.unlink()
    write(tmp_path, "", "roots.yaml")
    path.symlink_to("roots.yaml")
    os.chown(path, 65534, 65534, follow_symlinks=False)
    assert configfile.find(None) != Path("config.yaml")
    path.unlink()
    os.chown(tmp_path / "roots.yaml", 65534, 65534)
    path.symlink_to("roots.yaml")
    assert configfile.find(None) != Path("config.yaml")


# --- SIGHUP


def test_a_reload_takes_what_may_change_and_names_the_rest(tmp_path: Path) -> None:
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


def test_a_broken_file_is_not_reloaded(tmp_path: Path) -> None:
    old = load_text(tmp_path, "watch: {settle_s: 9}")
    with pytest.raises(ConfigError):
        config.reload(old, write(tmp_path, "watch: {settle_s: 0}"))
    assert config.reload(old, None) == (Config(), ())


# --- settings of a folder


def test_the_nearest_folder_wins_key_by_key(tmp_path: Path) -> None:
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


def test_without_settings_the_outer_ones_hold(tmp_path: Path) -> None:
    outer = RecordingSettings(
        audio=Preprocess(highpass_hz=120, normalize="loudness"),
        asr=Transcribe(language="Czech", hotwords=("x",)),
        output=Output(formats=("srt",), timestamps=True),
    )
    write(tmp_path, "transcribe:\n", "a/scribed.yaml")
    assert config.read_folder_settings(tmp_path, "a", outer) == (outer, ())
    assert config.read_folder_settings(tmp_path / "gone", "a", outer) == (outer, ())


def test_a_broken_file_changes_nothing_and_is_told(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "scribed.yaml")
    text = "transcribe: {language: fr}\noutput: {formats: [doc], mode: '0600'}\nfolders: {inbox: /x}\nmodel: {}\n"
    write(tmp_path, text, "a/scribed.yaml")
    found, faults = config.read_folder_settings(tmp_path, "a", OUTER)
    assert found.asr.language == "German"
    assert [fault.partition(";")[0] for fault in faults] == [
        "a/scribed.yaml: output.mode (line 2): cannot be set for a folder",
        "a/scribed.yaml: output.formats (line 2): the text 'doc' does not fit",
        "a/scribed.yaml: folders (line 3): cannot be set for a folder",
        "a/scribed.yaml: model (line 4): cannot be set for a folder",
    ]
    assert faults[0].endswith(
        "; what can: transcribe.language, transcribe.hotwords, "
        "output.formats, output.timestamps, preprocess.highpass_hz, preprocess.normalize"
    )


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("transcribe: {hotwords: &a [x]}\noutput: *a\n", "an alias (*name) has no place here"),
        ("#" * 20_000, "is larger than 16 KiB"),
        ("transcribe: 5", "transcribe (line 1): the number 5 does not fit"),
        ("hello", "has no sections"),
    ],
)
def test_what_a_sender_may_not_write(tmp_path: Path, text: str, what: str) -> None:
    write(tmp_path, text, "scribed.yaml")
    found, (fault,) = config.read_folder_settings(tmp_path, "", OUTER)
    assert found == OUTER
    assert fault.startswith("scribed.yaml: ")
    assert what in fault


def test_only_a_regular_file_in_a_real_folder_is_read(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "outside/scribed.yaml")
    inbox = tmp_path / "inbox"
    (inbox / "linked").mkdir(parents=True)
    (inbox / "linked/scribed.yaml").symlink_to(tmp_path / "outside/scribed.yaml")
    (inbox / "fifo").mkdir()
    os.mkfifo(inbox / "fifo/scribed.yaml")
    (inbox / "folder/scribed.yaml").mkdir(parents=True)
    (inbox / "away").symlink_to(tmp_path / "outside")
    for folder, what in (("linked", "is a link"), ("fifo", "is no regular file"), ("folder", "is no regular file")):
        found, (fault,) = config.read_folder_settings(inbox, folder, OUTER)
        assert found == OUTER
        assert fault.startswith(f"{folder}/scribed.yaml: the file: {what}; ")
    assert config.read_folder_settings(inbox, "away", OUTER) == (OUTER, ())


def test_a_folder_with_a_hostile_name_is_told_on_one_line(tmp_path: Path) -> None:
    name = os.fsdecode(b"a\n\x1b\xff")
    write(tmp_path, "x", f"{name}/scribed.yaml")
    (fault,) = config.read_folder_settings(tmp_path, name, OUTER)[1]
    assert fault.isprintable()


def test_reading_leaves_no_file_open(tmp_path: Path) -> None:
    write(tmp_path, "transcribe: {language: de}\n", "a/b/scribed.yaml")
    before = os.listdir("/proc/self/fd")  # noqa: PTH208 - names are enough
    for folder in ("", "a", "a/b", "a/gone"):
        config.read_folder_settings(tmp_path, folder, OUTER)
    with pytest.raises(ConfigError):
        config.load(tmp_path)
    assert os.listdir("/proc/self/fd") == before  # noqa: PTH208 - names are enough


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("{}", "/var/lib/scribed"),
        ("folders: {inbox: /in}", "/var/lib/scribed"),
        ("folders: {state: /var/lib/scribed-court}", "/var/lib/scribed-court"),
        ("folders: {state: state}", None),  # what it means is the schema's affair
        ("folders: {state: 5}", None),
        ("folders: {state: /one, state: /other}", None),
        ("folders: [", None),
    ],
)
def test_a_glance_tells_the_state_folder_as_the_schema_does(text: str, state: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    glanced = configfile.glance(path)
    if state is None:
        assert glanced is None
    else:
        assert glanced == (Path(state), hashlib.sha256(path.read_bytes()).hexdigest())
        assert config.load(path).folders.state == Path(state)
    assert configfile.glance(None) == (config.load(None).folders.state, "")
