"""Base and tuned beside the task: their losses on general requests and on held-out rows asked otherwise.

Only losses, no answers: one pass over some thousand tokens for each model. How a loss is computed belongs to
training and is passed in. Read next: `elsewhere.py`.
"""

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from tunesmith.config import EvaluationConfig
from tunesmith.data.conversation import Row
from tunesmith.data.render import Rendered, Renderer
from tunesmith.errors import TemplateError
from tunesmith.evaluation.elsewhere import (
    GENERAL_PLACE,
    OTHERWISE_PLACE,
    Elsewhere,
    Place,
    compare_place,
    group_places,
)
from tunesmith.evaluation.elsewhere_rows import general_rows, general_sha256, neighbours
from tunesmith.evaluation.measure import LossesOf
from tunesmith.models.base import as_base, has_base
from tunesmith.models.load import LoadedModel
from tunesmith.progress import Progress

NEIGHBOUR_ROWS = 35
"""Held-out rows that are asked otherwise: seven for each way, and enough together for a verdict."""
GENERAL_TOKENS = 512
"""Longest general row where `max_length` is less; a model that takes fewer tokens is out of use."""


def measure_elsewhere(
    loaded: LoadedModel,
    renderer: Renderer,
    rows: Sequence[Row],
    *,
    max_length: int,
    settings: EvaluationConfig,
    seed: int,
    losses_of: LossesOf,
    progress: Progress,
) -> Elsewhere | None:
    """Both models' losses on answers, beside the task; None where the model has no base to compare with.

    General requests are asked without the system message of the training rows: they are none of its task.

    Args:
        loaded: the tuned model; what base means is in `models.base`.
        renderer: asks each row in the form the model was trained on.
        rows: held-out rows.
        max_length: longest row in tokens that the model was trained on.
        settings: batch rows, resamples and confidence.
        seed: decides the rows that are asked otherwise, how, and the resamples.
        losses_of: (rows, batch rows, told of rows done) to nats and scored tokens, shape (rows, 2).
        progress: shows a bar for each model.

    Raises:
        RunFailed: if a loss is not finite.
    """
    if not has_base(loaded):
        return None
    # What is held out is judged by its answers, whatever the training loss counts.
    renderer = Renderer(renderer.tokenizer, renderer.template) if renderer.score_all else renderer
    general = general_rows()
    otherwise = neighbours(rows, most=NEIGHBOUR_ROWS, seed=seed)
    asked = [("", row, max(max_length, GENERAL_TOKENS)) for row in general]
    asked += [(way, row, max_length) for way, row in otherwise]
    kept = [
        (way, rendered)
        for way, row, longest in asked
        if (rendered := _rendered(renderer, row, longest)) is not None
    ]
    ways, fitting = [way for way, _ in kept], [rendered for _, rendered in kept]

    def measured(label: str) -> NDArray[np.float64]:
        progress.begin(label, len(fitting))
        return losses_of(fitting, settings.per_device_eval_batch_size, progress.advance)

    if not fitting:
        return Elsewhere((), (), len(asked), general_sha256())
    with as_base(loaded):
        base = measured("elsewhere: the base")
    tuned = measured("elsewhere: the tuned model")
    progress.end()

    def place(name: str, chosen: Sequence[int]) -> Place:
        return compare_place(
            name,
            base[chosen],
            tuned[chosen],
            seed=seed,
            resamples=settings.bootstrap_resamples,
            confidence=settings.confidence,
        )

    groups = group_places([OTHERWISE_PLACE if way else GENERAL_PLACE for way in ways])
    by_way = {way: chosen for way, chosen in group_places(ways).items() if way}
    return Elsewhere(
        tuple(place(name, chosen) for name, chosen in groups.items()),
        tuple(place(f"asked otherwise: {way}", chosen) for way, chosen in by_way.items()),
        len(asked) - len(fitting),
        general_sha256(),
    )


def _rendered(renderer: Renderer, row: Row, longest: int) -> Rendered | None:
    """The row's ids, or None where the template refuses such a row, or it is too long."""
    try:
        rendered = renderer.render(row)
    except TemplateError:
        return None
    return rendered if len(rendered.ids) <= longest else None
