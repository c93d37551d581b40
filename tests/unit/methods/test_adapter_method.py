"""Bottleneck adapters as a method: nothing changes at the start, only they learn, padding changes nothing."""

import pytest
import torch
from torch import nn
from transformers import (
    GPT2Config,
    GPT2LMHeadModel,
    MixtralConfig,
    MixtralForCausalLM,
    OPTConfig,
    OPTForCausalLM,
)

from tiny import tiny_model
from tunesmith.config import LEARNING_RATES, MethodConfig
from tunesmith.errors import ConfigError
from tunesmith.methods import adapter, trainable
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.find import find_model
from tunesmith.models.forward import token_losses
from tunesmith.models.load import load_model

IDS = torch.tensor([[1, 40, 50, 60, 2, 0, 9]])


def tiny_gpt2():
    torch.manual_seed(0)
    config = GPT2Config(vocab_size=272, n_embd=32, n_layer=2, n_head=2, n_positions=64)
    return GPT2LMHeadModel(config).eval()


def tiny_opt():
    torch.manual_seed(0)
    config = OPTConfig(
        vocab_size=272,
        hidden_size=32,
        ffn_dim=64,
        num_hidden_layers=2,
        num_attention_heads=2,
        word_embed_proj_dim=32,
    )
    return OPTForCausalLM(config).eval()


def prepared(base=None, *, seed=0, **settings):
    base = base or tiny_model()
    torch.manual_seed(seed)
    return adapter.prepare(base, MethodConfig(name="adapter", **settings))


def learned(model):
    return {name: weight for name, weight in model.named_parameters() if weight.requires_grad}


def moved(model, *, std=0.3):
    """The model with weights as if it had learned."""
    for weight in learned(model).values():
        nn.init.normal_(weight, std=std)
    return model


def losses_of_all(model, ids_BT):
    """Nats of every token but each row's first."""
    predicts_BT = torch.ones_like(ids_BT).bool()
    predicts_BT[:, -1] = False
    return token_losses(model, ids_BT, predicts_BT)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("placement", ["houlsby", "pfeiffer"])
@pytest.mark.parametrize("make", [tiny_model, tiny_gpt2, tiny_opt])
def test_before_training_the_logits_are_the_base_ones_exactly(make, placement, dtype):
    base = make().to(dtype)
    with torch.no_grad():
        before = base(input_ids=IDS).logits
        model = prepared(base, placement=placement)
        assert torch.equal(model(input_ids=IDS).logits, before)


def test_dropout_too_changes_nothing_before_training():
    with torch.no_grad():
        before = tiny_model()(input_ids=IDS).logits
        assert torch.equal(prepared(dropout=0.5).train()(input_ids=IDS).logits, before)


@pytest.mark.parametrize("factor", [1, 2.5, 16, 1000])
@pytest.mark.parametrize(("placement", "behind"), [("houlsby", 2), ("pfeiffer", 1)])
def test_trainable_is_two_matrices_and_two_biases_behind_each_sublayer(placement, behind, factor):
    model = prepared(placement=placement, reduction_factor=factor)
    width, blocks, size = 32, 2, max(1, int(32 / factor))
    assert trainable(model) == behind * blocks * (2 * width * size + size + width)


def test_all_of_w_up_is_zero_and_w_down_is_decided_by_the_seed():
    one, same, other = (learned(prepared(seed=seed)) for seed in (1, 1, 2))
    downs = [name for name in one if "down.default.weight" in name]
    assert len(downs) == 4
    assert all(one[name].any() == (name in downs) for name in one)
    assert all(torch.equal(one[name], same[name]) for name in one)
    assert not any(torch.equal(one[name], other[name]) for name in downs)


def test_only_the_adapter_learns_and_all_of_it_does():
    model = prepared()
    before = {name: weight.detach().clone() for name, weight in model.named_parameters()}
    optimizer = torch.optim.AdamW(learned(model).values(), lr=1e-2, weight_decay=0.0)
    # W_down has no gradient as long as W_up is 0, so it takes a second step.
    for _ in range(2):
        losses_of_all(model, IDS).sum().backward()
        optimizer.step()
        optimizer.zero_grad()
    for name, weight in model.named_parameters():
        assert torch.equal(weight, before[name]) == ("bottleneck_" not in name), name


def test_weights_are_float32_where_the_model_is_bfloat16_and_the_loss_falls():
    model = prepared(tiny_model().to(torch.bfloat16))
    assert {weight.dtype for weight in learned(model).values()} == {torch.float32}
    optimizer = torch.optim.AdamW(learned(model).values(), lr=1e-2)
    losses = []
    for _ in range(5):
        loss = losses_of_all(model, IDS).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)


def test_dropout_acts_in_training_and_not_in_evaluation():
    model = moved(prepared(dropout=0.5))
    with torch.no_grad():
        first, second = (model.train()(input_ids=IDS).logits for _ in range(2))
        assert not torch.equal(first, second)
        first, second = (model.eval()(input_ids=IDS).logits for _ in range(2))
        assert torch.equal(first, second)


def test_added_layers_are_in_the_mode_of_the_model():
    assert not any(module.training for module in prepared(tiny_model().eval()).get_base_model().modules())
    assert all(module.training for module in prepared(tiny_model().train()).get_base_model().modules())


def test_padding_changes_no_loss():
    """Right padding, no mask, as in training: each row gives what it gives alone."""
    model = moved(prepared())
    rows = [torch.randint(3, 272, (length,)) for length in (4, 9, 6)]
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True)
    predicts = nn.utils.rnn.pad_sequence([torch.ones(len(row) - 1).bool() for row in rows], batch_first=True)
    together = token_losses(model, batch, nn.functional.pad(predicts, (0, 1)))
    alone = [losses_of_all(model, row[None]) for row in rows]
    assert torch.allclose(together, torch.cat(alone), atol=1e-5)


def test_left_padded_rows_answer_as_they_do_alone():
    model = moved(prepared()).eval()
    rows = [torch.randint(3, 272, (length,)) for length in (4, 9, 6)]
    batch = nn.utils.rnn.pad_sequence(rows, batch_first=True, padding_side="left")
    mask = nn.utils.rnn.pad_sequence(
        [torch.ones_like(row) for row in rows], batch_first=True, padding_side="left"
    )
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None, "pad_token_id": 0}
    together = model.generate(input_ids=batch, attention_mask=mask, **settings)[:, -8:]
    for row, answer in zip(rows, together, strict=True):
        alone = model.generate(input_ids=row[None], attention_mask=torch.ones(1, len(row)), **settings)
        assert torch.equal(alone[0, -8:], answer)


def test_generation_with_a_cache_gives_what_each_full_forward_gives():
    model = moved(prepared()).eval()
    ids = IDS
    for _ in range(6):
        with torch.no_grad():
            ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
    answer = model.generate(
        input_ids=IDS,
        attention_mask=torch.ones_like(IDS),
        max_new_tokens=6,
        do_sample=False,
        eos_token_id=None,
        pad_token_id=0,
    )
    assert torch.equal(answer, ids)


@pytest.mark.parametrize("make", [tiny_model, tiny_gpt2])
def test_checkpointing_changes_no_gradient(make):
    """With dropout: what is computed again drops the same numbers."""
    gradients = []
    for is_checkpointed in (False, True):
        model = moved(prepared(make(), dropout=0.3), std=0.1).train()
        if is_checkpointed:
            enable_checkpointing(model)
        losses_of_all(model, IDS).sum().backward()
        gradients.append({name: weight.grad for name, weight in learned(model).items()})
    plain, checkpointed = gradients
    for name, gradient in plain.items():
        assert gradient.any()
        assert torch.allclose(gradient, checkpointed[name], atol=1e-6), name


def test_a_model_without_ends_of_sublayers_is_refused_and_left_as_it_was():
    config = MixtralConfig(
        vocab_size=64,
        hidden_size=32,
        intermediate_size=48,
        num_hidden_layers=2,
        num_attention_heads=2,
        num_key_value_heads=1,
        num_local_experts=2,
    )
    base = MixtralForCausalLM(config)
    names = [name for name, _ in base.named_modules()]
    message = (
        r"ends each feed-forward sub-layer; model\.layers\.0 of MixtralForCausalLM .*self_attn\.o_proj \(32\)"
    )
    with pytest.raises(ConfigError, match=message) as caught:
        prepared(base)
    assert "lora" in caught.value.hint
    assert [name for name, _ in base.named_modules()] == names


@pytest.mark.real_model
def test_smollm2_trains_between_1_and_5_percent_and_the_loss_falls_in_three_steps():
    loaded = load_model(find_model("smollm2-135m"), dtype=torch.float32, device="cpu")
    total = sum(weight.numel() for weight in loaded.model.parameters())
    model = prepared(loaded.model)
    assert 0.01 < trainable(model) / total < 0.05
    ids = torch.tensor(
        [loaded.tokenizer("Ticket 4711: the printer on floor 3 prints blank pages.").input_ids]
    )
    optimizer = torch.optim.AdamW(learned(model).values(), lr=LEARNING_RATES["adapter"])
    losses = []
    for _ in range(4):
        loss = losses_of_all(model, ids).mean()
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss.detach()))
    assert losses == sorted(losses, reverse=True)
    assert losses[-1] < losses[0] - 0.1
