"""What stands for a CUDA graph in tests on a CPU, and fails where a graph would silently compute something else.

A replayed graph repeats the kernels of its capture: on the same addresses, with the same sizes and numbers. The
recording runs the function again instead, and compares every operation with the recorded one.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch.utils._python_dispatch import TorchDispatchMode

if TYPE_CHECKING:
    from collections.abc import Callable


class _Recorder(TorchDispatchMode):  # type: ignore[no-untyped-call]  # torch types only parts of itself
    """Notes each operation, its numbers, and where its inputs are if they existed before."""

    def __init__(self) -> None:
        super().__init__()  # type: ignore[no-untyped-call]  # as above
        self.operations: list[tuple[object, ...]] = []
        self._made: list[torch.Tensor] = []  # kept, so that no address is used twice
        self._made_storages: set[int] = set()

    def __torch_dispatch__(
        self,
        function: Callable[..., object],
        types: object,
        arguments: tuple[Any, ...] = (),
        options: dict[str, Any] | None = None,
    ) -> object:
        del types
        options = options or {}
        flat, _ = torch.utils._pytree.tree_flatten((arguments, options))
        self.operations.append((str(function), *map(self._describe, flat)))
        result = function(*arguments, **options)
        inputs = {part.untyped_storage().data_ptr() for part in flat if isinstance(part, torch.Tensor)}
        for part in torch.utils._pytree.tree_flatten(result)[0]:
            if isinstance(part, torch.Tensor) and part.untyped_storage().data_ptr() not in inputs:
                self._made.append(part)
                self._made_storages.add(part.untyped_storage().data_ptr())
        return result

    def _describe(self, part: object) -> object:
        if not isinstance(part, torch.Tensor):
            return str(part)
        is_made = part.untyped_storage().data_ptr() in self._made_storages
        return (None if is_made else part.data_ptr(), tuple(part.shape), part.stride(), str(part.dtype))


class RecordingCapture:
    """Runs a function twice at once, and again at each replay; counts captures and replays.

    Raises:
        AssertionError: on a replay that differs from the capture, which a graph would not notice.
    """

    def __init__(self) -> None:
        self.n_captured = 0
        self.n_replayed = 0

    def __call__(self, step: Callable[[], None]) -> Callable[[], None]:
        self.n_captured += 1
        step()  # what a step makes once is made before the capture, as on a GPU
        captured = _record(step)

        def replay() -> None:
            self.n_replayed += 1
            replayed = _record(step)
            assert len(replayed) == len(captured)
            for now, then in zip(replayed, captured, strict=True):
                assert now == then, f"captured {then}, replayed {now}"

        return replay


def _record(step: Callable[[], None]) -> list[tuple[object, ...]]:
    recorder = _Recorder()
    with recorder:
        step()
    return recorder.operations
