"""LoRA: nothing changes at the start, only the adapter learns, and names of layers are checked."""

import pytest
import torch
from torch import nn
from transformers import GPT2Config, GPT2LMHeadModel

from tiny import tiny_model
from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError
from tunesmith.methods import METHODS, lora, trainable

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])
ATTENTION = {"q_proj", "k_proj", "v_proj", "o_proj"}
ALL_LINEAR = ATTENTION | {"gate_proj", "up_proj", "down_proj"}


def prepared(*, seed=0, **settings):
    base = tiny_model()
    torch.manual_seed(seed)
    return lora.prepare(base, MethodConfig(**settings))


def adapted(model):
    """Last names of the layers that carry an adapter."""
    return {name.split(".")[-4] for name, _ in model.named_parameters() if "lora_A" in name}


@pytest.mark.parametrize("dropout", [0.0, 0.5])
@pytest.mark.parametrize("target_modules", ["all-linear", "attention", ["down_proj"]])
def test_before_training_the_logits_are_the_base_ones_exactly(target_modules, dropout):
    model = prepared(target_modules=target_modules, dropout=dropout).eval()
    with torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, tiny_model()(input_ids=IDS).logits)


def test_every_b_starts_at_zero_and_no_a_does():
    pairs = dict(prepared(rank=4).named_parameters())
    assert all(not weight.any() for name, weight in pairs.items() if "lora_B" in name)
    assert all(weight.any() for name, weight in pairs.items() if "lora_A" in name)


@pytest.mark.parametrize(
    ("target_modules", "layers"),
    [
        ("all-linear", ALL_LINEAR),
        ("attention", ATTENTION),
        (["q_proj", "down_proj"], {"q_proj", "down_proj"}),
    ],
)
def test_adapters_sit_on_the_asked_layers_and_on_no_others(target_modules, layers):
    assert adapted(prepared(target_modules=target_modules)) == layers


def test_output_layer_gets_no_adapter():
    assert not any("lm_head.lora" in name for name, _ in prepared().named_parameters())


@pytest.mark.parametrize("rank", [1, 3, 8])
def test_trainable_is_rank_times_inputs_plus_outputs_of_each_layer(rank):
    layers = [layer for name, layer in tiny_model().named_modules() if name.split(".")[-1] in ATTENTION]
    by_hand = sum(rank * (layer.in_features + layer.out_features) for layer in layers)
    assert trainable(prepared(rank=rank, target_modules="attention")) == by_hand


def test_only_the_adapter_learns():
    model = prepared(rank=2)
    before = {name: weight.clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.SGD([p for p in model.parameters() if p.requires_grad], lr=1.0)
    model(input_ids=IDS, labels=IDS).loss.backward()
    optimizer.step()
    changed = {name for name, weight in model.named_parameters() if not torch.equal(weight, before[name])}
    assert changed
    assert all("lora_" in name for name in changed)


def test_update_is_b_a_scaled_by_alpha_over_rank():
    model = prepared(rank=4, alpha=10, target_modules=["q_proj"])
    layer = model.base_model.model.model.layers[0].self_attn.q_proj
    lora_a, lora_b = layer.lora_A["default"].weight, layer.lora_B["default"].weight
    x = torch.randn(3, 32)
    with torch.no_grad():
        lora_b.normal_()
        expected = x @ layer.base_layer.weight.T + 10 / 4 * (x @ lora_a.T @ lora_b.T)
        torch.testing.assert_close(layer(x), expected, rtol=1e-5, atol=1e-5)


def test_same_seed_gives_the_same_adapter_and_another_seed_another():
    def first_a(seed):
        return next(weight for name, weight in prepared(seed=seed).named_parameters() if "lora_A" in name)

    assert torch.equal(first_a(1), first_a(1))
    assert not torch.equal(first_a(1), first_a(2))


def gpt2():
    sizes = {"vocab_size": 64, "n_embd": 16, "n_layer": 2, "n_head": 2, "n_positions": 32}
    return GPT2LMHeadModel(GPT2Config(**sizes, bos_token_id=0, eos_token_id=0)).eval()


def test_attention_leaves_out_a_layer_elsewhere_with_the_same_name():
    """GPT-2 has `attn.c_proj` and `mlp.c_proj`, both Conv1D."""
    model = lora.prepare(gpt2(), MethodConfig(rank=2, target_modules="attention"))
    carriers = {".".join(name.split(".")[-5:-3]) for name, _ in model.named_parameters() if "lora_A" in name}
    assert carriers == {"attn.c_attn", "attn.c_proj"}


def test_layers_with_transposed_weights_change_nothing_at_the_start_either():
    base = gpt2()
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        after = lora.prepare(base, MethodConfig(rank=2))(input_ids=IDS).logits
    assert torch.equal(before, after)


def test_unknown_layer_is_named_with_the_nearest_one():
    message = "`target_modules`: LlamaForCausalLM has no linear layer called q_prj"
    with pytest.raises(ConfigError, match=f"^{message}$") as caught:
        prepared(target_modules=["v_proj", "q_prj"])
    assert caught.value.hint == "nearest: q_proj"


def test_unknown_layer_like_no_other_gets_the_list():
    with pytest.raises(ConfigError, match=r"no linear layer called xyz, 123$") as caught:
        prepared(target_modules=["xyz", "123"])
    assert caught.value.hint == "there are: down_proj, gate_proj, k_proj, o_proj, q_proj, up_proj, v_proj"


@pytest.mark.parametrize("name", ["lm_head", "embed_tokens", "input_layernorm"])
def test_layer_that_is_not_linear_or_is_the_output_is_refused(name):
    with pytest.raises(ConfigError, match=f"has no linear layer called {name}$"):
        prepared(target_modules=[name])


class Plain(nn.Module):
    """A model whose layers have no telling names."""

    def __init__(self):
        super().__init__()
        self.first, self.head = nn.Linear(4, 4), nn.Linear(4, 8)

    def get_output_embeddings(self):
        return self.head


def test_attention_where_no_layer_is_called_so_lists_what_there_is():
    with pytest.raises(
        ConfigError, match=r"^`target_modules` is attention, and Plain names no layer so$"
    ) as c:
        lora.prepare(Plain(), MethodConfig(target_modules="attention"))
    assert c.value.hint == "name layers yourself; there are: first"


def test_every_method_offers_the_same_functions():
    assert METHODS["lora"].prepare is lora.prepare
    assert all(callable(method.prepare) for method in METHODS.values())
