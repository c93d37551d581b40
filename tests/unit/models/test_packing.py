"""Packed rows against the same rows alone: values, gradients, and which models can."""

import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.testing import assert_close

from tiny import tiny_model_folder
from tiny_run import begun, random_rows, tiny_full, tiny_llama, tiny_lora
from tunesmith.config import MethodConfig
from tunesmith.data.batches import collate, micro_batches, packed
from tunesmith.methods import METHODS
from tunesmith.models.checkpointing import enable_checkpointing
from tunesmith.models.find import find_model
from tunesmith.models.load import load_model
from tunesmith.models.packing import enable_packing, is_packing, packed_arguments

CPU = torch.device("cpu")
SHAPE = {
    "vocab_size": 48,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "initializer_range": 0.2,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
HEADS_OF_8 = SHAPE | {"head_dim": 8}
GPT2 = {"vocab_size": 48, "n_embd": 32, "n_layer": 2, "n_head": 4, "initializer_range": 0.2} | {
    "bos_token_id": 1,
    "eos_token_id": 2,
}


def model_of(name, shape, **more):
    """A random model in float64, always the same."""
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(name, **shape, **more)
    return transformers.AutoModelForCausalLM.from_config(config).double()


def logits(model, ids, **arguments):
    return model(input_ids=torch.tensor([ids]), use_cache=False, **arguments).logits[0]


def packed_logits(model, rows, *, shared=0):
    lying = [row[shared:] if place else row for place, row in enumerate(rows)]
    ids = [token_id for row in lying for token_id in row]
    return logits(model, ids, **packed_arguments([len(row) for row in lying], CPU, shared_tokens=shared))


CAN = {
    "llama": (SHAPE, {}),
    "mistral": (SHAPE, {"sliding_window": 4}),
    "qwen2": (SHAPE, {}),
    "qwen3": (HEADS_OF_8, {}),
    "gemma3_text": (
        HEADS_OF_8,
        {"sliding_window": 4, "layer_types": ["sliding_attention", "full_attention"]},
    ),
    "phi3": (SHAPE, {}),
    "granite": (SHAPE, {"attention_multiplier": 0.3}),
    "gpt2": (GPT2, {}),
}


@pytest.mark.parametrize("name", CAN)
def test_packed_rows_are_what_they_are_alone(name):
    model = model_of(name, CAN[name][0], **CAN[name][1]).eval()
    rows = [[3, 9, 4, 7, 7, 30, 2, 11], [5], [8, 8, 1, 40, 6]]
    with torch.no_grad():
        alone = torch.cat([logits(model, row) for row in rows])
        assert enable_packing(model)
        assert_close(packed_logits(model, rows), alone, rtol=1e-10, atol=1e-10)
        # Without rows named it computes as before.
        assert_close(torch.cat([logits(model, row) for row in rows]), alone, rtol=0, atol=0)


@pytest.mark.parametrize("name", CAN)
def test_what_rows_share_is_computed_once_and_they_are_what_they_are_alone(name):
    model = model_of(name, CAN[name][0], **CAN[name][1]).eval()
    rows = [[*range(3, 12), *own] for own in ([7, 30, 2, 11], [5], [40, 6, 40, 1, 8, 8])]
    with torch.no_grad():
        alone = [logits(model, row) for row in rows]
        assert enable_packing(model)
        found = packed_logits(model, rows, shared=9)
    assert_close(found, torch.cat([alone[0], *(each[9:] for each in alone[1:])]), rtol=1e-10, atol=1e-10)


def test_attention_that_drops_does_so_in_rows_that_share():
    rows = [[*range(3, 12), *own] for own in ([7, 30, 2, 11], [5], [40, 6, 40])]
    # So small a share drops nothing, but goes the way of any.
    model = model_of("llama", SHAPE, attention_dropout=1e-30).train()
    assert enable_packing(model)
    dropping = packed_logits(model, rows, shared=9)
    assert_close(packed_logits(model.eval(), rows, shared=9), dropping, rtol=1e-10, atol=1e-10)


def test_a_model_that_packs_generates_padded_prompts_as_before():
    model = model_of("llama", SHAPE).eval()
    ids = torch.tensor([[0, 0, 3, 9], [7, 8, 4, 5]])
    asked = {"attention_mask": (ids > 0).long(), "max_new_tokens": 6, "do_sample": False}
    before = model.generate(ids, **asked)
    assert enable_packing(model)
    assert model.generate(ids, **asked).tolist() == before.tolist()


def test_the_saved_configuration_does_not_know(tmp_path):
    model = model_of("llama", SHAPE)
    assert enable_packing(model)
    model.save_pretrained(tmp_path)
    assert "row_by_row" not in (tmp_path / "config.json").read_text()
    assert not is_packing(transformers.AutoModelForCausalLM.from_pretrained(tmp_path))


CANNOT = {
    "a recurrent state": ("mamba", {"vocab_size": 48, "hidden_size": 32, "num_hidden_layers": 2}),
    "a convolution between tokens": ("lfm2", SHAPE | {"layer_types": ["conv", "full_attention"]}),
    "capped attention": ("gemma2", HEADS_OF_8),
    "ALiBi": ("bloom", {"vocab_size": 48, "hidden_size": 32, "n_layer": 2, "n_head": 4}),
}


@pytest.mark.filterwarnings("ignore")
@pytest.mark.parametrize("why", CANNOT)
def test_a_model_whose_rows_would_mix_cannot_and_stays_as_it_was(why):
    name, shape = CANNOT[why]
    model = model_of(name, shape)
    before = model.config._attn_implementation
    assert not enable_packing(model)
    assert not is_packing(model)
    assert model.config._attn_implementation == before


def test_a_reach_that_short_rows_cannot_show_is_no_plain_attention():
    model = tiny_llama()
    model.config.sliding_window = 400  # told by no argument of Llama's attention
    assert not enable_packing(model)


def test_the_trial_leaves_a_model_in_training():
    model = tiny_lora().train()
    assert enable_packing(model)
    assert is_packing(model)
    assert model.training
    assert enable_packing(model)


def test_a_learned_prefix_cannot_be_packed():
    model = METHODS["prefix"].prepare(tiny_llama(), MethodConfig(name="prefix"))
    assert not enable_packing(model)


def test_the_trial_draws_no_random_number():
    model = tiny_lora(dropout=0.5).train()
    torch.manual_seed(1)
    expected = torch.rand(3)
    torch.manual_seed(1)
    enable_packing(model)
    assert torch.rand(3).equal(expected)


def gradients(model, batch):
    """Sum of the scored tokens' losses and its gradients."""
    more = {}
    if batch.row_lengths:
        more = packed_arguments(batch.row_lengths, CPU, shared_tokens=batch.shared_tokens)
    found = model(input_ids=batch.input_ids_BT, use_cache=False, **more).logits.double()
    targets = batch.input_ids_BT[:, 1:][batch.predicts_BT[:, :-1]]
    loss = torch.nn.functional.cross_entropy(found[batch.predicts_BT], targets, reduction="sum")
    learning = [weight for weight in model.parameters() if weight.requires_grad]
    return loss.item(), torch.autograd.grad(loss, learning)


def tiny_adapter():
    model = METHODS["adapter"].prepare(tiny_llama(), MethodConfig(name="adapter"))
    for name, weight in model.named_parameters():
        if "bottleneck_up" in name:
            torch.nn.init.normal_(weight, std=0.2)
    return model


def of_window(model, rows, **cut):
    """Loss and gradient of a window, summed over its micro-batches."""
    batches = [gradients(model, batch) for batch in micro_batches(rows, pad_id=0, **cut)]
    return sum(loss for loss, _ in batches), [sum(one) for one in zip(*(g for _, g in batches), strict=True)]


def assert_same(found, expected):
    assert found[0] == pytest.approx(expected[0], rel=1e-6)
    for one, other in zip(found[1], expected[1], strict=True):
        assert_close(one, other, rtol=1e-5, atol=1e-6 * max(1.0, float(other.abs().max())))


MAKERS = {"lora": tiny_lora, "full": tiny_full, "adapter": tiny_adapter}


@pytest.mark.parametrize("method", MAKERS)
@settings(deadline=None, max_examples=6)
@given(
    count=st.integers(1, 9),
    seed=st.integers(0, 9),
    at_once=st.integers(1, 4),
    most_tokens=st.none() | st.integers(1, 60),
    shared=st.sampled_from([0, 20]),
)
def test_no_cut_of_a_window_changes_its_loss_or_gradient(method, count, seed, at_once, most_tokens, shared):
    model, rows = MAKERS[method]().train(), begun(random_rows(count, seed=seed), shared)
    # Where rows share, sums come in another order: the same bound holds beyond rounding in float64.
    model = model.double() if shared else model
    cut = {"micro_batch_rows": at_once, "most_tokens": most_tokens}
    one_by_one = of_window(model, rows, micro_batch_rows=1, most_tokens=1)
    assert_same(of_window(model, rows, **cut), one_by_one)
    assert enable_packing(model)
    assert_same(of_window(model, rows, is_packed=True, **cut), one_by_one)


def test_packed_rows_of_gpt2_learn_the_same():
    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model("gpt2", **GPT2, resid_pdrop=0, embd_pdrop=0, attn_pdrop=0)
    base = transformers.AutoModelForCausalLM.from_config(config)
    model, rows = METHODS["lora"].prepare(base, MethodConfig(rank=4)).train(), random_rows(6)
    one_by_one = of_window(model, rows, micro_batch_rows=1, most_tokens=1)
    assert enable_packing(model)
    assert_same(of_window(model, rows, micro_batch_rows=3, is_packed=True), one_by_one)


def test_packed_rows_of_a_base_in_four_bit_learn_the_same(tmp_path):
    folder = tiny_model_folder(tmp_path / "model")
    base = load_model(find_model(str(folder)), dtype=torch.float32, device="cpu", four_bit=True).model
    model, rows = METHODS["qlora"].prepare(base, MethodConfig(name="qlora", rank=4)).train(), random_rows(6)
    one_by_one = of_window(model, rows, micro_batch_rows=1, most_tokens=1)
    assert enable_packing(model)
    assert_same(of_window(model, rows, micro_batch_rows=3, is_packed=True), one_by_one)


@pytest.mark.parametrize("shared", [0, 20])
def test_checkpointed_layers_see_the_rows_again(shared):
    model, rows = tiny_lora().train(), begun(random_rows(5), shared)
    model = model.double() if shared else model
    loss, expected = gradients(model, collate(rows, pad_id=0))
    enable_packing(model)
    enable_checkpointing(model)
    assert_same(gradients(model, packed(rows)), (loss, expected))
