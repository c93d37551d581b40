"""Steps wait for their input."""

import numpy as np

from tunesmith.doctor.finding import Evidence, Finding
from tunesmith.doctor.signs import Signs
from tunesmith.doctor.trends import first_level, last_level

TITLE = "steps wait for their input"
IS_LIVE = True
# A step that waits for a quarter of its time could be a third faster. Runs of ours wait below 0.02.
SHARE = 0.25
SURE_SHARE = 0.5
# The first steps fill caches and start workers.
FIRST_POINTS = 2
LEAST_POINTS = 5


def examine(signs: Signs) -> Finding | None:
    """Speaks where the median step, the first ones not counted, waits for a quarter of its time or more."""
    curve = signs.curve("input_share").finite
    values, steps = curve.values[FIRST_POINTS:], curve.steps[FIRST_POINTS:]
    if len(values) < LEAST_POINTS or (share := float(np.median(values))) < SHARE:
        return None
    first, last = float(steps[0]), float(steps[-1])
    text = f"the median step of {first:g} to {last:g} waits {share:.0%} of its time for input"
    evidence = [Evidence(text, "input_share", first, last)]
    rate = signs.curve("tokens_per_second").finite
    if len(rate) >= LEAST_POINTS:
        before, after = first_level(rate, 3), last_level(rate, 3)
        text = f"{before.value:.0f} tokens a second at first, {after.value:.0f} in the end"
        evidence.append(Evidence(text, "tokens_per_second", before.first_step, after.last_step))
    return Finding(
        ailment="slow_input",
        title=TITLE,
        cause="rows are read, rendered or cut into batches more slowly than the model learns from them",
        evidence=tuple(evidence),
        remedy=f"The run could be up to {1 / (1 - min(share, 0.99)):.1f} times as fast: tokenise before "
        "training, give the reader more worker processes (`dataloader_num_workers` of a Hugging Face "
        "Trainer), and keep the data on a local disk.",
        confidence=0.95 if share >= SURE_SHARE else 0.8,
    )
