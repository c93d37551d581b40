"""Quicker layers give what the layers they stand for give, and nothing around them notices."""

import copy

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch import nn
from torch._subclasses import FakeTensorMode
from torch.utils.flop_counter import FlopCounterMode
from transformers import (
    AutoModelForCausalLM,
    DynamicCache,
    Gemma2Config,
    GPT2Config,
    LlamaConfig,
    MistralConfig,
    Phi3Config,
    Qwen2Config,
    Qwen3Config,
)

from tiny import tiny_model
from tunesmith.models import fused_rotary
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.forward import loss_sum, token_losses
from tunesmith.models.fused import quicken
from tunesmith.models.fused_product import short_type
from tunesmith.models.packing import enable_packing
from tunesmith.planning.stand_in import make_fake

SHAPE = {
    "vocab_size": 272,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 8,
    "max_position_embeddings": 64,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
}
CONFIGS = {
    "llama": LlamaConfig(**SHAPE, attention_bias=True),
    "mistral": MistralConfig(**SHAPE, sliding_window=16),
    "qwen2": Qwen2Config(**SHAPE),
    "qwen3": Qwen3Config(**SHAPE),
    "gemma2": Gemma2Config(**SHAPE, attn_implementation="eager"),
    "phi3": Phi3Config(**SHAPE),
    "gpt2": GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=4, n_positions=64),
}
LEFT = {"gemma2": ("Gemma2MLP", "Gemma2RMSNorm"), "gpt2": ("GPT2MLP",)}
IDS = torch.randint(3, 272, (3, 20), generator=torch.Generator().manual_seed(7))
PREDICTS = torch.ones_like(IDS, dtype=torch.bool).index_fill(1, torch.tensor([0, 1, 19]), value=False)
# Relative to the largest number of the tensor; float32 is rounded in another order.
TOLERANCE = {torch.float32: 1e-5, torch.float64: 1e-12}


def built(family, *, dtype=torch.float32, seed=0):
    torch.manual_seed(seed)
    model = AutoModelForCausalLM.from_config(CONFIGS[family]).to(dtype)
    for name, weight in model.named_parameters():
        if "norm" in name:  # ones would hide a forgotten factor
            nn.init.uniform_(weight, 0.5, 1.5)
    return model.train()


def with_lora(base, *, dropout=0.0, targets="all-linear", **settings):
    conv = type(base).__name__.startswith("GPT2")
    config = LoraConfig(
        r=8,
        lora_alpha=12,
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=conv,
        task_type="CAUSAL_LM",
        **settings,
    )
    model = get_peft_model(base, config, autocast_adapter_dtype=False)
    torch.manual_seed(1)
    for name, weight in model.named_parameters():
        if "lora_B" in name:
            nn.init.normal_(weight, std=0.1)
    return model.train()


def loss_and_gradients(model, *, seed=3):
    torch.manual_seed(seed)
    model.zero_grad()
    loss = token_losses(model, IDS, PREDICTS).double().sum()
    loss.backward()
    return loss.item(), {
        name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None
    }


def assert_same(found, wanted, tolerance):
    (loss, gradients), (old_loss, old_gradients) = found, wanted
    assert loss == pytest.approx(old_loss, rel=tolerance)
    assert gradients.keys() == old_gradients.keys()
    for name, gradient in gradients.items():
        scale = old_gradients[name].abs().max().clamp(min=1e-3)
        assert ((gradient - old_gradients[name]).abs().max() / scale).item() <= tolerance, name


@pytest.mark.parametrize("dtype", TOLERANCE, ids=["float32", "float64"])
@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", CONFIGS)
def test_loss_and_every_gradient_stay_what_they_were(family, method, dtype):
    old = built(family, dtype=dtype)
    old = with_lora(old) if method == "lora" else old
    new = copy.deepcopy(old)
    left = quicken(new)
    # GPT-2 keeps its adapted layers: their base is transposed.
    assert left == LEFT.get(family, ())
    assert_same(loss_and_gradients(new), loss_and_gradients(old), TOLERANCE[dtype])


@pytest.mark.parametrize("family", CONFIGS)
def test_names_parameters_and_parts_are_the_same_objects(family):
    model = with_lora(built(family))
    modules, before = dict(model.named_modules()), dict(model.named_parameters())
    quicken(model)
    assert all(before[name] is weight for name, weight in model.named_parameters())
    assert list(dict(model.named_modules())) == list(modules)
    assert all(modules[name] is module for name, module in model.named_modules())
    assert all(isinstance(module, type(modules[name])) for name, module in model.named_modules())


def test_another_model_of_the_same_kind_is_not_touched():
    other = tiny_model()
    kinds = [type(module) for module in other.modules()]
    quicken(tiny_model())
    assert [type(module) for module in other.modules()] == kinds
    assert not any(kind.__name__.startswith("Quick") for kind in map(type, tiny_model().modules()))


def test_quickened_twice_is_quickened_once():
    model = with_lora(tiny_model())
    quicken(model)
    kinds = [type(module) for module in model.modules()]
    assert quicken(model) == ()
    assert [type(module) for module in model.modules()] == kinds
    assert {"QuickLora", "QuickLinear", "QuickLlamaMLP", "QuickLlamaRMSNorm"} <= {
        kind.__name__ for kind in kinds
    }


@pytest.mark.parametrize("settings", [{"use_dora": True}, {"lora_bias": True}, {"use_rslora": True}], ids=str)
def test_variants_of_lora_compute_their_own_formula(settings):
    base = built("llama")  # with biases, which `lora_bias` wants
    old = with_lora(base, targets=["q_proj", "v_proj", "o_proj"], **settings)
    if "lora_bias" in settings:
        for name, weight in old.named_parameters():
            if name.endswith("lora_B.default.bias"):
                nn.init.normal_(weight)
    new = copy.deepcopy(old)
    quicken(new)
    assert_same(loss_and_gradients(new), loss_and_gradients(old), 1e-5)


def test_merged_switched_and_disabled_adapters_count_as_in_peft():
    old = with_lora(tiny_model())
    old.add_adapter("second", LoraConfig(r=4, target_modules=["q_proj", "up_proj"], init_lora_weights=False))
    new = copy.deepcopy(old)
    quicken(new)
    old.eval(), new.eval()
    with torch.no_grad():
        for name in ("default", "second"):
            old.set_adapter(name), new.set_adapter(name)
            torch.testing.assert_close(new(IDS).logits, old(IDS).logits, atol=1e-5, rtol=1e-5)
        names = ["default", "second", "__base__"]
        torch.testing.assert_close(
            new(IDS, adapter_names=names).logits, old(IDS, adapter_names=names).logits, atol=1e-5, rtol=1e-5
        )
        with old.disable_adapter(), new.disable_adapter():
            torch.testing.assert_close(new(IDS).logits, old(IDS).logits, atol=1e-5, rtol=1e-5)
        both = ["default", "second"]
        old.base_model.set_adapter(both), new.base_model.set_adapter(both)
        wanted = old(IDS).logits
        torch.testing.assert_close(new(IDS).logits, wanted, atol=1e-5, rtol=1e-5)
        merged = new.merge_and_unload()
        torch.testing.assert_close(merged(IDS).logits, wanted, atol=1e-4, rtol=1e-4)


def test_a_hook_on_the_base_layer_still_runs():
    model = with_lora(tiny_model())
    quicken(model)
    seen = []
    layer = model.get_submodule("base_model.model.model.layers.0.self_attn.q_proj.base_layer")
    layer.register_forward_hook(lambda *_: seen.append(1))
    model(IDS)
    assert seen == [1]


@pytest.mark.parametrize("dropout", [0.0, 0.2])
def test_checkpointing_computes_the_same_with_dropout_too(dropout):
    plain = with_lora(tiny_model(), dropout=dropout)
    again = copy.deepcopy(plain)
    quicken(plain), quicken(again)
    enable_checkpointing(again)
    assert_same(loss_and_gradients(again), loss_and_gradients(plain), 1e-12)


def test_the_memory_plan_sees_the_same_work_and_types_on_fake_tensors():
    # Of layers that are computed together, the adapters' products have zeros among their numbers.
    model = with_lora(tiny_model(), targets=["o_proj", "down_proj"])
    loss_and_gradients(model)  # the first call looks at the output layer
    with FlopCounterMode(display=False) as old:
        loss_and_gradients(model)
    quicken(model)
    with FlopCounterMode(display=False) as real:
        loss_and_gradients(model)
    assert real.get_total_flops() == old.get_total_flops()
    with torch.device("meta"):
        faked = with_lora(AutoModelForCausalLM.from_config(tiny_model().config), dropout=0.1)
    quicken(faked)
    with FakeTensorMode(), FlopCounterMode(display=False) as fake:
        make_fake(faked)
        for weight in faked.parameters():
            weight.requires_grad_(weight.requires_grad)
        faked(torch.ones(3, 20, dtype=torch.long)).logits.sum().backward()
    assert fake.get_total_flops() > 0
    learned = [weight for weight in faked.parameters() if weight.requires_grad]
    assert [weight.grad.shape for weight in learned] == [weight.shape for weight in learned]


def test_autocast_keeps_the_types_of_the_plain_layers():
    old = with_lora(tiny_model())
    new = copy.deepcopy(old)
    quicken(new)
    with torch.no_grad(), torch.autocast("cpu", dtype=torch.bfloat16):
        wanted, found = old(IDS).logits, new(IDS).logits
    assert found.dtype == wanted.dtype
    torch.testing.assert_close(found, wanted, atol=0.02, rtol=0.02)


def in_bfloat16(compute, *arguments, **named):
    """What `compute` gives as accelerate lets a model compute on a CPU."""
    with torch.autocast("cpu", dtype=torch.bfloat16):
        return compute(*arguments, **named)


def packed_loss_and_gradients(model):
    torch.manual_seed(3)
    model.zero_grad()
    ids_1T, predicts_1T = IDS.reshape(1, -1), PREDICTS.reshape(1, -1)
    # As training does it: logits in chunks.
    loss = loss_sum(model, ids_1T, predicts_1T, row_lengths=[IDS.shape[1]] * len(IDS))
    loss.backward()
    return {name: weight.grad for name, weight in model.named_parameters() if weight.grad is not None}


def off(found, wanted):
    """Distance of all gradients from those wanted, relative to their length."""
    far = sum(float((found[name].double() - each.double()).square().sum()) for name, each in wanted.items())
    return (far / sum(float(each.double().square().sum()) for each in wanted.values())) ** 0.5


@pytest.mark.parametrize("dropout", [0.0, 0.2])
@pytest.mark.parametrize("family", ["llama", "qwen2", "qwen3", "phi3"])
def test_in_bfloat16_gradients_are_nearer_to_exact_ones_than_those_of_plain_layers(family, dropout):
    plain = with_lora(built(family).bfloat16(), dropout=dropout)
    for name, weight in plain.named_parameters():
        weight.data = weight.data.float() if "lora" in name else weight.data
    exact, new = copy.deepcopy(plain).double(), copy.deepcopy(plain)
    quicken(exact), quicken(new)
    assert enable_packing(exact) and enable_packing(new) and enable_packing(plain)
    wanted = packed_loss_and_gradients(exact)
    far = off(in_bfloat16(packed_loss_and_gradients, new), wanted)
    assert far < 0.02
    # With dropout the plain layers draw other numbers.
    assert dropout or far < off(in_bfloat16(packed_loss_and_gradients, plain), wanted)


@pytest.mark.parametrize("method", ["full", "lora"])
@pytest.mark.parametrize("family", CONFIGS)
def test_in_bfloat16_states_are_float32_where_every_norm_and_linear_layer_takes_them(family, method):
    old = built(family).bfloat16()
    old = with_lora(old) if method == "lora" else old.float()
    new = copy.deepcopy(old)
    quicken(new)
    seen = []
    decoder = new.get_base_model() if method == "lora" else new
    block = (decoder.transformer.h if family == "gpt2" else decoder.model.layers)[-1]
    block.register_forward_pre_hook(lambda _, inputs: seen.append(inputs[0].dtype))
    found, wanted = in_bfloat16(loss_and_gradients, new), in_bfloat16(loss_and_gradients, old)
    is_float32 = method == "full" or family not in LEFT
    assert seen == [torch.float32 if is_float32 else torch.bfloat16]
    assert found[0] == pytest.approx(wanted[0], rel=0.01)
    assert {name: each.dtype for name, each in found[1].items()} == {
        name: each.dtype for name, each in wanted[1].items()
    }


def test_what_autocast_does_on_other_devices_is_left_to_it():
    x_NI = torch.zeros(2, 3)
    assert short_type(x_NI) is None
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert short_type(x_NI) is torch.bfloat16
        assert short_type(x_NI.double()) is None
        assert short_type(x_NI.bfloat16()) is None
        assert short_type(x_NI.to("meta")) is None


def test_generation_gives_the_same_tokens():
    old = with_lora(tiny_model()).eval()
    new = copy.deepcopy(old)
    quicken(new)
    settings = {"max_new_tokens": 12, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    with torch.inference_mode():
        wanted = old.generate(IDS, attention_mask=torch.ones_like(IDS), **settings)
        assert torch.equal(new.generate(IDS, attention_mask=torch.ones_like(IDS), **settings), wanted)


@pytest.fixture
def joints(monkeypatch):
    """What the quick layers got from one product, call by call."""
    seen, real = [], fused_rotary.together

    def told(*arguments):
        seen.append(real(*arguments))
        return seen[-1]

    monkeypatch.setattr(fused_rotary, "together", told)
    return seen


@pytest.mark.parametrize("family", ["llama", "mistral", "qwen2"])
@pytest.mark.parametrize("targets", [["q_proj", "v_proj"], ["k_proj"], ["o_proj"]], ids=str)
def test_a_layer_with_some_adapted_parts_gives_what_it_gave(family, targets, joints):
    old = with_lora(built(family, dtype=torch.float64), targets=targets)
    new = copy.deepcopy(old)
    quicken(new)
    assert_same(loss_and_gradients(new), loss_and_gradients(old), 1e-12)
    assert len(joints) == 2  # one for each layer
    assert all(joint is not None for joint in joints)


def test_the_own_way_is_gone_with_a_cache_and_with_eager_attention(joints):
    model = with_lora(built("llama")).eval()
    with torch.no_grad():
        wanted = model(IDS).logits
        quicken(model)
        cached = model(IDS, past_key_values=DynamicCache(config=model.config), use_cache=True).logits
        model.get_base_model().set_attn_implementation("eager")
        eager = model(IDS, use_cache=False).logits
    assert not [joint for joint in joints if joint is not None]
    torch.testing.assert_close(cached, wanted, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(eager, wanted, atol=1e-5, rtol=1e-5)
