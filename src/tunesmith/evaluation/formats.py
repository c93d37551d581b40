"""Strict JSON: what RFC 8259 allows, and nothing that two parsers would read differently.

The parser of the standard library takes more than that (NaN, the last of two equal keys), so an
answer it accepts can still break the program which reads it.
"""

import json
import math
import re
from dataclasses import dataclass
from typing import Any, NoReturn

NESTING_LIMIT = 100
"""Deepest nesting of arrays and objects that is read, in levels."""

# An unterminated string runs to the end of the text, so each character is read once.
_STRING = re.compile(r'"(?:[^"\\]|\\.)*+(?:"|\\?\Z)', re.DOTALL)


@dataclass(frozen=True, slots=True)
class JsonValue:
    """A text that parsed; `value` may be any JSON value, None included."""

    value: Any


@dataclass(frozen=True, slots=True)
class JsonFailure:
    """A text that did not parse, and why.

    Attributes:
        reason: the cause, such as "duplicate key `name`".
        line: 1-based line of it, or None where the parser does not say.
        column: 1-based column in characters, or None.
    """

    reason: str
    line: int | None = None
    column: int | None = None


def parse_strict_json(text: str) -> JsonValue | JsonFailure:
    """Value of `text` as JSON, or why it has none. Raises nothing.

    Refused beyond the grammar of RFC 8259: duplicate keys, NaN and Infinity, numbers too large for
    a double, integers longer than Python converts, and nesting deeper than `NESTING_LIMIT`.
    White space around the value is part of JSON; a code fence is not.
    """
    levels = _nesting_levels(text)
    if levels > NESTING_LIMIT:
        return JsonFailure(f"nested {levels} levels deep; the limit is {NESTING_LIMIT}")
    try:
        value = json.loads(
            text,
            object_pairs_hook=_object_without_duplicates,
            parse_constant=_refuse_constant,
            parse_float=_finite_float,
        )
    except json.JSONDecodeError as error:
        return JsonFailure(error.msg, error.lineno, error.colno)
    except ValueError as error:
        return JsonFailure(str(error))
    return JsonValue(value)


def equal_json(left: Any, right: Any) -> bool:
    """Whether two parsed values are the same JSON: 1 equals 1.0, but true does not equal 1."""
    if isinstance(left, bool) or isinstance(right, bool):
        return left is right
    if isinstance(left, dict) and isinstance(right, dict):
        return left.keys() == right.keys() and all(equal_json(left[key], right[key]) for key in left)
    if isinstance(left, list) and isinstance(right, list):
        return len(left) == len(right) and all(map(equal_json, left, right))
    return bool(left == right)


def _nesting_levels(text: str) -> int:
    level = deepest = 0
    for char in _STRING.sub("", text):
        if char in "[{":
            level += 1
            deepest = max(deepest, level)
        elif char in "]}":
            level -= 1
    return deepest


def _object_without_duplicates(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    value: dict[str, Any] = {}
    for key, item in pairs:
        if key in value:
            raise ValueError(f"duplicate key `{key}`")
        value[key] = item
    return value


def _refuse_constant(name: str) -> NoReturn:
    raise ValueError(f"`{name}` is not JSON")


def _finite_float(digits: str) -> float:
    number = float(digits)
    if math.isinf(number):
        raise ValueError(f"number `{digits}` is outside the range of a double")
    return number
