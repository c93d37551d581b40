"""`tunesmith ab` and `tunesmith rate`: people look at outputs on a local page, and what they said."""

import os
import re
import shlex
import sys
import threading
import webbrowser
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter
from cyclopts.validators import Number

from tunesmith.cli.terminal import TerminalProgress, messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tunesmith.evaluation.outputs import Outputs
    from tunesmith.people.sessions import Kind, Survey
    from tunesmith.people.store import VoteStore

Sources = Annotated[
    list[Path],
    Parameter(help="Files of outputs, one for each system; or the folder of a run or a comparison."),
]
_TITLES = {"ab": "Which answer is better?", "rate": "How good is this answer?"}
_FILES = {"ab": "votes", "rate": "ratings"}


@dataclass(frozen=True, slots=True)
class Study:
    """What is asked and where answers go; each field is a flag of both commands."""

    systems: Annotated[
        list[str] | None,
        Parameter(
            consume_multiple=True, negative="", help="Which systems, where there are more than needed."
        ),
    ] = None
    votes: Annotated[
        Path | None, Parameter(help="SQLite file of the answers; by default beside the first source.")
    ] = None
    seed: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=0), help="Decides order and sides; 17 in a new file, later the file's own."
        ),
    ] = None


@dataclass(frozen=True, slots=True)
class Serving:
    """How the page is offered."""

    port: Annotated[
        int | None,
        Parameter(
            validator=Number(gte=1, lte=65535), help="Port on 127.0.0.1; by default the last one, or any."
        ),
    ] = None
    guidelines: Annotated[Path | None, Parameter(help="Text file with what raters should go by.")] = None
    no_browser: Annotated[bool, Parameter(negative="", help="Print the link only.")] = False


@dataclass(frozen=True, slots=True)
class Outcome:
    """What to do with the answers instead of asking for more."""

    results: Annotated[bool, Parameter(negative="", help="Show the results so far and end.")] = False
    export: Annotated[
        Path | None, Parameter(help="Write the answers to this new .jsonl or .csv file and end.")
    ] = None


@dataclass(frozen=True, slots=True)
class Judging:
    """A model that votes too."""

    judge: Annotated[
        str | None,
        Parameter(
            help="Let a judge model vote, and end: address of an OpenAI-compatible endpoint, such as "
            "`http://127.0.0.1:8000/v1`. Its key is read from TUNESMITH_JUDGE_KEY."
        ),
    ] = None
    judge_model: Annotated[str | None, Parameter(help="The judge's name there.")] = None


def ab(
    sources: Sources,
    /,
    *,
    study: Annotated[Study, Parameter(name="*")] = Study(),  # frozen
    serving: Annotated[Serving, Parameter(name="*")] = Serving(),  # frozen
    outcome: Annotated[Outcome, Parameter(name="*")] = Outcome(),  # frozen
    judging: Annotated[Judging, Parameter(name="*")] = Judging(),  # frozen
    json: Json = False,
) -> None:
    """Blind A/B: people see two answers without names and choose; ends with win rate, test and stop rule.

    Examples:
        tunesmith ab runs/tickets

        tunesmith ab base.jsonl tuned.jsonl --guidelines what-counts.txt

        tunesmith ab base.jsonl tuned.jsonl --results
    """
    if (judging.judge is None) != (judging.judge_model is None):
        raise ConfigError(
            "`--judge` and `--judge-model` go together, and one of them is missing",
            hint="`--judge http://127.0.0.1:8000/v1 --judge-model NAME`",
        )
    _run("ab", sources, study, serving, outcome, judging, json)


def rate(
    sources: Sources,
    /,
    *,
    study: Annotated[Study, Parameter(name="*")] = Study(),  # frozen
    serving: Annotated[Serving, Parameter(name="*")] = Serving(),  # frozen
    outcome: Annotated[Outcome, Parameter(name="*")] = Outcome(),  # frozen
    json: Json = False,
) -> None:
    """Rating: people score each answer for accuracy, relevance, fluency and format, not knowing whose it is.

    Examples:
        tunesmith rate runs/tickets

        tunesmith rate base.jsonl tuned.jsonl --results
    """
    _run("rate", sources, study, serving, outcome, Judging(), json)


def _run(
    kind: "Kind",
    sources: Sequence[Path],
    study: Study,
    serving: Serving,
    outcome: Outcome,
    judging: Judging,
    is_json: bool,
) -> None:
    from tunesmith.evaluation.outputs import join_outputs
    from tunesmith.people.export import check_export

    if outcome.export:
        check_export(outcome.export)
    outputs = join_outputs(sources)
    for source, count in outputs.left_out.items():
        if count:
            messages.print(
                f"{source}: {count} rows are left out, for not all sources have them", markup=False
            )
    systems = _systems(kind, outputs, study.systems)
    path = study.votes or _default_file(kind, sources, study.systems)
    is_to_serve = not (outcome.results or outcome.export or judging.judge)
    if (outcome.results or outcome.export) and not judging.judge and not path.is_file():
        raise DataError(
            f"{path}: there are no answers yet", hint="leave `--results` and `--export` out to collect some"
        )
    guidelines = _guidelines(kind, serving.guidelines)
    survey, store = _opened(kind, outputs, systems, path, study.seed, guidelines)
    try:
        facts: dict[str, Any] = {"votes": str(path)}
        if judging.judge and judging.judge_model:
            facts["judged"] = _let_judge(survey, store, judging.judge, judging.judge_model)
        if is_to_serve:
            _serve(survey, store, serving, is_json=is_json)
        if outcome.export:
            facts |= _export(survey, store, outcome.export)
        is_export_alone = bool(outcome.export) and not outcome.results
        _show(survey, store, facts, is_json=is_json, has_table=not is_export_alone)
    finally:
        store.close()
    if is_to_serve:
        again = shlex.join(["tunesmith", kind, *map(str, sources), *_again(study, path)])
        messages.print(f"go on:    {again}\nresults:  {again} --results", markup=False)


def _systems(kind: "Kind", outputs: "Outputs", wanted: Sequence[str] | None) -> tuple[str, ...]:
    """The systems to show, by name.

    Raises:
        ConfigError: if one is not there, or A/B would have other than two.
    """
    from tunesmith.data.records import listed, nearest

    chosen = tuple(wanted or outputs.systems)
    for name in chosen:
        if name not in outputs.systems:
            near = nearest(name, outputs.systems)
            raise ConfigError(
                f"there is no system `{name}`; there are {listed(outputs.systems)}",
                hint=f"did you mean `{near}`?" if near else "name systems that are there",
            )
    if len(set(chosen)) != len(chosen):
        raise ConfigError(f"`--systems` names one twice: {listed(chosen)}", hint="name each once")
    if kind == "ab" and len(chosen) != 2:
        raise ConfigError(
            f"an A/B compares two systems, and there are {len(chosen)}: {listed(chosen)}",
            hint="choose two with `--systems A B`" if len(chosen) > 2 else "give a second file of outputs",
        )
    return chosen


def _default_file(kind: "Kind", sources: Sequence[Path], systems: Sequence[str] | None) -> Path:
    """In the first source's folder, named by sources and systems, so that studies keep apart."""
    first = sources[0]
    names = [] if first.is_dir() and len(sources) == 1 else [source.stem for source in sources]
    words = [*names, *(systems or ()), _FILES[kind]]
    called = re.sub(r"[^\w.-]+", "-", "-".join(words))
    return (first if first.is_dir() else first.parent) / f"{called}.sqlite"


def _guidelines(kind: "Kind", path: Path | None) -> str:
    from tunesmith.people.scales import AB_GUIDELINES, RATE_GUIDELINES

    if path is None:
        return AB_GUIDELINES if kind == "ab" else RATE_GUIDELINES
    try:
        return path.read_text(encoding="utf-8")
    except (OSError, ValueError) as error:
        raise DataError(
            f"{path}: the guidelines cannot be read: {error}", hint="give a text file in UTF-8"
        ) from error


def _opened(
    kind: "Kind",
    outputs: "Outputs",
    systems: tuple[str, ...],
    path: Path,
    seed: int | None,
    guidelines: str,
) -> "tuple[Survey, VoteStore]":
    from tunesmith.people.sessions import Survey
    from tunesmith.people.store import Binding, open_store

    items = {item.id: item for item in outputs.items}
    store = open_store(path, Binding(kind, systems, items, seed))
    return Survey(kind, _TITLES[kind], guidelines, store.seed, systems, items), store


def _serve(survey: "Survey", store: "VoteStore", serving: Serving, *, is_json: bool) -> None:
    from tunesmith.people.server import link, listen, make_server, new_token, serve

    last = store.setting("port")
    # Ctrl-C is how the work ends, also where it comes before the first request.
    with (
        listen(serving.port, last_port=int(last) if last else None) as listening,
        suppress(KeyboardInterrupt),
    ):
        port, token = listening.getsockname()[1], new_token()
        store.remember("port", str(port))
        server = make_server(survey, store, token=token, port=port)
        address = link(listening, token)
        messages.print(
            f"{len(survey.items)} items; answers go to {store.path}; end with Ctrl-C; open on this machine:",
            markup=False,
        )
        # With `--json`, stdout is kept for the one object.
        (messages if is_json else output).print(address, markup=False)
        if not serving.no_browser and _has_screen():
            # A browser inside the terminal would not come back.
            threading.Thread(target=webbrowser.open, args=(address,), daemon=True).start()
        serve(server, listening)


def _has_screen() -> bool:
    is_desktop = sys.platform in ("darwin", "win32")
    return is_desktop or bool(os.environ.get("DISPLAY") or os.environ.get("WAYLAND_DISPLAY"))


def _let_judge(survey: "Survey", store: "VoteStore", address: str, model: str) -> int:
    from tunesmith.evaluation.judge import Judge
    from tunesmith.people.judging import ask_judge

    return ask_judge(survey, store, Judge(address, model), progress=TerminalProgress())


def _export(survey: "Survey", store: "VoteStore", path: Path) -> dict[str, Any]:
    from tunesmith.people.export import write_export

    count = write_export(path, survey, store.acts)
    messages.print(f"{count} answers written to {path}", markup=False)
    return {"export": str(path), "exported": count}


def _show(
    survey: "Survey", store: "VoteStore", facts: dict[str, Any], *, is_json: bool, has_table: bool
) -> None:
    from tunesmith.people.votes import ab_results, rate_results

    if not is_json and not has_table:
        return
    if survey.kind == "ab":
        results = ab_results(survey, store.acts)
        if is_json:
            print_json(facts | {"results": results.as_dict()})
            return
        from tunesmith.cli.people_text import ab_tables

        output.print(ab_tables(results))
    else:
        ratings = rate_results(survey, store.acts)
        if is_json:
            print_json(facts | {"results": ratings.as_dict()})
            return
        from tunesmith.cli.people_text import rate_tables

        output.print(rate_tables(ratings))


def _again(study: Study, path: Path) -> list[str]:
    """The flags that make the same study again."""
    systems = ["--systems", *study.systems] if study.systems else []
    return [*systems, *(["--votes", str(path)] if study.votes else [])]
