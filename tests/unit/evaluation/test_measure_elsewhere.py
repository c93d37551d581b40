"""Base and tuned beside the task: the same rows for both, and a base that is the bare model."""

from functools import partial

import numpy as np
import pytest
import torch

from bars import Bars
from tiny import CHATML, tiny_model, tiny_tokenizer
from tunesmith.config import EvaluationConfig, MethodConfig
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Renderer, choose_template
from tunesmith.evaluation.elsewhere import GENERAL_PLACE, OTHERWISE_PLACE
from tunesmith.evaluation.elsewhere_rows import WAYS, general_rows, neighbours
from tunesmith.evaluation.measure_elsewhere import NEIGHBOUR_ROWS, measure_elsewhere
from tunesmith.methods import lora
from tunesmith.models.find import ModelSource
from tunesmith.models.load import LoadedModel
from tunesmith.progress import Silent
from tunesmith.training.loss import held_out_losses, mean_loss

SETTINGS = EvaluationConfig(bootstrap_resamples=100, per_device_eval_batch_size=8)
SOURCE = ModelSource("tiny", "tiny", None, "folder")
TOKENIZER = tiny_tokenizer()
NEEDS_SYSTEM = "{% if messages[0].role != 'system' %}{{ raise_exception('no system') }}{% endif %}" + CHATML


def held_out(number, *, system="Be brief."):
    text = f"Could you tell me the number that comes after the number {number}?"
    turns = (Message("system", system), Message("user", text), Message("assistant", f"It is {number + 1}."))
    return Row(turns, "test.jsonl", number, "messages")


ROWS = [held_out(number) for number in range(1, 41)]


def renderer_for(template=CHATML, **settings):
    tokenizer = tiny_tokenizer(chat_template=template)
    return Renderer(tokenizer, choose_template(tokenizer), **settings)


def adapted(*, spread=0.0):
    """The tiny model with an adapter whose B is drawn with this standard deviation."""
    model = lora.prepare(tiny_model(), MethodConfig(rank=4))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and spread:
                weight.normal_(std=spread)
    return model.eval()


def elsewhere_of(
    model,
    *,
    rows=ROWS,
    renderer=None,
    max_length=512,
    settings=SETTINGS,
    seed=17,
    losses_of=None,
    progress=None,
):
    loaded = LoadedModel(model, TOKENIZER, SOURCE)
    return measure_elsewhere(
        loaded,
        renderer or renderer_for(),
        rows,
        max_length=max_length,
        settings=settings,
        seed=seed,
        losses_of=losses_of or partial(held_out_losses, loaded),
        progress=progress or Silent(),
    )


@pytest.fixture(scope="module")
def found():
    torch.set_num_threads(1)
    return elsewhere_of(adapted(spread=0.5))


def test_places_are_the_general_set_and_the_neighbours(found):
    assert [(place.name, place.comparison.n) for place in found.places] == [
        (GENERAL_PLACE, 96),
        (OTHERWISE_PLACE, NEIGHBOUR_ROWS),
    ]
    assert [way.name for way in found.ways] == [f"asked otherwise: {way}" for way in WAYS]
    assert {way.comparison.n for way in found.ways} == {NEIGHBOUR_ROWS // len(WAYS)}
    assert found.left_out == 0


def test_base_is_the_bare_model_and_only_answers_count(found):
    renderer, bare = renderer_for(), LoadedModel(tiny_model(), TOKENIZER, SOURCE)
    asked = [row for _, row in neighbours(ROWS, most=NEIGHBOUR_ROWS, seed=17)]
    for place, rows in zip(found.places, (general_rows(), asked), strict=True):
        losses = held_out_losses(bare, [renderer.render(row) for row in rows], 1, lambda done: None)
        assert place.base.value == pytest.approx(mean_loss(losses), rel=1e-6)
    assert elsewhere_of(adapted(spread=0.5), renderer=renderer_for(score_all=True)) == found


def test_untrained_adapter_is_no_worse_and_not_better(found):
    same = elsewhere_of(adapted())
    assert [place.base for place in same.places] == [place.base for place in found.places]
    for place in same.places:
        assert (place.comparison.difference, place.comparison.low, place.comparison.high) == (0, 0, 0)
        assert place.finding == "no worse"
    assert same.verdict.startswith("No worse elsewhere: ")


def test_what_was_forgotten_is_told_from_what_was_learned():
    """The base is asked first; each row's numbers go to its own place."""
    calls = []

    def losses(rows, batch_rows, on_rows):
        calls.append(rows)
        nats = [0.5 if len(calls) == 2 and row.row.path == "test.jsonl" else len(calls) for row in rows]
        return np.array(
            [(nat * row.scored_tokens, row.scored_tokens) for nat, row in zip(nats, rows, strict=True)]
        )

    mixed = elsewhere_of(adapted(), losses_of=losses)
    assert calls[0] is calls[1]
    assert [(place.base.value, place.tuned.value) for place in mixed.places] == [(1, 2), (1, 0.5)]
    assert [place.finding for place in mixed.places] == ["worse", "no worse"]
    assert mixed.verdict.startswith("Worse elsewhere: ")


def test_adapter_is_on_again_afterwards():
    model = adapted(spread=0.5)
    ids = torch.tensor([renderer_for().render(ROWS[0]).ids])
    before = model(input_ids=ids).logits
    elsewhere_of(model)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_same_seed_same_numbers_and_another_seed_other_neighbours(found):
    torch.rand(3)
    assert elsewhere_of(adapted(spread=0.5)) == found
    other = elsewhere_of(adapted(spread=0.5), seed=18)
    assert other.places[0].base.value == pytest.approx(found.places[0].base.value, rel=1e-6)
    assert other.places[1].base.value != found.places[1].base.value


def test_batch_size_changes_no_number(found):
    settings = SETTINGS.model_copy(update={"per_device_eval_batch_size": 1})
    single = elsewhere_of(adapted(spread=0.5), settings=settings)
    for place, other in zip(found.places, single.places, strict=True):
        assert place.tuned.value == pytest.approx(other.tuned.value, rel=1e-6)


def test_model_without_base_is_not_compared():
    assert elsewhere_of(tiny_model()) is None


def test_many_held_out_rows_are_drawn_from():
    many = elsewhere_of(adapted(), rows=[held_out(number) for number in range(1, 201)])
    assert many.places[1].comparison.n == NEIGHBOUR_ROWS


def test_rows_that_the_template_refuses_are_left_out_and_counted():
    strict = elsewhere_of(adapted(), renderer=renderer_for(NEEDS_SYSTEM))
    assert [place.name for place in strict.places] == [OTHERWISE_PLACE]
    assert (strict.places[0].comparison.n, strict.left_out) == (28, 96 + 7)
    nothing = elsewhere_of(adapted(), renderer=renderer_for(NEEDS_SYSTEM), rows=[])
    assert (nothing.places, nothing.ways, nothing.left_out) == ((), (), 96)


def test_neighbours_longer_than_trained_rows_are_left_out():
    short = elsewhere_of(adapted(), max_length=64)
    assert [place.name for place in short.places] == [GENERAL_PLACE]
    assert short.left_out == NEIGHBOUR_ROWS


def test_each_model_has_a_bar_that_fills():
    bars = Bars()
    elsewhere_of(adapted(), progress=bars)
    assert bars.seen == [[f"elsewhere: the {name}", 131, 131] for name in ("base", "tuned model")]
