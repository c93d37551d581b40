"""Quick layers against the untouched layers of transformers and peft on the real model."""

import copy

import pytest
import torch
from torch import nn

from tunesmith.config import MethodConfig
from tunesmith.methods import lora
from tunesmith.models.find import find_model
from tunesmith.models.forward import token_losses
from tunesmith.models.fused import quicken
from tunesmith.models.fused_product import HAS_ONEDNN, product, product_over_rows
from tunesmith.models.load import load_model

IDS = torch.randint(5, 40_000, (2, 48), generator=torch.Generator().manual_seed(0))
PREDICTS = torch.ones_like(IDS, dtype=torch.bool).index_fill(1, torch.tensor([47]), value=False)


def losses_and_gradients(model):
    losses_N = token_losses(model, IDS, PREDICTS)
    losses_N.sum().backward()
    return losses_N.detach(), [weight.grad for weight in model.parameters() if weight.grad is not None]


@pytest.mark.real_model
def test_losses_and_gradients_of_the_real_model():
    loaded = load_model(find_model("smollm2-135m"), dtype=torch.float32, device=torch.device("cpu"))
    old = lora.prepare(loaded.model, MethodConfig(name="lora", rank=16, dropout=0.0)).train()
    torch.manual_seed(1)
    for name, weight in old.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.02)
    new = copy.deepcopy(old)
    assert quicken(new) == ()
    (found, gradients), (wanted, expected) = losses_and_gradients(new), losses_and_gradients(old)
    torch.testing.assert_close(found, wanted, atol=1e-4, rtol=1e-5)
    assert len(gradients) == len(expected) > 0
    # Thirty layers of float32, rounded in another order.
    for gradient, other in zip(gradients, expected, strict=True):
        assert (gradient - other).norm() <= 2e-4 * other.norm()


@pytest.mark.skipif(not HAS_ONEDNN, reason="no oneDNN for x86 here")
@pytest.mark.parametrize(("rows", "inputs", "outputs"), [(16, 7, 5), (33, 64, 200), (100, 576, 16)])
def test_a_product_is_rounded_as_float32_and_no_shorter(rows, inputs, outputs):
    torch.manual_seed(0)
    x_NI, weight_OI, d_NO = (
        torch.randn(rows, inputs),
        torch.randn(outputs, inputs),
        torch.randn(rows, outputs),
    )
    bias_O = torch.randn(outputs)
    exact = x_NI.double() @ weight_OI.double().T + bias_O.double()
    # Half a unit in the last place for each term of the sum, on numbers of spread 1.
    bound = inputs * 2**-24 * 8
    assert (product(x_NI, weight_OI, bias_O) - exact).abs().max() <= bound
    assert (product(d_NO, weight_OI.t()) - d_NO.double() @ weight_OI.double()).abs().max() <= outputs * 2**-21
    received = d_NO.double().T @ x_NI.double()
    assert (product_over_rows(d_NO, x_NI) - received).abs().max() <= rows * 2**-21
