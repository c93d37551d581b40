"""Loss and gradients in chunks against torch's cross entropy over whole logits."""

import pytest
import torch
from torch.nn import functional

from tunesmith.models.head_loss import CHUNK_BYTES, Formula, Head, chunk_rows, loss_sum, losses
from tunesmith.planning.counting import LiveBytes

SCORED, WIDTH, VOCABULARY = 23, 16, 61
FORMULAS = [Formula(), Formula(0.0625), Formula(cap=3.0), Formula(1.7, cap=0.9)]
CHUNKS = [1, 7, SCORED, 1000]


def numbers(dtype, *, scored=SCORED, has_bias=True, spread=2.0):
    """Hidden states, weight and bias, all learning, and targets."""
    generator = torch.Generator().manual_seed(scored)
    made = [
        (spread * torch.randn(shape, generator=generator, dtype=torch.float64)).to(dtype).requires_grad_()
        for shape in ((scored, WIDTH), (VOCABULARY, WIDTH), (VOCABULARY,))
    ]
    targets_N = torch.randint(0, VOCABULARY, (scored,), generator=generator)
    return made if has_bias else [*made[:2], None], targets_N


def by_torch(inputs, targets_N, formula):
    """Losses from whole logits."""
    hidden_ND, weight_VD, bias_V = inputs
    logits_NV = functional.linear(hidden_ND, weight_VD, bias_V) * formula.scale
    if formula.cap is not None:
        logits_NV = formula.cap * torch.tanh(logits_NV / formula.cap)
    return functional.cross_entropy(logits_NV, targets_N, reduction="none")


def by_chunks(inputs, targets_N, formula, rows):
    hidden_ND, weight_VD, bias_V = inputs
    head = Head(weight_VD, bias_V, formula, weight_VD.dtype)
    return loss_sum(head, hidden_ND, targets_N, rows=rows)


def gradients(loss, inputs):
    return torch.autograd.grad(loss, [each for each in inputs if each is not None])


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("rows", CHUNKS)
@pytest.mark.parametrize("has_bias", [True, False])
@pytest.mark.parametrize(("dtype", "most"), [(torch.float64, 1e-12), (torch.float32, 1e-6)])
def test_value_and_gradients_are_those_of_whole_logits(formula, rows, has_bias, dtype, most):
    # Float32 knows a logit to 1e-7 of its size: they are small here.
    inputs, targets_N = numbers(dtype, has_bias=has_bias, spread=0.4)
    exact = [None if each is None else each.detach().double().requires_grad_() for each in inputs]
    expected = by_torch(exact, targets_N, formula).sum()
    found = by_chunks(inputs, targets_N, formula, rows)
    assert found.dtype == dtype
    assert found.item() == pytest.approx(expected.item(), rel=most)
    pairs = zip(gradients(found * 0.37, inputs), gradients(expected * 0.37, exact), strict=True)
    for ours, theirs in pairs:
        assert ours.dtype == dtype
        assert (ours - theirs).abs().max() <= most * theirs.abs().max()


@pytest.mark.parametrize("formula", FORMULAS)
@pytest.mark.parametrize("rows", CHUNKS)
def test_losses_of_single_tokens_are_those_of_whole_logits(formula, rows):
    inputs, targets_N = numbers(torch.float64)
    head = Head(inputs[1], inputs[2], formula, torch.float64)
    found_N = losses(head, inputs[0], targets_N, rows=rows)
    torch.testing.assert_close(found_N, by_torch(inputs, targets_N, formula).detach(), rtol=1e-12, atol=1e-12)
    assert not found_N.requires_grad


@pytest.mark.parametrize("rows", CHUNKS)
def test_no_scored_token_gives_zero_and_gradients_of_zero(rows):
    inputs, targets_N = numbers(torch.float32, scored=0)
    loss = by_chunks(inputs, targets_N, Formula(), rows)
    assert loss.item() == 0
    assert all(torch.equal(each, torch.zeros_like(each)) for each in gradients(loss, inputs))


@pytest.mark.parametrize("learning", [(0,), (1,), (2,), (0, 2), (1, 2)])
def test_what_does_not_learn_gets_no_gradient(learning):
    inputs, targets_N = numbers(torch.float64)
    expected = gradients(by_torch(inputs, targets_N, Formula()).sum(), inputs)
    for index, each in enumerate(inputs):
        each.requires_grad_(index in learning)
    by_chunks(inputs, targets_N, Formula(), 5).backward()
    for index, (each, gradient) in enumerate(zip(inputs, expected, strict=True)):
        if index in learning:
            torch.testing.assert_close(each.grad, gradient, rtol=1e-12, atol=1e-12)
        else:
            assert each.grad is None


def test_huge_logits_stay_finite():
    inputs, targets_N = numbers(torch.float32, spread=200.0)
    loss = by_chunks(inputs, targets_N, Formula(), 4)
    expected = by_torch(inputs, targets_N, Formula()).sum()
    assert expected > 1e5
    assert loss.item() == pytest.approx(expected.item(), rel=1e-6)
    assert all(each.isfinite().all() for each in gradients(loss, inputs))


def test_a_second_backward_pass_is_refused():
    inputs, targets_N = numbers(torch.float32)
    loss = by_chunks(inputs, targets_N, Formula(), 4)
    loss.backward(retain_graph=True)
    with pytest.raises(RuntimeError, match="modified by an inplace operation"):
        loss.backward()


@pytest.mark.parametrize("formula", FORMULAS)
def test_short_numbers_are_multiplied_short_and_summed_long(formula):
    """Products in bfloat16, all else in float32: as near to the exact gradient as torch's own way."""
    inputs, targets_N = numbers(torch.bfloat16)
    exact = [each.detach().double().requires_grad_() for each in inputs]
    expected = gradients(by_torch(exact, targets_N, formula).sum(), exact)
    loss = by_chunks(inputs, targets_N, formula, 7)
    assert loss.dtype == torch.float32
    for ours, exactly in zip(gradients(loss, inputs), expected, strict=True):
        assert ours.dtype == torch.bfloat16
        assert (ours.double() - exactly).norm() <= 0.01 * exactly.norm()


def test_one_chunk_of_logits_is_alive_at_a_time():
    rows, scored, vocabulary = 20, 400, 5000
    hidden_ND = torch.randn(scored, WIDTH, requires_grad=True)
    weight_VD = torch.randn(vocabulary, WIDTH)
    head = Head(weight_VD, None, Formula(), torch.float32)
    targets_N = torch.zeros(scored, dtype=torch.long)
    with LiveBytes() as count:
        count.hold([hidden_ND, weight_VD, targets_N])
        held = count.live_bytes
        loss_sum(head, hidden_ND, targets_N, rows=rows).backward()
    chunk = 4 * rows * vocabulary
    assert chunk < count.peak_bytes - held < chunk + 3 * hidden_ND.nbytes
    assert count.live_bytes - held == hidden_ND.nbytes


@pytest.mark.parametrize(
    ("vocabulary", "cap", "rows"), [(2**18, None, 31), (2**18, 30.0, 15), (2**25, None, 1)]
)
def test_chunk_holds_as_many_positions_as_fit(vocabulary, cap, rows):
    head = Head(torch.empty(vocabulary, 1, device="meta"), None, Formula(cap=cap), torch.bfloat16)
    assert CHUNK_BYTES == 31 * 2**20
    assert chunk_rows(head) == rows
