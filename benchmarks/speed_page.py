"""The page of the speed benchmark, from what was measured. Standard library only."""

import os
import platform
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from statistics import median

from peers.task import ALPHA, LEARNING_RATE, MICRO_BATCH_ROWS, RANK, WINDOW_ROWS, Measured

OURS, SHORT, BOUND, SAME = "ours", "ours, bfloat16", "products alone", "TRL, same"
MOST_LOSS_GAP = 1e-3
EXPLAINED = {
    OURS: "as `tunesmith train` runs it, no dropout, only answers scored",
    "ours, dropout 0.05": "the same with the tutorial's dropout",
    SHORT: "the same with `--dtype bfloat16`, on a processor that multiplies in it",
    SAME: "learns exactly what ours learns: ids, scored tokens, order, initial weights, no dropout; tuned by "
    "hand (no checkpointing, rows of a step sorted by length)",
    "TRL, tuned": "the tutorial without gradient checkpointing, rows grouped by length",
    "TRL, guide": "the usual tutorial: one text a row, all tokens scored, the rest as it comes",
    "LitGPT": "its own training function, our ids, scored tokens and order (sorted as above), dropout 0.05",
    "LLaMA-Factory": "its supervised fine-tuning with its own template, dropout 0.05, the rest as it comes",
}
UNITS = {"rows": "rows in a step", "length": "tokens in a row", "parameters": "parameters of a random model"}


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one training: figures, or why there are none."""

    name: str
    measured: Measured | None
    why: str = ""

    @property
    def line(self) -> str:
        """For the one who waits."""
        found = self.measured
        if found is None:
            return f"{self.name}: left out: {self.why}"
        return f"{self.name}: {found.rate:.0f} tokens/s, {found.seconds:.1f} s, peak {gigabytes(found)}"


@dataclass(frozen=True, slots=True)
class Point:
    """One step of ours.

    Attributes:
        varied: `rows`, `length` or `parameters`.
        value: of what is varied: rows, tokens in a row, or parameters of the model.
        tokens: in the step.
        seconds: of the step.
    """

    varied: str
    value: int
    tokens: int
    seconds: float


def gigabytes(found: Measured) -> str:
    """Its peak."""
    return f"{found.peak_bytes / 1e9:.1f} GB"


def all_of(rounds: Sequence[Sequence[Outcome]], name: str) -> list[Measured]:
    """What one contestant measured, round by round."""
    return [o.measured for outcomes in rounds for o in outcomes if o.name == name and o.measured]


def spread(values: Sequence[float], digits: int = 2) -> str:
    """The median, and least and most where there are several."""
    middle = f"{median(values):.{digits}f}"
    return middle if len(values) == 1 else f"{middle} ({min(values):.{digits}f} to {max(values):.{digits}f})"


def ratios(rounds: Sequence[Sequence[Outcome]], name: str) -> list[float]:
    """How many times as fast as `name` ours was each time, in its runs just before and after together."""
    found = []
    for outcomes in rounds:
        for at, outcome in enumerate(outcomes):
            beside = [*outcomes[:at][-1:], *outcomes[at + 1 :][:1]]
            ours = [o.measured for o in beside if o.name == OURS and o.measured]
            if outcome.name == name and outcome.measured and ours:
                rate = sum(one.tokens for one in ours) / sum(one.seconds for one in ours)
                found.append(rate / outcome.measured.rate)
    return found


def loss_gap(outcomes: Sequence[Outcome], *, name: str = SAME) -> float | None:
    """Largest difference of a step's loss between ours and `name` on this task; None if one is missing."""
    found = {o.name: o.measured for o in outcomes}
    ours, other = found.get(OURS), found.get(name)
    if ours is None or other is None:
        return None
    return max(abs(a - b) for a, b in zip(ours.losses, other.losses, strict=True))


def page(rounds: Sequence[Sequence[Outcome]], growth: Sequence[Point], *, rows: str, threads: int) -> str:
    """`speed.md`."""
    lines = [
        "# Training speed",
        "",
        f"Made by `make bench` on {datetime.now(UTC):%Y-%m-%d}: {machine(threads)}. SmolLM2-135M, float32, "
        f"LoRA rank {RANK}, alpha {ALPHA}, on the four attention layers of each block, learning rate "
        f"{LEARNING_RATE:g}, {rows}, {WINDOW_ROWS} in a step, {MICRO_BATCH_ROWS} at once, {len(rounds)} "
        f"{'round' if len(rounds) == 1 else 'rounds in turn'}. Ours runs before and after each of the "
        "others: a machine's speed drifts, so each is compared with the two runs of ours beside it.",
        "",
        *_table(rounds),
        "",
        "Tokens are those of the rows; computed are those that went through the layers: with padding, and in "
        "ours with what the rows of a micro-batch begin with only once. Loading is not timed. Programs that "
        "render rows by a template of their own have other tokens. Peak: memory of the whole process. What "
        "each does:",
        "",
        *(f"- {name}: {EXPLAINED[name]}." for name in _names(rounds) if name in EXPLAINED),
        "",
        *_bound(rounds),
        *_agreement(rounds),
        *_growth(growth),
        *_versions(rounds),
        *_left_out(rounds),
    ]
    return "\n".join(lines).rstrip() + "\n"


def machine(threads: int) -> str:
    """Cores and instruction set in words."""
    info = Path("/proc/cpuinfo")
    flags = set(info.read_text().split()) if info.is_file() else set()
    known = (("amx_tile", "AMX"), ("avx512f", "AVX-512"), ("avx2", "AVX2"))
    widest = next((word for flag, word in known if flag in flags), platform.machine())
    return f"{threads} {'thread' if threads == 1 else 'threads'} on {os.cpu_count()} cores with {widest}"


def _names(rounds: Sequence[Sequence[Outcome]]) -> list[str]:
    """Who was measured, in the order of the first round."""
    return list(dict.fromkeys(o.name for o in rounds[0] if all_of(rounds, o.name) and o.name != BOUND))


def _table(rounds: Sequence[Sequence[Outcome]]) -> Iterator[str]:
    short = bool(ratios(rounds, SHORT))
    columns = "ours, times as fast" + (" | in bfloat16" if short else "")
    yield f"| program | tokens | computed | seconds | tokens/s | {columns} | peak | of our peak |"
    yield "|---|" + "---:|" * (8 if short else 7)
    own_peak = max(found.peak_bytes for found in all_of(rounds, OURS))
    for name in _names(rounds):
        found = all_of(rounds, name)
        peak = max(found, key=lambda one: one.peak_bytes)
        faster = "" if name == OURS else spread(ratios(rounds, name))
        if short:
            faster += " | " + ("" if name in (OURS, SHORT) else f"{_in_short(rounds, name):.2f}")
        yield (
            f"| {name} | {found[0].tokens:,} | {found[0].computed_tokens:,} "
            f"| {median(one.seconds for one in found):.1f} | {spread([one.rate for one in found], 0)} "
            f"| {faster} | {gigabytes(peak)} | {peak.peak_bytes / own_peak:.1f} |"
        )


def _in_short(rounds: Sequence[Sequence[Outcome]], name: str) -> float:
    """How many times as fast as `name` ours is in bfloat16: both against ours in float32 beside them."""
    return median(ratios(rounds, name)) / median(ratios(rounds, SHORT))


def _bound(rounds: Sequence[Sequence[Outcome]]) -> Iterator[str]:
    shares = [100 * ratio for ratio in ratios(rounds, BOUND)]
    if not shares:
        return
    rate = spread([found.rate for found in all_of(rounds, BOUND)], 0)
    yield "## Beside the bound"
    yield ""
    yield (
        f"The matrix products of all tokens alone (each frozen linear layer forward and for the gradient of "
        f"its input, the output layer at scored positions), by the faster of the libraries that torch has "
        f"here, do {rate} tokens/s. Ours reaches {spread(shares, 0)} % of that, with attention, "
        f"norms, optimizer and all else; it leaves out the products of what rows share."
    )
    yield ""


def _agreement(rounds: Sequence[Sequence[Outcome]]) -> Iterator[str]:
    gap = loss_gap(rounds[0])
    if gap is None:
        return
    names = [name for name in (OURS, SAME, SHORT) if all_of(rounds, name)]
    yield "## The same losses"
    yield ""
    yield f"| step | {' | '.join(names)} |"
    yield "|---:|" + "---:|" * len(names)
    by_step = zip(*(all_of(rounds, name)[0].losses for name in names), strict=True)
    for step, losses in enumerate(by_step, start=1):
        yield f"| {step} | {' | '.join(f'{loss:.6f}' for loss in losses)} |"
    yield ""
    yield f"Largest difference {gap:.1e} to {SAME}; above {MOST_LOSS_GAP:g} this benchmark fails."
    short = loss_gap(rounds[0], name=SHORT)
    if short is not None:
        yield f"With bfloat16 a step's loss differs from ours in float32 by at most {short:.1e}."
    yield ""


def _growth(growth: Sequence[Point]) -> Iterator[str]:
    if not growth:
        return
    yield "## How our time grows"
    yield ""
    yield "One step of made-up rows, half of each scored."
    yield ""
    yield "| what | value | tokens | seconds | tokens/s | seconds, of the smallest |"
    yield "|---|---:|---:|---:|---:|---:|"
    smallest: dict[str, Point] = {}
    for point in growth:
        first = smallest.setdefault(point.varied, point)
        yield (
            f"| {UNITS[point.varied]} | {point.value:,} | {point.tokens:,} | {point.seconds:.2f} "
            f"| {point.tokens / point.seconds:.0f} | {point.seconds / first.seconds:.1f} |"
        )
    yield ""


def _versions(rounds: Sequence[Sequence[Outcome]]) -> Iterator[str]:
    yield "## Versions"
    yield ""
    told = set()
    for name in _names(rounds):
        versions = all_of(rounds, name)[0].versions
        line = f"- {name.split(',')[0]}: {', '.join(f'{key} {value}' for key, value in versions.items())}"
        if line not in told:
            told.add(line)
            yield line
    yield ""


def _left_out(rounds: Sequence[Sequence[Outcome]]) -> Iterator[str]:
    for outcome in rounds[0]:
        if outcome.measured is None:
            yield f"Left out: {outcome.name}: {outcome.why}"
