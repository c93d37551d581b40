"""A model on held-out rows: its loss on all of them, its answers to some, base beside tuned.

How a loss is computed belongs to training and is passed in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import EvaluationConfig
from tunesmith.data.render import Rendered, Renderer
from tunesmith.evaluation.metrics import Metric, loss_metric, metrics_for, perplexity_metric
from tunesmith.evaluation.scores import Evaluation, Sample
from tunesmith.evaluation.significance import evaluate, score
from tunesmith.models.base import as_base, has_base
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import LoadedModel
from tunesmith.progress import Progress

LossesOf = Callable[[Sequence[Rendered], int, Callable[[int], None]], NDArray[np.float64]]

ANSWER_MARGIN = 1.25
LONGEST_ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model did on the held-out rows.

    Attributes:
        losses: per row the nats and the scored tokens, shape (rows, 2).
        answers: its text for each asked row.
    """

    losses: NDArray[np.float64]
    answers: tuple[str, ...]


class Resampling(TypedDict):
    """How intervals and tests are made."""

    seed: int
    resamples: int
    confidence: float


@dataclass(frozen=True, slots=True)
class Proof:
    """The numbers, the answers behind them, and how the answers were made.

    Attributes:
        evaluation: scores with intervals.
        samples: both answers to each asked row; none where there is no base.
        asked_rows: rows that were answered, greedily.
        max_new_tokens: where an answer was cut off.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    asked_rows: int
    max_new_tokens: int


def rows_to_ask(rows: Sequence[Rendered], *, most: int, seed: int) -> list[Rendered]:
    """At most `most` rows drawn without replacement by `seed`, in the rows' order."""
    if len(rows) <= most:
        return list(rows)
    chosen = np.random.default_rng(seed).choice(len(rows), size=most, replace=False)
    return [rows[index] for index in sorted(chosen)]


def answer_limit_tokens(rows: Sequence[Rendered], asked: int | None) -> int:
    """Longest answer to generate: as asked, else a quarter above the longest reference, within bounds."""
    if asked is not None:
        return asked
    longest = max((_last_answer_tokens(row) for row in rows), default=0)
    return min(LONGEST_ANSWER_TOKENS, round(longest * ANSWER_MARGIN) + 1)


def _last_answer_tokens(row: Rendered) -> int:
    """Scored tokens of the last answer; all tokens of the row where all are scored."""
    end = len(row.scored)
    while end and not row.scored[end - 1]:
        end -= 1
    start = end
    while start and row.scored[start - 1]:
        start -= 1
    return end - start


def answer_texts(
    loaded: LoadedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    batch_rows: int,
    on_rows: Callable[[int], None],
) -> list[str]:
    """The text of the model's answer to each prompt, in order.

    Args:
        loaded: the model as it now computes.
        renderer: knows where an answer ends, and its text.
        prompts: token ids of each.
        decoding: how tokens are chosen.
        batch_rows: rows in a batch of the longest prompts.
        on_rows: told the rows of each batch when it is done.
    """
    answers = generate_ids(
        loaded.model,
        prompts,
        decoding=decoding,
        stop_ids=renderer.end_of_turn_ids,
        pad_id=loaded.pad_id,
        batch_rows=batch_rows,
        on_rows=on_rows,
    )
    return [renderer.text(ids) for ids in answers]


def evaluate_model(
    loaded: LoadedModel,
    renderer: Renderer,
    rows: Sequence[Rendered],
    *,
    settings: EvaluationConfig,
    seed: int,
    losses_of: LossesOf,
    progress: Progress,
) -> Proof:
    """Scores of a model on `rows`; of base and tuned on the same rows where it was tuned.

    Args:
        loaded: the model; what base means is in `models.base`.
        renderer: asks each row in the form the model was trained on.
        rows: held-out rows, at least one.
        settings: rows to ask, answer length, resamples and confidence.
        seed: decides the asked rows and the resamples; answers are greedy.
        losses_of: (rows, batch rows, told of rows done) to nats and scored tokens, shape (rows, 2).
        progress: shows a bar for each model.
    """
    asked = rows_to_ask(rows, most=settings.generate_rows, seed=seed)
    references = [row.row.reference for row in asked]

    limit = answer_limit_tokens(asked, settings.max_new_tokens)

    def measured(label: str) -> Measured:
        progress.begin(label, len(rows) + len(asked))
        return _measure(
            loaded,
            renderer,
            rows,
            asked,
            batch_rows=settings.per_device_eval_batch_size,
            decoding=Decoding(max_new_tokens=limit),
            losses_of=losses_of,
            on_rows=progress.advance,
        )

    resampling = Resampling(seed=seed, resamples=settings.bootstrap_resamples, confidence=settings.confidence)
    if not has_base(loaded):
        alone = measured("evaluating")
        progress.end()
        scores = tuple(
            score(metric, rows_of, **resampling) for metric, rows_of in _statistics(alone, references)
        )
        return Proof(Evaluation(base=scores, tuned=(), comparisons=()), (), len(asked), limit)
    with as_base(loaded):
        base = measured("evaluating the base")
    tuned = measured("evaluating the tuned model")
    progress.end()
    pairs = zip(_statistics(base, references), _statistics(tuned, references), strict=True)
    evaluation = evaluate([(metric, before, after) for (metric, before), (_, after) in pairs], **resampling)
    return Proof(evaluation, tuple(_samples(base, tuned, asked)), len(asked), limit)


def _measure(
    loaded: LoadedModel,
    renderer: Renderer,
    rows: Sequence[Rendered],
    asked: Sequence[Rendered],
    *,
    batch_rows: int,
    decoding: Decoding,
    losses_of: LossesOf,
    on_rows: Callable[[int], None],
) -> Measured:
    """Losses on `rows`, and answers to `asked` as the model gives them after each row's own prompt."""
    losses = losses_of(rows, batch_rows, on_rows)
    answers = answer_texts(
        loaded,
        renderer,
        [renderer.prompt_ids(row.row.prompt) for row in asked],
        decoding=decoding,
        batch_rows=batch_rows,
        on_rows=on_rows,
    )
    return Measured(losses, tuple(answers))


def _statistics(measured: Measured, references: Sequence[str]) -> list[tuple[Metric, NDArray[np.float64]]]:
    """Each metric with the rows' statistics: loss and perplexity, then what the references allow."""
    from_losses = [(metric, measured.losses) for metric in (loss_metric(), perplexity_metric())]
    texts = metrics_for(references) if references else ()
    return from_losses + [(metric, metric.statistics(measured.answers, references)) for metric in texts]


def _samples(base: Measured, tuned: Measured, asked: Sequence[Rendered]) -> Iterator[Sample]:
    for row, before, after in zip(asked, base.answers, tuned.answers, strict=True):
        prompt = "\n\n".join(message.text for message in row.row.prompt)
        yield Sample(row.row.place, prompt, row.row.reference, before, after)
