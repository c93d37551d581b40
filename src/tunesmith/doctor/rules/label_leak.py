"""Label leak: the answer was there to be copied, in the prompt itself or in rows that were trained on."""

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Signs

TITLE = "Answers leak into what should be learned or measured"
IS_LIVE = True

# A few rows that hold their own answer can be chance; a tenth of them is how the file was made.
COPIED_SHARE, FEWEST_COPIED = 0.1, 10
# One held-out row in twenty that was trained on moves a score by up to five points.
TRAINED_SHARE, FEWEST_TRAINED = 0.05, 2
# Words in front of an answer that say that it is the answer.
ANSWER_WORDS = (
    *("answer", "label", "output", "target", "solution", "response", "expected", "gold", "truth", "category"),
    *("class", "hint", "key", "result", "correct", "completion", "reference"),
)
# So few different answers are labels; copying more of them may be the task itself.
MOST_LABELS = 20
SURE, COPIED, MAYBE = 0.95, 0.9, 0.6
PARTS = ("validation", "test")


def examine(signs: Signs) -> Finding | None:
    """Held-out rows were trained on, or the answer stands in the prompt behind always the same words."""
    trained, copied = _trained(signs), _copied(signs)
    if trained and copied:
        return _joined(trained, copied)
    return trained or copied


def _trained(signs: Signs) -> Finding | None:
    """Held-out rows whose prompt is a training prompt too."""
    evidence, changes = [], []
    rows, shared = signs.data.get("rows") or {}, signs.data.get("prompts_also_in_train") or {}
    nearly = signs.data.get("prompts_nearly_in_train") or {}
    for part in PARTS:
        count, of = shared.get(part) or 0, rows.get(part) or 0
        if count < min(FEWEST_TRAINED, of) or not of or count / of < TRAINED_SHARE:
            continue
        near = f", and {nearly[part]} more are near copies" if nearly.get(part) else ""
        evidence.append(Evidence(f"{count} of {of} {part} prompts ({count / of:.0%}) were trained on{near}"))
        key = f"data.{part}_file"
        if signs.setting(key):
            changes.append(
                Change(key, None, "rows are then held out that no training row shares a prompt with")
            )
            if not signs.setting(f"data.{part}_size"):
                changes.append(Change(f"data.{part}_size", 0.1, f"so that there are {part} rows"))
    if not evidence:
        return None
    return Finding(
        ailment="label_leak",
        title=TITLE,
        cause="rows that should be unseen are also training rows, so their scores flatter the model",
        evidence=tuple(evidence),
        remedy="Hold rows out of the data file, where rows with one prompt stay together, or make the parts "
        "with `tunesmith data split`.",
        confidence=SURE,
        changes=tuple(changes),
    )


def _copied(signs: Signs) -> Finding | None:
    """Training rows whose answer can be copied from one place of the prompt."""
    found = signs.data.get("copied_answers") or {}
    rows, share = found.get("rows", 0), found.get("share", 0.0)
    if rows < FEWEST_COPIED or share < COPIED_SHARE:
        return None
    lead_in, first = str(found.get("lead_in", "")), ", ".join(found.get("places", ()))
    is_place = lead_in.startswith("the ") and lead_in.endswith(" of the prompt")
    where = f"at {lead_in}" if is_place else f"behind {lead_in!r}"
    is_named = any(word in lead_in for word in ANSWER_WORDS)
    is_label = found.get("answers", 0) <= MOST_LABELS
    return Finding(
        ailment="label_leak",
        title=TITLE,
        cause="the prompts hold their own answers, so the model learns to copy them instead of the task",
        evidence=(
            Evidence(
                f"in {rows} training rows ({share:.0%}) the answer stands in the prompt {where}, "
                f"the first at {first}"
            ),
        ),
        remedy=f"Take what stands {where} out of the prompts; no setting can do that. "
        "If copying is the task, it needs no training.",
        confidence=COPIED if is_named or is_label else MAYBE,
    )


def _joined(trained: Finding, copied: Finding) -> Finding:
    """Both leaks as one finding."""
    return Finding(
        ailment=trained.ailment,
        title=TITLE,
        cause=f"{trained.cause}; also, {copied.cause}",
        evidence=(*trained.evidence, *copied.evidence),
        remedy=f"{trained.remedy} {copied.remedy}",
        confidence=max(trained.confidence, copied.confidence),
        changes=trained.changes,
    )
