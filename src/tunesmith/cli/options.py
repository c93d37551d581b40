"""Command-line parameters made from the configuration's fields, so that there is one text for both.

Values arrive as text and are checked together by `resolve`, which reports all problems at once.
"""

import inspect
from collections.abc import Callable, Sequence
from typing import Annotated, Any, Literal

from cyclopts import Parameter

from tunesmith.resolve import Option, options

# What the data commands say of rows; the configuration's fields make the same flags for `train`.
Columns = Annotated[
    list[str] | None,
    Parameter(help="Our field names and the file's: OURS=THEIRS.", consume_multiple=True, negative=""),
]
RowFormat = Annotated[
    Literal["auto", "instruction", "conversations", "messages", "prompt_completion"],
    Parameter(help="Shape of the rows; `auto` recognises each."),
]

LISTS = ("columns", "target-modules", "answer-choices")
GROUPS = {
    "": "Run",
    "model": "Model",
    "data": "Data",
    "method": "Method",
    "training": "Training",
    "evaluation": "Evaluation",
}


def with_options(keys: Sequence[str] | None = None) -> Callable[[Callable[..., Any]], Callable[..., Any]]:
    """Decorator: give a command one flag for each configuration key in `keys`, or for all of them.

    The command takes them as `**flags`, by flag name; a flag that does not exist arrives there too,
    so that a typo is reported with everything else.
    """
    chosen = [option for option in options() if keys is None or option.key in keys]

    def decorate(function: Callable[..., Any]) -> Callable[..., Any]:
        own = [p for p in inspect.signature(function).parameters.values() if p.kind is not p.VAR_KEYWORD]
        unknown = inspect.Parameter(
            "unknown", inspect.Parameter.VAR_KEYWORD, annotation=Annotated[str, Parameter(show=False)]
        )
        signature = inspect.Signature([*own, *map(_parameter, chosen), unknown])
        function.__signature__ = signature  # type: ignore[attr-defined]  # read by cyclopts in place of its own
        return function

    return decorate


def given(flags: dict[str, Any]) -> dict[str, Any]:
    """The flags the user gave, by flag name, in the shape the configuration wants."""
    return {
        name.replace("_", "-"): _shaped(name.replace("_", "-"), value)
        for name, value in flags.items()
        if value is not None
    }


def _parameter(option: Option) -> inspect.Parameter:
    is_list = option.flag in LISTS
    kind = list[str] | None if is_list else str | None
    parameter = Parameter(
        name=f"--{option.flag}",
        help=_help(option),
        group=GROUPS[option.section],
        consume_multiple=is_list,
        negative="",
    )
    return inspect.Parameter(
        option.flag.replace("-", "_"),
        inspect.Parameter.KEYWORD_ONLY,
        default=None,
        annotation=Annotated[kind, parameter],
    )


def _help(option: Option) -> str:
    choices = (
        f" [choices: {', '.join(option.choices)}]" if option.choices and option.flag not in LISTS else ""
    )
    default = "" if option.default in (None, {}) else f" [default: {option.default}]"
    required = " [required]" if option.is_required else ""
    return f"{option.help}{choices}{default}{required}"


def _shaped(flag: str, value: Any) -> Any:
    if flag == "columns":
        return dict(pair.split("=", 1) if "=" in pair else (pair, "") for pair in value)
    if flag == "target-modules":
        names = [name for part in value for name in part.split(",") if name]
        return names[0] if names in (["all-linear"], ["attention"]) else names
    return value
