"""Settings of folders as the worker reads them, and the problems of their files."""

from __future__ import annotations

from typing import TYPE_CHECKING

from daemon.config import Config, Folders, Logging
from daemon.status.faults import Faults
from daemon.worker.folder_settings import FolderSettings
from tests.configs import write

if TYPE_CHECKING:
    from pathlib import Path


def config_of(inbox: Path, names: str = "full") -> Config:
    return Config(folders=Folders(inbox=inbox), logging=Logging.model_validate({"names": names}))


def whats(faults: Faults) -> list[str]:
    return [fault.what for fault in faults.standing()]


def test_broken_file_is_in_the_receipt_and_one_problem_for_all_folders_below(tmp_path: Path) -> None:
    write(tmp_path, "output: {formats: [parchment]}\nmodel: {}\n", "a/scribed.yaml")
    (tmp_path / "a/b").mkdir()
    faults = Faults()
    reader = FolderSettings(faults)
    found = [reader.of(folder, config_of(tmp_path)) for folder in ("a", "a/b")]
    assert {settings.output.formats for settings in found} == {("txt", "json")}
    (note,) = {settings.notes for settings in found}
    assert note[0].startswith(
        "settings were not used: a/scribed.yaml: output.formats (line 1): invalid value 'parchment'"
    )
    assert note[0].endswith("(and 1 more)")
    (what,) = whats(faults)
    assert what.startswith("The settings in a/scribed.yaml: output.formats (line 1): invalid value 'parchment'")
    assert reader.of("", config_of(tmp_path)).notes == ()


def test_problem_is_cleared_when_the_file_is_fixed_or_removed(tmp_path: Path) -> None:
    for folder in ("a", "a/b", "c"):
        write(tmp_path, "x", f"{folder}/scribed.yaml")
    faults = Faults()
    reader = FolderSettings(faults)
    for folder in ("a/b", "c"):
        reader.of(folder, config_of(tmp_path))
    assert len(whats(faults)) == 3
    reader.recheck(config_of(tmp_path))
    assert len(whats(faults)) == 3
    write(tmp_path, "transcribe: {language: de}\n", "a/scribed.yaml")
    (tmp_path / "c/scribed.yaml").unlink()
    reader.recheck(config_of(tmp_path))
    (what,) = whats(faults)
    assert what.startswith("The settings in a/b/scribed.yaml")
    write(tmp_path, "", "a/b/scribed.yaml")
    assert reader.of("a/b", config_of(tmp_path)).asr.language == "German"
    assert whats(faults) == []


def test_name_of_the_folder_is_hidden_where_names_are(tmp_path: Path) -> None:
    write(tmp_path, "x", "Ward 7/scribed.yaml")
    faults = Faults()
    settings = FolderSettings(faults).of("Ward 7", config_of(tmp_path, "hashed"))
    assert "Ward 7" not in whats(faults)[0]
    assert "Ward 7/scribed.yaml" in settings.notes[0]  # a document names its recording, too
