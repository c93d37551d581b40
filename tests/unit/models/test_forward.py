"""The loss per token against transformers' own loss and against whole logits."""

import pytest
import torch
from torch import nn
from torch.nn import functional
from transformers import Gemma2Config, Gemma2ForCausalLM

from tiny import tiny_model
from tunesmith.config import MethodConfig
from tunesmith.methods import lora
from tunesmith.models.forward import logits_at_last, loss_sum, token_losses

# Sums of float32 in another order differ in their last bits.
CLOSE = {"rtol": 1e-5, "atol": 1e-5}
LENGTHS = (7, 2, 19, 12)
LONGEST = max(LENGTHS)


@pytest.fixture(scope="module")
def model():
    return tiny_model()


@pytest.fixture(scope="module")
def rows():
    """Ids of rows of different length, and which tokens of each are scored, the last always."""
    generator = torch.Generator().manual_seed(3)
    ids = [torch.randint(3, 259, (length,), generator=generator) for length in LENGTHS]
    scored = [torch.rand(length, generator=generator) < 0.6 for length in LENGTHS]
    for each in scored:
        each[0], each[-1] = False, True
    return list(zip(ids, scored, strict=True))


def padded(rows, *, pad_id, length):
    """Ids and predicting positions of the rows in one batch `length` tokens wide."""
    input_ids_BT = torch.full((len(rows), length), pad_id)
    predicts_BT = torch.zeros((len(rows), length), dtype=torch.bool)
    for index, (ids, scored) in enumerate(rows):
        input_ids_BT[index, : len(ids)] = ids
        predicts_BT[index, : len(ids) - 1] = scored[1:]
    return input_ids_BT, predicts_BT


def losses_of(model, rows, *, pad_id=0, length=LONGEST):
    with torch.no_grad():
        return token_losses(model, *padded(rows, pad_id=pad_id, length=length))


def labels_of(rows):
    input_ids_BT, _ = padded(rows, pad_id=0, length=LONGEST)
    labels_BT = torch.full_like(input_ids_BT, -100)
    for index, (ids, scored) in enumerate(rows):
        labels_BT[index, : len(ids)] = torch.where(scored, ids, -100)
    return input_ids_BT, labels_BT


@pytest.mark.parametrize("pad_id", [0, 2, 271])
@pytest.mark.parametrize("extra", [0, 13])
def test_padding_changes_no_loss(model, rows, pad_id, extra):
    alone = torch.cat([losses_of(model, [row], length=len(row[0])) for row in rows])
    together = losses_of(model, rows, pad_id=pad_id, length=LONGEST + extra)
    torch.testing.assert_close(together, alone, **CLOSE)


def test_one_loss_for_each_scored_token_row_by_row(model, rows):
    found = losses_of(model, rows)
    by_hand = []
    for ids, scored in rows:
        logits_TV = model(input_ids=ids[None]).logits[0]
        every = functional.cross_entropy(logits_TV[:-1], ids[1:], reduction="none")
        by_hand.append(every[scored[1:]].detach())
    torch.testing.assert_close(found, torch.cat(by_hand), **CLOSE)


def test_mean_loss_is_what_transformers_computes_from_labels(model, rows):
    input_ids_BT, labels_BT = labels_of(rows)
    with torch.no_grad():
        expected = model(input_ids=input_ids_BT, labels=labels_BT).loss
    torch.testing.assert_close(losses_of(model, rows).mean(), expected, **CLOSE)


def test_gradients_are_those_of_transformers_loss(rows):
    ours, theirs = tiny_model(), tiny_model()
    token_losses(ours, *padded(rows, pad_id=0, length=LONGEST)).mean().backward()
    input_ids_BT, labels_BT = labels_of(rows)
    theirs(input_ids=input_ids_BT, labels=labels_BT).loss.backward()
    pairs = zip(ours.named_parameters(), theirs.named_parameters(), strict=True)
    for (name, left), (_, right) in pairs:
        torch.testing.assert_close(left.grad, right.grad, rtol=1e-4, atol=1e-6, msg=f"gradient of {name}")


def test_soft_capped_logits_keep_their_cap(rows):
    """Gemma 2 bends its logits after the output layer: the model's own forward must run around ours."""
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "vocab_size": 272}
    heads = {"num_attention_heads": 2, "num_key_value_heads": 1, "head_dim": 16}
    config = Gemma2Config(**sizes, **heads, final_logit_softcapping=0.05, attn_implementation="eager")
    model = Gemma2ForCausalLM(config).eval()
    input_ids_BT, labels_BT = labels_of(rows)
    with torch.no_grad():
        expected = model(input_ids=input_ids_BT, labels=labels_BT).loss
        found = losses_of(model, rows).mean()
        model.config.final_logit_softcapping = None
        uncapped = model(input_ids=input_ids_BT, labels=labels_BT).loss
    torch.testing.assert_close(found, expected, **CLOSE)
    assert abs(found - uncapped) > 1e-3


def test_output_layer_makes_no_logits_of_its_own(rows):
    model, seen = tiny_model(), []
    handle = model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.numel()))
    losses_of(model, rows)
    loss_sum(model, *padded(rows, pad_id=0, length=LONGEST))
    handle.remove()
    # The first pass shows with one token what becomes of the logits.
    assert seen[1:] == [0, 0]


def test_with_gradient_for_each_token_the_output_layer_sees_scored_positions_alone(model, rows):
    seen = []
    handle = model.lm_head.register_forward_hook(lambda _, inputs, output: seen.append(output.shape))
    found = token_losses(model, *padded(rows, pad_id=0, length=LONGEST))
    handle.remove()
    assert seen == [(1, len(found), 272)]


def test_model_is_left_as_it_was(model, rows):
    input_ids_BT, _ = padded(rows, pad_id=0, length=LONGEST)
    before = model(input_ids=input_ids_BT).logits
    losses_of(model, rows)
    assert torch.equal(model(input_ids=input_ids_BT).logits, before)


def test_losses_are_float32_also_from_a_bfloat16_model(rows):
    model = tiny_model().to(torch.bfloat16)
    assert losses_of(model, rows).dtype == torch.float32


def test_adapter_around_the_model_is_no_obstacle(rows):
    wrapped = lora.prepare(tiny_model(), MethodConfig(rank=2))
    torch.testing.assert_close(losses_of(wrapped, rows), losses_of(tiny_model(), rows), **CLOSE)


class Aside(nn.Module):
    """A model whose logits do not pass its output embeddings."""

    def __init__(self):
        super().__init__()
        self.inside = tiny_model()

    def get_output_embeddings(self):
        return nn.Linear(4, 4)

    def forward(self, **arguments):
        return self.inside(**arguments)


@pytest.mark.parametrize("compute", [token_losses, loss_sum])
def test_logits_which_pass_the_output_layer_by_are_refused(rows, compute):
    with pytest.raises(RuntimeError, match=r"Aside gave logits of shape \(4, 19, 272\)"):
        compute(Aside(), *padded(rows, pad_id=0, length=LONGEST))


def test_logits_at_last_are_those_of_the_whole_forward(model, rows):
    ids = rows[2][0][None]
    found = logits_at_last(model, ids)
    with torch.no_grad():
        whole = model(input_ids=ids).logits
    assert torch.equal(found, whole[:, -1])
    assert not found.requires_grad
