"""The training rows are learned by heart: their loss goes on falling, that of the validation rows rises."""

import math
from typing import Any

import numpy as np

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.rates import gentler
from tunesmith.doctor.signs import Curve, Signs
from tunesmith.doctor.trends import between, fifth_of, first_level, last_level, thinned

TITLE = "overfitting"
IS_LIVE = True
# Validation rows stay the same, so their loss has little noise; 1 to 2 % above the best is common.
RISE = 0.05
# A single validation behind the best, or a log without a training loss, has to say more.
LONE_RISE = 0.10
# Where a foreign run ended before its time, somebody has seen it already.
STOPPED_RISE = 0.50
# A validation loss of less is as good as none, and so small a rise says nothing.
LEAST_NATS, LEAST_RISE_NATS = 0.02, 0.01
# A training loss at the end that is no lower than this share of the validation loss is no sign of rote.
GAP = 0.9
# Up to so many rows, or passes, either is the likelier cause (guide: a few hundred rows, 2 to 5 epochs).
FEW_ROWS, FEW_EPOCHS = 500, 5.0
DROPOUT, DROPOUT_OF_FEW = 0.05, 0.1
WITH_DROPOUT = ("lora", "qlora", "adapter")
PATIENCE = 2
VALIDATIONS_TO_BEST = 4
RATE_PARTS = 4.0


def examine(signs: Signs) -> Finding | None:
    """Speaks where validation loss stays well above its best while training loss falls on."""
    curve = signs.validation.finite
    if len(curve) < 2 or _is_looked_after(signs):
        return None
    best = int(np.argmin(curve.values))
    behind = len(curve) - 1 - best
    if not behind:
        return None
    lowest = max(float(curve.values[best]), LEAST_NATS)
    end = last_level(curve, max(min(behind, 2), behind // 3)).value
    training = _training(signs, float(curve.steps[best]))
    rise = _needed(signs, behind, has_training=training is not None)
    if end < max(lowest * (1 + rise), lowest + LEAST_RISE_NATS):
        return None
    if training and not training[1] < min(training[0], GAP * float(curve.values[-1])):
        return None
    return _finding(signs, curve, best, training)


def _is_looked_after(signs: Signs) -> bool:
    """Whether early stopping did its work, or will: the best weights are kept."""
    patience = signs.setting("training.early_stopping_patience", 0)
    told: Any = signs.facts.get("training") or {}
    return bool(told.get("is_early_stop")) or (not signs.is_over and bool(patience))


def _needed(signs: Signs, behind: int, *, has_training: bool) -> float:
    is_short = bool(signs.total_steps) and signs.last_step < 0.95 * float(signs.total_steps or 0)
    if is_short and signs.status in ("", "succeeded"):
        return STOPPED_RISE
    return RISE if behind > 1 and has_training else LONE_RISE


def _training(signs: Signs, best_step: float) -> tuple[float, float] | None:
    """Training loss up to the best step and at the end, in nats; None where the log holds too little."""
    loss = thinned(signs.loss)
    before = between(loss, 0, best_step)
    after = between(loss, best_step, math.inf)
    if len(loss) < 2 or not len(after):
        return None
    width = fifth_of(loss)
    start = last_level(before, width) if len(before) else first_level(loss, 1)
    return start.value, last_level(after, width).value


def _finding(signs: Signs, curve: Curve, best: int, training: tuple[float, float] | None) -> Finding:
    step, end = float(curve.steps[best]), float(curve.steps[-1])
    lowest, last = float(curve.values[best]), float(curve.values[-1])
    epoch = signs.epoch_of(step)
    at = f"step {step:g}" + (f" (epoch {epoch:.2f})" if epoch is not None else "")
    text = f"validation loss is lowest at {at}, {lowest:.3f} nats, and {last:.3f} at step {end:g}"
    evidence = [Evidence(text, "eval_loss", step, end)]
    if training:
        text = f"training loss goes on from {training[0]:.3f} to {training[1]:.3f} meanwhile"
        evidence.append(Evidence(text, "loss", step, signs.last_step))
    rows, epochs = _rows(signs), signs.epoch_of(end)
    few = bool(rows and rows < FEW_ROWS)
    causes = [f"little data ({rows} training rows)"] if few else []
    causes += [f"too many passes over it ({epochs:.1f})"] if epochs and epochs > FEW_EPOCHS else []
    causes = causes or ["more training than the data carry"]
    if step == 0:
        causes = ["no step made validation better: its rows are of another kind, or the rate is too high"]
    return Finding(
        ailment="overfitting",
        title=TITLE,
        cause=" and ".join(causes),
        evidence=tuple(evidence),
        remedy=f"Stop near {at}" + (f" or gather more than {rows} rows" if few else "") + "; more and more "
        "varied data helps most. Dropout and early stopping make the rest milder.",
        confidence=_confidence(
            last / max(lowest, LEAST_NATS) - 1, has_training=training is not None, step=step
        ),
        changes=_changes(signs, step, few=few),
    )


def _confidence(rise: float, *, has_training: bool, step: float) -> float:
    sure = 0.7 + min(rise, 0.25)
    return round(sure - (0.0 if has_training else 0.1) - (0.15 if step == 0 else 0.0), 2)


def _rows(signs: Signs) -> int | None:
    counts: Any = signs.data.get("rows") or {}
    known = counts.get("train")
    return int(known) if known else None


def _changes(signs: Signs, step: float, *, few: bool) -> tuple[Change, ...]:
    changes = list(_shorter(signs, step))
    method, dropout = signs.setting("method.name"), DROPOUT_OF_FEW if few else DROPOUT
    if method in WITH_DROPOUT and float(signs.setting("method.dropout", 0.0)) < dropout:
        changes.append(Change("method.dropout", dropout, "makes learning by heart harder"))
    patience = int(signs.setting("training.early_stopping_patience", 0))
    if not 0 < patience <= PATIENCE:
        changes.append(
            Change("training.early_stopping_patience", PATIENCE, "ends the run soon after its best")
        )
    if step == 0:
        return (*changes, *gentler(signs, parts=RATE_PARTS))
    every = max(1, int(step // VALIDATIONS_TO_BEST))
    changes.append(Change("training.eval_steps", every, "so that the best step is seen"))
    return tuple(changes)


def _shorter(signs: Signs, step: float) -> list[Change]:
    """The run up to its best step; where that is the very first, one epoch at a lower rate."""
    epoch = signs.epoch_of(step)
    is_by_steps = signs.setting("training.max_steps") is not None
    if epoch is None or (is_by_steps and step > 0):
        return [Change("training.max_steps", int(step), "the best step so far")] if step > 0 else []
    wanted = math.ceil(epoch * 4) / 4 or 1.0
    known = signs.setting("training.num_train_epochs")
    if known is not None and float(known) <= wanted:
        return []
    return [Change("training.num_train_epochs", wanted, "validation was best there")]
