"""Dropout beside a low-rank update: the rate, the expectation, the gradient, and torch's generator."""

import pytest
import torch
from peft import LoraConfig
from peft.tuners.lora import Linear as PeftLinear
from torch import nn

from tunesmith.models.fused import quicken
from tunesmith.models.fused_lora import QuickLora, drawn


def layer(*, dropout, dtype=torch.float64, inputs=24, outputs=40):
    torch.manual_seed(0)
    made = PeftLinear(
        nn.Linear(inputs, outputs).to(dtype).requires_grad_(False),
        "default",
        LoraConfig(lora_dropout=dropout),
        r=8,
        lora_alpha=16,
    ).to(dtype)
    nn.init.normal_(made.lora_B["default"].weight)
    quicken(made)
    assert isinstance(made, QuickLora)
    return made.train()


@pytest.mark.parametrize("rate", [1e-9, 0.05, 0.5, 0.9, 1.0])
def test_the_share_of_dropped_places_is_the_rate(rate):
    torch.manual_seed(0)
    kept, share = drawn(torch.Size((501, 333)), rate, device=torch.device("cpu"))
    assert share == pytest.approx(1 - rate, abs=2**-16)
    # Five standard deviations of a binomial share.
    spread = 5 * (share * (1 - share) / kept.numel()) ** 0.5
    assert kept.double().mean().item() == pytest.approx(share, abs=spread + 1e-12)
    # No row and no column is favoured.
    for axis in (0, 1):
        shares = kept.double().mean(axis)
        assert (shares - share).abs().max() <= 6 * (rate * (1 - rate) / kept.shape[axis]) ** 0.5 + 2 / 333


def test_the_draw_follows_torchs_generator():
    state = torch.get_rng_state()
    first, _ = drawn(torch.Size((40, 7)), 0.3, device=torch.device("cpu"))
    second, _ = drawn(torch.Size((40, 7)), 0.3, device=torch.device("cpu"))
    torch.set_rng_state(state)
    again, _ = drawn(torch.Size((40, 7)), 0.3, device=torch.device("cpu"))
    assert torch.equal(first, again)
    assert not torch.equal(first, second)


def test_nothing_is_drawn_without_dropout_nor_in_eval_mode():
    x_ND = torch.randn(20, 24, dtype=torch.float64)
    for made in (layer(dropout=0.0), layer(dropout=0.5).eval()):
        state = torch.get_rng_state()
        made(x_ND)
        assert torch.equal(torch.get_rng_state(), state)


def test_the_update_is_that_of_the_kept_inputs_over_the_kept_share():
    made, x_ND = layer(dropout=0.25), torch.randn(20, 24, dtype=torch.float64)
    state = torch.get_rng_state()
    found = made(x_ND)
    torch.set_rng_state(state)
    kept, share = drawn(x_ND.shape, 0.25, device=x_ND.device)
    update = (x_ND * kept / share) @ made.lora_A["default"].weight.T @ made.lora_B["default"].weight.T
    torch.testing.assert_close(found, made.base_layer(x_ND) + 2 * update, atol=1e-12, rtol=1e-12)


@pytest.mark.parametrize("learns", [False, True], ids=["frozen base", "learned base"])
@pytest.mark.parametrize("dropout", [0.0, 0.25])
def test_gradients_are_those_of_finite_differences(dropout, learns):
    made = layer(dropout=dropout, inputs=5, outputs=6)
    made.base_layer.requires_grad_(learns)
    x_ND = torch.randn(2, 3, 5, dtype=torch.float64, requires_grad=True)
    state = torch.get_rng_state()

    def output(x_ND, *_):
        torch.set_rng_state(state)
        return made(x_ND)

    learned = [weight for weight in made.parameters() if weight.requires_grad]
    assert len(learned) == (4 if learns else 2)
    assert torch.autograd.gradcheck(output, (x_ND, *learned))
