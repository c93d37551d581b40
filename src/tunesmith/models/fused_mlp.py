"""The gate of a feed-forward block: h = silu(g) * u, with its gradients computed from g and u alone.

Source: SwiGLU, Shazeer 2020, arXiv:2002.05202. Autograd would also keep silu(g).
Shapes: B rows, T tokens, D width, F width inside the block, G twice that.
"""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tunesmith.models.fused_together import together


def gated(*parts: Tensor) -> Tensor:
    """Give silu(gate) * up, shape (B, T, F).

    Args:
        parts: the gate and up, (B, T, F) each, or both side by side in one, (B, T, 2 F).
    """
    result: Tensor = _Gated.apply(*parts)
    return result


class QuickMlp(nn.Module):
    """For a block with `gate_proj`, `up_proj` and `down_proj`; set before the block's own class."""

    def forward(self, x: Tensor) -> Tensor:
        """The block's output, (B, T, D)."""
        block: Any = self
        joint_BTG = together(x, (block.gate_proj, block.up_proj))
        parts = (block.gate_proj(x), block.up_proj(x)) if joint_BTG is None else (joint_BTG,)
        result: Tensor = block.down_proj(gated(*parts))
        return result


class QuickJointMlp(nn.Module):
    """For a block whose gate and up projections are one layer, `gate_up_proj`."""

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The block's output, (B, T, D)."""
        block: Any = self
        result: Tensor = block.down_proj(gated(block.gate_up_proj(hidden_states)))
        return result


class _Gated(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *parts: Tensor) -> Tensor:
        ctx.save_for_backward(*parts)
        gate_BTF, up_BTF = _both(parts)
        return functional.silu(gate_BTF).mul_(up_BTF)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BTF: Tensor) -> tuple[Tensor, ...]:
        parts = ctx.saved_tensors
        gate_BTF, up_BTF = _both(parts)
        found = tuple(torch.empty_like(part) for part in parts)
        d_gate_BTF, d_up_BTF = _both(found)
        torch.mul(functional.silu(gate_BTF), d_BTF, out=d_up_BTF)
        torch.ops.aten.silu_backward.grad_input(d_BTF * up_BTF, gate_BTF, grad_input=d_gate_BTF)
        return found


def _both(parts: Sequence[Tensor]) -> Sequence[Tensor]:
    """The gate and up, where they lie in one tensor its halves."""
    return parts if len(parts) > 1 else parts[0].chunk(2, dim=-1)
