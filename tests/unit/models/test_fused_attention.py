"""Attention of rows that lie one after another, and share a beginning, is what each row has alone."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tunesmith.models.fused_attention import causal_attention

# Heads, heads of keys, width.
HEADS = [(4, 2, 8), (3, 3, 8), (6, 1, 16)]


def made(heads, groups, width, tokens, *, seed=0, dtype=torch.float64):
    """Queries, keys, values and a gradient, laid out as a model has them: tokens before heads."""
    torch.manual_seed(seed)
    q, k, v, d = (
        torch.randn(1, tokens, count, width, dtype=dtype) for count in (heads, groups, groups, heads)
    )
    return [each.transpose(1, 2).requires_grad_() for each in (q, k, v)], d


def written_out(q, k, v, *, row_lengths, shared_tokens, scaling):
    """Each row whole, with a copy of what it shares; (1, T, H, C)."""
    shared_heads, found, begin = q.shape[1] // k.shape[1], [], 0
    for row, length in enumerate(row_lengths):
        at = [*(range(shared_tokens) if row else ()), *range(begin, begin + length)]
        q_row, k_row, v_row = (
            q[:, :, at],
            *(each[:, :, at].repeat_interleave(shared_heads, 1) for each in (k, v)),
        )
        scores = q_row @ k_row.transpose(2, 3) * scaling
        later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
        y = scores.masked_fill(later, float("-inf")).softmax(-1) @ v_row
        found.append(y[:, :, -length:].transpose(1, 2))
        begin += length
    return torch.cat(found, 1)


def compare(inputs, d, *, atol, **arguments):
    exact = [each.detach().double().requires_grad_() for each in inputs]
    found, wanted = causal_attention(*inputs, **arguments), written_out(*exact, **arguments)
    assert_close(found.double(), wanted, atol=atol, rtol=0)
    pairs = zip(
        torch.autograd.grad(found, inputs, d), torch.autograd.grad(wanted, exact, d.double()), strict=True
    )
    for mine, formula in pairs:
        assert_close(mine.double(), formula, atol=10 * atol, rtol=0)


@pytest.mark.parametrize("heads", HEADS, ids=str)
@settings(deadline=None, max_examples=15)
@given(
    own=st.lists(st.integers(1, 40), min_size=1, max_size=5),
    shared_tokens=st.integers(0, 30),
    seed=st.integers(0, 9),
)
def test_values_and_gradients_are_those_of_each_row_alone(heads, own, shared_tokens, seed):
    row_lengths = [shared_tokens + own[0], *own[1:]]
    inputs, d = made(*heads, sum(row_lengths), seed=seed)
    compare(inputs, d, atol=1e-12, row_lengths=row_lengths, shared_tokens=shared_tokens, scaling=0.3)


@pytest.mark.parametrize("shared_tokens", [0, 24, 300])
def test_long_rows_in_float32_differ_by_rounding(shared_tokens):
    inputs, d = made(9, 3, 64, 700, dtype=torch.float32)
    compare(inputs, d, atol=2e-5, row_lengths=[420, 170, 110], shared_tokens=shared_tokens, scaling=64**-0.5)


def test_numbers_of_a_head_may_lie_apart():
    inputs, d = made(4, 2, 8, 60)
    apart = [each.detach().transpose(2, 3).contiguous().transpose(2, 3).requires_grad_() for each in inputs]
    d_apart = d.transpose(2, 3).contiguous().transpose(2, 3)
    assert apart[0].stride(-1) != 1 != d_apart.stride(-1)
    compare(apart, d_apart, atol=1e-12, row_lengths=[40, 20], shared_tokens=30, scaling=0.3)


def test_large_numbers_stay_finite():
    inputs, d = made(4, 2, 8, 60, dtype=torch.float32)
    found = causal_attention(
        *(40 * each for each in inputs), row_lengths=[40, 20], shared_tokens=30, scaling=1.0
    )
    assert found.isfinite().all()
    assert all(each.isfinite().all() for each in torch.autograd.grad(found, inputs, d))


def test_half_numbers_are_taken():
    inputs, d = made(4, 2, 16, 60, dtype=torch.bfloat16)
    found = causal_attention(*inputs, row_lengths=[40, 20], shared_tokens=30, scaling=0.25)
    exact = written_out(
        *(each.detach().double() for each in inputs), row_lengths=[40, 20], shared_tokens=30, scaling=0.25
    )
    assert found.dtype == torch.bfloat16
    assert_close(found.double(), exact, atol=0.03, rtol=0)
    assert all(each.dtype == torch.bfloat16 for each in torch.autograd.grad(found, inputs, d))


def test_nothing_that_grows_with_the_square_of_the_length_is_kept():
    kept = []
    inputs, _ = made(4, 1, 8, 1024, dtype=torch.float32)
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        causal_attention(*inputs, row_lengths=[600, 424], shared_tokens=500, scaling=1.0)
    q, k, v = inputs
    result, sums = q.numel(), q.numel() // 8
    assert sum(each.numel() for each in kept) == q.numel() + k.numel() + v.numel() + result + sums
