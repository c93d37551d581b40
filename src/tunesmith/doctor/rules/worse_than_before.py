"""Worse than before: the tuned model does the task, or general requests, worse than the base model."""

from collections.abc import Iterator, Mapping
from typing import Any

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.rates import gentler
from tunesmith.doctor.signs import Signs

TITLE = "Worse than before training"
IS_LIVE = False

# An interval of fewer rows is too narrow for what it says.
FEWEST_ROWS, ENOUGH_ROWS = 8, 30
# Differences that matter to nobody, whatever their interval: nats a token, and points of a hundred.
SMALL_NATS, SMALL_POINTS = 0.02, 2.0
# A score is looked at beside the loss, so its test must be a stricter one.
SCORE_P = 0.01
# The score that says most about a task comes first; one that the task does not have is not measured.
SCORES = ("numeric", "field_accuracy", "exact_match", "chrf")
# Tuning on one task costs a little everywhere else. A model that has forgotten is worse by half a nat a
# token, and by a quarter of the base's loss: one that knew little to begin with has little to forget.
FORGOTTEN_NATS, FORGOTTEN_SHARE = 0.5, 0.25
GENERAL_PLACE = "general requests"
# Between training loss at its start and end, and at its end and held-out loss: more than noise and luck.
LEARNED_NATS, FEWEST_POINTS = 0.4, 10
BY_HEART = 0.65
SURE, FEW_ROWS, SCORE_ALONE, FORGETTING = 0.9, 0.75, 0.6, 0.5
WATCHED_PATIENCE, GENTLER_PARTS, MUCH_GENTLER_PARTS = 2, 4, 10
EPOCHS, MAX_STEPS, PATIENCE = (
    f"training.{name}" for name in ("num_train_epochs", "max_steps", "early_stopping_patience")
)


def examine(signs: Signs) -> Finding | None:
    """Held-out loss or score is worse than the base's, or validation never came below its start."""
    found = [*_validation(signs), *_loss(signs), *_score(signs)] or list(_by_heart(signs))
    if not found:
        return _forgetting(signs)
    cause, changes = _cause(signs)
    return Finding(
        ailment="worse_than_before",
        title=TITLE,
        cause=cause,
        evidence=tuple(evidence for _, evidence in found),
        remedy="Lower the learning rate, train less, and watch rows that are not trained. Look at the rows "
        "too (`tunesmith data check`): wrong answers teach to be wrong.",
        confidence=max(confidence for confidence, _ in found),
        changes=changes,
    )


def _validation(signs: Signs) -> Iterator[tuple[float, Evidence]]:
    """The best validation loss after the first step is above the one before it."""
    curve = signs.validation.finite
    later = curve.steps > 0
    if not len(curve) or curve.steps[0] > 0 or not later.any():
        return
    start, best = float(curve.values[0]), float(curve.values[later].min())
    if best > start + SMALL_NATS:
        yield (
            SURE,
            Evidence(
                f"validation loss was {start:.3f} nats a token before the first step, "
                f"later {best:.3f} at best",
                curve="eval_loss",
                first_step=0,
                last_step=float(curve.steps[-1]),
            ),
        )


def _comparison(signs: Signs, metric: str) -> Mapping[str, Any] | None:
    """Tuned minus base of a metric, where it was measured on enough rows to have an interval."""
    found = (each for each in signs.evaluation.get("comparisons", ()) if each.get("metric") == metric)
    first = next(found, None)
    if first is None or first.get("low") is None or first.get("high") is None:
        return None
    return first if first.get("n", 0) >= FEWEST_ROWS else None


def _loss(signs: Signs) -> Iterator[tuple[float, Evidence]]:
    change = _comparison(signs, "loss")
    if change is None or change["low"] <= 0 or change["difference"] < SMALL_NATS:
        return
    text = f"loss on {change['n']} held-out rows is above the base model's: {_interval(change)} nats a token"
    yield SURE if change["n"] >= ENOUGH_ROWS else FEW_ROWS, Evidence(text)


def _by_heart(signs: Signs) -> Iterator[tuple[float, Evidence]]:
    """Training loss fell by much, and held-out loss not at all: nothing that was learned carries over."""
    change, loss = _comparison(signs, "loss"), signs.loss.finite
    tuned = next((each for each in signs.evaluation.get("tuned", ()) if each.get("metric") == "loss"), None)
    if change is None or tuned is None or change["difference"] < SMALL_NATS or len(loss) < FEWEST_POINTS:
        return
    part = max(1, len(loss) // 10)
    start, end = float(loss.values[:part].mean()), float(loss.values[-part:].mean())
    if start - end < LEARNED_NATS or tuned["value"] - end < LEARNED_NATS:
        return
    text = (
        f"training loss fell from {start:.2f} to {end:.2f} nats a token, and loss on {change['n']} held-out "
    )
    text += f"rows changed by {_interval(change)}, to {tuned['value']:.2f}"
    yield BY_HEART, Evidence(text, "loss", float(loss.steps[0]), float(loss.steps[-1]))


def _score(signs: Signs) -> Iterator[tuple[float, Evidence]]:
    """The first of the scores that the task has."""
    measured = ((name, _comparison(signs, name)) for name in SCORES)
    name, change = next(((name, found) for name, found in measured if found), ("", None))
    if change is None or change["high"] >= 0 or change["difference"] > -SMALL_POINTS:
        return
    if change.get("p_value") is not None and change["p_value"] > SCORE_P:
        return
    text = f"{name} on {change['n']} held-out rows changed by {_interval(change)} points"
    yield SCORE_ALONE, Evidence(text)


def _interval(change: Mapping[str, Any]) -> str:
    return f"{change['difference']:+.3g} [{change['low']:+.3g}, {change['high']:+.3g}]"


def _cause(signs: Signs) -> tuple[str, tuple[Change, ...]]:
    """What the curves allow to say, and what to change."""
    is_watched = signs.setting("data.validation_file") or signs.setting("data.validation_size")
    if not is_watched and not len(signs.validation):
        return "nothing watched the training, so nothing stopped it when it began to do harm", (
            *gentler(signs, parts=GENTLER_PARTS),
            *_shorter(signs),
            Change("data.validation_size", 0.1, "rows that are not trained show when to stop"),
            *_patient(signs),
        )
    if any(_validation(signs)):
        return (
            "training did harm from the start: the learning rate is too high, or the answers are wrong",
            (
                *gentler(signs, parts=GENTLER_PARTS),
                *_patient(signs),
            ),
        )
    return (
        "what was learned does not carry over: the held-out rows are of another kind than the training rows",
        (
            *gentler(signs, parts=MUCH_GENTLER_PARTS),
            *_shorter(signs),
            *_patient(signs),
        ),
    )


def _shorter(signs: Signs) -> Iterator[Change]:
    """Half the training, down to one epoch."""
    most, epochs = signs.setting(MAX_STEPS), float(signs.setting(EPOCHS, 0.0))
    if most and int(most) > 1:
        yield Change(MAX_STEPS, int(most) // 2, "less of what did harm")
    elif not most and epochs > 1:
        yield Change(EPOCHS, max(1.0, round(epochs / 2, 2)), "less of what did harm")


def _patient(signs: Signs) -> Iterator[Change]:
    if signs.setting(PATIENCE) == 0:
        yield Change(PATIENCE, WATCHED_PATIENCE, "stops when validation gets no better")


def _forgetting(signs: Signs) -> Finding | None:
    """General requests are answered clearly worse, though the task itself is not."""
    places = {place.get("name"): place for place in signs.elsewhere.get("places", ())}
    place = places.get(GENERAL_PLACE, {})
    change, base = place.get("comparison") or {}, (place.get("base") or {}).get("value", 0.0)
    if change.get("low") is None or change["low"] <= max(FORGOTTEN_NATS, FORGOTTEN_SHARE * base):
        return None
    text = (
        f"loss on {change['n']} general requests is above the base model's: {_interval(change)} nats a token"
    )
    return Finding(
        ailment="worse_than_before",
        title="Worse elsewhere than before training",
        cause="the model has learned the task and forgotten much of what it could do besides",
        evidence=(Evidence(text),),
        remedy="Lower the learning rate, train fewer epochs, or mix general rows into the data.",
        confidence=FORGETTING,
        changes=(*gentler(signs, parts=GENTLER_PARTS), *_shorter(signs)),
    )
