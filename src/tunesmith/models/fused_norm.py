"""Root mean square norm: y = w x / sqrt(mean(x^2) + e), with one number a token kept beside the input.

Source: Zhang and Sennrich 2019, arXiv:1910.07467. Written step by step, autograd keeps four tensors as
large as the input and goes over them eleven times; here it is seven.
Shapes: B rows, T tokens, D width.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable


class QuickNorm(nn.Module):
    """For a norm with `weight` and `variance_epsilon`; set before the norm's own class.

    The models compute it in float32 whatever they are given, so states of other types are left to them.
    """

    def forward(self, hidden_states: Tensor) -> Tensor:
        """The normed states, (B, T, D)."""
        norm: Any = self
        if hidden_states.dtype != torch.float32 or norm.weight.dtype == torch.float64:
            result: Tensor = super().forward(hidden_states)
            return result
        result = _Norm.apply(hidden_states, norm.weight, norm.variance_epsilon)
        return result


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x_BTD: Tensor, weight_D: Tensor, epsilon: float) -> Tensor:
        length_BT1 = torch.linalg.vector_norm(x_BTD, dim=-1, keepdim=True)
        scale_BT1 = length_BT1.square_().div_(x_BTD.shape[-1]).add_(epsilon).rsqrt_()
        ctx.save_for_backward(x_BTD, weight_D, scale_BT1)
        normed_BTD: Tensor = (x_BTD * scale_BT1).mul_(weight_D)
        return normed_BTD

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BTD: Tensor) -> tuple[Tensor | None, Tensor | None, None]:
        x_BTD, weight_D, scale_BT1 = ctx.saved_tensors
        asks_x, asks_weight, _ = ctx.needs_input_grad
        d_weight_D = None
        if asks_weight:
            d_weight_D = (d_BTD * x_BTD).mul_(scale_BT1).flatten(0, -2).sum(0)
        if not asks_x:
            return None, d_weight_D, None
        d_x_BTD = d_BTD * weight_D
        along_BT1 = torch.linalg.vecdot(d_x_BTD, x_BTD).unsqueeze(-1)
        along_BT1.mul_(scale_BT1.pow(3)).div_(-x_BTD.shape[-1])
        return d_x_BTD.mul_(scale_BT1).addcmul_(x_BTD, along_BT1), d_weight_D, None
