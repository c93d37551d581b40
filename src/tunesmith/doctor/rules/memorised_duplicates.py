"""Memorised duplicates: rows that stand in the training data again and again are learned by heart."""

from pathlib import Path
from shlex import quote

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Signs

TITLE = "Copies in the training rows"
IS_LIVE = True

# Below a tenth of the rows, copies cost time and little else; a row that is met eight times in each epoch is
# learned by heart long before the others (Carlini et al. 2023: what is memorised grows with each doubling).
MOST_COPIES_SHARE = 0.1
OFTEN, MOST_SHARE_OF_OFTEN = 8, 0.03
FEWEST_COPIES = 3
# Nats a token between training and validation that mean that rows are known by heart.
HEART_NATS = 0.5
COPIES_ALONE, WITH_GAP = 0.75, 0.9


def examine(signs: Signs) -> Finding | None:
    """A tenth of the training rows are copies, or one row is met very often."""
    found = signs.data.get("duplicates") or {}
    copies, share, largest = (found.get(name, 0) for name in ("rows", "share", "largest"))
    is_often = largest >= OFTEN and share >= MOST_SHARE_OF_OFTEN
    if copies < FEWEST_COPIES or not (share >= MOST_COPIES_SHARE or is_often):
        return None
    first = ", ".join(found.get("places", ()))
    evidence = [
        Evidence(f"{copies} training rows ({share:.0%}) repeat an earlier one, the first at {first}"),
        Evidence(f"the commonest row stands there {largest} times, so each epoch trains it that often"),
    ]
    gap, path = _gap(signs), signs.setting("data.path")
    clean = _cleaned(str(path)) if path else ""
    return Finding(
        ailment="memorised_duplicates",
        title=TITLE,
        cause="the same rows are trained again and again within each epoch, and are learned by heart",
        evidence=(*evidence, gap) if gap else tuple(evidence),
        remedy="Remove the copies and train on what is left.",
        confidence=WITH_GAP if gap else COPIES_ALONE,
        changes=(Change("data.path", clean, "the same rows without their copies"),) if clean else (),
        commands=(_command(signs, clean),) if clean else (),
    )


def _gap(signs: Signs) -> Evidence | None:
    """The training loss far below the validation loss at the end."""
    loss, validation = signs.loss.finite, signs.validation.finite
    if not len(loss) or not len(validation) or validation.steps[-1] <= 0:
        return None
    last = loss.values[-max(1, len(loss) // 10) :]
    trained, held_out = float(np.mean(last)), float(validation.values[-1])
    if held_out - trained < HEART_NATS:
        return None
    return Evidence(
        f"training loss ended at {trained:.2f}, validation loss at {held_out:.2f} nats a token",
        curve="loss",
        first_step=float(loss.steps[-len(last)]),
        last_step=float(loss.steps[-1]),
    )


def _cleaned(path: str) -> str:
    """The file beside it that the copies are left out of."""
    file = Path(path)
    return str(file.with_name(f"{file.name.split('.')[0]}.clean.jsonl"))


def _command(signs: Signs, clean: str) -> str:
    """What makes that file."""
    named = signs.setting("data.columns", {})
    columns = "".join(" " + quote(f"{ours}={theirs}") for ours, theirs in named.items())
    command = f"tunesmith data clean {{data}} {quote(clean)} --preset none --with duplicates near_duplicates"
    return f"{command} --columns{columns}" if columns else command
