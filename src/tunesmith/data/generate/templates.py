"""Templates of a described task: text with `{field}`, and JSON with such text in it.

Nothing is ever formatted by Python's own `format`, which would let a template look into objects.
"""

import json
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from string import Formatter

Scalar = str | int | float | bool | None
Complain = Callable[[str, str], None]  # key of the YAML file, what is wrong there


@dataclass(frozen=True, slots=True)
class Drawn:
    """One value of a field: as text, and as JSON has it."""

    text: str
    value: Scalar


@dataclass(frozen=True, slots=True)
class Template:
    """What a template needs and how it is filled.

    Attributes:
        key: where it stands in the file, such as `prompts.0`.
        names: the fields that it shows.
        in_text: those of them that are written into text, where null has no place.
        fill: the drawn values by name to the text.
    """

    key: str
    names: frozenset[str]
    in_text: frozenset[str]
    fill: Callable[[Mapping[str, Drawn]], str]


def text_template(key: str, text: str, complain: Complain) -> Template:
    """Text with `{field}` placeholders; `{{` and `}}` stand for single braces.

    Complains about a brace without its pair, and about all that is more than a name: `{a.b}`, `{a[0]}`,
    `{a!r}` and `{a:>9}`.
    """
    parts = list(_parts(key, text, complain))
    names = frozenset(name for _, name in parts if name)

    def fill(values: Mapping[str, Drawn]) -> str:
        return "".join(literal + (values[name].text if name else "") for literal, name in parts)

    return Template(key, names, names, fill)


def _parts(key: str, text: str, complain: Complain) -> Iterator[tuple[str, str]]:
    """Literal text and the name behind it, which is empty at the end."""
    try:
        parsed = list(Formatter().parse(text))
    except ValueError as error:
        complain(key, f"{error}; write `{{{{` for a brace that is meant")
        return
    for literal, name, spec, conversion in parsed:
        if name is None:
            yield literal, ""
        elif conversion or spec or not name.isidentifier():
            whole = name + (f"!{conversion}" if conversion else "") + (f":{spec}" if spec else "")
            complain(key, f"`{{{whole}}}` is not the bare name of a field")
        else:
            yield literal, name


def json_template(key: str, value: object, complain: Complain) -> Template:
    """A value that becomes compact JSON; texts in it may hold placeholders, and one alone keeps its type."""
    pieces: list[Template] = []
    lone: set[str] = set()
    build = _json(key, value, complain, pieces, lone)
    in_text = frozenset[str]().union(*(piece.in_text for piece in pieces))

    def fill(values: Mapping[str, Drawn]) -> str:
        return json.dumps(build(values), ensure_ascii=False, separators=(",", ":"))

    return Template(key, in_text | lone, in_text, fill)


def _json(
    key: str, value: object, complain: Complain, pieces: list[Template], lone: set[str]
) -> Callable[[Mapping[str, Drawn]], object]:
    if isinstance(value, dict):
        return _json_object(key, value, complain, pieces, lone)
    if isinstance(value, list):
        items = [_json(f"{key}.{n}", item, complain, pieces, lone) for n, item in enumerate(value)]
        return lambda values: [item(values) for item in items]
    if isinstance(value, str):
        piece = text_template(key, value, complain)
        if len(piece.names) == 1 and value == f"{{{(name := min(piece.names))}}}":
            lone.add(name)
            return lambda values: values[name].value
        pieces.append(piece)
        return piece.fill
    if not isinstance(value, int | float | None):
        complain(key, f"{value} is no JSON value; put quotes around it")
    return lambda values: value


def _json_object(
    key: str, value: dict[object, object], complain: Complain, pieces: list[Template], lone: set[str]
) -> Callable[[Mapping[str, Drawn]], object]:
    members = {}
    for name, item in value.items():
        below = f"{key}.{name}"
        if not isinstance(name, str) or "{" in name:
            complain(below, "a key of JSON is plain text; put quotes around it, and no field into it")
        elif _is_bare_placeholder(item):
            complain(below, 'YAML reads `{field}` without quotes as an object; write `"{field}"`')
        else:
            members[name] = _json(below, item, complain, pieces, lone)
    return lambda values: {name: member(values) for name, member in members.items()}


def _is_bare_placeholder(item: object) -> bool:
    return isinstance(item, dict) and len(item) == 1 and next(iter(item.values())) is None
