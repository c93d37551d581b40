"""The page of the clinic, from what became of the cases."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from typing import Any

from clinic import (
    AILMENTS,
    HEALTHY,
    LEAST_CURED,
    LEAST_RECALL,
    LOSS_NOISE,
    MOST_FALSE_ALARMS,
    NOTHING,
    REPORTED,
    TUNING,
    Diagnosed,
    Share,
    confusion,
    cured,
    false_alarms,
    healthy,
    not_so_healthy,
    recall,
    sick,
    without_remedy,
)

SHORT = {
    "loss_not_decreasing": "flat",
    "loss_unstable": "unstable",
    "overfitting": "overfit",
    "out_of_memory": "memory",
    "repetitive_output": "repeats",
    "worse_than_before": "worse",
    "non_finite": "non-finite",
    "template_mismatch": "template",
    "memorised_duplicates": "copies",
    "label_leak": "leak",
    "schedule_ends_early": "schedule",
    "slow_input": "slow",
    NOTHING: "nothing",
}


def page(
    cases: Sequence[Diagnosed],
    half_of: Mapping[str, str],
    *,
    pairs: Sequence[tuple[str, Diagnosed, Diagnosed]],
    problems: Sequence[tuple[str, str]],
    minutes: float,
    machine: str,
) -> str:
    """`doctor.md`.

    Args:
        cases: all that were treated.
        half_of: by name, `tuning` or `reported`.
        pairs: what was induced, TRL's run and ours of the same case.
        problems: name and last line of what the clinic itself could not do.
        minutes: the clinic took; of all runs, also where some were kept from before.
        machine: in words.
    """
    reported = [each for each in cases if half_of[each.case.name] == REPORTED]
    tuning = [each for each in cases if half_of[each.case.name] == TUNING]
    lines = [
        "# The doctor, checked",
        "",
        f"Made by `make bench-doctor` on {datetime.now(UTC):%Y-%m-%d}: {len(cases)} real trainings in "
        f"{minutes:.0f} minutes of computing, {machine}. In {len(sick(cases))} of them one of the twelve "
        f"ailments was induced, {len(cases) - len(sick(cases))} are healthy runs of many shapes. "
        f"{_count(cases, 'ours')} ran through our own pipeline, {_count(cases, 'trainer')} through a Hugging "
        f"Face Trainer, {_count(cases, 'loop')} through a bare loop that writes CSV; "
        f"{sum(each.case.model == 'smollm2-135m' for each in cases)} on SmolLM2-135M, the others on a Llama "
        "of 200,000 parameters that the clinic taught first.",
        "",
        "The cases of each ailment are dealt into two halves by a hash of their names. The rules' limits "
        "were set on the *tuning* half; how often the *reported* half was read before is in the lab log.",
        "",
        *_headline(reported, tuning),
        "",
        "A case counts as found if the induced ailment is among the findings. Cured: the corrected "
        "configuration (`tunesmith doctor --fix`, and the commands it names) was trained, the ailment is not "
        f"found again, and the loss at the end is no worse than before, but for {LOSS_NOISE:.0%}; where the "
        "remedy changes the rows or their template, it must beat its own base. Healthy means that the "
        "held-out loss got better than the base's. Answers of healthy runs of the small model are looked at "
        "only where they are short, since in long ones it loops however well it is tuned. Intervals are "
        "Wilson's, 95 %.",
        "",
        "## Reported half, by ailment",
        "",
        *_by_ailment(reported),
        "",
        "## What is mistaken for what (reported half, surest finding)",
        "",
        *_confusion_table(reported),
        "",
        "## Tuning half, by ailment",
        "",
        *_by_ailment(tuning),
        "",
        "## What was induced and how it went",
        "",
        *_every_case(cases, half_of),
        "",
        *_pairs(pairs),
        *_notes(cases, problems),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _count(cases: Sequence[Diagnosed], program: str) -> int:
    return sum(each.case.program == program for each in cases)


def _headline(reported: Sequence[Diagnosed], tuning: Sequence[Diagnosed]) -> Iterator[str]:
    yield "| | target | reported half | tuning half |"
    yield "|---|---|---|---|"
    for what, target, of in (
        ("induced ailments that were found", f"at least {LEAST_RECALL:.0%}", recall),
        ("healthy runs with any finding", f"at most {MOST_FALSE_ALARMS:.0%}", false_alarms),
        ("cured, of those found that a setting or a command can help", f"at least {LEAST_CURED:.0%}", cured),
    ):
        yield f"| {what} | {target} | {_with_interval(of(reported))} | {_with_interval(of(tuning))} |"


def _with_interval(share: Share) -> str:
    low, high = share.interval
    return f"{share}, {low:.0%} to {high:.0%}" if share.of else str(share)


def _by_ailment(cases: Sequence[Diagnosed]) -> Iterator[str]:
    yield "| induced | found | cured | found, but no setting helps |"
    yield "|---|---:|---:|---:|"
    for name in AILMENTS:
        beyond = without_remedy(cases, name) or ""
        yield f"| {name} | {recall(cases, name)} | {cured(cases, name)} | {beyond} |"
    yield f"| healthy, with any finding | {false_alarms(cases)} | | |"


def _confusion_table(cases: Sequence[Diagnosed]) -> Iterator[str]:
    found = confusion(cases)
    yield f"| induced | {' | '.join(SHORT.values())} |"
    yield f"|---|{'---:|' * len(SHORT)}"
    for name, counts in found.items():
        yield f"| {name} | {' | '.join(str(counts[column] or '') for column in SHORT)} |"


def _every_case(cases: Sequence[Diagnosed], half_of: Mapping[str, str]) -> Iterator[str]:
    yield "| case | half | program | induced | found | loss before | at the end | corrected |"
    yield "|---|---|---|---|---|---:|---:|---|"
    order = {name: place for place, name in enumerate((*AILMENTS, HEALTHY))}
    for each in sorted(cases, key=lambda e: (order[e.case.ailment], half_of[e.case.name], e.case.name)):
        named = ", ".join(SHORT[name] for name in each.found) or NOTHING
        induced = SHORT.get(each.case.ailment, HEALTHY)
        model = "" if each.case.model != "smollm2-135m" else ", SmolLM2"
        yield (
            f"| {each.case.name} | {half_of[each.case.name]} | {each.case.program}{model} | {induced} "
            f"| {named} | {_loss(each.outcome.start_loss)} | {_end(each)} | {_cure(each)} |"
        )


def _loss(value: float | None) -> str:
    return "" if value is None else f"{value:.3f}"


def _end(each: Diagnosed) -> str:
    if each.outcome.status != "succeeded":
        return str(each.outcome.status)
    return _loss(each.outcome.end_loss) or "not finite"


def _cure(each: Diagnosed) -> str:
    if each.case.ailment == HEALTHY:
        return ""
    if not each.is_found:
        return "missed"
    if not each.has_remedy:
        return "no setting"
    if each.cure is None:
        return "not run"
    end = _loss(each.cure.end_loss) or each.cure.status
    return f"cured, {end}" if each.is_cured else f"not cured, {end}"


def _pairs(pairs: Sequence[tuple[str, Diagnosed, Diagnosed]]) -> Iterator[str]:
    if not pairs:
        return
    yield "## The same case trained by TRL and by us"
    yield ""
    yield "Same rows, base model, rate, batch and steps; TRL's trainer_state.json beside our run folder."
    yield ""
    yield "| induced | found in TRL's log | found in our run | the same |"
    yield "|---|---|---|---|"
    for induced, theirs, own in pairs:
        same = "yes" if set(theirs.found) == set(own.found) else "no"
        both = (", ".join(each.found) or NOTHING for each in (theirs, own))
        yield f"| {induced} | {' | '.join(both)} | {same} |"
    yield ""


def _notes(cases: Sequence[Diagnosed], problems: Sequence[tuple[str, Any]]) -> Iterator[str]:
    worse = not_so_healthy(cases)
    if worse:
        names = ", ".join(each.case.name for each in worse)
        yield f"Meant healthy, but the held-out loss did not get better, so counted as neither: {names}."
        yield ""
    if len(healthy(cases)) + len(worse):
        alarmed = [each for each in healthy(cases) if each.found]
        for each in alarmed:
            yield f"False alarm: {each.case.name}: {', '.join(each.found)}."
        if alarmed:
            yield ""
    for name, problem in problems:
        yield f"Could not be run: {name}: {problem}."
