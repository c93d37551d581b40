"""From findings to a corrected configuration that is valid, and says on each changed line why."""

import difflib
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from shlex import quote
from typing import Any

from pydantic import ValidationError

from tunesmith.config import LEARNING_RATES, METHODS_WITH, MethodConfig, RunConfig, TrainingConfig
from tunesmith.doctor.finding import Change, Finding
from tunesmith.resolve import Resolved, options

UNKNOWN = "unknown"  # origin of a value that a foreign log does not tell
_PLACEHOLDER = "rows.jsonl"
_RATE, _EPOCHS, _MAX_STEPS = "training.learning_rate", "training.num_train_epochs", "training.max_steps"


@dataclass(frozen=True, slots=True)
class Correction:
    """A corrected configuration.

    Attributes:
        resolved: valid; of a changed value the origin is `doctor: <ailment>`.
        changes: key, old value (None where it is not known), new value, ailment, of each that was made.
        left_out: changes that were not made, each with the reason.
    """

    resolved: Resolved
    changes: tuple[tuple[str, Any, Any, str], ...]
    left_out: tuple[tuple[Change, str], ...]


def corrected(resolved: Resolved, findings: Iterable[Finding]) -> Resolved:
    """The configuration with the changes of the findings; of two for one key the surer finding's."""
    return correction(resolved, findings).resolved


def correction(resolved: Resolved, findings: Iterable[Finding]) -> Correction:
    """As `corrected`, with an account of what was done.

    A change is left out where the method does not know the option, where a surer finding changes the same
    key, and where the configuration would not be valid.
    """
    before = _flat(resolved.config)
    values, origins = dict(before), dict(resolved.origins)
    wanted, left_out = _wanted(findings, method=str(values["method.name"]))
    # Two changes may be valid only together, so those that are refused get another turn after the others.
    pending = list(wanted)
    while pending:
        refused: list[tuple[Change, str, str]] = []
        for change, ailment in pending:
            candidate = values | _with_consequences(change, values, {each.key for each, _ in wanted})
            problem = _problem(candidate)
            if problem:
                refused.append((change, ailment, problem))
                continue
            for key, value in candidate.items():
                if value != values[key] or (key == change.key and origins.get(key) == UNKNOWN):
                    origins[key] = f"doctor: {ailment}"
            values = candidate
        if len(refused) == len(pending):
            left_out += [(change, problem) for change, _, problem in refused]
            break
        pending = [(change, ailment) for change, ailment, _ in refused]
    # Numbers come back in the type of their option: 1 epoch as 1.0.
    config = RunConfig.model_validate(_nested(values))
    after = _flat(config)
    changes = tuple(
        (
            key,
            None if resolved.origins.get(key) == UNKNOWN else before[key],
            after[key],
            origins[key].removeprefix("doctor: "),
        )
        for key in after
        if origins.get(key, "").startswith("doctor: ") and origins[key] != resolved.origins.get(key)
    )
    return Correction(Resolved(config, origins), changes, tuple(left_out))


def _wanted(
    findings: Iterable[Finding], *, method: str
) -> tuple[list[tuple[Change, str]], list[tuple[Change, str]]]:
    """Changes with their ailment, surest first, one a key; and those that cannot be, with the reason."""
    wanted: dict[str, tuple[Change, str]] = {}
    left_out: list[tuple[Change, str]] = []
    known = {option.key for option in options()}
    surest_first = sorted(findings, key=lambda found: -found.confidence)
    proposed = [(change, found.ailment) for found in surest_first for change in found.changes]
    method = next((str(change.value) for change, _ in proposed if change.key == "method.name"), method)
    for change, ailment in proposed:
        section, _, name = change.key.rpartition(".")
        methods = METHODS_WITH.get(name, ()) if section == "method" else ()
        if change.key not in known:
            left_out.append((change, "no such option"))
        elif methods and method not in methods:
            left_out.append((change, f"no effect with method `{method}`"))
        elif change.key not in wanted:
            wanted[change.key] = (change, ailment)
        elif wanted[change.key][0].value != change.value:
            left_out.append((change, f"`{wanted[change.key][1]}` is surer and sets it too"))
    return list(wanted.values()), left_out


def _with_consequences(change: Change, values: Mapping[str, Any], changed: set[str]) -> dict[str, Any]:
    """The change, and what must change with it to let it act."""
    found = {change.key: change.value}
    if change.key == _EPOCHS and values[_MAX_STEPS] and _MAX_STEPS not in changed:
        found[_MAX_STEPS] = None
    if change.key == "method.name":
        for name, methods in METHODS_WITH.items():
            if change.value not in methods:
                found[f"method.{name}"] = MethodConfig.model_fields[name].default
        default: Any = TrainingConfig.model_fields["learning_rate"].default
        if _RATE not in changed and values[_RATE] == LEARNING_RATES.get(values["method.name"], default):
            found[_RATE] = LEARNING_RATES.get(change.value, default)
    return found


def _problem(values: Mapping[str, Any]) -> str:
    """What is wrong with these values together; empty where nothing is."""
    try:
        RunConfig.model_validate(_nested(values))
    except ValidationError as error:
        return str(error.errors()[0]["msg"]).removeprefix("Value error, ")
    return ""


def diff_text(before: Resolved, after: Resolved, *, old: str = "before", new: str = "after") -> str:
    """The lines that differ, as a unified diff without context.

    Args:
        before: the configuration as it was.
        after: as it will be.
        old: name of the first, for the head.
        new: name of the second.
    """
    lines = difflib.unified_diff(
        before.as_yaml().splitlines(keepends=True),
        after.as_yaml().splitlines(keepends=True),
        fromfile=old,
        tofile=new,
        n=0,
    )
    return "".join(lines)


def known_settings(settings: Mapping[str, Any]) -> Resolved:
    """What a foreign log tells of its settings as a configuration; the rest is at its default, as unknown.

    A value that our configuration would refuse counts as unknown.
    """
    values = _flat(RunConfig.model_validate({"data": {"path": _PLACEHOLDER}}))
    origins = dict.fromkeys(values, UNKNOWN)
    for key, value in settings.items():
        if key in values and not _problem(values | {key: value}):
            values[key] = value
            origins[key] = "log"
    return Resolved(RunConfig.model_validate(_nested(values)), origins)


def whole_yaml(resolved: Resolved, *, source: str, file: str) -> str:
    """The corrected configuration of one of our runs as a file to train from."""
    _, _, rest = resolved.as_yaml().partition("\n")
    head = (
        f"# The configuration of {_one_line(source)}, corrected by `tunesmith doctor`.",
        f"# Start it: tunesmith train {_one_line(quote(file))}",
    )
    return "\n".join([*head, rest])


def changed_yaml(resolved: Resolved, *, source: str) -> str:
    """Only what changed, under its sections: all that a foreign log allows to say."""
    kept: list[str] = []
    heading = ""
    rows = iter(resolved.rows())
    for line in resolved.as_yaml().splitlines():
        if not line or line.startswith("#"):
            continue
        if not line.startswith(" ") and line.endswith(":"):
            heading = line
            continue
        _, _, origin = next(rows)
        if origin.startswith("doctor: "):
            kept += [heading, line] if heading else [line]
            heading = ""
    head = (
        f"# What `tunesmith doctor` would change in the run behind {_one_line(source)}; each line says why.",
        "# The log names no data and no configuration: add `data:` with `path:`, and `model:` with `name:`,",
        "# and what else the run was set to.",
        "",
    )
    return "\n".join([*head, *kept]) + "\n"


def _flat(config: RunConfig) -> dict[str, Any]:
    return {key: value for key, value, _ in Resolved(config, {}).rows()}


def _nested(values: Mapping[str, Any]) -> dict[str, Any]:
    nested: dict[str, Any] = {}
    for key, value in values.items():
        section, _, name = key.rpartition(".")
        (nested.setdefault(section, {}) if section else nested)[name] = value
    return nested


def filled(commands: Sequence[str], *, data: str) -> tuple[str, ...]:
    """Commands with the data file in the place of `{data}`."""
    return tuple(command.replace("{data}", quote(data)) for command in commands)


def _one_line(text: str) -> str:
    """For a comment, which a line break in a name would end."""
    return "".join(sign if sign.isprintable() else "?" for sign in text)
