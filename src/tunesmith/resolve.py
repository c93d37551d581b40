"""From a YAML file and flags to one checked configuration, with the origin of each value.

All problems are found before any is reported, each with its place and the nearest name for a typo.
"""

import types
import typing
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ValidationError

from tunesmith.config import RunConfig
from tunesmith.errors import ConfigError

Origins = dict[str, str]


@dataclass(frozen=True, slots=True)
class Option:
    """One field of the configuration: its key in YAML, its flag, and its help.

    Attributes:
        key: dotted YAML path, such as `training.learning_rate`.
        flag: command-line name without dashes in front, such as `learning-rate`.
        section: `training`, or "" at the top.
        help: the field's docstring.
        choices: the values it is limited to, if it is.
        default: value where nothing is given; None where `is_required`.
        is_required: whether it has no default.
    """

    key: str
    flag: str
    section: str
    help: str
    choices: tuple[str, ...]
    default: Any
    is_required: bool


@dataclass(frozen=True, slots=True)
class Resolved:
    """A checked configuration and, by key, where each value came from."""

    config: RunConfig
    origins: Origins

    def rows(self) -> list[tuple[str, Any, str]]:
        """(key, value, origin) of every option, in order."""
        values = self.config.model_dump()
        return [(o.key, _at(values, o.key), self.origins.get(o.key, "default")) for o in options()]

    def to_repeat(self) -> "Resolved":
        """The same run from any working folder: paths made absolute, the run folder left open."""
        data, model = self.config.data, self.config.model
        files = {
            name: str(Path(value).resolve())
            for name in ("path", "validation_file", "test_file", "template")
            if (value := getattr(data, name)) and Path(value).is_file()
        }
        name = str(Path(model.name).resolve()) if Path(model.name).exists() else model.name
        changes = {
            "output_dir": None,
            "data": data.model_copy(update=files),
            "model": model.model_copy(update={"name": name}),
        }
        return Resolved(self.config.model_copy(update=changes), self.origins)

    def as_yaml(self) -> str:
        """The whole configuration as YAML, each value with its origin as a comment; reads back unchanged."""
        lines = ["# The resolved configuration of a run; `tunesmith train` on this file repeats it.", ""]
        section = ""
        for key, value, origin in self.rows():
            head, _, name = key.rpartition(".")
            if head != section:
                section = head
                lines.append(f"{head}:")
            indent = "  " if head else ""
            lines.append(f"{indent}{name or key}: {_inline(value)}  # {origin}")
        return "\n".join(lines) + "\n"


def options() -> list[Option]:
    """Every option of the configuration, in the order of its sections."""
    return list(_options(RunConfig, section=""))


def _options(model: type[BaseModel], *, section: str) -> Iterator[Option]:
    for name, field in model.model_fields.items():
        if isinstance(field.annotation, type) and issubclass(field.annotation, BaseModel):
            yield from _options(field.annotation, section=name)
            continue
        extra = field.json_schema_extra if isinstance(field.json_schema_extra, dict) else {}
        flag = str(extra.get("flag", name)).replace("_", "-")
        yield Option(
            key=f"{section}.{name}" if section else name,
            flag=flag,
            section=section,
            help=field.description or "",
            choices=tuple(_choices(field.annotation)),
            default=None if field.is_required() else field.get_default(call_default_factory=True),
            is_required=field.is_required(),
        )


def _choices(annotation: Any) -> Iterator[str]:
    if typing.get_origin(annotation) is Literal:
        yield from map(str, typing.get_args(annotation))
    elif typing.get_origin(annotation) in (typing.Union, types.UnionType):
        for part in typing.get_args(annotation):
            yield from _choices(part)


def resolve(file: Path | None = None, flags: Mapping[str, Any] | None = None) -> Resolved:
    """Defaults, then the file, then the flags; checked as a whole.

    Args:
        file: YAML configuration, or None.
        flags: by flag name without leading dashes; a name that is no option is reported as a typo.

    Raises:
        ConfigError: lists every problem with its place.
    """
    values, lines = read_yaml(file) if file else ({}, {})
    # A section with all its keys commented out is an empty one.
    sections = {option.section for option in options()}
    values |= {key: {} for key, value in values.items() if value is None and key in sections}
    places = {key: f"{file}:{line}" for key, line in lines.items()}
    origins = {key: str(file) for key in lines}
    by_flag = {option.flag: option for option in options()}
    problems: list[str] = []
    for flag, value in (flags or {}).items():
        option = by_flag.get(flag)
        if option is None:
            problems.append(f"--{flag}: no such flag{_nearest(flag, by_flag, prefix='--')}")
            continue
        _put(values, option.key, value)
        places[option.key] = origins[option.key] = f"--{flag}"
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        found = [dict(item) for item in error.errors() if not _is_second_branch(item["loc"])]
        problems += [_explain(item, places, values) for item in found]
    if problems:
        raise ConfigError(
            listing(problems), hint="`tunesmith train --help` lists every option with its default"
        )
    return Resolved(config, {option.key: origins.get(option.key, "default") for option in options()})


def _is_second_branch(location: tuple[int | str, ...]) -> bool:
    """Whether this is the same value refused again, as a list, where a word would do as well."""
    return location[-1:] == ("list[str]",)


def listing(problems: list[str], *, what: str = "configuration") -> str:
    """All problems of a file in one message, one a line."""
    count = "a problem" if len(problems) == 1 else f"{len(problems)} problems"
    return f"the {what} has {count}:\n" + "\n".join(f"  {problem}" for problem in problems)


def _explain(error: dict[str, Any], places: Mapping[str, str], values: Mapping[str, Any]) -> str:
    """One pydantic error as: place, key, what is wrong with which value."""
    known = {option.key: option for option in options()}
    path = [str(part) for part in error["loc"]]
    key = next(
        (k for k in (".".join(path[:n]) for n in range(len(path), 0, -1)) if k in known), ".".join(path)
    )
    place = places.get(key) or places.get(".".join(path)) or places.get(path[0] if path else "", "")
    head = place if place.startswith("--") else ": ".join(part for part in (place, key) if part)
    kind, value = error["type"], error.get("input")
    if kind == "missing":
        needed = [o for o in known.values() if o.is_required and o.key.startswith(key)]
        return "; ".join(
            f"{option.key}: required, and not given (flag `--{option.flag}`)" for option in needed
        )
    if kind == "extra_forbidden":
        siblings = _siblings(path[:-1])
        return f"{head}: unknown key{_nearest(path[-1], siblings)}"
    if kind == "literal_error":
        choices = known[key].choices
        return f"{head}: {value!r} is none of {', '.join(choices)}{_nearest(str(value), choices)}"
    if kind in ("float_parsing", "int_parsing", "float_type", "int_type", "int_from_float"):
        wanted = "a number" if kind.startswith("float") else "a whole number"
        return f"{head}: {value!r} is not {wanted}"
    message = str(error["msg"]).removeprefix("Value error, ").removeprefix("Input ")
    return (
        f"{head}: {value!r} {message}"
        if error["msg"].startswith("Input")
        else f"{head or 'together'}: {message}"
    )


def _siblings(path: list[str]) -> list[str]:
    fields: Any = RunConfig
    for part in path:
        fields = fields.model_fields[part].annotation
    return list(fields.model_fields)


def _nearest(name: str, known: Any, *, prefix: str = "") -> str:
    near = get_close_matches(name, list(known), n=1, cutoff=0.5)
    return f"; nearest: {prefix}{near[0]}" if near else ""


_FLAGS = "give a YAML file, or use flags alone: `tunesmith train --data FILE`"
_EXAMPLE = "begin with `data:` and, indented below it, `path: rows.json`"


class _StrictLoader(yaml.SafeLoader):
    """YAML without aliases, which can blow a small file up to gigabytes."""

    def compose_node(self, parent: Any, index: Any) -> Any:
        if self.check_event(yaml.AliasEvent):
            mark = self.peek_event().start_mark  # type: ignore[no-untyped-call]
            raise yaml.MarkedYAMLError(problem="aliases (`*name`) are not allowed here", problem_mark=mark)
        return super().compose_node(parent, index)


def read_yaml(
    file: Path, *, what: str = "configuration", missing: str = _FLAGS, example: str = _EXAMPLE
) -> tuple[dict[str, Any], dict[str, int]]:
    """The values of a safe subset of YAML and, by dotted key (`data.path`, `rows.0`), their 1-based lines.

    Tags that build Python objects, aliases and keys given twice are refused.

    Args:
        file: the YAML file, UTF-8.
        what: what the file is to the user, for the message.
        missing: the hint for a file that cannot be read.
        example: the hint for a file without keys.

    Raises:
        ConfigError: for a file that is missing, not YAML, not a mapping, or names a key twice.
    """
    try:
        text = file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        near = _nearest(
            file.name, [p.name for p in file.parent.glob("*.y*ml")] if file.parent.is_dir() else []
        )
        raise ConfigError(
            f"{what} `{file}` cannot be read: {getattr(error, 'strerror', None) or error}{near}",
            hint=missing,
        ) from error
    try:
        loader = _StrictLoader(text)
        node = loader.get_single_node()
        lines, twice = _key_lines(node)
        values = loader.construct_document(node) if node is not None else {}
    # PyYAML lets a date such as 2024-99-99 and a tag such as `!!bool x` fail as Python does.
    except (yaml.YAMLError, RecursionError, ValueError, LookupError, AttributeError) as error:
        mark = getattr(error, "problem_mark", None)
        place = f"{file}:{mark.line + 1}" if mark else str(file)
        raise ConfigError(
            f"{place}: not valid YAML: {getattr(error, 'problem', None) or error}",
            hint="mend that line" if mark else "put quotes around dates and other odd values",
        ) from error
    if not isinstance(values, dict):
        raise ConfigError(f"{file}: holds {type(values).__name__}, not keys with values", hint=example)
    if twice:
        raise ConfigError(
            listing([f"{file}:{line}: {key}: given twice" for key, line in twice], what=what),
            hint="keep one of them",
        )
    return values, lines


def _key_lines(node: Any, prefix: str = "") -> tuple[dict[str, int], list[tuple[str, int]]]:
    """Lines by dotted key, and the keys that occur twice."""
    lines: dict[str, int] = {}
    twice: list[tuple[str, int]] = []
    for key_node, value_node in _pairs(node):
        key = f"{prefix}{key_node.value}"
        line = key_node.start_mark.line + 1
        if key in lines:
            twice.append((key, line))
        lines[key] = line
        below, below_twice = _key_lines(value_node, f"{key}.")
        lines |= below
        twice += below_twice
    return lines, twice


def _pairs(node: Any) -> Iterator[tuple[Any, Any]]:
    """Keys and values of a mapping; of a list, the positions and the items."""
    if isinstance(node, yaml.MappingNode):
        yield from node.value
    elif isinstance(node, yaml.SequenceNode):
        for position, item in enumerate(node.value):
            yield yaml.ScalarNode("tag:yaml.org,2002:int", str(position), item.start_mark), item


def _put(values: dict[str, Any], key: str, value: Any) -> None:
    head, _, name = key.rpartition(".")
    section = values.setdefault(head, {}) if head else values
    if isinstance(section, dict):
        section[name] = value


def _at(values: Mapping[str, Any], key: str) -> Any:
    head, _, name = key.rpartition(".")
    return values[head][name] if head else values[name]


def _inline(value: Any) -> str:
    # YAML counts more characters as line breaks than Python does; double quotes escape them all.
    style = '"' if "\\" in repr(value) else None
    text: str = yaml.safe_dump(
        value, default_flow_style=True, default_style=style, allow_unicode=True, width=10**9
    )
    return text.removesuffix("...\n").strip()
