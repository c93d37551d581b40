"""Queries, keys and values of attention from one product, turned by their positions as they are parted.

Source: rotary position embedding, Su et al. 2021, arXiv:2104.09864, in the layout of Llama: the first half
of a head turns with the second.
Shapes: B rows, T tokens, H heads of queries, K heads of keys and as many of values, C width of a head.
"""

from typing import Any, cast

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable
from transformers.modeling_utils import ALL_ATTENTION_FUNCTIONS

from tunesmith.models.fused_together import together


class QuickAttention(nn.Module):
    """For a layer with `q_proj`, `k_proj`, `v_proj` and `o_proj`; set before the layer's own class."""

    def forward(
        self,
        hidden_states: Tensor,
        position_embeddings: tuple[Tensor, Tensor] | None = None,
        attention_mask: Tensor | None = None,
        past_key_values: Any = None,
        **arguments: Any,
    ) -> tuple[Tensor, Any]:
        """The layer's output, (B, T, H * C), and what its attention tells of its weights."""
        layer: Any = self
        attend: Any = ALL_ATTENTION_FUNCTIONS.get(layer.config._attn_implementation)
        joint_BTO = None
        if attend is not None and past_key_values is None:
            joint_BTO = _projected(layer, hidden_states, position_embeddings)
        if joint_BTO is None:
            found: tuple[Tensor, Any] = super().forward(
                hidden_states,
                position_embeddings=position_embeddings,
                attention_mask=attention_mask,
                past_key_values=past_key_values,
                **arguments,
            )
            return found
        heads = [part.out_features // layer.head_dim for part in (layer.q_proj, layer.k_proj)]
        attended_BTHC, told = attend(
            self,
            *turned(joint_BTO, *cast(tuple[Tensor, Tensor], position_embeddings), *heads),
            attention_mask,
            dropout=layer.attention_dropout if self.training else 0.0,
            scaling=layer.scaling,
            **arguments,
            **_reach(layer),
        )
        return layer.o_proj(attended_BTHC.flatten(2)), told


def _projected(layer: Any, hidden_BTD: Tensor, angles: tuple[Tensor, Tensor] | None) -> Tensor | None:
    """Queries, keys and values side by side; None where the layer's own way must be gone."""
    if angles is None or angles[0].shape[-1] != layer.head_dim or angles[0].dtype != hidden_BTD.dtype:
        return None
    return together(hidden_BTD, (layer.q_proj, layer.k_proj, layer.v_proj))


def _reach(layer: Any) -> dict[str, int | None]:
    """What the layer tells its attention of how far it looks back: itself, its config, or nothing."""
    teller = next((each for each in (layer, layer.config) if hasattr(each, "sliding_window")), None)
    return {} if teller is None else {"sliding_window": teller.sliding_window}


def turned(
    joint_BTO: Tensor, cos_BTC: Tensor, sin_BTC: Tensor, query_heads: int, key_heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Turned queries (B, H, T, C), turned keys and the values (B, K, T, C), with gradients.

    Args:
        joint_BTO: queries, keys and values of each token side by side; O is (H + 2 K) C.
        cos_BTC: cosines of the positions' angles, B or 1 rows; the second half repeats the first.
        sin_BTC: their sines.
        query_heads: H.
        key_heads: K.
    """
    found: tuple[Tensor, Tensor, Tensor] = _Turned.apply(joint_BTO, cos_BTC, sin_BTC, query_heads, key_heads)
    return found


class _Turned(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any, joint_BTO: Tensor, cos_BTC: Tensor, sin_BTC: Tensor, query_heads: int, key_heads: int
    ) -> tuple[Tensor, ...]:
        x_BTHC = joint_BTO.unflatten(-1, (-1, cos_BTC.shape[-1]))
        y_BTHC = torch.empty_like(x_BTHC)
        to_turn = query_heads + key_heads
        _turn(x_BTHC[:, :, :to_turn], cos_BTC, sin_BTC, y_BTHC[:, :, :to_turn], sign=1)
        y_BTHC[:, :, to_turn:] = x_BTHC[:, :, to_turn:]
        ctx.save_for_backward(cos_BTC, sin_BTC)
        ctx.heads = (query_heads, key_heads, key_heads)
        return tuple(part.transpose(1, 2) for part in y_BTHC.split(ctx.heads, dim=2))

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *d_parts: Tensor) -> tuple[Tensor | None, ...]:
        cos_BTC, sin_BTC = ctx.saved_tensors
        d_query_BTHC, d_key_BTKC, d_value_BTKC = (part.transpose(1, 2) for part in d_parts)
        batch, tokens, _, width = d_query_BTHC.shape
        d_BTHC = d_query_BTHC.new_empty(batch, tokens, sum(ctx.heads), width)
        to_query, to_key, to_value = d_BTHC.split(ctx.heads, dim=2)
        _turn(d_query_BTHC, cos_BTC, sin_BTC, to_query, sign=-1)
        _turn(d_key_BTKC, cos_BTC, sin_BTC, to_key, sign=-1)
        to_value.copy_(d_value_BTKC)
        return d_BTHC.flatten(2), None, None, None, None


def _turn(x_BTHC: Tensor, cos_BTC: Tensor, sin_BTC: Tensor, y_BTHC: Tensor, *, sign: int) -> None:
    """Turn the pairs of `x_BTHC` forth, or back with sign -1, into `y_BTHC`."""
    half = x_BTHC.shape[-1] // 2
    cos_BT1P, sin_BT1P = (each[..., :half].unsqueeze(2) for each in (cos_BTC, sin_BTC))
    (x_BTHP, other_BTHP), (y_BTHP, to_other_BTHP) = x_BTHC.split(half, -1), y_BTHC.split(half, -1)
    torch.mul(x_BTHP, cos_BT1P, out=y_BTHP).addcmul_(other_BTHP, sin_BT1P, value=-sign)
    torch.mul(other_BTHP, cos_BT1P, out=to_other_BTHP).addcmul_(x_BTHP, sin_BT1P, value=sign)
