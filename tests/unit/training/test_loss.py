"""The loss against torch's own cross entropy over whole logits."""

from copy import deepcopy
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch.nn import functional
from transformers import LlamaConfig, LlamaForCausalLM

from tiny_run import begun
from tunesmith.data.batches import micro_batches
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered
from tunesmith.models.find import ModelSource
from tunesmith.models.load import LoadedModel
from tunesmith.models.packing import enable_packing
from tunesmith.training.loss import LOSS_BATCH_TOKENS, batch_loss_sum, held_out_losses, mean_loss, row_losses

CPU = torch.device("cpu")
# Sums of float32 losses in another order differ in their last bits.
CLOSE = {"rel": 1e-5, "abs": 1e-6}


@pytest.fixture(scope="module")
def model():
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=32, hidden_size=16, intermediate_size=24, num_hidden_layers=2, num_attention_heads=2
    )
    return LlamaForCausalLM(config).eval()


@pytest.fixture(scope="module")
def rows():
    """Rows of very different length, some scored in two stretches, one in all its tokens."""
    random = np.random.default_rng(0)
    found = []
    for line, length in enumerate((5, 30, 2, 17, 9, 3, 24), start=1):
        ids = tuple(random.integers(1, 32, length).tolist())
        scored = tuple(line == 3 or (at % 7) > 2 or at == length - 1 for at in range(length))
        found.append(Rendered(ids, scored, Row((), "rows.jsonl", line, "messages")))
    return found


def by_hand(model, row):
    """Nats of one row, from all its logits."""
    ids = torch.tensor([row.ids])
    logits = model(input_ids=ids, use_cache=False).logits[0, :-1]
    losses = functional.cross_entropy(logits, ids[0, 1:], reduction="none")
    return losses[torch.tensor(row.scored[1:])].sum()


def window_mean(model, rows, *, micro_batch_rows):
    """Mean loss of a window and the gradient it leaves in the embeddings."""
    model.zero_grad()
    tokens = sum(row.scored_tokens for row in rows)
    nats = 0.0
    for batch in micro_batches(rows, micro_batch_rows=micro_batch_rows, pad_id=0):
        loss_sum = batch_loss_sum(model, batch, CPU)
        (loss_sum / tokens).backward()
        nats += loss_sum.item()
    return nats / tokens, model.get_input_embeddings().weight.grad.clone()


@pytest.mark.parametrize("micro_batch_rows", [1, 2, 3, 7, 50])
def test_loss_of_a_window_is_the_token_weighted_mean_by_hand(model, rows, micro_batch_rows):
    found, gradient = window_mean(model, rows, micro_batch_rows=micro_batch_rows)
    model.zero_grad()
    expected = sum(by_hand(model, row) for row in rows) / sum(row.scored_tokens for row in rows)
    expected.backward()
    assert found == pytest.approx(expected.item(), **CLOSE)
    torch.testing.assert_close(gradient, model.get_input_embeddings().weight.grad, rtol=1e-4, atol=1e-6)


def test_mean_over_tokens_is_not_the_mean_over_rows(model, rows):
    found, _ = window_mean(model, rows, micro_batch_rows=2)
    over_rows = sum(by_hand(model, row).item() / row.scored_tokens for row in rows) / len(rows)
    assert abs(found - over_rows) > 1e-3


@pytest.mark.parametrize("batch_rows", [1, 2, 7, 50])
def test_row_losses_are_the_rows_own_in_their_order(model, rows, batch_rows):
    statistics = row_losses(model, rows, batch_rows=batch_rows, pad_id=0, device=CPU)
    assert statistics[:, 0] == pytest.approx([by_hand(model, row).item() for row in rows], **CLOSE)
    assert statistics[:, 1].tolist() == [row.scored_tokens for row in rows]


@pytest.mark.parametrize("pad_id", [0, 7, 31])
def test_padding_changes_nothing(model, rows, pad_id):
    alone = row_losses(model, rows, batch_rows=1, pad_id=0, device=CPU)
    padded = row_losses(model, rows, batch_rows=7, pad_id=pad_id, device=CPU)
    assert padded == pytest.approx(alone, **CLOSE)


@pytest.mark.parametrize("shared", [0, 20])
def test_packed_rows_have_the_losses_and_the_gradient_of_padded_ones(model, rows, shared):
    rows, packing = begun(rows, shared), deepcopy(model)
    assert enable_packing(packing)
    padded = row_losses(model, rows, batch_rows=4, pad_id=0, device=CPU)
    assert row_losses(packing, rows, batch_rows=4, pad_id=0, device=CPU) == pytest.approx(padded, **CLOSE)
    _, expected = window_mean(model, rows, micro_batch_rows=3)
    (batch,) = micro_batches(rows, micro_batch_rows=50, pad_id=0, is_packed=True)
    # The first own token of a row is scored, so what predicts it is its own.
    saved = max(0, shared - 1) * (len(rows) - 1)
    assert batch.input_ids_BT.numel() == sum(len(row.ids) for row in rows) - saved
    packing.zero_grad()
    (batch_loss_sum(packing, batch, CPU) / sum(row.scored_tokens for row in rows)).backward()
    gradient = packing.get_input_embeddings().weight.grad
    torch.testing.assert_close(gradient, expected, rtol=1e-4, atol=1e-6)


def test_row_losses_leave_no_gradient(model, rows):
    model.zero_grad()
    row_losses(model, rows, batch_rows=4, pad_id=0, device=CPU)
    assert all(parameter.grad is None for parameter in model.parameters())


def test_mean_loss_weighs_rows_by_their_tokens():
    assert mean_loss(np.array([[6.0, 2], [1.0, 1], [0.0, 4]])) == 1.0


def test_held_out_losses_are_row_losses_where_the_model_stands(model, rows):
    class NoPadding:
        pad_token_id = None

    loaded = LoadedModel(model, NoPadding(), ModelSource("m", "m", None, "folder"))
    seen = []
    expected = row_losses(model, rows, batch_rows=3, pad_id=0, device=CPU)
    assert np.array_equal(held_out_losses(loaded, rows, 3, seen.append), expected)
    assert sum(seen) == len(rows)
    assert len(seen) > 1


def test_batch_of_long_rows_holds_fewer_of_them(model, rows):
    row, seen = rows[1], []
    long = [replace(row, ids=row.ids * 35, scored=row.scored * 35) for _ in range(5)]
    row_losses(model, long, batch_rows=5, pad_id=0, device=CPU, on_rows=seen.append)
    assert LOSS_BATCH_TOKENS == 2048
    assert seen == [1, 1, 1, 1, 1]
    shorter = [replace(row, ids=row.ids * 30, scored=row.scored * 30) for _ in range(5)]
    seen.clear()
    row_losses(model, shorter, batch_rows=5, pad_id=0, device=CPU, on_rows=seen.append)
    assert sorted(seen) == [1, 2, 2]
