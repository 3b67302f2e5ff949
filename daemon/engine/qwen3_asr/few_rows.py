"""A decode step with few rows: the products of `daemon.engine.kernels.few_rows` instead of a library's.

One recording at a time is a usual day. A step is then bound by reading the weights once, and by the number of kernels:
here a layer has five or six, with norms, gate and residual stream inside the products.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Protocol

import torch
import torch.nn.functional as F  # noqa: N812  # torch's own name for it

if TYPE_CHECKING:
    from collections.abc import Callable, Sequence

    from daemon.engine.qwen3_asr.decode_attention import Attend
    from daemon.engine.qwen3_asr.layers import DecoderLayer, DecoderSizes


def product(
    rows: torch.Tensor,
    weight: torch.Tensor,
    norm: torch.Tensor | None = None,
    residual: torch.Tensor | None = None,
    epsilon: float = 0.0,
) -> torch.Tensor:
    """Return rows, normalized if `norm` is given, times weight, plus the residual: the definition of the kernel.

    Args:
        rows: shape (n_rows, n_in).
        weight: shape (n_out, n_in).
        norm: scale of the norm, shape (n_in,).
        residual: shape (n_rows, n_out).
        epsilon: of the norm.
    """
    if norm is not None:
        rows = F.rms_norm(rows, norm.shape, norm, epsilon)
    multiplied = F.linear(rows, weight)
    return multiplied if residual is None else residual + multiplied


def gated_product(rows: torch.Tensor, gate_up: torch.Tensor, norm: torch.Tensor, epsilon: float) -> torch.Tensor:
    """Return silu(gate) * up of the normalized rows: the definition of the kernel.

    Args:
        rows: shape (n_rows, n_in).
        gate_up: both weights, one below the other, shape (2 * n_out, n_in).
        norm: scale of the norm, shape (n_in,).
        epsilon: of the norm.
    """
    gate, up = F.linear(F.rms_norm(rows, norm.shape, norm, epsilon), gate_up).chunk(2, -1)
    return F.silu(gate) * up


class FewRowsKernels(Protocol):
    """The functions of `daemon.engine.kernels.few_rows`."""

    MAX_ROWS: int
    product: Callable[..., torch.Tensor]
    gated_product: Callable[..., torch.Tensor]


class FewRows:
    """Runs all layers for few rows.

    Args:
        kernels: the module of the kernels.
        layers: without biases.
        sizes: of their heads.
        norm: scale of the last norm.
        head: weights of the head.
    """

    def __init__(
        self,
        kernels: FewRowsKernels,
        layers: Sequence[DecoderLayer],
        sizes: DecoderSizes,
        norm: torch.Tensor,
        head: torch.Tensor,
    ) -> None:
        self.max_rows = kernels.MAX_ROWS
        self._kernels = kernels
        self._layers = layers
        self._epsilon = sizes.epsilon
        self._norm = norm
        self._head = head

    def run_layers(
        self, hidden: torch.Tensor, attend: Attend, cache: Sequence[tuple[torch.Tensor, torch.Tensor]]
    ) -> torch.Tensor:
        """Return the logits of one token per row.

        Args:
            hidden: shape (n_rows, d_text), in the dtype of the weights.
            attend: see `DecodeAttention`.
            cache: keys and values of each layer.
        """
        product, gated_product, epsilon = self._kernels.product, self._kernels.gated_product, self._epsilon
        for layer, (keys, values) in zip(self._layers, cache, strict=True):
            qkv = product(hidden, layer.qkv, norm=layer.input_norm, epsilon=epsilon)
            attended = attend(qkv, layer.qk_norm, keys, values)
            hidden = product(attended, layer.out, residual=hidden)
            gated = gated_product(hidden, layer.gate_up, layer.mlp_norm, epsilon)
            hidden = product(gated, layer.down, residual=hidden)
        return product(hidden, self._head, norm=self._norm, epsilon=epsilon)
