"""What a rule says when it finds its ailment: cause, evidence with steps and figures, remedy, confidence."""

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Evidence:
    """One observation, with its figures in the sentence, and where it stands on a curve.

    Attributes:
        text: a sentence with the figures.
        curve: name of the curve it is about (`signs.Signs.curves`), or empty where it is about none.
        first_step: where the stretch begins; None where it is about no stretch.
        last_step: where it ends; the same as `first_step` for a single step.
    """

    text: str
    curve: str = ""
    first_step: float | None = None
    last_step: float | None = None


@dataclass(frozen=True, slots=True)
class Change:
    """One setting to change: configuration key, new value, and why."""

    key: str
    value: Any
    reason: str


@dataclass(frozen=True, slots=True)
class Finding:
    """One ailment that was found.

    Attributes:
        ailment: name of the rule, such as `overfitting`.
        title: the ailment in a few words, for people.
        cause: the likeliest cause, one sentence.
        evidence: what speaks for it; at least one.
        remedy: what to do, one or two sentences; holds also what no setting can do.
        confidence: 0 to 1, how often this evidence means this ailment.
        changes: settings of the corrected configuration; empty where no setting helps.
        commands: `tunesmith` commands to run before the corrected configuration, such as a cleaning; a
            placeholder `{data}` is the data file.
    """

    ailment: str
    title: str
    cause: str
    evidence: tuple[Evidence, ...]
    remedy: str
    confidence: float
    changes: tuple[Change, ...] = ()
    commands: tuple[str, ...] = ()

    @property
    def summary(self) -> str:
        """One line: what, and the first piece of evidence."""
        return f"{self.title}: {self.evidence[0].text}"

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self)
