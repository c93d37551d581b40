"""Checkpointing: layers are computed twice, and no loss and no gradient changes, with any method."""

import pytest
import torch
from peft import PrefixTuningConfig, get_peft_model
from transformers import (
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoXConfig,
    GPTNeoXForCausalLM,
    OpenAIGPTConfig,
    OpenAIGPTLMHeadModel,
    Qwen3Config,
    Qwen3ForCausalLM,
)
from transformers.cache_utils import DynamicLayer, DynamicSlidingWindowLayer

from tiny import tiny_model, tiny_model_folder
from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError
from tunesmith.methods import adapter, full, lora, prefix, qlora
from tunesmith.models.checkpointing import Recomputable, enable_checkpointing
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.forward import token_losses
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model

IDS_BT = torch.tensor([[1, 40, 50, 60, 61, 62, 63, 64, 65, 66, 67], [1, 9, 8, 7, 6, 5, 2, 0, 0, 0, 0]])
PREDICTS_BT = torch.tensor([[0, 0, 0, 1, 1, 1, 1, 1, 1, 1, 0], [0, 1, 0, 1, 1, 1, 0, 0, 0, 0, 0]]).bool()
CLOSE = {"rtol": 0, "atol": 1e-6}
PREFIX = MethodConfig(name="prefix", num_virtual_tokens=4)
PREPARE = {
    "full": lambda: full.prepare(tiny_model(), MethodConfig(name="full")),
    "lora": lambda: lora.prepare(tiny_model(), MethodConfig(rank=4)),
    "lora with dropout": lambda: lora.prepare(tiny_model(), MethodConfig(rank=4, dropout=0.5)),
    "dora": lambda: lora.prepare(tiny_model(), MethodConfig(rank=4, variant="dora")),
    "prefix": lambda: prefix.prepare(tiny_model(), PREFIX),
    "adapter": lambda: adapter.prepare(tiny_model(), MethodConfig(name="adapter", dropout=0.5)),
}
SIZES = {"vocab_size": 272, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
GQA = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "head_dim": 16,
}


def gpt2():
    """Hands its layers no cache at all while it checkpoints; has dropout."""
    return GPT2LMHeadModel(GPT2Config(n_embd=32, n_layer=2, n_head=4, **SIZES))


def neox():
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
    return GPTNeoXForCausalLM(GPTNeoXConfig(**sizes, **SIZES))


def qwen3():
    return Qwen3ForCausalLM(Qwen3Config(**GQA, **SIZES))


def gemma3():
    """Layers with a window; our method refuses it, peft alone does not."""
    return Gemma3ForCausalLM(Gemma3TextConfig(**GQA, **SIZES, sliding_window=6))


def stirred(model):
    """Random weights in all that learns, as after a long training: LoRA starts with zeros."""
    torch.manual_seed(1)
    for parameter in model.parameters():
        if parameter.requires_grad and parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


def step(model):
    """Losses, and the gradient of each parameter that has one."""
    model.train()
    torch.manual_seed(5)
    losses_N = token_losses(model, IDS_BT, PREDICTS_BT)
    losses_N.mean().backward()
    gradients = {name: each.grad for name, each in model.named_parameters() if each.grad is not None}
    return losses_N.detach(), gradients


def assert_same(plain, checkpointed):
    enable_checkpointing(checkpointed)
    (losses_N, gradients), (again_N, found) = step(plain), step(checkpointed)
    torch.testing.assert_close(again_N, losses_N, **CLOSE)
    assert found.keys() == gradients.keys()
    for name, gradient in gradients.items():
        assert gradient.any(), name
        torch.testing.assert_close(found[name], gradient, **CLOSE, msg=name)


@pytest.mark.parametrize("method", PREPARE)
def test_losses_and_gradients_stay_what_they_were(method):
    assert_same(stirred(PREPARE[method]()), stirred(PREPARE[method]()))


def test_losses_and_gradients_stay_what_they_were_on_a_4_bit_base(tmp_path):
    folder = tiny_model_folder(tmp_path / "tiny")
    pair = []
    for _ in range(2):
        base = load_model(find_model(str(folder)), dtype=torch.float32, device="cpu", four_bit=True).model
        pair.append(stirred(qlora.prepare(base, MethodConfig(name="qlora", rank=4))))
    assert_same(*pair)


@pytest.mark.parametrize("build", [gpt2, neox, qwen3, gemma3])
def test_prefix_made_by_peft_alone_reaches_the_layers_of_each_architecture(build):
    pair = []
    for _ in range(2):
        torch.manual_seed(0)
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=4)
        pair.append(stirred(get_peft_model(build(), config)))
    assert_same(*pair)


@pytest.mark.real_model
def test_prefix_of_the_embedded_model_learns_the_same():
    base = load_model(find_model(EMBEDDED), dtype=torch.float32, device="cpu").model
    model = prefix.prepare(base, PREFIX)
    losses_N, gradients = step(model)
    [(name, gradient)] = gradients.items()
    model.zero_grad()
    enable_checkpointing(model)
    again_N, found = step(model)
    torch.testing.assert_close(again_N, losses_N, **CLOSE)
    torch.testing.assert_close(found[name], gradient, **CLOSE)
    assert gradient.unflatten(1, (60, -1)).abs().amax((0, 2)).min() > 0


@pytest.mark.parametrize("method", PREPARE)
def test_each_layer_is_computed_twice_in_training_and_once_in_evaluation(method):
    model = PREPARE[method]()
    enable_checkpointing(model)
    calls = []
    for name, module in model.named_modules():
        if name.endswith("post_attention_layernorm"):
            module.register_forward_hook(lambda *_: calls.append(1))
    step(model)
    assert len(calls) == 4
    model.eval()
    token_losses(model, IDS_BT, PREDICTS_BT).mean().backward()
    assert len(calls) == 6


@pytest.mark.parametrize("method", ["lora", "prefix", "adapter"])
def test_nothing_below_the_first_thing_that_learns_asks_for_gradients(method):
    model = PREPARE[method]()
    enable_checkpointing(model)
    assert not model.train().get_input_embeddings()(IDS_BT).requires_grad


@pytest.mark.parametrize("method", PREPARE)
def test_evaluation_does_not_change(method):
    model = stirred(PREPARE[method]()).eval()
    with torch.no_grad():
        before = model(input_ids=IDS_BT).logits
        enable_checkpointing(model)
        assert not model.training
        assert torch.equal(model(input_ids=IDS_BT).logits, before)


@pytest.mark.parametrize("is_training", [False, True])
def test_answers_behind_a_prefix_do_not_change_either(is_training):
    """Also while training: a validation in the middle may generate, and has no gradients."""
    # With weights as small as at birth, an answer hardly depends on what came before its last token.
    model = prefix.prepare(stirred(tiny_model().requires_grad_()), PREFIX).eval()
    settings = {"decoding": Decoding(max_new_tokens=8), "stop_ids": [271], "pad_id": 0}
    prompts = [[1, 40, 50, 60], [1, 9]]
    before = generate_ids(model, prompts, **settings)
    enable_checkpointing(model)
    assert generate_ids(model.train(is_training), prompts, **settings) == before


def test_cache_grows_without_gradients_and_not_with_them():
    model = PREPARE["prefix"]()
    enable_checkpointing(model)
    model.train()
    with torch.no_grad():
        kept = model(input_ids=IDS_BT, use_cache=True).past_key_values
    assert kept.get_seq_length() == 4 + IDS_BT.shape[1]
    assert model(input_ids=IDS_BT).past_key_values.get_seq_length() == 4


def test_prefix_can_be_switched_off_for_a_while():
    model = stirred(PREPARE["prefix"]())
    enable_checkpointing(model)
    model.train()
    with model.disable_adapter():
        logits_BTV = model(input_ids=IDS_BT, use_cache=False).logits
    assert torch.equal(logits_BTV, tiny_model()(input_ids=IDS_BT).logits)


@pytest.mark.parametrize("build", [DynamicLayer, lambda: DynamicSlidingWindowLayer(sliding_window=5)])
def test_states_added_once_are_not_there_the_second_time(build):
    layer = build()
    keys, new = torch.randn(2, 1, 3, 4), torch.randn(2, 1, 6, 4)
    layer.update(keys, -keys)
    cache = Recomputable([layer])
    for _ in range(2):
        joined_keys, joined_values = cache.update(new, -new, 0)
        assert torch.equal(joined_keys, torch.cat([keys, new], dim=2))
        assert torch.equal(joined_values, -joined_keys)
        assert cache.get_seq_length() == 3


def test_model_without_layers_for_it_is_refused():
    model = OpenAIGPTLMHeadModel(OpenAIGPTConfig(n_embd=8, n_layer=1, n_head=1, vocab_size=272))
    with pytest.raises(ConfigError, match="OpenAIGPTLMHeadModel has no layers for gradient checkpointing"):
        enable_checkpointing(model)
