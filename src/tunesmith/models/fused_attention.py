"""Causal attention of rows that lie one after another, and that may share what they begin with.

The shared tokens lie once, at the beginning of the first row. What is each later row's own sees two sets of
keys: its own, under the causal mask, and the shared ones, which all rows see in one call. The two results
are one softmax again by the logarithms of their sums, and the gradients of each part follow from the whole.
Kept for the backward pass are queries, keys, values, the result and one number for each query: memory grows
with the tokens, not with their square, nor with the rows that share.

Source: results joined by the logarithms of their sums, Juravsky et al. 2024, arXiv:2402.05099 (Hydragen),
section 3.1; weights computed again, Dao et al. 2022, arXiv:2205.14135; heads that share keys, Ainslie et al.
2023, arXiv:2305.13245.
Shapes: T tokens of all rows, H heads of queries, G heads of keys (H is a multiple), S heads that share one,
C width of a head; P shared tokens, A the tokens behind the first row.
"""

from collections.abc import Sequence
from itertools import accumulate, pairwise
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

# torch's own kernel for the CPU, beneath `scaled_dot_product_attention`, which does not tell the sums.
_attend = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu
_attend_back = torch.ops.aten._scaled_dot_product_flash_attention_for_cpu_backward


def causal_attention(
    q_1HTC: Tensor,
    k_1GTC: Tensor,
    v_1GTC: Tensor,
    *,
    row_lengths: Sequence[int],
    shared_tokens: int = 0,
    scaling: float,
) -> Tensor:
    """softmax(q k^T scaling) v of each token over itself and what comes before it in its row, (1, T, H, C).

    On CPU, with gradients.

    Args:
        q_1HTC: queries of all rows.
        k_1GTC: keys.
        v_1GTC: values, as wide as the keys.
        row_lengths: tokens of each row as they lie there, the first with the shared ones; their sum is T.
        shared_tokens: tokens at the beginning of the first row that every other row begins with too.
        scaling: factor of the products, often C^-0.5.
    """
    # The kernel dies of a call without queries.
    shared_tokens = shared_tokens if len(row_lengths) > 1 else 0
    # It also takes for granted that the numbers of a head lie side by side.
    q_1HTC, k_1GTC, v_1GTC = map(_side_by_side, (q_1HTC, k_1GTC, v_1GTC))
    result: Tensor = _Rows.apply(q_1HTC, k_1GTC, v_1GTC, tuple(row_lengths), shared_tokens, scaling)
    return result


class _Rows(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        q_1HTC: Tensor,
        k_1GTC: Tensor,
        v_1GTC: Tensor,
        row_lengths: tuple[int, ...],
        shared_tokens: int,
        scaling: float,
    ) -> Tensor:
        q_GSTC, k_GSTC, v_GSTC = _by_groups(q_1HTC, k_1GTC, v_1GTC)
        y_GSTC = _room(q_GSTC)
        sums_GST = q_GSTC.new_empty(q_GSTC.shape[:3], dtype=torch.promote_types(q_GSTC.dtype, torch.float32))
        for row in _rows(row_lengths):
            y_GSTC[:, :, row], sums_GST[:, :, row] = _attend(
                q_GSTC[:, :, row], k_GSTC[:, :, row], v_GSTC[:, :, row], 0.0, True, scale=scaling
            )
        if shared_tokens:
            shared, behind = slice(shared_tokens), slice(row_lengths[0], None)
            found = _attend(
                q_GSTC[:, :, behind], k_GSTC[:, :, shared], v_GSTC[:, :, shared], 0.0, False, scale=scaling
            )
            _join(y_GSTC[:, :, behind], sums_GST[:, :, behind], *found)
        ctx.save_for_backward(q_1HTC, k_1GTC, v_1GTC, y_GSTC, sums_GST)
        ctx.row_lengths, ctx.shared_tokens, ctx.scaling = row_lengths, shared_tokens, scaling
        return _by_tokens(y_GSTC)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_1THC: Tensor) -> tuple[Tensor | None, ...]:
        *inputs, y_GSTC, sums_GST = ctx.saved_tensors
        states = _by_groups(*inputs)
        d_GSTC = _side_by_side(d_1THC).transpose(1, 2).view_as(y_GSTC)
        d_q_GSTC, d_k_1GTC, d_v_1GTC = _room(states[0]), *(torch.empty_like(each) for each in inputs[1:])

        def back(queries: slice, keys: slice, *, is_causal: bool) -> tuple[Tensor, Tensor, Tensor]:
            q, k, v = (state[:, :, at] for state, at in zip(states, (queries, keys, keys), strict=True))
            whole = (y_GSTC[:, :, queries], sums_GST[:, :, queries])
            d_q, d_k, d_v = _attend_back(
                d_GSTC[:, :, queries], q, k, v, *whole, 0.0, is_causal, scale=ctx.scaling
            )
            return d_q, d_k.sum(1), d_v.sum(1)

        for row in _rows(ctx.row_lengths):
            d_q_GSTC[:, :, row], d_k_1GTC[0, :, row], d_v_1GTC[0, :, row] = back(row, row, is_causal=True)
        if ctx.shared_tokens:
            shared, behind = slice(ctx.shared_tokens), slice(ctx.row_lengths[0], None)
            d_q, d_k, d_v = back(behind, shared, is_causal=False)
            d_q_GSTC[:, :, behind] += d_q
            d_k_1GTC[0, :, shared] += d_k
            d_v_1GTC[0, :, shared] += d_v
        return d_q_GSTC.flatten(0, 1).unsqueeze(0), d_k_1GTC, d_v_1GTC, None, None, None


def _side_by_side(states: Tensor) -> Tensor:
    return states if states.stride(-1) == 1 else states.contiguous()


def _by_groups(q_1HTC: Tensor, k_1GTC: Tensor, v_1GTC: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Queries as (G, S, T, C), and keys and values shown to the S heads that share them; no copies."""
    groups = k_1GTC.shape[1]
    q_GSTC = q_1HTC[0].unflatten(0, (groups, -1))
    k_GSTC, v_GSTC = (each[0].unsqueeze(1).expand(-1, q_GSTC.shape[1], -1, -1) for each in (k_1GTC, v_1GTC))
    return q_GSTC, k_GSTC, v_GSTC


def _room(q_GSTC: Tensor) -> Tensor:
    """Room of the same shape that lies as (T, G, S, C), as the layers beside take and give it."""
    groups, shared, tokens, width = q_GSTC.shape
    return q_GSTC.new_empty(tokens, groups, shared, width).permute(1, 2, 0, 3)


def _by_tokens(y_GSTC: Tensor) -> Tensor:
    """The same numbers as (1, T, H, C)."""
    return y_GSTC.permute(2, 0, 1, 3).flatten(1, 2).unsqueeze(0)


def _rows(row_lengths: Sequence[int]) -> list[slice]:
    return [slice(*ends) for ends in pairwise(accumulate(row_lengths, initial=0))]


def _join(y_GSAC: Tensor, sums_GSA: Tensor, other_GSAC: Tensor, other_sums_GSA: Tensor) -> None:
    """Take the attention over other keys into the one over some, in place."""
    joined_GSA = torch.logaddexp(sums_GSA, other_sums_GSA)
    y_GSAC *= (sums_GSA - joined_GSA).exp_().unsqueeze(-1)
    y_GSAC.addcmul_(other_GSAC, (other_sums_GSA - joined_GSA).exp_().unsqueeze(-1).to(y_GSAC.dtype))
    sums_GSA.copy_(joined_GSA)
