"""A model on held-out rows: its loss on all of them, its answers to some, base beside tuned.

Rows with one prompt are one input: it is asked once, and each row's answer is a reference. How a loss is
computed belongs to training and is passed in.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TypedDict

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import EvaluationConfig
from tunesmith.data.render import Rendered, Renderer
from tunesmith.evaluation.answer_checks import checks_of
from tunesmith.evaluation.inputs import grouped, prompt_text, rows_to_ask, turns_of
from tunesmith.evaluation.metrics import Metric, loss_metric, metrics_for, perplexity_metric
from tunesmith.evaluation.scores import Evaluation, Sample
from tunesmith.evaluation.significance import evaluate, score
from tunesmith.evaluation.slices import perturbations_of, scores_by_slice, slices_of
from tunesmith.models.base import as_base, has_base
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import LoadedModel
from tunesmith.progress import Progress

Asked = tuple[Rendered, tuple[str, ...]]
"""An input: the first row with its prompt, and the references of all of them."""
LossesOf = Callable[[Sequence[Rendered], int, Callable[[int], None]], NDArray[np.float64]]

ANSWER_MARGIN = 1.25
LONGEST_ANSWER_TOKENS = 256


@dataclass(frozen=True, slots=True)
class Measured:
    """What one model did on the held-out rows.

    Attributes:
        losses: per row the nats and the scored tokens, shape (rows, 2).
        answers: its text for each input.
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
        samples: both answers to each input; none where there is no base.
        asked_rows: inputs that were answered, greedily.
        max_new_tokens: where an answer was cut off.
    """

    evaluation: Evaluation
    samples: tuple[Sample, ...]
    asked_rows: int
    max_new_tokens: int


def group_references(rows: Sequence[Rendered]) -> list[Asked]:
    """Rows with the same prompt as one input with several references, in order of first appearance."""
    return grouped(rows, lambda row: row.row)


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


def answer_ids(
    loaded: LoadedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    batch_rows: int,
    on_rows: Callable[[int], None],
) -> list[list[int]]:
    """Token ids of the model's answer to each prompt, in order, without the end of turn.

    Args:
        loaded: the model as it now computes.
        renderer: knows where an answer ends.
        prompts: token ids of each.
        decoding: how tokens are chosen.
        batch_rows: rows in a batch of the longest prompts.
        on_rows: told the rows of each batch when it is done.
    """
    return generate_ids(
        loaded.model,
        prompts,
        decoding=decoding,
        stop_ids=renderer.end_of_turn_ids,
        pad_id=loaded.pad_id,
        batch_rows=batch_rows,
        on_rows=on_rows,
    )


def answer_texts(
    loaded: LoadedModel,
    renderer: Renderer,
    prompts: Sequence[Sequence[int]],
    *,
    decoding: Decoding,
    batch_rows: int,
    on_rows: Callable[[int], None],
) -> list[str]:
    """The text of the model's answer to each prompt, in order; arguments are those of `answer_ids`."""
    answers = answer_ids(loaded, renderer, prompts, decoding=decoding, batch_rows=batch_rows, on_rows=on_rows)
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
        rows: held-out rows, at least one; those with one prompt are asked once.
        settings: inputs to ask, answer length, checks of answers, resamples and confidence.
        seed: decides the asked inputs and the resamples; answers are greedy.
        losses_of: (rows, batch rows, told of rows done) to nats and scored tokens, shape (rows, 2).
        progress: shows a bar for each model.

    Raises:
        ConfigError: if a check of answers cannot be used, before the model is asked.
    """
    checks = checks_of(settings)
    asked = rows_to_ask(group_references(rows), most=settings.generate_rows, seed=seed)
    references = [given for _, given in asked]
    metrics = metrics_for(references, checks) if references else ()
    limit = answer_limit(rows, asked, settings)

    def measured(label: str) -> Measured:
        progress.begin(label, len(rows) + len(asked))
        return _measure(
            loaded,
            renderer,
            rows,
            [row for row, _ in asked],
            batch_rows=settings.per_device_eval_batch_size,
            decoding=Decoding(max_new_tokens=limit),
            losses_of=losses_of,
            on_rows=progress.advance,
        )

    resampling = Resampling(seed=seed, resamples=settings.bootstrap_resamples, confidence=settings.confidence)
    if not has_base(loaded):
        alone = measured("evaluating")
        progress.end()
        return Proof(_scored(alone, None, asked, metrics, resampling), (), len(asked), limit)
    with as_base(loaded):
        base = measured("evaluating the base")
    tuned = measured("evaluating the tuned model")
    progress.end()
    evaluation = _scored(base, tuned, asked, metrics, resampling)
    return Proof(evaluation, tuple(_samples(base, tuned, asked)), len(asked), limit)


def answer_limit(rows: Sequence[Rendered], asked: Sequence[Asked], settings: EvaluationConfig) -> int:
    """As `answer_limit_tokens`, over every reference of the asked inputs."""
    prompts = {turns_of(row.row) for row, _ in asked}
    return answer_limit_tokens([row for row in rows if turns_of(row.row) in prompts], settings.max_new_tokens)


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


def _scored(
    base: Measured,
    tuned: Measured | None,
    asked: Sequence[Asked],
    metrics: Sequence[Metric],
    resampling: Resampling,
) -> Evaluation:
    """Loss and perplexity, then the metrics of the answers, on all rows and by slices."""
    references = [given for _, given in asked]
    of_texts = [
        (
            metric,
            metric.statistics(base.answers, references),
            metric.statistics(tuned.answers, references) if tuned else None,
        )
        for metric in metrics
    ]
    slices = slices_of(
        [prompt_text(row.row) for row, _ in asked],
        references,
        perturbations=perturbations_of([row.row for row, _ in asked]),
    )
    by_slice = scores_by_slice(slices, of_texts, **resampling)
    losses = [
        (metric, base.losses, tuned.losses if tuned else None)
        for metric in (loss_metric(), perplexity_metric())
    ]
    pairs = [(metric, before, after) for metric, before, after in (*losses, *of_texts) if after is not None]
    if pairs:
        return replace(evaluate(pairs, **resampling), slices=by_slice)
    alone = tuple(score(metric, rows, **resampling) for metric, rows, _ in (*losses, *of_texts))
    return Evaluation(base=alone, tuned=(), comparisons=(), slices=by_slice)


def _samples(base: Measured, tuned: Measured, asked: Sequence[Asked]) -> Iterator[Sample]:
    for (row, given), before, after in zip(asked, base.answers, tuned.answers, strict=True):
        yield Sample(row.row.place, prompt_text(row.row), given[0], before, after, given)
