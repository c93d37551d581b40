"""What models do to their logits, and that the loss is theirs whatever it is."""

import pytest
import torch
from peft import LoraConfig, get_peft_model
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import fully_shard
from transformers import (
    AutoModelForCausalLM,
    CohereConfig,
    FalconH1Config,
    Gemma2Config,
    GPT2Config,
    GPTJConfig,
    GraniteConfig,
    LlamaConfig,
    LlamaForCausalLM,
    PhiConfig,
)

from tunesmith.models.forward import loss_sum, token_losses
from tunesmith.models.head_loss import Formula
from tunesmith.models.output_layer import logits_formula

SIZES = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 2,
    "num_key_value_heads": 1,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "pad_token_id": 0,
}
GPT = {"vocab_size": 96, "n_embd": 32, "n_layer": 2, "n_head": 2, "bos_token_id": 1, "eos_token_id": 2}
MAMBA = {"mamba_d_ssm": 32, "mamba_n_heads": 4, "mamba_d_head": 8, "mamba_d_state": 8, "mamba_chunk_size": 8}
FAMILIES = {
    "llama": (LlamaConfig(**SIZES), Formula()),
    "tied": (LlamaConfig(**SIZES, tie_word_embeddings=True), Formula()),
    "gemma2": (Gemma2Config(**SIZES, head_dim=16, final_logit_softcapping=2.0), Formula(cap=2.0)),
    "cohere": (CohereConfig(**SIZES, logit_scale=0.25), Formula(0.25)),
    "granite": (GraniteConfig(**SIZES, logits_scaling=8.0), Formula(0.125)),
    "falcon_h1": (FalconH1Config(**SIZES, **MAMBA, lm_head_multiplier=0.5), Formula(0.5)),
    "gpt2": (GPT2Config(**GPT), Formula()),
    "with bias": (GPTJConfig(**GPT, rotary_dim=8), Formula()),
    "phi": (PhiConfig(**{**SIZES, "num_key_value_heads": 2}), Formula()),
}


def built(config):
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).double().eval()
    # Logits far from zero, so that scale and cap show.
    with torch.no_grad():
        model.get_output_embeddings().weight.mul_(30)
    return model


def batch():
    """Ids of two rows, where they predict, and the labels that say the same."""
    generator = torch.Generator().manual_seed(4)
    ids_BT = torch.randint(3, 96, (2, 9), generator=generator)
    predicts_BT = torch.zeros((2, 9), dtype=torch.bool)
    predicts_BT[0, 2:8], predicts_BT[1, 5:7] = True, True
    labels_BT = torch.full_like(ids_BT, -100)
    labels_BT[:, 1:][predicts_BT[:, :-1]] = ids_BT[:, 1:][predicts_BT[:, :-1]]
    return ids_BT, predicts_BT, labels_BT


def gradients(model, loss):
    learning = {name: each for name, each in model.named_parameters() if each.requires_grad}
    found = torch.autograd.grad(loss, learning.values(), allow_unused=True)
    return {name: each for name, each in zip(learning, found, strict=True) if each is not None}


def compare(model, *, most=1e-6):
    """Sum, single losses and gradients against the model's own forward on labels.

    Some models make float32 logits of float64 ones, so they are no more exact than that.
    """
    ids_BT, predicts_BT, labels_BT = batch()
    expected = model(input_ids=ids_BT, labels=labels_BT).loss * 8
    found = loss_sum(model, ids_BT, predicts_BT)
    assert found.item() == pytest.approx(expected.item(), rel=most)
    with torch.no_grad():
        assert token_losses(model, ids_BT, predicts_BT).sum().item() == pytest.approx(found.item(), rel=most)
    ours, theirs = gradients(model, found), gradients(model, expected)
    assert ours.keys() == theirs.keys()
    for name, gradient in theirs.items():
        assert (ours[name] - gradient).abs().max() <= 10 * most * gradient.abs().max(), name


@pytest.mark.parametrize("family", FAMILIES)
def test_loss_and_all_gradients_are_the_model_s_own(family):
    config, formula = FAMILIES[family]
    model = built(config)
    assert logits_formula(model, torch.zeros((1, 1))) == formula
    compare(model)


def test_one_family_has_a_bias_in_its_output_layer():
    assert built(FAMILIES["with bias"][0]).get_output_embeddings().bias is not None


class Doubled(LlamaForCausalLM):
    """Does to its logits what no configuration tells."""

    def forward(self, **arguments):
        output = super().forward(**{name: value for name, value in arguments.items() if name != "labels"})
        output.logits = output.logits * 2
        if (labels := arguments.get("labels")) is not None:
            output.loss = self.loss_function(output.logits, labels, self.config.vocab_size)
        return output


def test_a_model_of_unknown_formula_goes_the_plain_way():
    torch.manual_seed(0)
    model = Doubled(LlamaConfig(**SIZES)).double()
    assert logits_formula(model, torch.zeros((1, 1))) is None
    compare(model)


def test_an_output_layer_with_an_adapter_goes_the_plain_way():
    model = get_peft_model(
        built(FAMILIES["llama"][0]),
        LoraConfig(target_modules=["lm_head", "q_proj"], r=2, init_lora_weights=False),
    )
    assert logits_formula(model, torch.zeros((1, 1))) is None
    compare(model.double())


def test_a_vocabulary_padded_behind_the_model_s_own_goes_the_plain_way():
    model = built(FAMILIES["llama"][0])
    model.config.vocab_size = 95
    assert logits_formula(model, torch.zeros((1, 1))) is None


def test_weights_in_shards_go_the_plain_way_before_and_after_a_forward_pass():
    torch.distributed.init_process_group("gloo", store=torch.distributed.HashStore(), rank=0, world_size=1)
    try:
        plain = built(FAMILIES["llama"][0])
        model = fully_shard(built(FAMILIES["llama"][0]), mesh=init_device_mesh("cpu", (1,)))
        for _ in range(2):
            assert logits_formula(model, torch.zeros((1, 1))) is None
            ids_BT, predicts_BT, _ = batch()
            found, expected = (loss_sum(each, ids_BT, predicts_BT) for each in (model, plain))
            torch.testing.assert_close(found, expected, rtol=1e-6, atol=0)
    finally:
        torch.distributed.destroy_process_group()


def test_the_first_loss_draws_as_many_random_numbers_as_the_next():
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(GPT2Config(**GPT, embd_pdrop=0.3)).train()
    ids_BT, predicts_BT, _ = batch()
    found = []
    for _ in range(2):
        torch.manual_seed(5)
        found.append((loss_sum(model, ids_BT, predicts_BT).item(), torch.rand(()).item()))
    assert found[0] == found[1]
    torch.manual_seed(6)
    assert loss_sum(model, ids_BT, predicts_BT).item() != found[0][0]


def test_under_autocast_it_multiplies_in_bfloat16_and_is_as_near_as_the_plain_way():
    model = built(FAMILIES["llama"][0])
    ids_BT, predicts_BT, _ = batch()
    exact = gradients(model, loss_sum(model, ids_BT, predicts_BT))
    model = model.float()
    forward = model.forward
    with torch.autocast("cpu", torch.bfloat16):
        chunked = gradients(model, loss_sum(model, ids_BT, predicts_BT))
        plain = gradients(model, token_losses(model, ids_BT, predicts_BT).sum())
    assert model.forward == forward
    for name, gradient in exact.items():
        size = gradient.norm()
        ours, theirs = ((found[name].double() - gradient).norm() / size for found in (chunked, plain))
        assert 1e-5 < ours <= max(1.5 * theirs, 0.02), name
