"""Muon in float32, for CPUs that have no instructions for bf16, where ``torch.optim.Muon`` takes seconds for a step."""

from collections.abc import Iterable
from typing import Final

import torch
import torch.distributed as dist

_COEFFICIENTS: Final = (3.4445, -4.775, 2.0315)
_ITERATIONS: Final = 5


def orthogonalized(matrices: torch.Tensor) -> torch.Tensor:
    """Bring the singular values of ``matrices``, shape (n, rows, columns), near 1 by Newton and Schulz's iteration.

    Source: https://github.com/KellerJordan/Muon/blob/master/muon.py.
    """
    is_tall = matrices.shape[1] > matrices.shape[2]
    x: torch.Tensor = matrices.transpose(1, 2) if is_tall else matrices
    x = x / x.norm(dim=(1, 2), keepdim=True).clamp(min=1e-7)
    a, b, c = _COEFFICIENTS
    for _ in range(_ITERATIONS):
        gram = x @ x.transpose(1, 2)
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x.transpose(1, 2) if is_tall else x


def _shared(matrices: torch.Tensor) -> torch.Tensor:
    """Orthogonalize a share of the matrices in each process, and return all of them in each."""
    if not dist.is_initialized() or (n_processes := dist.get_world_size()) == 1:
        return orthogonalized(matrices)
    each = -(-len(matrices) // n_processes)
    first = dist.get_rank() * each
    mine = matrices.new_zeros(each, *matrices.shape[1:])
    share = matrices[first : first + each]
    if len(share):
        mine[: len(share)] = orthogonalized(share)
    gathered = [torch.empty_like(mine) for _ in range(n_processes)]
    dist.all_gather(gathered, mine)
    return torch.cat(gathered)[: len(matrices)]


class Muon(torch.optim.Optimizer):
    """Muon with Nesterov momentum, matrices of one shape together; steps as large as AdamW's (RMS 0.2)."""

    def __init__(
        self, params: Iterable[torch.nn.Parameter], lr: float = 1e-3, momentum: float = 0.95, weight_decay: float = 0.01
    ) -> None:
        super().__init__(params, {"lr": lr, "momentum": momentum, "weight_decay": weight_decay})

    @torch.no_grad()
    def step(self, closure: None = None) -> None:  # type: ignore[override]
        """Move the matrices along their gradients, which all must have."""
        del closure
        for group in self.param_groups:
            by_shape: dict[torch.Size, list[torch.Tensor]] = {}
            for matrix in group["params"]:
                by_shape.setdefault(matrix.shape, []).append(matrix)
            for shape, matrices in by_shape.items():
                gradients = torch.stack([matrix.grad for matrix in matrices if matrix.grad is not None])
                for matrix in matrices:
                    self.state[matrix].setdefault("momentum", torch.zeros_like(matrix))
                momenta = [self.state[matrix]["momentum"] for matrix in matrices]
                torch._foreach_lerp_(momenta, list(gradients), 1 - group["momentum"])
                updates = _shared(gradients.lerp(torch.stack(momenta), group["momentum"]))
                torch._foreach_mul_(matrices, 1 - group["lr"] * group["weight_decay"])
                torch._foreach_add_(matrices, list(updates), alpha=-group["lr"] * 0.2 * max(shape) ** 0.5)
