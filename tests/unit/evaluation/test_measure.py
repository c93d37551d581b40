"""Base and tuned on held-out rows: same rows, same questions, and a base that training cannot move."""

from functools import partial

import numpy as np
import pytest
import torch

from bars import Bars
from tiny import tiny_model, tiny_tokenizer
from tunesmith.config import EvaluationConfig, MethodConfig
from tunesmith.data.conversation import Message, Row
from tunesmith.data.render import Rendered, Renderer, choose_template
from tunesmith.errors import ConfigError
from tunesmith.evaluation.inputs import rows_to_ask
from tunesmith.evaluation.measure import (
    answer_limit_tokens,
    evaluate_model,
    group_references,
)
from tunesmith.methods import lora
from tunesmith.models.find import ModelSource
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import LoadedModel
from tunesmith.progress import Silent
from tunesmith.training.loss import held_out_losses, mean_loss

SETTINGS = EvaluationConfig(
    generate_rows=4, max_new_tokens=6, per_device_eval_batch_size=3, bootstrap_resamples=100
)
SOURCE = ModelSource("tiny", "tiny", None, "folder")
TOKENIZER = tiny_tokenizer()


def conversation(line, *, question, answer):
    turns = (Message("system", "Be brief."), Message("user", question), Message("assistant", answer))
    return Row(turns, "test.jsonl", line, "messages")


@pytest.fixture(scope="module")
def renderer():
    return Renderer(TOKENIZER, choose_template(TOKENIZER))


@pytest.fixture(scope="module")
def rows(renderer):
    pairs = [("1 + 1?", "two"), ("Capital of Peru?", "Lima, of course"), ("Hi", "Hello!"), ("?", "no")]
    pairs += [(f"What is {number} times {number}?", f"{number * number} it is") for number in range(4)]
    return [
        renderer.render(conversation(line, question=question, answer=answer))
        for line, (question, answer) in enumerate(pairs, start=1)
    ]


def adapted(*, spread=0.0):
    """The tiny model with an adapter whose B is drawn with this standard deviation."""
    model = lora.prepare(tiny_model(), MethodConfig(rank=4))
    torch.manual_seed(5)
    with torch.no_grad():
        for name, weight in model.named_parameters():
            if "lora_B" in name and spread:
                weight.normal_(std=spread)
    return model.eval()


def proof_of(model, renderer, rows, *, settings=SETTINGS, seed=17, progress=None):
    return evaluate_model(
        LoadedModel(model, TOKENIZER, SOURCE),
        renderer,
        rows,
        settings=settings,
        seed=seed,
        losses_of=partial(held_out_losses, LoadedModel(model, TOKENIZER, SOURCE)),
        progress=progress or Silent(),
    )


@pytest.fixture(scope="module")
def proof(renderer, rows):
    return proof_of(adapted(spread=0.5), renderer, rows)


def named(scores):
    return {score.metric: score for score in scores}


def test_base_tuned_and_comparisons_are_of_the_same_metrics_on_as_many_rows(proof):
    evaluation = proof.evaluation
    sides = (evaluation.base, evaluation.tuned, evaluation.comparisons)
    names = [[(each.metric, each.n) for each in side] for side in sides]
    assert names[0] == names[1] == names[2]
    assert [name for name, _ in names[0]][:2] == ["loss", "perplexity"]
    assert len(names[0]) > 3


def test_difference_is_tuned_minus_base(proof):
    base, tuned = named(proof.evaluation.base), named(proof.evaluation.tuned)
    for comparison in proof.evaluation.comparisons:
        expected = tuned[comparison.metric].value - base[comparison.metric].value
        assert comparison.difference == pytest.approx(expected, abs=1e-9)
    assert named(proof.evaluation.comparisons)["loss"].difference != 0


def test_base_numbers_and_answers_do_not_change_when_the_adapter_is_trained(proof, renderer, rows):
    untrained = proof_of(adapted(), renderer, rows)
    assert proof.evaluation.base == untrained.evaluation.base
    assert [sample.base for sample in proof.samples] == [sample.base for sample in untrained.samples]
    assert proof.evaluation.tuned != untrained.evaluation.tuned


def test_base_is_the_bare_model_to_the_last_bit(proof, renderer, rows):
    alone = proof_of(tiny_model(), renderer, rows)
    assert alone.evaluation.base == proof.evaluation.base
    assert (alone.evaluation.tuned, alone.evaluation.comparisons, alone.samples) == ((), (), ())


def test_untrained_adapter_differs_in_nothing(renderer, rows):
    found = proof_of(adapted(), renderer, rows)
    assert found.evaluation.tuned == found.evaluation.base
    assert all(comparison.difference == 0 for comparison in found.evaluation.comparisons)
    assert all(sample.base == sample.tuned for sample in found.samples)


def test_adapter_is_on_again_afterwards(renderer, rows):
    model = adapted(spread=0.5)
    ids = torch.tensor([rows[0].ids])
    before = model(input_ids=ids).logits
    proof_of(model, renderer, rows)
    assert torch.equal(model(input_ids=ids).logits, before)


def test_loss_is_over_the_tokens_of_all_rows_and_texts_are_of_the_asked(proof, rows):
    loaded = LoadedModel(tiny_model(), TOKENIZER, SOURCE)
    base = named(proof.evaluation.base)
    assert base["loss"].value == pytest.approx(
        mean_loss(held_out_losses(loaded, rows, 1, lambda done: None)), rel=1e-6
    )
    assert base["perplexity"].value == pytest.approx(np.exp(base["loss"].value))
    assert (base["loss"].n, base["perplexity"].n) == (8, 8)
    assert {score.n for score in proof.evaluation.base[2:]} == {4}


def test_each_sample_is_the_greedy_answer_to_the_row_s_own_prompt(proof, renderer, rows):
    asked = rows_to_ask(rows, most=4, seed=17)
    model = adapted(spread=0.5)
    for sample, row in zip(proof.samples, asked, strict=True):
        [answer] = generate_ids(
            model,
            [renderer.prompt_ids(row.row.prompt)],
            decoding=Decoding(max_new_tokens=6),
            stop_ids=renderer.end_of_turn_ids,
            pad_id=0,
        )
        assert sample.tuned == renderer.text(answer)
        assert (sample.place, sample.reference) == (row.row.place, row.row.reference)
        assert sample.prompt == f"Be brief.\n\n{row.row.prompt[1].text}"


def test_same_seed_gives_the_same_proof(proof, renderer, rows):
    torch.rand(3)
    assert proof_of(adapted(spread=0.5), renderer, rows) == proof


@pytest.mark.parametrize("batch_rows", [1, 8])
def test_batch_size_changes_no_answer_and_no_score(proof, renderer, rows, batch_rows):
    settings = SETTINGS.model_copy(update={"per_device_eval_batch_size": batch_rows})
    found = proof_of(adapted(spread=0.5), renderer, rows, settings=settings)
    assert found.samples == proof.samples
    for score, other in zip(found.evaluation.tuned, proof.evaluation.tuned, strict=True):
        assert score.value == pytest.approx(other.value, rel=1e-6)


def test_without_asked_rows_only_the_loss_is_measured(renderer, rows):
    settings = SETTINGS.model_copy(update={"generate_rows": 0})
    found = proof_of(adapted(spread=0.5), renderer, rows, settings=settings)
    assert list(named(found.evaluation.tuned)) == ["loss", "perplexity"]
    assert found.samples == ()


@pytest.mark.parametrize(("most", "asked_rows"), [(4, 4), (100, 8)])
def test_proof_records_how_many_rows_were_asked_and_where_answers_were_cut(renderer, rows, most, asked_rows):
    settings = SETTINGS.model_copy(update={"generate_rows": most, "max_new_tokens": None})
    found = proof_of(tiny_model(), renderer, rows, settings=settings)
    asked = rows_to_ask(rows, most=most, seed=17)
    assert (found.asked_rows, found.max_new_tokens) == (asked_rows, answer_limit_tokens(asked, None))


def test_one_row_is_enough(renderer, rows):
    found = proof_of(adapted(spread=0.5), renderer, rows[:1])
    assert {score.n for score in found.evaluation.tuned} == {1}
    assert len(found.samples) == 1


@pytest.mark.parametrize(
    ("model", "labels"),
    [
        (adapted(), ["evaluating the base", "evaluating the tuned model"]),
        (tiny_model(), ["evaluating"]),
    ],
)
def test_each_model_has_a_bar_that_fills(renderer, rows, model, labels):
    bars = Bars()
    proof_of(model, renderer, rows, progress=bars)
    assert bars.seen == [[label, 8 + 4, 8 + 4] for label in labels]


@pytest.mark.parametrize("most", [8, 9, 1000])
def test_few_rows_are_all_asked(rows, most):
    assert rows_to_ask(rows, most=most, seed=1) == rows


@pytest.mark.parametrize("most", [0, 1, 3, 7])
def test_asked_rows_are_distinct_in_the_rows_order_and_follow_the_seed(rows, most):
    chosen = [rows_to_ask(rows, most=most, seed=seed) for seed in range(30)]
    places = [[rows.index(row) for row in some] for some in chosen]
    assert all(len(some) == most and some == sorted(set(some)) for some in places)
    assert rows_to_ask(rows, most=most, seed=7) == chosen[7]
    assert most == 0 or {index for some in places for index in some} == set(range(8))


def row_of(*scored):
    return Rendered(tuple(range(len(scored))), scored, Row((), "t.jsonl", 1, "messages"))


def test_answer_limit_is_a_quarter_above_the_longest_last_answer():
    earlier_answer_is_longer = row_of(*[True] * 50, False, *[True] * 8, False)
    assert answer_limit_tokens([row_of(False, True), earlier_answer_is_longer], None) == 11


def test_answer_limit_as_asked_is_kept():
    assert answer_limit_tokens([row_of(*[True] * 8)], 3) == 3


def test_answer_limit_has_bounds():
    assert answer_limit_tokens([row_of(*[True] * 5000)], None) == 256
    assert answer_limit_tokens([], None) == 1
    assert answer_limit_tokens([row_of(False, False)], None) == 1


def test_rows_with_one_prompt_are_one_input_with_all_their_references(renderer):
    pairs = [("A?", "one"), ("B?", "x"), ("A?", "two"), ("A?", "one"), ("a?", "one")]
    rows = [
        renderer.render(conversation(line, question=question, answer=answer))
        for line, (question, answer) in enumerate(pairs, start=1)
    ]
    groups = group_references(rows)
    assert [(row.row.line, given) for row, given in groups] == [
        (1, ("one", "two")),
        (2, ("x",)),
        (5, ("one",)),
    ]
    assert group_references([]) == []


def test_an_instruction_with_input_is_the_same_prompt_as_its_whole_text(renderer):
    whole = Row((Message("user", "Translate\n\nhi"), Message("assistant", "a")), "t.jsonl", 1, "messages")
    parted = Row((Message("user", "Translate", "hi"), Message("assistant", "b")), "t.jsonl", 2, "instruction")
    other = Row((Message("system", "Translate\n\nhi"), Message("assistant", "c")), "t.jsonl", 3, "messages")
    rows = [Rendered((), (), row) for row in (whole, parted, other)]
    assert [given for _, given in group_references(rows)] == [("a", "b"), ("c",)]


@pytest.fixture(scope="module")
def several(renderer):
    """Six prompts; the first three have two answers."""
    pairs = [(f"What is {n}?", f"it is {n}") for n in range(6)] + [
        (f"What is {n}?", f"{n}") for n in range(3)
    ]
    return [
        renderer.render(conversation(line, question=question, answer=answer))
        for line, (question, answer) in enumerate(pairs, start=1)
    ]


def test_a_prompt_is_asked_once_and_its_loss_is_over_all_its_rows(renderer, several):
    settings = SETTINGS.model_copy(update={"generate_rows": 100})
    found = proof_of(adapted(spread=0.5), renderer, several, settings=settings)
    base = named(found.evaluation.base)
    assert (found.asked_rows, base["loss"].n, base["chrf"].n) == (6, 9, 6)
    assert [sample.references for sample in found.samples[:4]] == [
        ("it is 0", "0"),
        ("it is 1", "1"),
        ("it is 2", "2"),
        ("it is 3",),
    ]
    assert all(sample.reference == sample.references[0] for sample in found.samples)
    assert "nrefs:var|" in base["chrf"].signature
    bars = Bars()
    proof_of(tiny_model(), renderer, several, settings=settings, progress=bars)
    assert bars.seen == [["evaluating", 9 + 6, 9 + 6]]


def test_inputs_are_counted_and_not_rows(renderer, several):
    settings = SETTINGS.model_copy(update={"generate_rows": 2})
    assert proof_of(tiny_model(), renderer, several, settings=settings).asked_rows == 2


def test_the_answer_limit_looks_at_every_reference_of_the_asked(renderer):
    rows = [
        renderer.render(conversation(line, question=question, answer=answer))
        for line, (question, answer) in enumerate(
            [("A?", "a"), ("A?", "a much longer answer than the first")], 1
        )
    ]
    settings = SETTINGS.model_copy(update={"max_new_tokens": None})
    assert proof_of(tiny_model(), renderer, rows, settings=settings).max_new_tokens == answer_limit_tokens(
        rows, None
    )


def test_slices_of_the_asked_rows_are_scored_with_the_same_metrics(renderer):
    rows = [
        renderer.render(conversation(line, question=f"What is {line}?", answer="so " * (line % 2 * 5 + 1)))
        for line in range(1, 13)
    ]
    settings = SETTINGS.model_copy(update={"generate_rows": 12})
    found = proof_of(adapted(spread=0.5), renderer, rows, settings=settings).evaluation
    assert [(part.kind, part.name, part.n) for part in found.slices] == [
        ("length", "short (up to 1)", 6),
        ("length", "middle (up to 6)", 6),
    ]
    names = [score.metric for score in found.base if score.metric not in ("loss", "perplexity")]
    for part in found.slices:
        for side in (part.base, part.tuned, part.comparisons):
            assert [each.metric for each in side] == names
    # Equal parts: a mean over all rows is the mean of both.
    whole, parts = named(found.tuned), [named(part.tuned) for part in found.slices]
    assert whole["rougeL"].value == pytest.approx(np.mean([part["rougeL"].value for part in parts]))
    alone = proof_of(tiny_model(), renderer, rows, settings=settings).evaluation
    assert [part.base for part in alone.slices] == [part.base for part in found.slices]
    assert alone.slices[0].tuned == ()


def test_checks_of_answers_are_metrics_and_a_bad_one_stops_before_the_model_is_asked(renderer, rows):
    settings = SETTINGS.model_copy(update={"answer_pattern": "[a-z]+", "answer_choices": ["yes", "no"]})
    found = named(proof_of(tiny_model(), renderer, rows, settings=settings).evaluation.base)
    assert {"pattern", "choice"} <= found.keys()
    bars = Bars()
    with pytest.raises(ConfigError, match="no regular expression"):
        proof_of(
            tiny_model(),
            renderer,
            rows,
            settings=SETTINGS.model_copy(update={"answer_pattern": "("}),
            progress=bars,
        )
    assert bars.seen == []
