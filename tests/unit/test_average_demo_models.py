"""The average of several demo models."""

from __future__ import annotations

import runpy
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

average = runpy.run_path(str(Path(__file__).parents[2] / "tools" / "average_demo_models.py"))["average"]


def write_model(folder: Path, values: list[float], name: str = "layer") -> Path:
    folder.mkdir()
    save_file({name: torch.tensor(values, dtype=torch.bfloat16)}, folder / "model.safetensors")
    (folder / "config.json").write_text(folder.name)
    return folder


def test_average_has_the_weights_in_their_shares_and_the_files_of_the_first_model(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "first", [1.0, 2.0]), write_model(tmp_path / "second", [5.0, -2.0])
    average({first: 0.25, second: 0.75}, tmp_path / "out")
    averaged = load_file(tmp_path / "out" / "model.safetensors")
    assert list(averaged) == ["layer"]
    assert averaged["layer"].dtype is torch.bfloat16
    assert averaged["layer"].tolist() == [4.0, -1.0]
    assert (tmp_path / "out" / "config.json").read_text() == "first"


def test_average_may_replace_one_of_its_models(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "first", [1.0]), write_model(tmp_path / "second", [3.0])
    average({first: 0.5, second: 0.5}, second)
    assert load_file(second / "model.safetensors")["layer"].tolist() == [2.0]
    assert (second / "config.json").read_text() == "first"


def test_shares_that_do_not_add_up_are_refused(tmp_path: Path) -> None:
    first, second = write_model(tmp_path / "first", [1.0]), write_model(tmp_path / "second", [3.0])
    with pytest.raises(ValueError, match=r"the shares add up to 0\.75 instead of 1"):
        average({first: 0.5, second: 0.25}, tmp_path / "out")
    assert not (tmp_path / "out").exists()


@pytest.mark.parametrize(("values", "name"), [([1.0, 2.0], "layer"), ([1.0], "other")], ids=["shape", "name"])
def test_models_of_different_shapes_are_refused(tmp_path: Path, values: list[float], name: str) -> None:
    first, second = write_model(tmp_path / "first", [1.0]), write_model(tmp_path / "second", values, name)
    with pytest.raises(ValueError, match="are models of different sizes"):
        average({first: 0.5, second: 0.5}, tmp_path / "out")
    assert not (tmp_path / "out").exists()
