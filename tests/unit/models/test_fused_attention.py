"""Blocks of queries give what the formula of causal attention gives, values and gradients."""

import pytest
import torch
from torch._subclasses import FakeTensorMode

from tunesmith.models import fused_attention
from tunesmith.models.fused_attention import BLOCK_QUERIES, causal_attention

SHAPES = [  # rows, heads, heads of keys, tokens, width, width of values
    (1, 9, 3, 220, 16, 16),
    (2, 4, 1, 2 * BLOCK_QUERIES, 8, 8),
    (1, 4, 1, 2 * BLOCK_QUERIES + 1, 8, 24),
    (1, 2, 2, 650, 8, 8),
    (2, 2, 2, 5, 8, 8),
    (1, 6, 2, 1, 8, 8),
]


def made(shape, *, dtype=torch.float32):
    rows, heads, groups, tokens, width, value_width = shape
    torch.manual_seed(0)
    # Laid out as a model has them: tokens before heads.
    sizes = ((heads, width), (groups, width), (groups, value_width), (heads, value_width))
    return [
        torch.randn(rows, tokens, count, size, dtype=dtype).transpose(1, 2).requires_grad_()
        for count, size in sizes
    ]


def written_out(q, k, v, scaling):
    shared = q.shape[1] // k.shape[1]
    scores = q @ k.repeat_interleave(shared, 1).transpose(2, 3) * scaling
    later = torch.ones(scores.shape[-2:], dtype=torch.bool).triu(1)
    return scores.masked_fill(later, float("-inf")).softmax(-1) @ v.repeat_interleave(shared, 1)


@pytest.fixture(autouse=True)
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.mark.parametrize("shape", SHAPES, ids=str)
def test_values_and_gradients_are_those_of_the_formula_in_float64(shape):
    *inputs, d = made(shape)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    found, wanted = causal_attention(*inputs, scaling=0.3), written_out(*exact, 0.3)
    torch.testing.assert_close(found.double(), wanted, atol=1e-5, rtol=1e-5)
    gradients = torch.autograd.grad(found, inputs, d)
    for mine, formula in zip(gradients, torch.autograd.grad(wanted, exact, d.double()), strict=True):
        torch.testing.assert_close(mine.double(), formula, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("shape", SHAPES[:4], ids=str)
def test_long_rows_go_by_blocks(shape):
    q, k, v, _ = made(shape)
    assert "Causal" in causal_attention(q, k, v, scaling=1.0).grad_fn.name()


def test_more_threads_ask_for_longer_rows():
    q, k, v, _ = made(SHAPES[0])
    torch.set_num_threads(2)
    assert "Causal" not in causal_attention(q, k, v, scaling=1.0).grad_fn.name()


def test_a_later_token_changes_nothing_before_it():
    q, k, v, _ = made(SHAPES[0])
    with torch.no_grad():
        before = causal_attention(q, k, v, scaling=0.25)
        k[:, :, 150:] += 1
        v[:, :, 150:] -= 1
        after = causal_attention(q, k, v, scaling=0.25)
    assert torch.equal(before[:, :, :150], after[:, :, :150])
    assert not torch.equal(before[:, :, 150:], after[:, :, 150:])


def test_nothing_that_grows_with_the_square_of_the_length_is_kept():
    kept = []
    q, k, v, _ = made((1, 4, 1, 1024, 8, 8))
    with torch.autograd.graph.saved_tensors_hooks(lambda each: kept.append(each) or each, lambda each: each):
        causal_attention(q, k, v, scaling=1.0)
    assert sum(each.numel() for each in kept) == q.numel() + k.numel() + v.numel()


def test_it_has_shapes_on_fake_tensors():
    with FakeTensorMode():
        *inputs, d = (torch.empty(each.shape, requires_grad=True) for each in made(SHAPES[0]))
        y = causal_attention(*inputs, scaling=1.0)
        gradients = torch.autograd.grad(y, inputs, d)
    assert y.shape == d.shape
    assert [each.shape for each in gradients] == [each.shape for each in inputs]


def test_float64_is_left_to_torch_and_exact():
    *inputs, _ = made(SHAPES[0], dtype=torch.float64)
    found = causal_attention(*inputs, scaling=0.3)
    torch.testing.assert_close(found, written_out(*inputs, 0.3), atol=1e-12, rtol=1e-12)
    assert not fused_attention._suits(inputs[0], inputs[1])
