"""p-values against those of sacrebleu's own tests, within Monte Carlo error."""

import math

import numpy as np
import pytest
from sacrebleu.metrics.bleu import BLEU
from sacrebleu.metrics.chrf import CHRF
from sacrebleu.significance import PairedTest

from tunesmith.evaluation.metrics import bleu_metric, chrf_metric
from tunesmith.evaluation.significance import compare, paired_bootstrap_p_value

TRIALS = 2_000
WORDS = ("the", "a", "cat", "dog", "router", "sat", "ran", "on", "off", "mat", "red", "not", "two", "wait")


def damaged(sentence, share, generator):
    return " ".join(word for word in sentence if generator.random() > share)


def systems(*, apart: float):
    """40 rows with two references, and two systems that lose different shares of the words."""
    generator = np.random.default_rng(11)
    sentences = [list(generator.choice(WORDS, size=14)) for _ in range(40)]
    references = [[damaged(each, 0.1, generator), damaged(each, 0.2, generator)] for each in sentences]
    base = [damaged(each, 0.3, generator) for each in sentences]
    tuned = [damaged(each, 0.3 - apart, generator) for each in sentences]
    return base, tuned, references


def sacrebleus(test, metric, base, tuned, references) -> float:
    streams = [list(stream) for stream in zip(*references, strict=True)]
    named = [("base", base), ("tuned", tuned)]
    _, scores = PairedTest(named, {"m": metric}, streams, test_type=test, n_samples=TRIALS)()
    [name] = scores.keys() - {"System"}
    return scores[name][1].p_value


def error(p_value: float) -> float:
    """Four standard errors of the difference of two such estimates, and the last digit of both."""
    return 4 * math.sqrt(2 * p_value * (1 - p_value) / TRIALS) + 2 / TRIALS


# `apart` is chosen so that the p-values are neither near 0 nor near 1, where agreement says nothing.
@pytest.mark.parametrize("name", ["bleu", "chrf"])
@pytest.mark.parametrize("apart", [0.0, 0.03])
def test_p_values_agree_with_sacrebleu(name, apart):
    base, tuned, references = systems(apart=apart)
    metric, theirs = (
        (bleu_metric(references), BLEU(effective_order=True))
        if name == "bleu"
        else (chrf_metric(references), CHRF())
    )
    rows = [metric.statistics(answers, references) for answers in (base, tuned)]
    expected = sacrebleus("bs", theirs, base, tuned, references)
    assert 0.02 < expected < 0.98
    found = paired_bootstrap_p_value(metric, *rows, seed=3, resamples=TRIALS)
    assert found == pytest.approx(expected, abs=error(expected))
    expected = sacrebleus("ar", theirs, base, tuned, references)
    assert 0.02 < expected < 0.98
    found = compare(metric, *rows, seed=3, resamples=TRIALS).p_value
    assert found == pytest.approx(expected, abs=error(expected))
