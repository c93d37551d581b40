"""The gate of a feed-forward block: h = silu(g) * u, with its gradients computed from g and u alone.

Source: SwiGLU, Shazeer 2020, arXiv:2002.05202. Autograd would also keep silu(g).
Shapes: B rows, T tokens, D width, F width inside the block.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional


def gated(gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
    """Give silu(gate) * up, shape (B, T, F)."""
    result: Tensor = _Gated.apply(gate_BTF, up_BTF)
    return result


class QuickMlp(nn.Module):
    """For a block with `gate_proj`, `up_proj` and `down_proj`; set before the block's own class."""

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, T, D)."""
        parts: Any = self
        result: Tensor = parts.down_proj(gated(parts.gate_proj(x), parts.up_proj(x)))
        return result


class QuickJointMlp(nn.Module):
    """For a block whose gate and up projections are one layer, `gate_up_proj`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The block's output, (B, T, D)."""
        parts: Any = self
        gate_BTF, up_BTF = parts.gate_up_proj(hidden_states).chunk(2, dim=-1)
        result: Tensor = parts.down_proj(gated(gate_BTF, up_BTF))
        return result


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, gate_BTF: Tensor, up_BTF: Tensor) -> Tensor:
        ctx.save_for_backward(gate_BTF, up_BTF)
        return functional.silu(gate_BTF).mul_(up_BTF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BTF: Tensor) -> tuple[Tensor, Tensor]:
        gate_BTF, up_BTF = ctx.saved_tensors
        d_gate_BTF = torch.ops.aten.silu_backward(d_BTF * up_BTF, gate_BTF)
        return d_gate_BTF, functional.silu(gate_BTF).mul_(d_BTF)
