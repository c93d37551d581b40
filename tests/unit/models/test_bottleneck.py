"""Bottleneck adapters in peft: folders, several at a time, rows with their own, and what is refused."""

import json
import re

import pytest
import torch
from peft import PEFT_TYPE_TO_CONFIG_MAPPING, PeftModel, get_peft_model
from safetensors.torch import load_file
from torch import nn
from torch._subclasses import FakeTensorMode
from transformers import (
    AutoModelForCausalLM,
    BloomConfig,
    Gemma2Config,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    LlamaConfig,
    LlamaForCausalLM,
    OPTConfig,
    Phi3Config,
    PhiConfig,
    Qwen2Config,
    Qwen2MoeConfig,
)

from tiny import tiny_model, tiny_model_folder
from tunesmith.errors import ConfigError, ModelError
from tunesmith.models.bottleneck import BottleneckConfig, register
from tunesmith.models.bottleneck_layer import BottleneckLayer
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.models.sublayers import sublayer_end

IDS = torch.tensor([[1, 40, 50, 60, 2], [3, 4, 5, 6, 7], [9, 8, 7, 6, 5]])
MASK = torch.ones_like(IDS)
NAMES = ("first", "second", "third")
PLACED = {"first": "houlsby", "second": "pfeiffer", "third": "houlsby"}


def tuned(*, seed=1, base=None, **settings):
    """A model whose adapter has weights as if it had learned."""
    config = BottleneckConfig(task_type="CAUSAL_LM", **({"reduction_factor": 4} | settings))
    model = get_peft_model(base or tiny_model(), config)
    torch.manual_seed(seed)
    for weight in model.parameters():
        if weight.requires_grad:
            nn.init.normal_(weight, std=0.3)
    return model.eval()


def logits(model, ids=IDS, **arguments):
    with torch.no_grad():
        return model(input_ids=ids, **arguments).logits


def answers(model, ids=IDS, **arguments):
    settings = {"max_new_tokens": 6, "do_sample": False, "eos_token_id": None, "pad_token_id": 0} | arguments
    return model.generate(input_ids=ids, attention_mask=torch.ones_like(ids), **settings)


@pytest.fixture
def folders(tmp_path):
    """Three adapters of one base, saved; the second sits elsewhere than the others."""
    for seed, name in enumerate(NAMES):
        tuned(seed=seed, placement=PLACED[name]).save_pretrained(tmp_path / name)
    return tmp_path


@pytest.fixture
def three(folders):
    """One base with all three."""
    model = PeftModel.from_pretrained(tiny_model(), folders / "first", adapter_name="first")
    for name in NAMES[1:]:
        model.load_adapter(folders / name, name)
    return model


@pytest.fixture
def alone(folders):
    """Each adapter on a base of its own, and the base."""
    own = {name: PeftModel.from_pretrained(tiny_model(), folders / name) for name in NAMES}
    return own | {"__base__": tiny_model()}


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
def test_a_saved_adapter_gives_the_same_bits(tmp_path, placement, dtype):
    model = tuned(base=tiny_model().to(dtype), placement=placement)
    model.save_pretrained(tmp_path)
    again = PeftModel.from_pretrained(tiny_model().to(dtype), tmp_path)
    assert torch.equal(logits(again), logits(model))
    assert not torch.equal(logits(again), logits(tiny_model().to(dtype)))


def test_the_folder_is_the_standard_one_with_float32_weights(tmp_path):
    tuned(base=tiny_model().to(torch.bfloat16), dropout=0.1).save_pretrained(tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    assert config["peft_type"] == "TUNESMITH_BOTTLENECK"
    assert (config["placement"], config["activation"], config["dropout"]) == ("houlsby", "gelu", 0.1)
    assert (config["reduction_factor"], config["task_type"]) == (4, "CAUSAL_LM")
    assert config["target_modules"] == (
        r"model\.layers\.\d+\.mlp\.down_proj|model\.layers\.\d+\.self_attn\.o_proj"
    )
    weights = load_file(tmp_path / "adapter_model.safetensors")
    start = "base_model.model.model.layers.1.self_attn.o_proj.bottleneck_"
    shapes = {
        name.removeprefix(start): tuple(weight.shape)
        for name, weight in weights.items()
        if name.startswith(start)
    }
    assert shapes == {"down.weight": (8, 32), "down.bias": (8,), "up.weight": (32, 8), "up.bias": (32,)}
    assert len(weights) == 16
    assert {weight.dtype for weight in weights.values()} == {torch.float32}


def test_the_same_adapter_is_saved_as_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        tuned().save_pretrained(tmp_path / name)
    for file in ("adapter_config.json", "adapter_model.safetensors"):
        assert (tmp_path / "one" / file).read_bytes() == (tmp_path / "two" / file).read_bytes()


def test_each_of_three_adapters_gives_its_own_logits_when_switched_to(three, alone):
    for name in (*NAMES, *reversed(NAMES)):
        three.set_adapter(name)
        assert torch.equal(logits(three), logits(alone[name])), name


def test_switched_off_the_model_is_its_base_exactly(three, alone):
    with three.disable_adapter():
        assert torch.equal(logits(three), logits(alone["__base__"]))
        named = logits(three, adapter_names=["second", "first", "third"])
        assert torch.equal(named, logits(alone["__base__"]))
    assert torch.equal(logits(three), logits(alone["first"]))


def test_a_deleted_adapter_is_gone_and_the_others_stay(three, alone):
    three.delete_adapter("second")
    assert not any(".second." in name for name in three.state_dict())
    three.set_adapter("third")
    assert torch.equal(logits(three), logits(alone["third"]))


def test_unloading_gives_the_base_back(three, alone):
    bare = three.unload()
    assert isinstance(bare, LlamaForCausalLM)
    assert torch.equal(logits(bare), logits(alone["__base__"]))


@pytest.mark.parametrize(
    "names",
    [
        ("first", "second", "third"),
        ("third", "__base__", "second"),
        ("second", "second", "__base__"),
        ("__base__", "__base__", "__base__"),
    ],
)
def test_rows_with_different_adapters_give_what_each_gives_alone(three, alone, names):
    together = logits(three, adapter_names=list(names))
    written = answers(three, adapter_names=list(names))
    for row, name in enumerate(names):
        assert torch.allclose(together[row], logits(alone[name], IDS[row : row + 1])[0], atol=1e-5)
        assert torch.equal(written[row], answers(alone[name], IDS[row : row + 1])[0])
    # Nothing of it is left for the next batch.
    assert torch.equal(logits(three), logits(alone["first"]))


@pytest.mark.parametrize("copies", [{"num_beams": 3}, {"num_beams": 3, "num_return_sequences": 2}])
def test_beams_of_a_row_use_its_adapter(three, alone, copies):
    names = ["third", "__base__", "second"]
    written = answers(three, adapter_names=names, **copies)
    each = [answers(alone[name], IDS[row : row + 1], **copies) for row, name in enumerate(names)]
    assert torch.equal(written, torch.cat(each))


def test_only_the_active_adapter_has_gradients(folders):
    model = PeftModel.from_pretrained(
        tiny_model(), folders / "first", adapter_name="first", is_trainable=True
    )
    model.load_adapter(folders / "third", "third")
    model(input_ids=IDS).logits.sum().backward()
    with_gradient = {name for name, weight in model.named_parameters() if weight.grad is not None}
    assert with_gradient == {name for name, _ in model.named_parameters() if ".first." in name}


def test_a_batch_that_fails_leaves_no_names_behind(three, alone):
    with pytest.raises(ValueError, match=r"`adapter_names` has 2 names for a batch of 3 rows"):
        logits(three, adapter_names=["second", "third"])
    assert torch.equal(logits(three), logits(alone["first"]))


def test_names_of_no_adapter_are_refused(three):
    with pytest.raises(ValueError, match=r"no adapter is called fourth; there are: first, second, third"):
        logits(three, adapter_names=["first", "fourth", "__base__"])


def test_rows_with_their_own_adapters_are_for_inference(three):
    with pytest.raises(ValueError, match="the model is in training mode"):
        logits(three.train(), adapter_names=list(NAMES))


def test_several_active_adapters_are_refused(three):
    with pytest.raises(ValueError, match="one bottleneck adapter at a time, not 2"):
        three.base_model.set_adapter(["first", "second"])


@pytest.mark.parametrize(
    "merge",
    [
        lambda model: model.merge_and_unload(),
        lambda model: model.merge_adapter(),
        lambda model: model.unmerge_adapter(),
        lambda model: model.get_submodule("base_model.model.model.layers.0.mlp.down_proj").merge(),
    ],
)
def test_merging_is_refused_with_its_reason(merge):
    model = tuned()
    before = logits(model)
    with pytest.raises(
        ModelError, match="cannot be merged: between W_down and W_up is a nonlinear"
    ) as caught:
        merge(model)
    assert "lora" in caught.value.hint
    assert torch.equal(logits(model), before)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        ({"placement": "between"}, "`placement` is 'between', not houlsby or pfeiffer"),
        ({"activation": "step"}, "`activation` is 'step', not one of gelu, relu, silu"),
        ({"reduction_factor": 0.5}, "`reduction_factor` is 0.5, below 1"),
        ({"reduction_factor": float("nan")}, "`reduction_factor` is nan, below 1"),
        ({"dropout": 1.0}, "`dropout` is 1.0, not from 0 to below 1"),
        ({"dropout": -0.1, "reduction_factor": 0}, "`reduction_factor` is 0, below 1; `dropout` is -0.1"),
    ],
)
def test_values_out_of_range_are_named(settings, message):
    with pytest.raises(ConfigError, match=re.escape(message)):
        BottleneckConfig(**settings)


@pytest.mark.parametrize(("placement", "activation"), [("houlsby", "gelu"), ("pfeiffer", "relu")])
def test_the_activation_is_the_authors_unless_asked(placement, activation):
    assert BottleneckConfig(placement=placement).activation == activation
    assert BottleneckConfig(placement=placement, activation="silu").activation == "silu"


def test_a_layer_that_is_not_linear_is_refused():
    with pytest.raises(ConfigError, match="needs a linear layer before it; LlamaMLP is none"):
        tuned(target_modules=r"model\.layers\.\d+\.mlp")


def test_an_adapter_of_a_wider_model_does_not_load(tmp_path):
    tuned().save_pretrained(tmp_path)
    wider = LlamaForCausalLM(
        LlamaConfig(vocab_size=272, hidden_size=64, num_hidden_layers=2, num_attention_heads=2)
    )
    with pytest.raises(RuntimeError, match="size mismatch"):
        PeftModel.from_pretrained(wider, tmp_path)


def test_an_adapter_of_another_architecture_does_not_load(tmp_path):
    tuned().save_pretrained(tmp_path)
    with pytest.raises(ValueError, match=r"Target modules .* not found in the base model"):
        PeftModel.from_pretrained(
            GPT2LMHeadModel(GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2)), tmp_path
        )


def test_peft_alone_names_the_kind_it_does_not_know(tmp_path, monkeypatch):
    """Without our entries nothing loads half: peft stops at the name, which says whose it is."""
    tuned().save_pretrained(tmp_path)
    monkeypatch.delitem(PEFT_TYPE_TO_CONFIG_MAPPING, "TUNESMITH_BOTTLENECK")
    with pytest.raises(KeyError, match="TUNESMITH_BOTTLENECK"):
        PeftModel.from_pretrained(tiny_model(), tmp_path)


def test_registering_again_replaces_nothing():
    with pytest.raises(RuntimeError, match="peft already has a tuner called TUNESMITH_BOTTLENECK"):
        register()


def test_peft_reports_the_adapters_as_its_own(three):
    status = three.get_model_status()
    assert set(status.available_adapters) == set(NAMES)
    assert set(status.peft_types.values()) == {"TUNESMITH_BOTTLENECK"}
    assert status.num_adapter_layers == 4


def test_fake_tensors_go_through_a_step():
    """Planning rehearses with tensors that have shapes and no numbers."""
    with FakeTensorMode():
        model = get_peft_model(tiny_model(), BottleneckConfig(task_type="CAUSAL_LM", dropout=0.1)).train()
        model(input_ids=torch.zeros(2, 5, dtype=torch.long)).logits.sum().backward()
        gradients = [weight.grad for weight in model.parameters() if weight.requires_grad]
    assert len(gradients) == 16
    assert all(gradient is not None for gradient in gradients)


def test_layers_in_4_bit_are_wrapped_and_learn(tmp_path):
    source = find_model(str(tiny_model_folder(tmp_path / "base")))

    def base():
        return load_model(source, dtype=torch.float32, device="cpu", four_bit=True).model

    before = logits(base())
    model = get_peft_model(base(), BottleneckConfig(task_type="CAUSAL_LM"))
    wrapped = [layer for layer in model.modules() if isinstance(layer, BottleneckLayer)]
    # `o_proj` of the tiny model is too narrow for the CPU's kernel and is held unpacked.
    assert {type(layer.base_layer).__name__ for layer in wrapped} == {"Linear", "Linear4bit"}
    assert torch.equal(logits(model), before)

    model = tuned(base=base())
    model(input_ids=IDS).logits.sum().backward()
    for name, weight in model.named_parameters():
        assert (weight.grad is not None) == ("bottleneck_" in name), name
    model.save_pretrained(tmp_path / "adapter")
    again = PeftModel.from_pretrained(base(), tmp_path / "adapter")
    assert torch.equal(logits(again), logits(model))


SMALL = {"vocab_size": 64, "hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 2}
ENDS = [
    (
        Qwen2Config(**SMALL, num_key_value_heads=1),
        "model.layers.1.self_attn.o_proj",
        "model.layers.1.mlp.down_proj",
    ),
    (Gemma2Config(**SMALL, head_dim=8), "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"),
    (
        GPT2Config(vocab_size=64, n_embd=32, n_layer=2, n_head=2),
        "transformer.h.1.attn.c_proj",
        "transformer.h.1.mlp.c_proj",
    ),
    (GPTNeoXConfig(**SMALL), "gpt_neox.layers.1.attention.dense", "gpt_neox.layers.1.mlp.dense_4h_to_h"),
    (
        BloomConfig(vocab_size=64, hidden_size=32, n_layer=2, n_head=2),
        "transformer.h.1.self_attention.dense",
        "transformer.h.1.mlp.dense_4h_to_h",
    ),
    (
        OPTConfig(**SMALL, word_embed_proj_dim=32),
        "model.decoder.layers.1.self_attn.out_proj",
        "model.decoder.layers.1.fc2",
    ),
    (PhiConfig(**SMALL), "model.layers.1.self_attn.dense", "model.layers.1.mlp.fc2"),
    # Here the output layer is made before the others.
    (Phi3Config(**SMALL, pad_token_id=0), "model.layers.1.self_attn.o_proj", "model.layers.1.mlp.down_proj"),
]


@pytest.mark.parametrize(
    ("config", "attention", "feed_forward"), ENDS, ids=lambda value: type(value).__name__
)
def test_ends_of_sublayers_are_found_in_many_architectures(config, attention, feed_forward):
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    for part, path in (("attention", attention), ("feed-forward", feed_forward)):
        assert sublayer_end(model, part) == [path.replace(".1.", ".0."), path]


def test_ends_are_the_same_under_adapters():
    bare, adapted = tiny_model(), tuned().get_base_model()
    for part in ("attention", "feed-forward"):
        assert sublayer_end(adapted, part) == sublayer_end(bare, part)


def test_the_expert_that_all_share_is_not_the_end():
    config = Qwen2MoeConfig(**SMALL, num_experts=2, num_experts_per_tok=1, shared_expert_intermediate_size=8)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config)
    with pytest.raises(
        ConfigError, match=r"ends each feed-forward sub-layer; model\.layers\.0 of Qwen2MoeFor"
    ):
        sublayer_end(model, "feed-forward")


def test_a_model_without_blocks_is_refused():
    model = tiny_model()
    model.config.num_hidden_layers = 7
    with pytest.raises(
        ConfigError, match=r"no decoder blocks in LlamaForCausalLM; .*model\.layers\.0\.self_attn\.q"
    ):
        sublayer_end(model, "attention")
