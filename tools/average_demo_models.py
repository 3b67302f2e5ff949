"""Averages the weights of several models from one training, which together hear better than each of them.

    python tools/average_demo_models.py --out build/model build/model-1=0.5 build/model-2=0.5

Source: Wortsman et al. 2022, "Model soups" (arXiv:2203.05482).
"""

import argparse
import math
import shutil
from pathlib import Path
from typing import Final

import torch
from safetensors.torch import load_file, save_file

_WEIGHTS: Final = "model.safetensors"


def average(models: dict[Path, float], out: Path) -> None:
    """Write a model whose weights are those of `models` in these shares; the rest is that of the first.

    Args:
        models: exported models of one architecture, with their shares, which add up to 1.
        out: folder of the new model; it replaces one that exists.

    Raises:
        ValueError: the shares do not add up to 1, or the models differ in their weights' names or shapes.
    """
    if not math.isclose(sum(models.values()), 1.0, abs_tol=1e-6):
        raise ValueError(f"the shares add up to {sum(models.values()):g} instead of 1")
    weights = {folder: load_file(folder / _WEIGHTS) for folder in models}
    first = next(iter(models))
    shapes = {folder: {name: weight.shape for name, weight in own.items()} for folder, own in weights.items()}
    for folder, own in shapes.items():
        if own != shapes[first]:
            raise ValueError(f"{folder} and {first} are models of different sizes")
    averaged = {}
    for name, weight in weights[first].items():
        total = torch.zeros_like(weight, dtype=torch.float32)
        for folder, share in models.items():
            total += share * weights[folder][name].float()
        averaged[name] = total.to(weight.dtype)
    out.mkdir(parents=True, exist_ok=True)
    for file in first.iterdir():
        if file.name != _WEIGHTS and out != first:
            shutil.copyfile(file, out / file.name)
    save_file(averaged, out / _WEIGHTS, metadata={"format": "pt"})
    (out / _WEIGHTS).chmod(0o644)  # as the other files; safetensors makes it private


def _share_of(argument: str) -> tuple[Path, float]:
    folder, _, share = argument.rpartition("=")
    if not folder:
        raise argparse.ArgumentTypeError(f"{argument} has no share, as in build/model-1=0.5")
    return Path(folder), float(share)


def main() -> None:
    """Read the command line and average."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0] if __doc__ else None)
    parser.add_argument("models", nargs="+", type=_share_of, metavar="DIR=SHARE")
    parser.add_argument("--out", type=Path, required=True, help="folder for the averaged model")
    arguments = parser.parse_args()
    try:
        average(dict(arguments.models), arguments.out)
    except (OSError, ValueError) as error:
        parser.error(str(error))


if __name__ == "__main__":
    main()
