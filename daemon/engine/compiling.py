"""What the parts of a model use to have their functions compiled, or not; see `qwen3_asr.graphs.Compiler`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Protocol

if TYPE_CHECKING:
    from collections.abc import Callable


class Compile(Protocol):
    """Makes faster versions of functions."""

    def __call__(self, function: Callable[..., Any], *, is_packed: bool = False) -> Callable[..., Any]:
        """Return a faster version of a function.

        Args:
            function: takes tensors, tuples of them, modules and numbers.
            is_packed: the first dimension of the tensors has many sizes, none of them 1.
        """
        ...


def uncompiled(function: Callable[..., Any], *, is_packed: bool = False) -> Callable[..., Any]:
    """Return the function itself."""
    del is_packed
    return function
