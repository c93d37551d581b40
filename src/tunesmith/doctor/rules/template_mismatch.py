"""Template mismatch: a model that was made to chat in one form is trained in another one."""

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Signs

TITLE = "Another chat template than the model's own"
IS_LIVE = True

# A chat model asked in its own form begins at 0.5 to 3 nats a token on answers in a language it knows.
HIGH_NATS = 4.0
SURE, WITHOUT_ITS_MARKERS, PLAIN = 0.9, 0.75, 0.6


def examine(signs: Signs) -> Finding | None:
    """The rows are rendered in a form that the model has not seen, although it has one of its own."""
    found = signs.data.get("template") or {}
    markers, missing = found.get("markers") or (), found.get("missing") or ()
    # The own template with another system message, say, is as good as the own one.
    if not found.get("has_own") or found.get("is_own") or not (markers or missing):
        return None
    evidence = [
        Evidence(f"the rows are rendered with {found.get('name')}, and the model has its own template")
    ]
    if markers:
        named = ", ".join(f"`{marker}`" for marker in markers)
        evidence.append(
            Evidence(f"{named}: marks a turn there, and is no token of this model but plain text")
        )
    if missing:
        named = ", ".join(f"`{marker}`" for marker in missing)
        evidence.append(Evidence(f"{named}: marks a turn for this model, and the rows do without"))
    start = _high_start(signs)
    return Finding(
        ailment="template_mismatch",
        title=TITLE,
        cause="the model has to learn a new form of conversation beside the task, and forgets its own",
        evidence=(*evidence, start) if start else tuple(evidence),
        remedy="Train with the model's own template; whoever asks the model later does so too, as a rule.",
        confidence=_confidence(signs, is_sure=bool(markers or start)),
        changes=(Change("data.template", "auto", "takes the model's own template"),),
    )


def _high_start(signs: Signs) -> Evidence | None:
    """The validation loss of the untrained model, where it is that of a text it does not know."""
    validation = signs.validation.finite
    if not len(validation) or validation.steps[0] > 0 or validation.values[0] < HIGH_NATS:
        return None
    return Evidence(
        f"before the first step the validation loss is {validation.values[0]:.2f} nats a token",
        curve="eval_loss",
        first_step=0,
        last_step=0,
    )


def _confidence(signs: Signs, *, is_sure: bool) -> float:
    if is_sure:
        return SURE
    # The plain layout is a choice that many make on purpose, and base models with a template bear it well.
    return PLAIN if signs.setting("data.template") == "instruction" else WITHOUT_ITS_MARKERS
