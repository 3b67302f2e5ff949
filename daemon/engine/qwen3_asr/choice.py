"""The end of a decode step, in plain PyTorch: which token each row gets, and what becomes of the row."""

from __future__ import annotations

from typing import TYPE_CHECKING, NamedTuple

import torch

if TYPE_CHECKING:
    from collections.abc import Callable

    from daemon.engine.slots import Slots


class Choice(NamedTuple):
    """The most likely token of each row.

    Attributes:
        token: shape (n_rows,), like the others.
        logprob: float32, the log probability of the token.
        is_number: whether its logit is finite.
    """

    token: torch.Tensor
    logprob: torch.Tensor
    is_number: torch.Tensor


def compute_logprob(logits: torch.Tensor, max_logit: torch.Tensor) -> torch.Tensor:
    """Return the log probability of the largest logit of each row, in float32."""
    return (logits.float() - max_logit.float()[:, None]).exp_().sum(-1).log_().neg_()


def choose(
    logits: torch.Tensor, logprob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = compute_logprob
) -> Choice:
    """Return the most likely token of each row; logits: shape (n_rows, n_vocab)."""
    logit, token = logits.max(-1)
    return Choice(token, logprob(logits, logit), logit.isfinite())


def is_end(token: torch.Tensor, end_tokens: torch.Tensor) -> torch.Tensor:
    """Return whether tokens end the output."""
    return (token[:, None] == end_tokens).any(-1)


def settle(
    slots: Slots,
    logits: torch.Tensor,
    end_tokens: torch.Tensor,
    logprob: Callable[[torch.Tensor, torch.Tensor], torch.Tensor] = compute_logprob,
) -> None:
    """Append the most likely tokens to the live rows, and mark those as finished that have reached their end.

    Args:
        slots: whose first rows.
        logits: shape (n_rows, n_vocab).
        end_tokens: tokens that end the output.
        logprob: `compute_logprob` or a faster version of it.
    """
    token, logprobs, is_number = choose(logits, logprob)
    n_rows = len(token)
    live, n_generated = slots.is_live[:n_rows], slots.n_generated[:n_rows]
    # A finished row writes behind its last token, where nothing is read.
    slots.generated[:n_rows].scatter_(1, n_generated[:, None], token[:, None])
    slots.logprobs[:n_rows].scatter_(1, n_generated[:, None], logprobs[:, None])
    slots.token[:n_rows].copy_(torch.where(live.bool(), token, slots.token[:n_rows]))
    slots.has_failed[:n_rows] += live * ~is_number
    slots.position[:n_rows] += live
    n_generated += live
    live *= is_number & ~is_end(token, end_tokens) & (n_generated < slots.max_new_tokens[:n_rows])
