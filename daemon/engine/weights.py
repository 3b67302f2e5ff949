"""Weights that multiply the same input, joined into one."""

from __future__ import annotations

from typing import TYPE_CHECKING

import torch

if TYPE_CHECKING:
    from collections.abc import Sequence


def join_weights_of(projections: Sequence[torch.nn.Linear]) -> torch.Tensor:
    """Return the weights one below the other; the projections' own weights become views of them."""
    joined = torch.cat([projection.weight.detach() for projection in projections])
    parts = torch.split(joined, [projection.out_features for projection in projections])
    for projection, part in zip(projections, parts, strict=True):
        projection.weight = torch.nn.Parameter(part, requires_grad=False)
    # The compiler treats the sizes of parameters as constants.
    return torch.nn.Parameter(joined, requires_grad=False)
