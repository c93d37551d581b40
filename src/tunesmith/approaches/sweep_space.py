"""What a sweep varies: `--over KEY=VALUES` read and checked, and the configuration of each trial.

All problems are found before any trial runs. Knows nothing of the search; imports no heavy library.
"""

import itertools
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from tunesmith.config import METHODS_WITH
from tunesmith.data.records import nearest
from tunesmith.errors import ConfigError
from tunesmith.resolve import Option, Resolved, listing, options, resolve

Number = int | float
Values = Mapping[str, Any]

HOW = "`--over KEY=LOW:HIGH`, `--over KEY=LOW:HIGH:log` or `--over KEY=A,B,C`; KEY as in the YAML file"
# The validation loss of two trials must be the same measurement, and what is varied must move it.
_FIXED_SECTIONS = {
    "": "it moves no loss",
    "model": "losses of two models do not count the same tokens",
    "data": "it changes the rows or tokens that the validation loss is measured on",
    "evaluation": "it changes nothing in training",
}
_FIXED = {
    "training.seed": "it decides which rows validate",
    "training.eval_steps": "it decides how often the loss is looked at, and more looks find a lower one",
    "training.save_steps": "it moves no loss",
    "training.save_total_limit": "it moves no loss",
    "training.gradient_checkpointing": "it moves no loss",
}
# More combinations than this are as good as endless: none will be exhausted.
MOST_POINTS = 10_000


@dataclass(frozen=True, slots=True)
class Axis:
    """One field that is varied: over a list of values, or over a range.

    Attributes:
        key: dotted YAML path, such as `training.learning_rate`.
        choices: the values of a list, as the configuration holds them; empty for a range.
        low: least value of a range; whole for whole-numbered fields.
        high: greatest value of a range.
        is_log: whether equal ratios of a range are equally likely, rather than equal differences.
    """

    key: str
    choices: tuple[Any, ...] = ()
    low: Number = 0
    high: Number = 0
    is_log: bool = False

    @property
    def is_whole(self) -> bool:
        """Whether a range holds whole numbers only."""
        return isinstance(self.low, int)

    @property
    def size(self) -> float:
        """How many values there are."""
        if self.choices:
            return len(self.choices)
        return self.high - self.low + 1 if self.is_whole else math.inf

    @property
    def spec(self) -> str:
        """The values as `--over` takes them."""
        if self.choices:
            return ",".join(map(str, self.choices))
        return f"{self.low!r}:{self.high!r}" + (":log" if self.is_log else "")

    def holds(self, value: Any) -> bool:
        """Whether the value is one of the list or within the range."""
        if self.choices:
            return value in self.choices
        return isinstance(value, int | float) and self.low <= value <= self.high

    def points(self) -> Sequence[Any]:
        """Every value, where they can be counted."""
        return self.choices or range(int(self.low), int(self.high) + 1)


def read_axes(over: Sequence[str], base: Resolved) -> tuple[Axis, ...]:
    """The fields to vary.

    Args:
        over: texts such as `training.learning_rate=1e-5:1e-3:log` or `method.rank=8,16,32`.
        base: the configuration whose other values stay.

    Raises:
        ConfigError: lists every problem: unknown fields, empty ranges, values the configuration refuses.
    """
    problems: list[str] = []
    axes: list[Axis] = []
    seen: set[str] = set()
    for text in over:
        key, has_values, spec = (part.strip() for part in text.partition("="))
        try:
            option = _option(key)
            if key in seen:
                raise _Problem("given twice")
            seen.add(key)
            if not has_values or not spec:
                raise _Problem("no values")
            axes.append(_range(option, spec, base) if ":" in spec else _list(option, spec, base))
        except _Problem as problem:
            problems += [f"--over {text}: {line}" for line in problem.lines]
    if not over:
        problems.append("no field is varied: give `--over` at least once")
    if not problems:
        problems = list(dict.fromkeys(_clashes(axes, base)))
    if problems:
        raise ConfigError(listing(problems, what="sweep"), hint=HOW)
    return tuple(axes)


class _Problem(Exception):
    """What is wrong with one `--over`, a line each."""

    def __init__(self, *lines: str) -> None:
        super().__init__(*lines)
        self.lines = lines


def _option(key: str) -> Option:
    known = {option.key: option for option in options()}
    if key not in known:
        raise _Problem(f"unknown field{_near(key, known)}")
    option = known[key]
    reason = _FIXED.get(key) or _FIXED_SECTIONS.get(option.section)
    if reason:
        raise _Problem(f"not to be varied: {reason}")
    return option


def _near(key: str, known: Mapping[str, Option]) -> str:
    """The field that was meant, by its last part, its flag or its looks."""
    name = key.removeprefix("--").replace("-", "_")
    last = name.rpartition(".")[2]
    for option in known.values():
        if last in (option.key.rpartition(".")[2], option.flag.replace("-", "_")):
            return f"; nearest: {option.key}"
    found = nearest(name, known)
    return f"; nearest: {found}" if found else ""


def _range(option: Option, spec: str, base: Resolved) -> Axis:
    low_text, high_text, *rest = (part.strip() for part in spec.split(":"))
    if rest not in ([], ["log"]):
        raise _Problem("a range is LOW:HIGH or LOW:HIGH:log")
    is_log = bool(rest)
    low, high = _values(option, (low_text, high_text), base)
    if not all(isinstance(end, int | float) for end in (low, high)):
        raise _Problem("a range needs a field of numbers; give a list, such as " + _example(option))
    if low >= high:
        raise _Problem(f"an empty range: {low} is not below {high}")
    if is_log and low <= 0:
        raise _Problem(f"a range that begins at {low} has no logarithm; begin above 0, or leave out `:log`")
    return Axis(option.key, low=low, high=high, is_log=is_log)


def _example(option: Option) -> str:
    return f"`{','.join(option.choices[:2]) or 'A,B'}`"


def _list(option: Option, spec: str, base: Resolved) -> Axis:
    texts = [part.strip() for part in spec.split(",")]
    if "" in texts:
        raise _Problem("an empty value in the list")
    values = _values(option, texts, base)
    twice = sorted({str(value) for value in values if values.count(value) > 1})
    if twice:
        raise _Problem(f"{', '.join(twice)} more than once")
    if len(values) == 1:
        raise _Problem(f"one value leaves nothing to compare; set it with `--{option.flag} {texts[0]}`")
    return Axis(option.key, choices=tuple(values))


def _values(option: Option, texts: Sequence[str], base: Resolved) -> list[Any]:
    """The texts as the configuration reads them.

    What only the other values forbid passes here: another field that is varied may allow it.
    """
    found, lines = [], []
    for text in texts:
        try:
            config = resolve(
                None, {"data": base.config.data.path, **_alone(option), option.flag: text}
            ).config
        except ConfigError as error:
            lines += _told(error, option)
        else:
            found.append(_at(config.model_dump(), option.key))
    if lines:
        raise _Problem(*lines)
    return found


def _alone(option: Option) -> dict[str, Any]:
    """Flags with which a field of some methods has an effect."""
    users = METHODS_WITH.get(option.key.rpartition(".")[2])
    return {"method": users[0]} if users and option.section == "method" else {}


def _clashes(axes: Sequence[Axis], base: Resolved) -> Iterator[str]:
    """What the configuration says against values together; its rules join no more than two fields."""
    ends = [[(axis.key, value) for value in axis.choices or (axis.low, axis.high)] for axis in axes]
    for chosen in itertools.combinations(ends, min(2, len(ends))):
        others = [axis[0] for axis in ends if axis not in chosen]
        for group in itertools.product(*chosen):
            try:
                trial_config(base, dict((*group, *others)), origin="")
            except ConfigError as error:
                shown = ", ".join(f"{key}={value}" for key, value in group)
                yield from (f"{shown}: {line}" for line in _told(error))


def _told(error: ConfigError, option: Option | None = None) -> list[str]:
    """The lines of a refused configuration, without the flag that the reader has before him."""
    lines = [line.strip() for line in str(error).splitlines()[1:]]
    return [line.removeprefix(f"--{option.flag}: ") if option else line for line in lines]


def trial_config(base: Resolved, values: Values, *, origin: str) -> Resolved:
    """The base with these values.

    What was not given follows as it does in any configuration: the learning rate its method, and alpha is
    twice the rank where the rank is varied.

    Args:
        base: the configuration whose other values stay.
        values: by key.
        origin: where these values come from, for the comments in YAML.

    Raises:
        ConfigError: if the configuration refuses them.
    """
    flag_of = {option.key: option.flag for option in options()}
    given = {flag_of[key]: value for key, value, from_ in base.rows() if from_ != "default"}
    origins = base.origins | dict.fromkeys(values, origin)
    given |= {flag_of[key]: value for key, value in values.items()}
    is_alpha_free = "method.alpha" not in values and base.origins.get("method.alpha", "default") == "default"
    if "method.rank" in values and is_alpha_free:
        given["alpha"] = 2.0 * values["method.rank"]
        origins["method.alpha"] = f"{origin}, twice the rank"
    return Resolved(resolve(None, given).config, origins)


def values_of(base: Resolved, axes: Sequence[Axis]) -> dict[str, Any]:
    """What the base itself has in the fields that are varied."""
    found = base.config.model_dump()
    return {axis.key: _at(found, axis.key) for axis in axes}


def is_within(base: Resolved, axes: Sequence[Axis]) -> bool:
    """Whether the base is one of the points that the sweep could try."""
    values = values_of(base, axes)
    if not all(axis.holds(values[axis.key]) for axis in axes):
        return False
    return trial_config(base, values, origin="").config == base.config


def point_count(axes: Sequence[Axis]) -> float:
    """How many combinations there are; infinite where a range is continuous."""
    return math.prod(axis.size for axis in axes)


def all_points(axes: Sequence[Axis]) -> Iterator[dict[str, Any]]:
    """Every combination, where they can be counted."""
    for values in itertools.product(*(axis.points() for axis in axes)):
        yield dict(zip((axis.key for axis in axes), values, strict=True))


def rounded(axis: Axis, value: Any) -> Any:
    """A value of a continuous range to three digits, so that it can be read and typed again."""
    if axis.choices or axis.is_whole:
        return value
    return min(max(float(f"{value:.3g}"), float(axis.low)), float(axis.high))


def _at(values: Mapping[str, Any], key: str) -> Any:
    head, _, name = key.rpartition(".")
    return values[head][name] if head else values[name]
