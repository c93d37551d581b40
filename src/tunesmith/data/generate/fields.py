"""Fields of a described task: where the values come from that its templates show."""

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime, timedelta
from decimal import Decimal
from random import Random
from string import ascii_uppercase, digits
from typing import TYPE_CHECKING

from tunesmith.data.generate.providers import provider
from tunesmith.data.generate.spellings import MONTHS, WEEKDAYS
from tunesmith.data.generate.templates import Complain, Drawn, Scalar
from tunesmith.data.records import kind_of, listed, nearest

if TYPE_CHECKING:
    from faker import Faker

Values = dict[str, Drawn]
Spec = Mapping[str, object]

ISO_SUFFIX = "_iso"
MAX_DECIMALS = 6


@dataclass(frozen=True, slots=True)
class Field:
    """One field: the names that templates can use, which of them can be null, and how values are drawn."""

    names: tuple[str, ...]
    nullable: frozenset[str]
    draw: Callable[[Random], Values]


@dataclass(frozen=True, slots=True)
class _Place:
    """Where a field is described, and with what."""

    name: str
    key: str
    spec: Spec
    complain: Complain
    fake: "Faker"


def read_field(name: str, spec: object, *, complain: Complain, fake: "Faker") -> Field | None:
    """The field as described, or None where its description has a problem.

    Args:
        name: of the field, checked already.
        spec: its description: one of `KINDS`, and what belongs to it.
        complain: takes each problem.
        fake: source of Faker's values.
    """
    key = f"fields.{name}"
    if not isinstance(spec, dict):
        complain(key, f"{kind_of(spec)}, not a description such as `choices: [red, blue]`")
        return None
    kinds = [kind for kind in KINDS if kind in spec]
    known = [*KINDS, *(more for _, extras in KINDS.values() for more in extras)]
    for word in spec:
        if word not in known:
            close = nearest(str(word), known)
            complain(f"{key}.{word}", f"unknown key; {_did_you_mean(close, listed(KINDS))}")
    if len(kinds) != 1:
        complain(key, f"needs one of {listed(KINDS)}, and has {listed(kinds) or 'none'}")
        return None
    read, extras = KINDS[kinds[0]]
    for word in spec:
        if word in known and word not in (kinds[0], *extras):
            complain(f"{key}.{word}", f"does not go with `{kinds[0]}`")
    return read(_Place(name, key, spec, complain, fake))


def _did_you_mean(close: str | None, all_of_them: str) -> str:
    return f"nearest: `{close}`" if close else f"known are {all_of_them}"


def as_drawn(value: Scalar) -> Drawn:
    """A value as it is, with its text: `true`, `null` and numbers as JSON writes them."""
    words = {True: "true", False: "false", None: "null"}
    return Drawn(words[value] if value is None or isinstance(value, bool) else str(value), value)


def _is_scalar(value: object) -> bool:
    return value is None or (isinstance(value, str | int | float) and value == value)  # NaN is not itself


def read_weights(key: str, weights: object, count: int, complain: Complain) -> tuple[float, ...] | None:
    """Cumulative weights, or None if there are none or they are wrong."""
    if weights is None:
        return None
    numbers = weights if isinstance(weights, list) else []
    good = all(isinstance(w, int | float) and not isinstance(w, bool) and 0 < w < math.inf for w in numbers)
    if len(numbers) != count or not good:
        complain(key, f"needs {count} numbers above 0, one for each of the {count}")
        return None
    return tuple(sum(numbers[: n + 1]) for n in range(count))


def pick(random: Random, count: int, cumulative: Sequence[float] | None) -> int:
    """A position below `count`, by weight."""
    if cumulative is None:
        return random.randrange(count)
    return random.choices(range(count), cum_weights=cumulative)[0]


def _choices(place: _Place) -> Field | None:
    given = place.spec["choices"]
    if not isinstance(given, list) or not given or not all(map(_is_scalar, given)):
        place.complain(f"{place.key}.choices", "needs a list of texts or numbers")
        return None
    values = [as_drawn(value) for value in given]
    cumulative = read_weights(f"{place.key}.weights", place.spec.get("weights"), len(values), place.complain)
    nullable = frozenset([place.name] if None in given else [])
    return Field(
        (place.name,), nullable, lambda random: {place.name: values[pick(random, len(values), cumulative)]}
    )


def _records(place: _Place) -> Field | None:
    given, key = place.spec["records"], f"{place.key}.records"
    if not isinstance(given, list) or not given or not all(isinstance(row, dict) and row for row in given):
        place.complain(key, "needs a list of objects, such as `- {aspect: battery, mood: good}`")
        return None
    names = tuple(str(name) for name in given[0])
    for number, row in enumerate(given):
        if tuple(map(str, row)) != names:
            place.complain(f"{key}.{number}", f"has other keys than the first, which has {listed(names)}")
        elif not all(map(_is_scalar, row.values())):
            place.complain(f"{key}.{number}", "holds something else than texts and numbers")
    for name in names:
        if not name.isidentifier():
            place.complain(key, f"`{name}` cannot be used as {{{name}}}: letters, digits and `_` alone")
    cumulative = read_weights(f"{place.key}.weights", place.spec.get("weights"), len(given), place.complain)
    rows = [{str(name): _drawn_or_text(value) for name, value in row.items()} for row in given]
    nullable = frozenset(name for row in rows for name, drawn in row.items() if drawn.value is None)
    return Field(names, nullable, lambda random: rows[pick(random, len(rows), cumulative)])


def _drawn_or_text(value: object) -> Drawn:
    """Also of a value that was complained about, so that reading can go on."""
    return as_drawn(value) if isinstance(value, str | int | float | None) else as_drawn(str(value))


def _number(place: _Place) -> Field | None:
    ends, step = place.spec["number"], place.spec.get("step", 1)
    if not isinstance(ends, list) or len(ends) != 2 or not all(map(_is_number, ends)) or ends[0] >= ends[1]:
        place.complain(f"{place.key}.number", "needs the smallest and the largest, such as `[1, 100]`")
        return None
    if not _is_number(step) or float(str(step)) <= 0:
        place.complain(f"{place.key}.step", f"{step!r} is not a number above 0")
        return None
    low, high, by = (Decimal(str(number)) for number in (*ends, step))
    needed = max(_decimals(low), _decimals(by))
    decimals = place.spec.get("decimals", needed)
    if not isinstance(decimals, int) or isinstance(decimals, bool) or not needed <= decimals <= MAX_DECIMALS:
        place.complain(
            f"{place.key}.decimals", f"{decimals!r} is not a whole number from {needed} to {MAX_DECIMALS}"
        )
        return None
    count = int((high - low) / by) + 1

    def draw(random: Random) -> Values:
        exact = low + by * random.randrange(count)
        return {place.name: Drawn(f"{exact:.{decimals}f}", float(exact) if needed else int(exact))}

    return Field((place.name,), frozenset(), draw)


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool) and math.isfinite(value)


def _decimals(number: Decimal) -> int:
    return max(0, -int(number.normalize().as_tuple().exponent))


_DIRECTIVE = re.compile(r"%(-?.?)", re.DOTALL)
_DIRECTIVES: dict[str, Callable[[date], str]] = {
    "d": lambda day: f"{day.day:02}",
    "-d": lambda day: str(day.day),
    "m": lambda day: f"{day.month:02}",
    "-m": lambda day: str(day.month),
    "B": lambda day: MONTHS[day.month - 1],
    "b": lambda day: MONTHS[day.month - 1][:3],
    "Y": lambda day: f"{day.year:04}",
    "y": lambda day: f"{day.year % 100:02}",
    "A": lambda day: WEEKDAYS[day.weekday()],
    "a": lambda day: WEEKDAYS[day.weekday()][:3],
    "%": lambda day: "%",
}


def _date(place: _Place) -> Field | None:
    ends = place.spec["date"]
    days = [_as_date(end) for end in ends] if isinstance(ends, list) else []
    first, last = (days[0], days[1]) if len(days) == 2 else (None, None)
    if first is None or last is None or first >= last:
        place.complain(
            f"{place.key}.date", "needs the first and the last day, such as `[2024-01-01, 2025-12-31]`"
        )
        return None
    given = place.spec.get("formats", ["%Y-%m-%d"])
    formats = [given] if isinstance(given, str) else given
    if not isinstance(formats, list) or not formats or not all(isinstance(form, str) for form in formats):
        place.complain(f"{place.key}.formats", 'needs texts such as `["%-d %B %Y"]`')
        return None
    unknown = {found for form in formats for found in _DIRECTIVE.findall(form) if found not in _DIRECTIVES}
    if unknown:
        known = listed(f"%{name}" for name in _DIRECTIVES)
        place.complain(
            f"{place.key}.formats",
            f"{listed(f'%{name}' for name in sorted(unknown))} unknown; known are {known}",
        )
        return None
    iso, start, count = f"{place.name}{ISO_SUFFIX}", first, (last - first).days + 1

    def draw(random: Random) -> Values:
        day = start + timedelta(days=random.randrange(count))
        text = _DIRECTIVE.sub(lambda found: _DIRECTIVES[found[1]](day), random.choice(formats))
        return {place.name: Drawn(text, text), iso: Drawn(day.isoformat(), day.isoformat())}

    return Field((place.name, iso), frozenset(), draw)


def _as_date(value: object) -> date | None:
    return value if isinstance(value, date) and not isinstance(value, datetime) else None


def _pattern(place: _Place) -> Field | None:
    pattern = place.spec["pattern"]
    if not isinstance(pattern, str) or not re.search(r"[#?]", pattern):
        place.complain(
            f"{place.key}.pattern", "needs text with `#` for a digit or `?` for a letter, in quotes"
        )
        return None
    pools = {"#": digits, "?": ascii_uppercase}

    def draw(random: Random) -> Values:
        text = "".join(random.choice(pools.get(sign, sign)) for sign in pattern)
        return {place.name: Drawn(text, text)}

    return Field((place.name,), frozenset(), draw)


def _faker(place: _Place) -> Field | None:
    call = provider(place.key, place.spec, complain=place.complain, fake=place.fake)
    if call is None:
        return None

    def draw(random: Random) -> Values:
        place.fake.factories[0].random = random
        return {place.name: as_drawn(call())}

    return Field((place.name,), frozenset(), draw)


KINDS: dict[str, tuple[Callable[[_Place], Field | None], tuple[str, ...]]] = {
    "choices": (_choices, ("weights",)),
    "records": (_records, ("weights",)),
    "number": (_number, ("step", "decimals")),
    "date": (_date, ("formats",)),
    "pattern": (_pattern, ()),
    "faker": (_faker, ("arguments",)),
}
