"""The configuration file: broken files, any file, and where it is found."""

from __future__ import annotations

import grp
import hashlib
import math
import os
import pwd
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from daemon import config, configfile
from daemon.config import Config, RecordingSettings
from daemon.configfile import SYSTEM_PATH
from daemon.errors import ConfigError
from tests.configs import FAULT, KEYS, faults_of, load_text, write

OUTER = RecordingSettings.of(Config())


# --- broken files


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
        ("? [a]\n: 1\n", "the file (line 1): has a key that is not a word"),
    ],
)
def test_broken_file_is_reported_with_its_line(tmp_path: Path, text: str | bytes, fault: str) -> None:
    assert faults_of(tmp_path, text)[0].startswith(fault)


def test_aliases_are_allowed_up_to_a_limit(tmp_path: Path) -> None:
    loaded = load_text(tmp_path, "watch: {settle_s: &quick 1.5, scan_s: *quick}")
    assert loaded.watch.scan_s == 1.5
    bomb = "a0: &a0 [x, x, x, x, x, x, x, x, x, x]\n"
    bomb += "".join(f"a{n}: &a{n} [{', '.join([f'*a{n - 1}'] * 10)}]\n" for n in range(1, 9))
    (fault,) = faults_of(tmp_path, bomb)
    assert "has too many values" in fault


def test_huge_file_is_not_read(tmp_path: Path) -> None:
    (fault,) = faults_of(tmp_path, "#" * 300_000)
    assert fault == "the file: is larger than 256 KiB; shorten it"


def test_missing_and_special_files_are_faults(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "fifo")
    for name, what in (
        ("missing", "does not exist"),
        ("fifo", "is not a regular file"),
        (".", "is not a regular file"),
    ):
        with pytest.raises(ConfigError) as caught:
            config.load(tmp_path / name)
        assert what in caught.value.faults[0]


def test_unreadable_file_is_a_fault(tmp_path: Path) -> None:
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
    assert "is not readable for this user" in caught.value.faults[0]


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
RELAXED = settings(
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


@RELAXED
@given(MAPPINGS)
def test_any_mapping_is_a_configuration_or_has_faults(tmp_path: Path, mapping: dict[str, Any]) -> None:
    assert_whole(load_or_refuse(write(tmp_path, yaml.safe_dump(mapping, allow_unicode=True))))


@RELAXED
@given(st.binary() | st.text("&*!|>{}[],:?-'\"\\ \n\t#%@x09~.<").map(str.encode) | st.text().map(str.encode))
def test_any_bytes_are_a_configuration_or_have_faults(tmp_path: Path, raw: bytes) -> None:
    assert_whole(load_or_refuse(write(tmp_path, raw)))
    read, broken = config.read_folder_settings(write(tmp_path, raw, "in/scribed.yaml").parent, "", OUTER)
    assert all(each.describe().startswith("scribed.yaml: ") for each in broken)
    assert read == OUTER


# --- where the file is found


def test_locations_are_searched_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


def test_file_that_is_named_must_exist(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(ConfigError, match=r"--config names .*gone.yaml, which does not exist"):
        configfile.find(tmp_path / "gone.yaml")
    monkeypatch.setenv("SCRIBED_CONFIG", str(tmp_path / "gone.yaml"))
    with pytest.raises(ConfigError, match=r"\$SCRIBED_CONFIG names"):
        configfile.find(None)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can make a file of another user")
def test_configuration_of_another_user_is_not_used(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
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


@pytest.mark.parametrize("mode", [0o2770, 0o777, 0o757])
def test_configuration_in_a_folder_of_others_is_not_used(
    mode: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRIBED_CONFIG", raising=False)
    write(tmp_path, "")  # as a member renames a document of the service, which may write to it too
    members = SimpleNamespace(gr_name="scribed", gr_mem=["mallory"])
    monkeypatch.setattr(grp, "getgrgid", lambda _group: members)
    tmp_path.chmod(mode)
    assert configfile.find(None) != Path("config.yaml")


def test_configuration_in_a_folder_where_others_rename_nothing_is_used(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRIBED_CONFIG", raising=False)
    write(tmp_path, "")
    tmp_path.chmod(0o1777)
    assert configfile.find(None) == Path("config.yaml")
    name = pwd.getpwuid(os.geteuid()).pw_name
    monkeypatch.setattr(grp, "getgrgid", lambda _group: SimpleNamespace(gr_name=name, gr_mem=[]))
    os.chown(tmp_path, -1, os.getegid())
    tmp_path.chmod(0o770)  # as with umask 002 and a private group
    assert configfile.find(None) == Path("config.yaml")


@pytest.mark.parametrize(
    ("text", "state"),
    [
        ("{}", "/var/lib/scribed"),
        ("folders: {inbox: /in}", "/var/lib/scribed"),
        ("folders: {state: /var/lib/scribed-court}", "/var/lib/scribed-court"),
        ("folders: {state: state}", None),  # only the schema can tell
        ("folders: {state: 5}", None),
        ("folders: {state: /one, state: /other}", None),
        ("folders: [", None),
    ],
)
def test_glance_gives_the_same_state_folder_as_the_schema(text: str, state: str | None, tmp_path: Path) -> None:
    path = write(tmp_path, text)
    glanced = configfile.glance(path)
    if state is None:
        assert glanced is None
    else:
        assert glanced == (Path(state), hashlib.sha256(path.read_bytes()).hexdigest())
        assert config.load(path).folders.state == Path(state)
    assert configfile.glance(None) == (config.load(None).folders.state, "")


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file away")
def test_local_file_that_is_replaced_after_it_was_found_is_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("SCRIBED_CONFIG", raising=False)
    Path("config.yaml").write_text("{}")
    found = configfile.find(None)
    assert found is not None
    assert configfile.read_document(found).values == {}
    os.chown("config.yaml", 12345, 54321)
    with pytest.raises(configfile.BrokenFileError, match="belongs to another user"):
        configfile.read_document(found)
    assert configfile.read_document(Path("config.yaml")).values == {}  # as --config names it
