"""Layers that see the same input give together what each gives, and by themselves where they must."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from peft.tuners.lora import Linear as PeftLinear
from safetensors.torch import load_file, save_file
from torch import nn

from tiny import tiny_model
from tunesmith.models.fused import quicken, turned_weights
from tunesmith.models.fused_together import lay_together, together

INPUTS, OUTPUTS = 24, (40, 8, 16)


def layers(*, ranks=(8, 4, 0), bias=False, dropout=0.0, dtype=torch.float64, factor=2.0):
    """Three layers of the same input; those with a rank have an adapter of that rank."""
    torch.manual_seed(0)
    made = []
    for outputs, rank in zip(OUTPUTS, ranks, strict=True):
        layer = nn.Linear(INPUTS, outputs, bias=bias).to(dtype).requires_grad_(False)
        if rank:
            config = LoraConfig(lora_dropout=dropout)
            layer = PeftLinear(layer, "default", config, r=rank, lora_alpha=factor * rank).to(dtype)
            nn.init.normal_(layer.lora_B["default"].weight)
        quicken(layer)
        made.append(layer)
    return nn.ModuleList(made).train()


def plain_base(layer):
    return getattr(layer, "base_layer", layer)


@pytest.mark.parametrize("bias", [False, True], ids=["no bias", "bias"])
@pytest.mark.parametrize("ranks", [(8, 8, 8), (8, 0, 4), (0, 0, 0)], ids=str)
@pytest.mark.parametrize("rows", [(2, 5), (4, 20)], ids=str)
@pytest.mark.parametrize("is_turned", [False, True], ids=["rows", "turned"])
def test_outputs_and_gradients_are_those_of_each(ranks, bias, rows, is_turned):
    apart = layers(ranks=ranks, bias=bias)
    joint = copy.deepcopy(apart)
    lay_together(joint, is_turned=is_turned)
    x_NI = torch.randn(*rows, INPUTS, dtype=torch.float64, requires_grad=True)
    d_NO = torch.randn(*rows, sum(OUTPUTS), dtype=torch.float64)
    other_NI = x_NI.detach().clone().requires_grad_()
    wanted = torch.cat([layer(other_NI) for layer in apart], dim=-1)
    found = together(x_NI, joint)
    found.backward(d_NO), wanted.backward(d_NO)
    close = {"atol": 1e-11, "rtol": 1e-11}
    torch.testing.assert_close(found, wanted, **close)
    torch.testing.assert_close(x_NI.grad, other_NI.grad, **close)
    for (name, weight), (_, other) in zip(joint.named_parameters(), apart.named_parameters(), strict=True):
        assert (weight.grad is None) == (other.grad is None) == ("lora" not in name)
        if weight.grad is not None:
            torch.testing.assert_close(weight.grad, other.grad, **close)


def test_weights_keep_their_objects_numbers_and_file(tmp_path):
    made = layers(bias=True)
    before, numbers = dict(made.named_parameters()), copy.deepcopy(made.state_dict())
    lay_together(made)
    assert all(before[name] is weight for name, weight in made.named_parameters())
    assert all(torch.equal(numbers[name], weight) for name, weight in made.state_dict().items())
    storages = {plain_base(layer).weight.untyped_storage()._cdata for layer in made}
    assert len(storages) == 1
    save_file(made.state_dict(), tmp_path / "weights.safetensors")
    stored = load_file(tmp_path / "weights.safetensors")
    assert all(torch.equal(numbers[name], weight) for name, weight in stored.items())
    lay_together(made)
    assert {plain_base(layer).weight.untyped_storage()._cdata for layer in made} == storages


def test_turned_weights_keep_objects_and_numbers_and_lie_as_before_afterwards():
    made = layers(bias=True)
    lay_together(made)
    before, numbers = dict(made.named_parameters()), copy.deepcopy(made.state_dict())
    lay_together(made, is_turned=True)
    assert all(before[name] is weight for name, weight in made.named_parameters())
    assert [plain_base(layer).weight.stride() for layer in made] == [(1, sum(OUTPUTS))] * 3
    lay_together(made)
    for name, weight in made.state_dict().items():
        assert weight.is_contiguous()
        assert torch.equal(numbers[name], weight)


def test_turned_weights_give_each_layer_alone_what_it_gave():
    made, x_NI = layers(dtype=torch.float32), torch.randn(64, INPUTS)
    wanted = [layer(x_NI) for layer in made]
    lay_together(made, is_turned=True)
    for layer, expected in zip(made, wanted, strict=True):
        torch.testing.assert_close(layer(x_NI), expected, atol=1e-5, rtol=1e-5)


def laid(model):
    block = model.get_submodule("model.layers.0")
    return [
        plain_base(layer) for layer in (block.self_attn.q_proj, block.self_attn.v_proj, block.mlp.up_proj)
    ]


@pytest.fixture
def by_onednn(monkeypatch):
    """As on a processor on which oneDNN is the faster; the products themselves are those of this one."""
    monkeypatch.setattr("tunesmith.models.fused.PREFERS_ONEDNN", True)


@pytest.mark.usefixtures("by_onednn")
def test_a_model_lies_turned_only_within_and_also_after_an_error():
    model, ids_BT = tiny_model().requires_grad_(False), torch.arange(20).unsqueeze(0)
    quicken(model)
    wanted = model(ids_BT).logits
    with pytest.raises(KeyError), turned_weights(model):
        assert not any(layer.weight.is_contiguous() for layer in laid(model))
        torch.testing.assert_close(model(ids_BT).logits, wanted, atol=1e-5, rtol=1e-5)
        raise KeyError
    assert all(layer.weight.is_contiguous() for layer in laid(model))
    assert torch.equal(model(ids_BT).logits, wanted)


def test_where_mkl_multiplies_nothing_is_turned(monkeypatch):
    monkeypatch.setattr("tunesmith.models.fused.PREFERS_ONEDNN", False)
    model = tiny_model().requires_grad_(False)
    quicken(model)
    with turned_weights(model):
        assert all(layer.weight.is_contiguous() for layer in laid(model))


@pytest.mark.usefixtures("by_onednn")
@pytest.mark.parametrize(("dropout", "dtype"), [(0.1, torch.float32), (0.0, torch.bfloat16)], ids=str)
def test_layers_that_are_asked_one_by_one_are_not_turned(dropout, dtype):
    asked = LoraConfig(r=4, target_modules=["q_proj", "v_proj", "up_proj"], lora_dropout=dropout)
    model = get_peft_model(tiny_model().requires_grad_(False).to(dtype), asked).get_base_model()
    quicken(model)
    with turned_weights(model):
        assert all(layer.weight.is_contiguous() for layer in laid(model))


def test_a_weight_written_in_place_counts():
    made = layers(ranks=(0, 0, 0))
    lay_together(made)
    with torch.no_grad():
        made[1].weight.zero_()
    found = together(torch.randn(3, INPUTS, dtype=torch.float64), made)
    assert (found[:, 40:48] == 0).all()
    assert (found[:, :40] != 0).all()


def learned(made):
    plain_base(made[1]).requires_grad_(True)


def hooked(made):
    plain_base(made[0]).register_forward_hook(lambda *_: None)


def hooked_before(made):
    made[2].register_forward_pre_hook(lambda *_: None)


def moved(made):
    plain_base(made[2]).weight.data = plain_base(made[2]).weight.data.clone()


def switched_off(made):
    made[0].enable_adapters(False)


def merged(made):
    made[0].merge()


@pytest.mark.parametrize("change", [learned, hooked, hooked_before, moved, switched_off, merged])
def test_each_is_asked_by_itself_after(change):
    made, x_NI = layers(), torch.randn(3, INPUTS, dtype=torch.float64)
    lay_together(made)
    assert together(x_NI, made) is not None
    change(made)
    assert together(x_NI, made) is None


@pytest.mark.parametrize("settings", [{"dropout": 0.1}, {"bias": True}], ids=str)
def test_dropout_at_work_is_left_to_each_layer_and_a_missing_bias_too(settings):
    made, x_NI = layers(**settings), torch.randn(3, INPUTS, dtype=torch.float64)
    if settings.get("bias"):
        made[2].bias = None
    lay_together(made)
    assert together(x_NI, made) is None
    made.eval()
    assert (together(x_NI, made) is None) == bool(settings.get("bias"))


def test_adapters_of_different_factors_and_layers_that_were_not_laid_are_asked_one_by_one():
    made, x_NI = layers(), torch.randn(3, INPUTS, dtype=torch.float64)
    assert together(x_NI, made) is None
    lay_together(made)
    made[1].scaling["default"] = 3.0
    assert together(x_NI, made) is None


def test_weights_that_learn_are_not_moved():
    made = layers(ranks=(0, 0, 0))
    made.requires_grad_(True)
    places = [layer.weight.data_ptr() for layer in made]
    lay_together(made)
    assert [layer.weight.data_ptr() for layer in made] == places
