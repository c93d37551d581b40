"""Count what tensors hold while code runs: every storage once, from its first sight to its end.

It sees each operation below autograd, so what a backward pass keeps is counted as long as it is kept.
Works on fake tensors, which have shapes and no memory, and on real ones.
"""

import weakref
from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor
from torch.utils._python_dispatch import TorchDispatchMode
from torch.utils._pytree import tree_leaves
from torch.utils.flop_counter import flop_registry


class LiveBytes(TorchDispatchMode):
    """Live and peak bytes of all tensors made under it, and the floating-point operations.

    Attributes:
        live_bytes: held now.
        peak_bytes: most held since the last `take_peak`.
        flops: done so far; a multiplication and an addition count as two.
        chosen: how many elements a mask chooses. Fake tensors have no values to count them by.
    """

    def __init__(self, *, chosen: int | None = None) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self.live_bytes = self.peak_bytes = self.flops = 0
        self.chosen = chosen
        self._sizes: dict[int, int] = {}

    def take_peak(self) -> int:
        """The peak so far; the next one begins with what is live now."""
        peak, self.peak_bytes = self.peak_bytes, self.live_bytes
        return peak

    def hold(self, tensors: Iterable[Tensor]) -> None:
        """Count tensors that were made elsewhere."""
        for tensor in tensors:
            storage = tensor.untyped_storage()
            key = storage._cdata
            if key in self._sizes:
                continue
            self._sizes[key] = storage.nbytes()
            self.live_bytes += self._sizes[key]
            weakref.finalize(storage, self._let_go, key)
        self.peak_bytes = max(self.peak_bytes, self.live_bytes)

    def _let_go(self, key: int) -> None:
        self.live_bytes -= self._sizes.pop(key)

    def __torch_dispatch__(
        self, func: Any, types: Any, args: tuple[Any, ...] = (), kwargs: Mapping[str, Any] | None = None
    ) -> Any:
        """Run the operation and count what came out of it."""
        if self.chosen is not None and func is torch.ops.aten.index.Tensor:
            args = (args[0], _places(args[1], self.chosen))
        result = func(*args, **(kwargs or {}))
        formula = flop_registry.get(func._overloadpacket)
        if formula is not None:
            self.flops += formula(*args, **(kwargs or {}), out_val=result)
        self.hold(leaf for leaf in tree_leaves(result) if isinstance(leaf, torch.Tensor))
        return result


def _places(indices: Iterable[Tensor | None], chosen: int) -> list[Tensor | None]:
    """Indices with each mask replaced by the places it chooses, as the real operation does."""
    found: list[Tensor | None] = []
    for index in indices:
        if index is not None and index.dtype == torch.bool:
            found += torch.empty((chosen, index.ndim), dtype=torch.long).unbind(1)
        else:
            found.append(index)
    return found
