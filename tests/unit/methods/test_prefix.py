"""Prefix-tuning: it starts as a text the model has read; no batch, padding or folder changes its meaning."""

import pytest
import torch
from peft import PeftModel, PrefixTuningConfig, get_peft_model
from safetensors.torch import load_file
from torch._subclasses.fake_tensor import FakeTensorMode
from transformers import (
    BloomConfig,
    BloomForCausalLM,
    DeepseekV3Config,
    DeepseekV3ForCausalLM,
    FalconConfig,
    FalconForCausalLM,
    Gemma3ForCausalLM,
    Gemma3TextConfig,
    GPT2Config,
    GPT2LMHeadModel,
    GPTNeoConfig,
    GPTNeoForCausalLM,
    MambaConfig,
    MambaForCausalLM,
    Qwen3Config,
    Qwen3ForCausalLM,
)

from tiny import tiny_model
from tunesmith.config import MethodConfig
from tunesmith.data.batches import collate
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import ConfigError
from tunesmith.methods import prefix, trainable
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.forward import token_losses
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import load_model

VIRTUAL_TOKENS = 5
CLOSE = {"rtol": 1e-5, "atol": 1e-6}
NO_TOKEN = 999
ROWS = [[1, 40, 50], [1, 9, 8, 7, 6, 5, 4, 30, 31, 32], [1, 77, 78, 79, 80]]
TOKENS = {"vocab_size": 272, "bos_token_id": 1, "eos_token_id": 2, "pad_token_id": 0}
# An output layer that is the embedding would mostly repeat the last token.
SIZES = {**TOKENS, "tie_word_embeddings": False}
WIDTH = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4}
GQA = {**WIDTH, "num_key_value_heads": 2, "head_dim": 16}
GPT = {"n_embd": 32, "n_layer": 2, "n_head": 4}
LATENT = {"q_lora_rank": 8, "kv_lora_rank": 8, "qk_rope_head_dim": 4, "qk_nope_head_dim": 4, "v_head_dim": 6}
LOCAL = {"num_layers": 2, "num_heads": 4, "attention_types": [[["global", "local"], 1]], "window_size": 6}


def qwen3():
    """Heads wider than the model's width divided by their number, and fewer of them for keys and values."""
    return Qwen3ForCausalLM(Qwen3Config(**GQA, **SIZES))


def falcon():
    """One head of keys and values for all, which peft's own guess at the shape does not know."""
    sizes = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4}
    return FalconForCausalLM(FalconConfig(**sizes, **SIZES, multi_query=True, new_decoder_architecture=False))


def gpt2():
    return GPT2LMHeadModel(GPT2Config(**GPT, **SIZES))


def bloom():
    return BloomForCausalLM(BloomConfig(hidden_size=32, n_layer=2, n_head=4, **SIZES))


BUILD = {"llama": tiny_model, "qwen3": qwen3, "falcon": falcon, "gpt2": gpt2, "bloom": bloom}
# Layers, heads of keys and values, and width of a head.
SHAPES = {
    "llama": (2, 1, 16),
    "qwen3": (2, 2, 16),
    "falcon": (2, 1, 8),
    "gpt2": (2, 4, 8),
    "bloom": (2, 4, 8),
}


def built(name):
    torch.manual_seed(0)
    return BUILD[name]().eval()


def prepared(base, *, virtual_tokens=VIRTUAL_TOKENS, seed=3):
    torch.manual_seed(seed)
    settings = MethodConfig(name="prefix", num_virtual_tokens=virtual_tokens)
    return prefix.prepare(base, settings).eval()


def weight_of(model):
    return model.prompt_encoder["default"].embedding.weight


def disturbed(model):
    """A prefix as after a long training: no longer that of any text."""
    torch.manual_seed(7)
    with torch.no_grad():
        weight_of(model).add_(torch.randn_like(weight_of(model)))
    return model


@pytest.mark.parametrize("name", BUILD)
def test_at_the_start_the_logits_are_those_behind_the_tokens_themselves(name):
    base = built(name)
    model = prepared(base)
    torch.manual_seed(3)
    text_1P = torch.randint(272, (1, VIRTUAL_TOKENS))
    text_1P[0, 0] = 1
    ids_1T = torch.tensor(ROWS[1:2])
    with torch.no_grad():
        found = model(input_ids=ids_1T).logits
        expected = base(input_ids=torch.cat([text_1P, ids_1T], dim=1)).logits[:, VIRTUAL_TOKENS:]
        without = base(input_ids=ids_1T).logits
    torch.testing.assert_close(found, expected, **CLOSE)
    assert not torch.allclose(found, without, atol=1e-4)


def test_model_without_a_start_token_starts_from_random_tokens_alone():
    base = tiny_model()
    base.config.bos_token_id = None
    model = prepared(base)
    torch.manual_seed(3)
    with torch.no_grad():
        first = base(input_ids=torch.randint(272, (1, VIRTUAL_TOKENS)), use_cache=True).past_key_values
    found_P = weight_of(model).detach()[:, :16]  # one head of the first layer's keys
    assert torch.equal(found_P, first.layers[0].keys[0, 0])


def test_seed_decides_the_prefix():
    first, same, other = (weight_of(prepared(tiny_model(), seed=seed)) for seed in (1, 1, 2))
    assert torch.equal(first, same)
    assert not torch.equal(first, other)


@pytest.mark.parametrize("name", BUILD)
def test_shape_is_that_of_the_layers_keys_and_values(name):
    model = prepared(built(name))
    layers, heads, width = SHAPES[name]
    assert weight_of(model).shape == (VIRTUAL_TOKENS, layers * 2 * heads * width)
    assert trainable(model) == VIRTUAL_TOKENS * layers * 2 * heads * width
    states = model.get_prompt(3).layers[-1].keys
    assert states.shape == (3, heads, VIRTUAL_TOKENS, width)


def loud(model):
    """With weights as small as at birth, an answer hardly depends on what came before its last token."""
    for parameter in model.parameters():
        if parameter.ndim > 1:
            torch.nn.init.normal_(parameter, std=0.1)
    return model


@pytest.mark.parametrize("name", BUILD)
def test_rows_in_one_padded_batch_are_answered_as_each_alone(name):
    model = disturbed(prepared(loud(built(name))))
    settings = {"decoding": Decoding(max_new_tokens=10), "stop_ids": [NO_TOKEN], "pad_id": 0}
    together = generate_ids(model, ROWS, **settings)
    assert together == [generate_ids(model, [row], **settings)[0] for row in ROWS]
    assert together == [by_hand(model, row, new=10) for row in ROWS]


def by_hand(model, row, *, new):
    """Greedy tokens without a cache: the whole text goes in anew each time."""
    ids = list(row)
    with torch.no_grad():
        while len(ids) < len(row) + new:
            ids.append(int(model(input_ids=torch.tensor([ids]), use_cache=False).logits[0, -1].argmax()))
    return ids[len(row) :]


def batch(*, pad_id, length):
    ids_BT = torch.tensor([row + [pad_id] * (length - len(row)) for row in ROWS])
    mask_BT = torch.tensor([[1] * len(row) + [0] * (length - len(row)) for row in ROWS])
    predicts_BT = torch.zeros(len(ROWS), length, dtype=torch.bool)
    predicts_BT[:, :-1] = mask_BT[:, 1:].bool()
    return ids_BT, mask_BT, predicts_BT


@pytest.mark.parametrize("name", BUILD)
def test_losses_are_those_of_peft_s_forward_with_a_mask(name):
    model = disturbed(prepared(built(name)))
    ids_BT, mask_BT, predicts_BT = batch(pad_id=0, length=10)
    labels_BT = ids_BT.where(mask_BT.bool(), -100)
    labels_BT[:, 0] = -100
    with torch.no_grad():
        found = token_losses(model, ids_BT, predicts_BT).mean()
        expected = model(input_ids=ids_BT, attention_mask=mask_BT, labels=labels_BT).loss
    torch.testing.assert_close(found, expected, **CLOSE)


@pytest.mark.parametrize(("pad_id", "length"), [(2, 10), (271, 10), (0, 23)])
def test_padding_changes_no_loss(pad_id, length):
    model = disturbed(prepared(tiny_model()))
    with torch.no_grad():
        found, expected = (
            token_losses(model, ids_BT, predicts_BT)
            for ids_BT, _, predicts_BT in (batch(pad_id=pad_id, length=length), batch(pad_id=0, length=10))
        )
    torch.testing.assert_close(found, expected, **CLOSE)


def test_only_the_prefix_learns_and_the_base_gets_no_gradient():
    model = prepared(tiny_model()).train()
    before = {name: each.clone() for name, each in model.named_parameters()}
    optimizer = torch.optim.AdamW([each for each in model.parameters() if each.requires_grad], lr=1e-2)
    for _ in range(2):
        model(input_ids=torch.tensor(ROWS[1:2]), labels=torch.tensor(ROWS[1:2])).loss.backward()
        optimizer.step()
    moved = {name for name, each in model.named_parameters() if not torch.equal(each, before[name])}
    with_gradient = {name for name, each in model.named_parameters() if each.grad is not None}
    assert moved == with_gradient == {"prompt_encoder.default.embedding.weight"}


def test_prefix_is_float32_and_the_base_keeps_its_type():
    base = tiny_model().to(torch.bfloat16)
    model = prepared(base)
    assert weight_of(model).dtype == torch.float32
    assert {each.dtype for each in base.parameters()} == {torch.bfloat16}
    model.train()(input_ids=torch.tensor(ROWS[1:2]), labels=torch.tensor(ROWS[1:2])).loss.backward()
    assert weight_of(model).grad.dtype == torch.float32
    assert weight_of(model).grad.any()


@pytest.mark.parametrize("is_training", [False, True])
def test_each_module_stays_in_the_mode_it_was_in(is_training):
    base = built("gpt2").train(is_training)
    base.transformer.h[0].attn.train(not is_training)
    before = [module.training for module in base.modules()]
    torch.manual_seed(3)
    model = prefix.prepare(base, MethodConfig(name="prefix", num_virtual_tokens=VIRTUAL_TOKENS))
    assert [module.training for module in base.modules()] == before
    assert torch.equal(weight_of(model), weight_of(prepared(built("gpt2"))))  # no dropout in the states


@pytest.mark.parametrize("name", BUILD)
def test_saved_folder_is_plain_peft_s_and_gives_the_same_logits(name, tmp_path):
    model = disturbed(prepared(built(name)))
    model.save_pretrained(tmp_path)
    assert list(load_file(tmp_path / "adapter_model.safetensors")) == ["prompt_embeddings"]
    again = PeftModel.from_pretrained(built(name), tmp_path).eval()
    with torch.no_grad():
        logits = [each(input_ids=torch.tensor(ROWS[1:2])).logits for each in (model, again)]
    assert torch.equal(*logits)


def test_switched_off_the_model_is_its_base():
    model = disturbed(prepared(tiny_model()))
    with torch.no_grad(), model.disable_adapter():
        off = model(input_ids=torch.tensor(ROWS[1:2])).logits
    with torch.no_grad():
        assert torch.equal(off, tiny_model()(input_ids=torch.tensor(ROWS[1:2])).logits)


@pytest.mark.parametrize("is_checkpointed", [False, True])
def test_a_step_can_be_rehearsed_on_tensors_without_numbers(is_checkpointed):
    with FakeTensorMode():
        # torch keeps hold of the first fake tensor of a shape; peft can move the second one only.
        with torch.no_grad():
            torch.nn.Parameter(torch.nn.Embedding(VIRTUAL_TOKENS, 64).weight)
        model = prefix.prepare(tiny_model(), MethodConfig(name="prefix", num_virtual_tokens=VIRTUAL_TOKENS))
        if is_checkpointed:
            enable_checkpointing(model)
        logits_BTV = model.train()(input_ids=torch.ones(3, 9, dtype=torch.long), use_cache=False).logits
        logits_BTV.sum().backward()
        assert logits_BTV.shape == (3, 9, 272)
        assert weight_of(model).grad.shape == (VIRTUAL_TOKENS, 64)


def gemma3():
    return Gemma3ForCausalLM(Gemma3TextConfig(**GQA, **SIZES, sliding_window=6))


def gpt_neo():
    return GPTNeoForCausalLM(GPTNeoConfig(hidden_size=32, **LOCAL, **SIZES))


def deepseek():
    heads = {**WIDTH, "num_key_value_heads": 4, "first_k_dense_replace": 2}
    return DeepseekV3ForCausalLM(DeepseekV3Config(**heads, **LATENT, **SIZES, n_routed_experts=8))


def mamba():
    return MambaForCausalLM(MambaConfig(hidden_size=32, num_hidden_layers=2, **SIZES))


@pytest.mark.parametrize(
    ("build", "found"),
    [
        (gemma3, "Gemma3ForCausalLM: they keep DynamicSlidingWindowLayer"),
        (gpt_neo, "GPTNeoForCausalLM: some see the nearest tokens alone"),
        (deepseek, r"DeepseekV3ForCausalLM: they keep states of the shapes \(1, 1, 5, 4\), \(1, 1, 5, 8\)"),
        (mamba, "MambaForCausalLM: they keep no keys and values"),
    ],
)
def test_model_whose_layers_could_lose_the_prefix_is_refused(build, found):
    with pytest.raises(ConfigError, match=f"layers that all see all tokens; {found}"):
        prepared(build())


@pytest.mark.parametrize("virtual_tokens", [512, 513])
def test_prefix_must_leave_positions_for_rows(virtual_tokens):
    message = f"`num_virtual_tokens` is {virtual_tokens}, and LlamaForCausalLM has 512 positions"
    with pytest.raises(ConfigError, match=message):
        prepared(tiny_model(), virtual_tokens=virtual_tokens)


COMPLAINTS = [
    ("My invoice shows the March fee twice.", "billing | normal | charged twice for March"),
    ("The app closes as soon as I open the camera.", "mobile | high | crash when the camera opens"),
    ("How do I add a second user to my account?", "account | low | wants to add a user"),
    ("The report for June is empty.", "reports | normal | June report is empty"),
]


@pytest.mark.real_model
def test_embedded_model_is_hardly_disturbed_at_the_start_and_learns_quickly():
    loaded = load_model(find_model(EMBEDDED), dtype=torch.float32, device="cpu")
    renderer = Renderer(loaded.tokenizer, choose_template(loaded.tokenizer))
    rows = [
        renderer.render(Row((Message("user", asked), Message("assistant", said)), "rows", line, "messages"))
        for line, (asked, said) in enumerate(COMPLAINTS, 1)
    ]
    rendered = collate(rows, pad_id=loaded.pad_id)

    def loss(model):
        return token_losses(model, rendered.input_ids_BT, rendered.predicts_BT).mean()

    with torch.no_grad():
        base = loss(loaded.model)
        config = PrefixTuningConfig(task_type="CAUSAL_LM", num_virtual_tokens=32)
        by_peft = loss(get_peft_model(loaded.model, config).eval())
    model = prepared(loaded.model, virtual_tokens=32)
    share = trainable(model) / sum(each.numel() for each in loaded.model.parameters())
    assert 0.001 < share < 0.005
    optimizer = torch.optim.AdamW([weight_of(model)], lr=1e-2)
    losses = []
    for _ in range(6):
        losses.append(loss(model))
        losses[-1].backward()
        optimizer.step()
        optimizer.zero_grad()
    assert abs(losses[0] - base) < 0.5 < by_peft - base
    assert losses[-1] < losses[0] - 1
