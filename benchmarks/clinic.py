"""The clinic's records: a case, what its run did, what the doctor said, and what follows from all of them.

Arithmetic only: nothing here trains. `clinic_cases.py` lists the cases, `clinic_programs.py` runs them.
"""

import hashlib
import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from itertools import groupby
from typing import Any, Literal

AILMENTS = (
    "loss_not_decreasing",
    "loss_unstable",
    "overfitting",
    "out_of_memory",
    "repetitive_output",
    "worse_than_before",
    "non_finite",
    "template_mismatch",
    "memorised_duplicates",
    "label_leak",
    "schedule_ends_early",
    "slow_input",
)
HEALTHY = "healthy"
OWN_MODELS = ("tiny", "raw", "broken")
NOTHING = "nothing"
TUNING, REPORTED = "tuning", "reported"
LEAST_RECALL, MOST_FALSE_ALARMS, LEAST_CURED = 0.9, 0.05, 0.8
# Two runs on other rows or in another order differ by this much without any cause.
LOSS_NOISE = 0.02
# Here the cure changes the held-out rows or how they are cut into tokens: the losses are of other texts.
ROWS_CHANGE = ("memorised_duplicates", "label_leak", "template_mismatch")


@dataclass(frozen=True, slots=True)
class Case:
    """One training to run, as plain data.

    Attributes:
        name: unique; also its folder.
        ailment: what is induced, or `healthy`.
        program: `ours`, `trainer` (a Hugging Face Trainer), `loop` (a bare loop that writes CSV) or `trl`.
        model: `tiny`, `raw` (it never saw a chat) or `smollm2-135m`.
        task: of `tunesmith.data.generate`.
        rows: rows of the data file, held-out ones included.
        settings: by our configuration key.
        data_fault: what is done to the rows, such as `copies:0.5`.
        fault: what is done to the run, such as `hungry:8`.
        seed: of rows and training.
    """

    name: str
    ailment: str
    program: Literal["ours", "trainer", "loop", "trl"] = "ours"
    model: str = "tiny"
    task: str = "tickets"
    rows: int = 120
    settings: Mapping[str, Any] = field(default_factory=dict)
    data_fault: str = ""
    fault: str = ""
    seed: int = 17

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"settings": dict(self.settings)}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a run did.

    Attributes:
        source: what the doctor reads: a run folder or a log, relative to the work folder.
        start_loss: held-out loss of the base in nats a token; None where it was not measured.
        end_loss: held-out loss at the end, or the last training losses' mean where nothing was held out;
            None where it is not finite.
        status: how it ended.
        seconds: the whole run took, model loading included.
    """

    source: str
    start_loss: float | None
    end_loss: float | None
    status: str
    seconds: float

    @property
    def is_better(self) -> bool:
        """Whether the held-out loss got better than the base's, or no worse where that was good already."""
        return self.start_loss is not None and self.end_loss is not None and self.end_loss < self.start_loss


@dataclass(frozen=True, slots=True)
class Diagnosed:
    """A case, its run, what was found in it, and the same of the corrected run.

    Attributes:
        case: what was induced.
        outcome: of the run.
        found: ailments, the surest first.
        has_remedy: whether the induced ailment's finding changes a setting or names a command.
        cure: outcome of the corrected run, if there was one.
        found_after: ailments of the corrected run.
    """

    case: Case
    outcome: Outcome
    found: tuple[str, ...]
    has_remedy: bool = False
    cure: Outcome | None = None
    found_after: tuple[str, ...] = ()

    @property
    def is_found(self) -> bool:
        """Whether the induced ailment is among the findings."""
        return self.case.ailment in self.found

    @property
    def surest(self) -> str:
        """The first finding, or `nothing`."""
        return self.found[0] if self.found else NOTHING

    @property
    def is_cured(self) -> bool:
        """Whether the corrected run lacks the ailment and ends no worse than the sick one."""
        if self.cure is None or self.case.ailment in self.found_after or self.cure.status != "succeeded":
            return False
        return ends_no_worse(self.cure, self.outcome, rows_change=self.case.ailment in ROWS_CHANGE)


def ends_no_worse(cure: Outcome, sick: Outcome, *, rows_change: bool = False) -> bool:
    """Whether the corrected run ends as well as the sick one, but for `LOSS_NOISE`.

    Args:
        cure: the corrected run.
        sick: the run before.
        rows_change: whether the held-out rows are others; then the corrected run must beat its own base.
    """
    if cure.end_loss is None:
        return False
    if rows_change:
        return cure.start_loss is None or cure.end_loss <= cure.start_loss * (1 + LOSS_NOISE)
    return sick.end_loss is None or cure.end_loss <= sick.end_loss * (1 + LOSS_NOISE)


def halves(cases: Iterable[Case]) -> dict[str, str]:
    """By name, `tuning` or `reported`: of each ailment every other case, in order of a hash of the name."""
    by_ailment = sorted(cases, key=lambda case: (case.ailment, digest(case.name)))
    return {
        case.name: (TUNING, REPORTED)[place % 2]
        for _, group in groupby(by_ailment, key=lambda case: case.ailment)
        for place, case in enumerate(group)
    }


def digest(name: str) -> str:
    """A hash that no choice of ours can bend."""
    return hashlib.sha256(name.encode()).hexdigest()


@dataclass(frozen=True, slots=True)
class Share:
    """A count of a count."""

    hits: int
    of: int

    @property
    def value(self) -> float:
        """0 to 1; NaN of nothing."""
        return self.hits / self.of if self.of else math.nan

    def __str__(self) -> str:
        return f"{self.hits} of {self.of}" + (f" ({self.value:.0%})" if self.of else "")

    @property
    def interval(self) -> tuple[float, float]:
        """95 % by Wilson (1927, JASA 22, 209-212), which holds for small counts."""
        if not self.of:
            return (0.0, 1.0)
        z, n, p = 1.959964, self.of, self.value
        middle = (p + z * z / (2 * n)) / (1 + z * z / n)
        half = z / (1 + z * z / n) * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))
        return (max(0.0, middle - half), min(1.0, middle + half))


def sick(cases: Iterable[Diagnosed]) -> list[Diagnosed]:
    """Those with an ailment induced."""
    return [each for each in cases if each.case.ailment != HEALTHY]


def healthy(cases: Iterable[Diagnosed]) -> list[Diagnosed]:
    """Those that are meant healthy and whose held-out loss did get better."""
    return [each for each in cases if each.case.ailment == HEALTHY and each.outcome.is_better]


def not_so_healthy(cases: Iterable[Diagnosed]) -> list[Diagnosed]:
    """Those that are meant healthy and got worse; they count as neither."""
    return [each for each in cases if each.case.ailment == HEALTHY and not each.outcome.is_better]


def recall(cases: Sequence[Diagnosed], ailment: str | None = None) -> Share:
    """Sick cases whose ailment was found, of one ailment or of all."""
    chosen = [each for each in sick(cases) if ailment in (None, each.case.ailment)]
    return Share(sum(each.is_found for each in chosen), len(chosen))


def false_alarms(cases: Sequence[Diagnosed]) -> Share:
    """Healthy cases with any finding."""
    chosen = healthy(cases)
    return Share(sum(bool(each.found) for each in chosen), len(chosen))


def cured(cases: Sequence[Diagnosed], ailment: str | None = None) -> Share:
    """Of the sick cases that were found and have a remedy, those that the corrected run cured."""
    chosen = [e for e in sick(cases) if e.is_found and e.has_remedy and ailment in (None, e.case.ailment)]
    return Share(sum(each.is_cured for each in chosen), len(chosen))


def without_remedy(cases: Sequence[Diagnosed], ailment: str | None = None) -> int:
    """Sick cases that were found and for which no setting helps."""
    chosen = [e for e in sick(cases) if ailment in (None, e.case.ailment)]
    return sum(each.is_found and not each.has_remedy for each in chosen)


def confusion(cases: Sequence[Diagnosed]) -> dict[str, Counter[str]]:
    """By induced ailment (and `healthy`), how often each was the surest finding."""
    table: dict[str, Counter[str]] = {name: Counter() for name in (*AILMENTS, HEALTHY)}
    for each in [*sick(cases), *healthy(cases)]:
        table[each.case.ailment][each.surest] += 1
    return table


def misses(cases: Sequence[Diagnosed]) -> list[str]:
    """Targets that are not met, one sentence each."""
    found, alarms, helped = recall(cases), false_alarms(cases), cured(cases)
    told = []
    if found.of and found.value < LEAST_RECALL:
        told.append(f"recall {found} is below {LEAST_RECALL:.0%}")
    if alarms.of and alarms.value > MOST_FALSE_ALARMS:
        told.append(f"false alarms {alarms} are above {MOST_FALSE_ALARMS:.0%}")
    if helped.of and helped.value < LEAST_CURED:
        told.append(f"cured {helped} are below {LEAST_CURED:.0%}")
    return told
