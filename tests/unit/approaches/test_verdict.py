"""The verdict: sentences say what the intervals allow, and nothing on too few inputs."""

import pytest

from compared import FREE, findings_of
from tunesmith.approaches.settings import APPROACHES, Prices
from tunesmith.approaches.verdict import dimensions, format_money, verdict_of

LONG = {"few-shot": 450, "rag": 350, "fine-tuned+rag": 350}


def said(*arguments, prices=FREE, **options):
    return verdict_of(findings_of(*arguments, prices=prices, **options), prices)


def test_a_clear_winner_is_best_and_worth_it():
    verdict = said({"zero-shot": 2, "few-shot": 12, "fine-tuned": 38}, prompt_tokens=LONG)
    assert (verdict.best, verdict.cheapest, verdict.is_tuning_worth_it) == ("fine-tuned", "fine-tuned", True)
    first, cost, tuning, pays = verdict.sentences
    assert first.startswith("Best on Exact match: fine-tuned with 95.0 [")
    assert first.endswith("against zero-shot. All others are clearly worse.") and " +90.0 [" in first
    assert cost == "Its cost: 55 tokens a request."
    assert tuning.startswith("Fine-tuning is worth it for quality: fine-tuned is +65.0 [+")
    assert tuning.endswith("against the best approach without training, few-shot.")
    assert pays == (
        "By cost alone training pays against few-shot from 75 requests on: it cost 30,000 prompt tokens (a "
        "trained token counted as 3 that are read), and each request saves 400 prompt tokens."
    )


def test_equals_leave_the_choice_to_cost():
    verdict = said({"zero-shot": 5, "few-shot": 30, "fine-tuned": 31}, prompt_tokens=LONG)
    assert (verdict.best, verdict.cheapest, verdict.is_tuning_worth_it) == ("fine-tuned", "fine-tuned", False)
    assert "few-shot is not clearly worse." in verdict.sentences[0]
    assert verdict.sentences[1] == "Cheapest of those: fine-tuned, 55 tokens a request."
    assert verdict.sentences[2].startswith("Fine-tuning is not shown to be better: fine-tuned is +2.5 [")


def test_training_that_made_it_worse_is_said():
    verdict = said({"zero-shot": 38, "fine-tuned": 4})
    assert (verdict.best, verdict.is_tuning_worth_it) == ("zero-shot", False)
    assert verdict.sentences[2].startswith("Fine-tuning is not worth it here: fine-tuned is −85.0 [")
    assert verdict.sentences[3] == (
        "By cost alone training never pays against zero-shot: a request to fine-tuned costs as much as one "
        "to zero-shot."
    )


def test_money_speaks_before_tokens():
    prices = Prices(prompt=1000.0, answer=0.0, hour=2.0, currency="EUR")
    verdict = said({"zero-shot": 2, "few-shot": 12, "fine-tuned": 38}, prompt_tokens=LONG, prices=prices)
    assert verdict.sentences[1] == "Its cost: 50.00 EUR for 1,000 requests."
    assert verdict.sentences[3] == (
        "By cost alone training pays against few-shot from 5 requests on: it cost 2.00 EUR, and 1,000 "
        "requests save 400.00 EUR."
    )


def test_dearer_requests_never_pay():
    verdict = said({"few-shot": 12, "fine-tuned": 38}, prompt_tokens={"few-shot": 20, "fine-tuned": 80})
    assert "never pays against few-shot: a request to fine-tuned costs more than" in verdict.sentences[-1]


def test_few_inputs_allow_no_verdict():
    verdict = said({"zero-shot": 1, "fine-tuned": 9}, inputs=10)
    assert verdict.is_tuning_worth_it is None
    assert verdict.sentences[0].startswith("Too few held-out inputs for a verdict: 10 where at least 30")
    assert any(sentence.startswith("Fine-tuning looks better") for sentence in verdict.sentences)


def test_prompts_alone_and_one_approach_alone_say_nothing_of_training():
    verdict = said({"zero-shot": 20, "few-shot": 21})
    assert verdict.is_tuning_worth_it is None
    assert not any("training" in sentence for sentence in verdict.sentences)
    assert said({"rag": 7}).sentences[0].endswith("on 40 inputs.")


def test_what_was_impossible_is_said():
    verdict = said({"zero-shot": 20}, impossible={"few-shot": "not one example fits"})
    assert verdict.sentences[-1] == "few-shot was not possible: not one example fits."


@pytest.mark.parametrize(
    ("value", "shown"),
    [(1234.5, "1,234.50 EUR"), (0.000_012_34, "0.0000123 EUR"), (-0.5, "−0.500 EUR"), (0, "0.00 EUR")],
)
def test_amounts_keep_digits_that_say_something(value, shown):
    assert format_money(value, Prices(hour=1, currency="EUR")) == shown


def test_dimensions_have_a_cell_for_each_approach():
    findings = findings_of(dict.fromkeys(APPROACHES, 20), prompt_tokens=LONG)
    table = dimensions(findings)
    assert [name for name, _ in table] == [
        "Implementation cost",
        "Knowledge updates",
        "Private data",
        "Inference cost",
        "Customization depth",
    ]
    assert all(len(cells) == len(APPROACHES) and all(cells) for _, cells in table)
    cost = dict(table)["Inference cost"]
    assert cost[1] == "measured: 450 prompt and 5 answer tokens, 0.25 s a request"
    assert "60.0 min" in dict(table)["Implementation cost"][3]
