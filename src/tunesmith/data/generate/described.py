"""A task described in a YAML file: fields, templates for prompts and completions, a system message.

    system: Sort reviews.
    fields:
      product: {choices: [kettle, lamp]}
      opinion:
        records:
          - {remark: "works well", mood: good}
          - {remark: "broke at once", mood: bad}
    prompts: ["The {product} {remark}."]
    completions: [{mood: "{mood}"}]

The file is data alone: no tag, alias or template in it can run code or look into an object.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random

from tunesmith.data.generate.draw import Example, Task, distinct
from tunesmith.data.generate.fields import ISO_SUFFIX, Field, pick, read_field, read_weights
from tunesmith.data.generate.providers import new_faker
from tunesmith.data.generate.templates import Complain, Drawn, Template, json_template, text_template
from tunesmith.data.records import kind_of, listed, nearest
from tunesmith.errors import ConfigError
from tunesmith.resolve import listing, read_yaml

KEYS = ("what", "system", "locale", "fields", "prompts", "completions", "weights")
_HINT = (
    "`fields:`, `prompts:` and `completions:` are needed; `examples/tasks/reviews.yaml` shows a whole task"
)


@dataclass(frozen=True, slots=True)
class _Templates:
    """Templates of one part of the row, and their cumulative weights."""

    templates: tuple[Template, ...]
    cumulative: tuple[float, ...] | None

    def pick(self, random: Random) -> Template:
        return self.templates[pick(random, len(self.templates), self.cumulative)]


@dataclass(frozen=True, slots=True)
class _Described:
    fields: tuple[Field, ...]
    prompts: _Templates
    completions: _Templates
    system: str | None

    def draw(self, random: Random) -> Example:
        values: dict[str, Drawn] = {}
        for field in self.fields:
            values |= field.draw(random)
        row = {} if self.system is None else {"system": self.system}
        prompt, completion = self.prompts.pick(random), self.completions.pick(random)
        return row | {"prompt": prompt.fill(values), "completion": completion.fill(values)}


def read_task(file: Path) -> Task:
    """The task that the file describes, named after the file.

    Raises:
        ConfigError: lists every problem of the file, each with its line.
    """
    values, lines = read_yaml(
        file, what="task", missing="name a YAML file, or a ready task: `--list` shows them", example=_HINT
    )
    problems: list[tuple[int, str]] = []

    def complain(key: str, what: str) -> None:
        line = _line(key, lines)
        problems.append((line, f"{file}{f':{line}' if line else ''}: {key}: {what}"))

    described = _read(values, complain)
    if problems:
        in_order = [text for _, text in sorted(problems, key=lambda problem: problem[0])]
        raise ConfigError(listing(in_order, what="task"), hint=_HINT)

    def rows(seed: int, count: int) -> Iterator[Example]:
        return distinct(described.draw, task=file.stem, seed=seed, count=count)

    return Task(file.stem, str(values.get("what") or f"Described in {file}."), rows)


def _line(key: str, lines: Mapping[str, int]) -> int:
    """The line of the key, or of the nearest key around it that has one; 0 if none has."""
    while key and key not in lines:
        key = key.rpartition(".")[0]
    return lines.get(key, 0)


def _read(values: Mapping[str, object], complain: Complain) -> _Described:
    for key in values:
        if key not in KEYS:
            close = nearest(str(key), KEYS)
            complain(
                str(key), f"unknown key; {f'nearest: `{close}`' if close else f'known are {listed(KEYS)}'}"
            )
    for key in ("what", "system"):
        if not isinstance(values.get(key), str | None):
            complain(key, f"{kind_of(values[key])}, not text")
    fields = _fields(values, complain)
    prompts = _templates("prompts", values, complain)
    completions = _templates("completions", values, complain)
    _check_weights_keys(values.get("weights"), complain)
    _check_names(fields, (*prompts.templates, *completions.templates), complain)
    _check_use(fields, prompts.templates, completions.templates, complain)
    system = values.get("system")
    return _Described(
        tuple(fields.values()), prompts, completions, system if isinstance(system, str) else None
    )


def _fields(values: Mapping[str, object], complain: Complain) -> dict[str, Field]:
    given = values.get("fields")
    if not isinstance(given, dict) or not given:
        complain("fields", "needs at least one field, such as `color: {choices: [red, blue]}`")
        return {}
    fake, fields, owners = (
        new_faker(values.get("locale", "en_US"), complain),
        dict[str, Field](),
        dict[str, str](),
    )
    for name, spec in given.items():
        if not isinstance(name, str) or not name.isidentifier():
            complain(f"fields.{name}", "a name has letters, digits and `_` alone")
            continue
        field = read_field(name, spec, complain=complain, fake=fake)
        if field is None:
            field = Field(_names_meant(name, spec), frozenset(), lambda random: {})
        for one in field.names:
            if one in owners:
                complain(f"fields.{name}", f"`{one}` is given by `{owners[one]}` already")
            owners[one] = name
        fields[name] = field
    return fields


def _names_meant(name: str, spec: object) -> tuple[str, ...]:
    """The names of a field with a problem, so that its templates are not blamed for it."""
    records = spec.get("records") if isinstance(spec, dict) else None
    first = records[0] if isinstance(records, list) and records else None
    return (*map(str, first),) if isinstance(first, dict) else (name, f"{name}{ISO_SUFFIX}")


def _templates(key: str, values: Mapping[str, object], complain: Complain) -> _Templates:
    given = values.get(key)
    items = given if isinstance(given, list) else [] if given is None else [given]
    if not items:
        complain(key, "needs at least one template")
    templates = []
    for number, item in enumerate(items):
        place = f"{key}.{number}" if isinstance(given, list) else key
        if isinstance(item, str):
            templates.append(text_template(place, item, complain))
        elif key == "completions" and isinstance(item, dict):
            templates.append(json_template(place, item, complain))
        else:
            complain(place, f"{kind_of(item)}, not text; put quotes around it")
    weights = values.get("weights")
    chosen = weights.get(key) if isinstance(weights, dict) else None
    return _Templates(tuple(templates), read_weights(f"weights.{key}", chosen, len(items), complain))


def _check_weights_keys(weights: object, complain: Complain) -> None:
    if weights is not None and (not isinstance(weights, dict) or set(weights) - {"prompts", "completions"}):
        complain("weights", "holds `prompts` and `completions` alone, each a list of numbers")


def _check_names(fields: Mapping[str, Field], templates: Sequence[Template], complain: Complain) -> None:
    """Templates show fields that there are, and no null inside text."""
    known = [one for field in fields.values() for one in field.names]
    nullable = frozenset[str]().union(*(field.nullable for field in fields.values()))
    for template in templates:
        for name in sorted(template.names - set(known)):
            close = nearest(name, known)
            complain(template.key, f"{{{name}}} is no field{f'; nearest: `{close}`' if close else ''}")
        for name in sorted(template.in_text & nullable):
            complain(template.key, f"{{{name}}} can be null, which text has no word for")


def _check_use(
    fields: Mapping[str, Field],
    prompts: Sequence[Template],
    completions: Sequence[Template],
    complain: Complain,
) -> None:
    """Each field is shown, and what a completion shows can be read off every prompt."""
    owners = {one: name for name, field in fields.items() for one in field.names}
    used = {owners.get(name) for template in (*prompts, *completions) for name in template.names}
    for name in fields:
        if name not in used:
            complain(f"fields.{name}", "is in no template")
    for completion in completions:
        for prompt in prompts:
            needed = {owners[name] for name in completion.names if name in owners}
            for name in sorted(needed - {owners.get(shown) for shown in prompt.names}):
                what = f"shows `{name}`, of which `{prompt.key}` says nothing: it cannot be learned"
                complain(completion.key, what)
