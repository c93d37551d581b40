"""Findings of comparisons made by the real measuring, from answers that are right as often as wanted."""

from tunesmith.approaches.costs import Costs, Training, break_evens, request_price
from tunesmith.approaches.results import ApproachResult, Findings, measure
from tunesmith.approaches.settings import FINE_TUNED, Prices
from tunesmith.approaches.verdict import PROMPTED
from tunesmith.config import EvaluationConfig

FREE = Prices()
COLOURS = ("red", "green", "blue", "black")
TRAINING = Training(tokens=10_000, seconds=3600.0, peak_memory_bytes=2_000_000_000)


def findings_of(right, *, inputs=40, prompt_tokens=None, prices=FREE, impossible=None):
    """Findings where each approach got so many of the inputs right.

    Args:
        right: by approach, how many answers are right.
        inputs: held-out inputs.
        prompt_tokens: by approach, tokens of a prompt; 50 where not given.
        prices: of tokens and hours.
        impossible: approaches that could not be asked, and why.
    """
    references = [(COLOURS[at % 4],) for at in range(inputs)]
    answers = {
        name: [those[0] if at < count else "pink" for at, those in enumerate(references)]
        for name, count in right.items()
    }
    measured = measure(answers, references, settings=EvaluationConfig(bootstrap_resamples=200), seed=1)
    results = []
    for name in right:
        tokens = inputs * (prompt_tokens or {}).get(name, 50)
        training = TRAINING if name in FINE_TUNED else None
        costs = Costs(inputs, tokens, tokens // 2, inputs * 5, inputs * 0.25, 900_000_000, True, training)
        results.append(
            ApproachResult(
                name,
                measured.scores[name],
                measured.differences[name],
                costs,
                0,
                request_price(costs, prices),
            )
        )
    findings = Findings(measured.task_score, tuple(results), measured.pairs, (), None, (), impossible or {})
    best = findings.best_of(PROMPTED)
    by_name = {result.name: result.costs for result in results}
    evens = break_evens(
        [pair for pair in by_name.items() if pair[0] in FINE_TUNED],
        [pair for pair in by_name.items() if pair[0] in PROMPTED],
        prices,
    )
    against = measured.against("fine-tuned", best) if best and "fine-tuned" in right else ()
    return Findings(
        measured.task_score, tuple(results), measured.pairs, against, best, tuple(evens), impossible or {}
    )
