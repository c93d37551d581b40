"""`tunesmith evaluate`, `generate`, `chat` and `merge`: use of a model or a run."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

from cyclopts import Parameter
from cyclopts.validators import Number
from rich.markup import escape
from rich.table import Table

from tunesmith.cli.options import given, with_options
from tunesmith.cli.terminal import (
    TerminalProgress,
    loading_libraries,
    messages,
    output,
    plain_table,
    print_json,
    results_table,
)
from tunesmith.cli.train import Json
from tunesmith.data.conversation import Message
from tunesmith.errors import ConfigError, DataError, ModelError
from tunesmith.evaluation.answer_checks import checks_of
from tunesmith.evaluation.marks import slice_rows
from tunesmith.resolve import resolve
from tunesmith.runs import is_run_folder

if TYPE_CHECKING:
    from tunesmith.evaluation.marks import SliceRow
    from tunesmith.models.generate import Decoding
    from tunesmith.use import Session, Switchboard

Target = Annotated[
    str, Parameter(help="A run, adapter or model folder, a hub id, a `.gguf` file or `smollm2-135m`.")
]


@dataclass(frozen=True, slots=True)
class Asking:
    """How `generate` and `chat` ask; each field is a flag of both."""

    system: Annotated[
        str | None, Parameter(help="System message; by default the one the model was trained with.")
    ] = None
    max_new_tokens: Annotated[int, Parameter(validator=Number(gte=1), help="Longest answer in tokens.")] = 256
    temperature: Annotated[
        float, Parameter(validator=Number(gte=0), help="0 is greedy; above, sampling at that temperature.")
    ] = 0.0
    top_p: Annotated[
        float,
        Parameter(
            validator=Number(gt=0, lte=1), help="Sample from the likeliest tokens of this probability."
        ),
    ] = 1.0
    seed: Annotated[int, Parameter(validator=Number(gte=0), help="Decides the samples.")] = 17
    device: Annotated[Literal["auto", "cpu", "cuda", "mps"], Parameter(help="Where to compute.")] = "auto"
    dtype: Annotated[
        Literal["auto", "float32", "bfloat16"], Parameter(help="Number type of the weights.")
    ] = "auto"


AskingFlags = Annotated[Asking, Parameter(name="*")]

EVALUATE_KEYS = (
    *("model.revision", "model.dtype", "model.device", "training.seed"),
    *("data.path", "data.format", "data.bad_rows", "data.columns", "data.system"),
    *("data.max_length", "data.overlong"),
    *("evaluation.generate_rows", "evaluation.max_new_tokens", "evaluation.per_device_eval_batch_size"),
    *("evaluation.answer_schema", "evaluation.answer_pattern", "evaluation.answer_choices"),
    *("evaluation.bootstrap_resamples", "evaluation.confidence"),
)


@with_options(EVALUATE_KEYS)
def evaluate(
    target: Target,
    /,
    *,
    elsewhere: Annotated[
        bool, Parameter(negative="", help="Also say whether the tuned model is worse beside its task.")
    ] = False,
    json: Json = False,
    **flags: Any,
) -> None:
    """Measure a model on a data file; base and tuned side by side where it has an adapter.

    Rows with the same prompt are asked once and their answers are references together. A second table shows
    one score by slices of the rows, where there are any: script, length, perturbation, number of references.

    Examples:
        tunesmith evaluate runs/rows-20260102-030405 --data test.jsonl

        tunesmith evaluate smollm2-135m --data test.jsonl --json

        tunesmith evaluate runs/labels --data test.jsonl --answer-choices yes no
    """
    file = Path(target) / "config.yaml" if is_run_folder(Path(target)) else None
    config = resolve(file, given(flags)).config
    # A slip in them is said before the model is loaded.
    checks_of(config.evaluation)
    with loading_libraries():
        from tunesmith.models.base import has_base
        from tunesmith.use import evaluate_elsewhere, evaluate_session, open_session

    session = open_session(
        target, revision=config.model.revision, device=config.model.device, dtype=config.model.dtype
    )
    if elsewhere and not has_base(session.loaded):
        raise ModelError(
            f"`{target}` was not tuned, so there is no base that it could be worse than",
            hint="leave `--elsewhere` out, or name a run or an adapter",
        )
    seed, progress = config.training.seed, TerminalProgress()
    evaluation = evaluate_session(session, config.data, config.evaluation, seed=seed, progress=progress)
    beside = (
        evaluate_elsewhere(session, config.data, config.evaluation, seed=seed, progress=progress)
        if elsewhere
        else None
    )
    if json:
        found = {"target": target, "data": config.data.path, "evaluation": evaluation.as_dict()}
        print_json(found | ({"elsewhere": beside.as_dict()} if beside else {}))
        return
    output.print(results_table(evaluation.as_dict()))
    if evaluation.slices:
        output.print()
        output.print(slices_table(slice_rows(evaluation)))
    if beside:
        output.print(f"\n{beside.verdict}", markup=False)


def slices_table(rows: "Sequence[SliceRow]") -> Table:
    """One score for each slice, with its interval below; base alone where nothing was tuned."""
    has_tuned = any(row.tuned for row in rows)
    columns = ("base", "tuned", "difference") if has_tuned else ("score",)
    table = plain_table()
    table.add_column(f"{rows[0].metric} by slice", no_wrap=True)
    for name in (*columns, "n"):
        table.add_column(name, justify="right", no_wrap=True)
    for row in rows:
        pairs = [(row.base, row.base_interval), (row.tuned, row.tuned_interval)]
        pairs.append((row.difference, row.difference_interval))
        cells = [f"{escape(value)}\n[dim]{escape(interval)}[/]" for value, interval in pairs[: len(columns)]]
        table.add_row(f"{row.kind}: {escape(row.name)}\n[dim]{row.note}[/]", *cells, row.n)
    return table


def generate(
    target: Target,
    /,
    *,
    prompt: Annotated[
        str | None, Parameter(help="What to ask; without it the file or stdin is read.")
    ] = None,
    file: Annotated[Path | None, Parameter(help="Text file, one prompt a line.")] = None,
    batch_size: Annotated[int, Parameter(validator=Number(gte=1), help="Prompts answered together.")] = 16,
    asking: AskingFlags = Asking(),  # frozen
    json: Json = False,
) -> None:
    """Answer one prompt, a file of prompts, or prompts from stdin (one a line).

    Examples:
        tunesmith generate runs/rows-20260102-030405 --prompt "Hello"

        tunesmith generate smollm2-135m --file prompts.txt --json
    """
    prompts = prompts_from(prompt, file)
    session, decoding = _session(target, asking)
    from tunesmith.use import answer

    turns = [[Message("user", text)] for text in prompts]
    answers = answer(session, turns, decoding=decoding, batch_rows=batch_size, progress=TerminalProgress())
    if json:
        pairs = [{"prompt": text, "answer": reply} for text, reply in zip(prompts, answers, strict=True)]
        print_json({"target": target, "answers": pairs, "decoding": asdict(decoding)})
        return
    for text, reply in zip(prompts, answers, strict=True):
        if len(prompts) > 1:
            output.print(f"> {text}", markup=False, style="dim")
        output.print(reply, markup=False, end="\n" if len(prompts) == 1 else "\n\n")


def chat(target: Target, /, *others: Target, asking: AskingFlags = Asking()) -> None:  # frozen
    """Talk to a model; answers appear as they are made. `/reset` starts over, `/exit` or Ctrl-D leaves.

    Several adapters of one base: the first answers until `/adapter NAME` switches; `/adapters` lists them,
    and `base` is the model without adapter. The conversation goes on.

    Examples:
        tunesmith chat runs/rows-20260102-030405

        tunesmith chat runs/formal runs/friendly
    """
    if others:
        board, decoding = switchboard((target, *others), asking)
        session = board.turn_to(board.switch.names[0])
    else:
        board = None
        session, decoding = _session(target, asking)
    from tunesmith.use import stream

    switching = ", /adapter NAME switches, /adapters lists them" if board else ""
    messages.print(f"{target}: /reset starts over{switching}, /exit leaves", style="dim", markup=False)
    history: list[Message] = []
    while (line := _ask()) not in (None, "/exit"):
        if line == "/reset":
            history = []
        elif line and line.split()[0] in ("/adapter", "/adapters"):
            session = _switched(board, session, line.split()[1:])
        elif line:
            history.append(Message("user", line))
            history.append(Message("assistant", stream(session, history, decoding=decoding)))


def _switched(board: "Switchboard | None", session: "Session", names: Sequence[str]) -> "Session":
    """The session to go on with; whatever cannot be switched to is said, and the talk goes on."""
    if board is None:
        messages.print("there is one model here; give `chat` several adapters to switch", style="dim")
    elif not names:
        shown = ", ".join(
            f"[{name}]" if name == board.switch.active else name for name in (*board.switch.names, "base")
        )
        messages.print(shown, style="dim", markup=False)
    else:
        try:
            session = board.turn_to(names[0])
            messages.print(f"now answering: {names[0]}", style="dim", markup=False)
        except ModelError as error:
            messages.print(f"{error}; {error.hint}", style="dim", markup=False)
    return session


def merge(
    target: Annotated[str, Parameter(help="A run or an adapter folder.")],
    /,
    *,
    output_dir: Annotated[Path | None, Parameter(help="Folder to make; by default TARGET/merged.")] = None,
    dtype: Annotated[
        Literal["float32", "bfloat16"], Parameter(help="Number type of the merged weights.")
    ] = "float32",
    json: Json = False,
) -> None:
    """Put an adapter into its base model: a standard folder that any Hugging Face tool loads."""
    with loading_libraries():
        from tunesmith.use import merge as merge_target

    merged = merge_target(target, output_dir, dtype=dtype)
    if json:
        print_json(asdict(merged))
        return
    output.print(f"merged model: {merged.path}", markup=False)
    output.print(
        f"largest logit difference to base plus adapter: {merged.max_logit_difference:.2g} "
        f"(allowed: {merged.tolerance:g})",
        markup=False,
    )
    output.print(
        f"loss on {merged.loss_on}: {merged.loss_merged:.4f} nats a token, "
        f"unmerged {merged.loss_unmerged:.4f} (allowed difference: {merged.loss_tolerance:g})",
        markup=False,
    )


def _session(target: str, asking: Asking) -> tuple["Session", "Decoding"]:
    with loading_libraries():
        from tunesmith.models.generate import Decoding
        from tunesmith.use import open_session

    session = open_session(target, device=asking.device, dtype=asking.dtype, system=asking.system)
    return session, Decoding(asking.max_new_tokens, asking.temperature, asking.top_p, asking.seed)


def switchboard(targets: Sequence[str], asking: Asking) -> tuple["Switchboard", "Decoding"]:
    """Several adapters on one base, and how they shall answer."""
    with loading_libraries():
        from tunesmith.models.generate import Decoding
        from tunesmith.use import open_switchboard

    board = open_switchboard(targets, device=asking.device, dtype=asking.dtype, system=asking.system)
    return board, Decoding(asking.max_new_tokens, asking.temperature, asking.top_p, asking.seed)


def prompts_from(prompt: str | None, file: Path | None) -> Sequence[str]:
    """From the flag, the file or stdin.

    Raises:
        ConfigError: for two sources, or none.
        DataError: if the file cannot be read or has no prompt.
    """
    if prompt is not None and file is not None:
        raise ConfigError("`--prompt` and `--file` are both given", hint="give one of them")
    if prompt is not None:
        return [prompt]
    if file is None and sys.stdin.isatty():
        raise ConfigError("there is nothing to ask", hint="give `--prompt`, `--file`, or lines on stdin")
    try:
        text = sys.stdin.read() if file is None else file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"`{file or 'stdin'}` cannot be read: {getattr(error, 'strerror', None) or error}",
            hint="give a UTF-8 text file with one prompt a line",
        ) from error
    prompts = [line for line in text.splitlines() if line.strip()]
    if not prompts:
        raise DataError(f"`{file or 'stdin'}` holds no prompt", hint="write one prompt a line")
    return prompts


def _ask() -> str | None:
    try:
        return input("you> " if sys.stdin.isatty() else "").strip()
    except EOFError:
        return None
