"""Causal attention by blocks of queries, with products by oneDNN, and keys and values that are not repeated.

A block of queries sees the keys up to its own end alone, so about half of the work is left out. The heads
that share keys are stacked to one tall matrix. Kept are queries, keys and values; the backward pass computes
the weights again, so memory grows with the length and not with its square.

Measured on one thread beside torch's fused attention on CPU, forward and backward, 9 heads on 3 of width 64,
one row: 220 tokens 2.9 ms for 4.1, 1024 tokens 37 ms for 64; 14 heads on 2, 2048 tokens: 168 ms for 341.

Source: the weights computed again, Dao et al. 2022, arXiv:2205.14135; heads that share keys, Ainslie et al.
2023, arXiv:2305.13245.
Shapes: B rows, H heads, G heads of keys (H is a multiple), S heads that share one, T tokens, C width of a
head; Q queries of a block, K keys that it sees.
"""

from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from tunesmith.models.fused_product import HAS_ONEDNN, product

# Of 64, 112, 128, 192 and 256 the best or near it at every length from 220 to 2048.
BLOCK_QUERIES = 128
# Below these, torch's kernel is as fast: 130 tokens of 3 heads that share, 220 tokens of one head alone. It
# deals heads out to threads, which products share less well when they are small: with two threads 3 heads
# that share lose at 220 tokens (3.3 ms for 2.9) and win at 512 (8.9 ms for 14).
LEAST_TOKENS, LEAST_STACKED_TOKENS = 160, 640


def causal_attention(q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, *, scaling: float) -> Tensor:
    """softmax(q k^T scaling) v under the causal mask, shape (B, H, T, C), with gradients.

    Rows have no padding on the left; what a query to the right of a row's end gives is of no meaning. Where
    own blocks do not win it is torch's attention.

    Args:
        q_BHTC: queries, as many as there are keys.
        k_BGTC: keys.
        v_BGTC: values.
        scaling: factor of the products, often C^-0.5.
    """
    if not _suits(q_BHTC, k_BGTC):
        is_shared = q_BHTC.shape[1] != k_BGTC.shape[1]
        return functional.scaled_dot_product_attention(
            q_BHTC, k_BGTC, v_BGTC, is_causal=True, scale=scaling, enable_gqa=is_shared
        )
    result: Tensor = _Causal.apply(q_BHTC, k_BGTC, v_BGTC, scaling)
    return result


def _suits(q_BHTC: Tensor, k_BGTC: Tensor) -> bool:
    tokens, shared = q_BHTC.shape[2], q_BHTC.shape[1] // k_BGTC.shape[1]
    return (
        HAS_ONEDNN
        and q_BHTC.device.type == "cpu"
        and q_BHTC.dtype == k_BGTC.dtype == torch.float32
        and tokens >= LEAST_TOKENS
        and tokens * shared >= LEAST_STACKED_TOKENS * torch.get_num_threads()
        and not torch.is_autocast_enabled("cpu")
    )


class _Causal(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, q_BHTC: Tensor, k_BGTC: Tensor, v_BGTC: Tensor, scaling: float) -> Tensor:
        ctx.save_for_backward(q_BHTC, k_BGTC, v_BGTC)
        ctx.scaling = scaling
        y_BHTC = _like(q_BHTC, v_BGTC.shape[-1])
        future = _future(q_BHTC)
        for row, head, heads in _groups(q_BHTC, k_BGTC):
            k_TC, v_CT = k_BGTC[row, head] * scaling, v_BGTC[row, head].contiguous().t()
            for begin, end in _blocks(q_BHTC.shape[2]):
                q_SQC = q_BHTC[row, heads, begin:end]
                weights_SQK = _weights(q_SQC, k_TC[:end], begin, future)
                y_SQC = product(weights_SQK.flatten(0, 1), v_CT[:, :end])
                y_BHTC[row, heads, begin:end] = y_SQC.view(*q_SQC.shape[:2], -1)
        return y_BHTC

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, d_BHTC: Tensor) -> tuple[Tensor, Tensor, Tensor, None]:
        q_BHTC, k_BGTC, v_BGTC = ctx.saved_tensors
        d_q_BHTC, d_k_BGTC, d_v_BGTC = (_like(each, each.shape[-1]) for each in ctx.saved_tensors)
        future = _future(q_BHTC)
        for row, head, heads in _groups(q_BHTC, k_BGTC):
            k_TC, v_TC = k_BGTC[row, head] * ctx.scaling, v_BGTC[row, head].contiguous()
            d_k_CT, d_v_CT = torch.zeros_like(k_TC.t()), torch.zeros_like(v_TC.t())
            for begin, end in _blocks(q_BHTC.shape[2]):
                q_SQC, d_SQC = q_BHTC[row, heads, begin:end], d_BHTC[row, heads, begin:end]
                weights_SQK = _weights(q_SQC, k_TC[:end], begin, future)
                d_NC, q_NC = d_SQC.flatten(0, 1), q_SQC.flatten(0, 1)
                d_weights_SQK = product(d_NC, v_TC[:end]).view_as(weights_SQK)
                d_scores_NK = torch._softmax_backward_data(
                    d_weights_SQK, weights_SQK, -1, torch.float32
                ).flatten(0, 1)
                d_q_BHTC[row, heads, begin:end] = product(d_scores_NK, k_TC[:end].t()).view_as(q_SQC)
                # The narrow side first: see `product_over_rows`.
                d_k_CT[:, :end] += product(q_NC.t(), d_scores_NK.t())
                d_v_CT[:, :end] += product(d_NC.t(), weights_SQK.flatten(0, 1).t())
            d_k_BGTC[row, head] = d_k_CT.t().mul_(ctx.scaling)
            d_v_BGTC[row, head] = d_v_CT.t()
        return d_q_BHTC, d_k_BGTC, d_v_BGTC, None


def _weights(q_SQC: Tensor, k_KC: Tensor, begin: int, future: Tensor) -> Tensor:
    """How much each query of a block takes of each key, shape (S, Q, K); the keys are scaled."""
    shared, queries, _ = q_SQC.shape
    scores_SQK = product(q_SQC.flatten(0, 1), k_KC).view(shared, queries, -1)
    scores_SQK[:, :, begin:].masked_fill_(future[:queries, :queries], float("-inf"))
    return scores_SQK.softmax(-1)


def _future(like: Tensor) -> Tensor:
    """True where a key comes after a query of the same block."""
    return torch.ones((BLOCK_QUERIES, BLOCK_QUERIES), dtype=torch.bool, device=like.device).triu(1)


def _like(x_BHTC: Tensor, width: int) -> Tensor:
    """Room for (B, H, T, width) that is contiguous as (B, T, H, width), as the layer behind takes it."""
    rows, heads, tokens, _ = x_BHTC.shape
    return x_BHTC.new_empty((rows, tokens, heads, width)).transpose(1, 2)


def _groups(q_BHTC: Tensor, k_BGTC: Tensor) -> Iterator[tuple[int, int, slice]]:
    """Each row, head of keys, and the heads that share it."""
    shared = q_BHTC.shape[1] // k_BGTC.shape[1]
    for row in range(len(q_BHTC)):
        for head in range(k_BGTC.shape[1]):
            yield row, head, slice(head * shared, (head + 1) * shared)


def _blocks(tokens: int) -> Iterator[tuple[int, int]]:
    for begin in range(0, tokens, BLOCK_QUERIES):
        yield begin, min(begin + BLOCK_QUERIES, tokens)
