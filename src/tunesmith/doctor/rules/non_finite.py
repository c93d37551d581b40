"""The loss or the gradient became NaN or infinite: the run stopped before its weights did, or went on."""

from tunesmith.doctor.finding import Finding
from tunesmith.doctor.numbers import is_broken_from_the_start, no_numbers
from tunesmith.doctor.rates import gentler, peak_rate
from tunesmith.doctor.signs import Signs

TITLE = "a loss or gradient is no number"
IS_LIVE = True
# The rate did not merely shake the loss but broke it.
RATE_PARTS = 10.0


def examine(signs: Signs) -> Finding | None:
    """Speaks of any NaN or infinity in a loss, and of gradients that stay so."""
    evidence = no_numbers(signs)
    if not evidence:
        return None
    if is_broken_from_the_start(signs):
        return Finding(
            ailment="non_finite",
            title=TITLE,
            cause="the very first pass gave no number, before any weight had moved: broken weights of the "
            "base model, or a broken row, and no rate",
            evidence=evidence,
            remedy="Fetch the base model anew and look at its own loss (`tunesmith evaluate`); then look at "
            "the first step's rows. No setting helps.",
            confidence=0.97,
        )
    rate = peak_rate(signs)
    where = f"the learning rate {rate:.2g}" if rate else "the learning rate"
    return Finding(
        ailment="non_finite",
        title=TITLE,
        cause=f"most often {where} is too high, and weights overflow; else a broken row or broken weights",
        evidence=evidence,
        remedy="Lower the learning rate and warm up longer. If it comes again at the same step, look at that "
        "step's rows and at whether the base model's own loss is a number.",
        confidence=0.97,
        changes=gentler(signs, parts=RATE_PARTS),
    )
