"""What the user demands of every answer: a JSON Schema, a regular expression, one of a list.

All is read and compiled before anything is generated, so that a slip costs no waiting.
"""

import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.config import EvaluationConfig
from tunesmith.errors import ConfigError
from tunesmith.evaluation.formats import JsonFailure, JsonValue, parse_strict_json

MOST_CHOICES = 50
"""References that take more different values than this are no list of labels."""
LEAST_REPEATS = 2
"""Each value must stand for this many references on average before they count as labels."""

# Keywords whose contents are values, not schemas.
_VALUES = frozenset({"const", "enum", "default", "examples"})


@dataclass(frozen=True, slots=True)
class AnswerChecks:
    """Demands on the form of answers; each is a metric where it is given.

    Attributes:
        schema: a JSON Schema that was checked, or None.
        pattern: a regular expression for the whole answer, outer white space aside, or None.
        choices: the allowed answers; empty lets the references decide.
    """

    schema: Mapping[str, Any] | None = None
    pattern: str | None = None
    choices: tuple[str, ...] = ()


NO_CHECKS = AnswerChecks()


def checks_of(settings: EvaluationConfig) -> AnswerChecks:
    """The checks that the configuration asks for, ready to use.

    Raises:
        ConfigError: if the schema cannot be read or is none, the expression is none, or a choice is empty.
    """
    return AnswerChecks(
        schema=None if settings.answer_schema is None else _read_schema(Path(settings.answer_schema)),
        pattern=None if settings.answer_pattern is None else _checked_pattern(settings.answer_pattern),
        choices=_checked_choices(settings.answer_choices),
    )


def schema_check(schema: Mapping[str, Any]) -> Callable[[str], bool]:
    """Whether a text is strict JSON that obeys the schema. Nothing is ever fetched.

    A value nested so deep that the schema cannot be followed into it counts as not obeying.
    """
    validator = _validator(schema)

    def holds(text: str) -> bool:
        result = parse_strict_json(text)
        try:
            return isinstance(result, JsonValue) and bool(validator.is_valid(result.value))
        except RecursionError:
            return False

    return holds


def pattern_check(pattern: str) -> Callable[[str], bool]:
    """Whether the whole text, outer white space aside, matches the regular expression."""
    compiled = re.compile(pattern)
    return lambda text: compiled.fullmatch(text.strip()) is not None


def choice_check(choices: Sequence[str]) -> Callable[[str], bool]:
    """Whether the text, outer white space aside, is one of the choices."""
    allowed = frozenset(choice.strip() for choice in choices)
    return lambda text: text.strip() in allowed


def choices_among(references: Sequence[Sequence[str]]) -> tuple[str, ...]:
    """The labels that the references use, sorted; empty where they are no labels.

    Labels are 2 to `MOST_CHOICES` different values, each standing for `LEAST_REPEATS` references on average.
    """
    values = [reference.strip() for given in references for reference in given]
    labels = sorted(set(values))
    is_list = 2 <= len(labels) <= MOST_CHOICES and len(values) >= LEAST_REPEATS * len(labels)
    return tuple(labels) if is_list and all(labels) else ()


def _read_schema(path: Path) -> Mapping[str, Any]:
    try:
        text = path.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise ConfigError(
            f"`answer_schema` `{path}` cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="name a JSON Schema file in UTF-8: `--answer-schema FILE.json`",
        ) from error
    result = parse_strict_json(text)
    if isinstance(result, JsonFailure):
        place = f"{path}:{result.line}" if result.line else str(path)
        raise ConfigError(
            f"`answer_schema` {place} is no JSON: {result.reason}",
            hint="write the schema as one JSON object; `tunesmith data format` shows what is wrong",
        )
    if not isinstance(result.value, dict):
        raise ConfigError(
            f"`answer_schema` `{path}` is no JSON object",
            hint='write a schema such as {"type": "object", "required": ["name"]}',
        )
    _check_schema(result.value, path)
    return result.value


def _check_schema(schema: Mapping[str, Any], path: Path) -> None:
    """Refuse what is no schema, and what refers to anything outside it."""
    from jsonschema.exceptions import SchemaError
    from jsonschema_specifications import REGISTRY  # type: ignore[import-untyped]
    from referencing.exceptions import Unresolvable
    from referencing.jsonschema import DRAFT202012, specification_with

    try:
        validator = _validator(schema)
        validator.check_schema(schema)
    except SchemaError as error:
        raise ConfigError(
            f"`answer_schema` `{path}` is no JSON Schema: at `{error.json_path}`: {error.message}",
            hint="correct the schema at that place; see https://json-schema.org/understanding-json-schema",
        ) from error
    dialect = specification_with(str(schema.get("$schema", "")), default=DRAFT202012)
    resolver = REGISTRY.resolver_with_root(dialect.create_resource(schema))
    for reference in _schema_references(schema):
        try:
            resolver.lookup(reference)
        except Unresolvable as error:
            raise ConfigError(
                f"`answer_schema` `{path}` refers to `{reference}`, which is not in it",
                hint="put what is referred to under `$defs` of the same file; nothing is fetched",
            ) from error


def _validator(schema: Mapping[str, Any]) -> Any:
    """A compiled validator with a registry of its own: the library's default one would fetch from the net."""
    from jsonschema.validators import Draft202012Validator, validator_for
    from referencing import Registry

    has_dialect = isinstance(schema.get("$schema"), str)
    kind = validator_for(schema, default=Draft202012Validator) if has_dialect else Draft202012Validator
    return kind(schema, registry=Registry())


def _schema_references(part: Any) -> Iterator[str]:
    if isinstance(part, dict):
        if isinstance(part.get("$ref"), str):
            yield part["$ref"]
        for key, inner in part.items():
            if key not in _VALUES:
                yield from _schema_references(inner)
    elif isinstance(part, list):
        for inner in part:
            yield from _schema_references(inner)


def _checked_pattern(pattern: str) -> str:
    try:
        re.compile(pattern)
    except (re.error, RecursionError, OverflowError) as error:
        raise ConfigError(
            f"`answer_pattern` `{pattern}` is no regular expression: {error}",
            hint="write it as Python's `re` reads it, with `\\` before signs that mean themselves",
        ) from error
    return pattern


def _checked_choices(choices: Sequence[str]) -> tuple[str, ...]:
    if not all(choice.strip() for choice in choices):
        raise ConfigError(
            "`answer_choices` holds an empty answer", hint="leave it out, or name the answer by a word"
        )
    return tuple(choices)
