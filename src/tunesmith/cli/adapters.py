"""`tunesmith adapters`: which there are, and several of them on one base."""

import json as json_text
import time
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter
from cyclopts.validators import Number

from tunesmith.cli.terminal import TerminalProgress, messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.cli.use import Asking, AskingFlags, prompts_from, switchboard
from tunesmith.data.conversation import Message
from tunesmith.errors import ConfigError, DataError

if TYPE_CHECKING:
    from tunesmith.models.folders import AdapterFacts
    from tunesmith.models.generate import Decoding
    from tunesmith.use import Switchboard

app = App(name="adapters", help="List adapters, and let several answer on one base in memory.")

DEFAULTS = Asking()
BatchSize = Annotated[int, Parameter(validator=Number(gte=1), help="Prompts answered together.")]


def list_(
    folders: Annotated[list[Path] | None, Parameter(help="Where to look; by default `runs`.")] = None,
    /,
    *,
    json: Json = False,
) -> None:
    """List every adapter and fully tuned model below some folders.

    Examples:
        tunesmith adapters list

        tunesmith adapters list runs shared/adapters --json
    """
    from tunesmith.models.folders import adapters_in

    found = adapters_in(folders or [Path("runs")])
    if json:
        print_json({"adapters": [asdict(facts) for facts in found]})
        return
    for facts in found:
        _show(facts)
    if not found:
        messages.print("no adapter there; `tunesmith train` makes one", markup=False)


def switch(
    target: Annotated[str, Parameter(help="A run or adapter folder.")],
    /,
    *others: Annotated[str, Parameter(help="More of them, on the same base.")],
    prompt: Annotated[str | None, Parameter(help="What every adapter is asked.")] = None,
    file: Annotated[
        Path | None,
        Parameter(
            help='Prompts, one a line; or `.jsonl` with {"adapter": NAME, "prompt": TEXT} in each line.'
        ),
    ] = None,
    batch_size: BatchSize = 16,
    asking: AskingFlags = DEFAULTS,
    json: Json = False,
) -> None:
    """Load one base with several adapters, and let each answer each prompt, or each line its own adapter.

    An adapter is called as its folder, or its run's. `base` is the model without adapter. Lines of a
    `.jsonl` file are answered together: adapters of LoRA, QLoRA and bottleneck share batches.

    Examples:
        tunesmith adapters switch runs/formal runs/friendly --prompt "Where is my parcel?"

        tunesmith adapters switch runs/formal runs/friendly --file requests.jsonl --json
    """
    names = (target, *others)
    if file is not None and file.suffix == ".jsonl":
        if prompt is not None:
            raise ConfigError("`--prompt` and `--file` are both given", hint="give one of them")
        requests = read_requests(file)
        board, decoding = switchboard(names, asking)
        _answer_requests(board, requests, decoding, batch_size, json=json)
        return
    prompts = prompts_from(prompt, file)
    board, decoding = switchboard(names, asking)
    from tunesmith.use import answer

    told = []
    turns = [[Message("user", text)] for text in prompts]
    for name in board.switch.names:
        before = time.perf_counter()
        session = board.turn_to(name)
        milliseconds = (time.perf_counter() - before) * 1000
        answers = answer(session, turns, decoding=decoding, batch_rows=batch_size)
        pairs = [{"prompt": text, "answer": reply} for text, reply in zip(prompts, answers, strict=True)]
        told.append({"adapter": name, "switch_milliseconds": round(milliseconds, 2), "answers": pairs})
        if not json:
            output.print(f"{name} (switched in {milliseconds:.1f} ms)", style="bold", markup=False)
            for pair in pairs:
                _print_pair(pair["prompt"], pair["answer"])
    if json:
        print_json({"adapters": told, "decoding": asdict(decoding)})


def read_requests(file: Path) -> list[tuple[str, str]]:
    """Adapter and prompt of each line.

    Raises:
        DataError: if the file cannot be read, holds no line, or one is not as it must be; names the line.
    """
    shape = 'write {"adapter": "NAME", "prompt": "TEXT"} in each line'
    try:
        lines = file.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(
            f"`{file}` cannot be read: {getattr(error, 'strerror', None) or error}", hint=shape
        ) from error
    requests = []
    for number, line in enumerate(lines, start=1):
        if not line.strip():
            continue
        try:
            row = json_text.loads(line)
        except ValueError as error:
            raise DataError(f"{file}:{number}: not JSON: {error}", hint=shape) from error
        name, text = (row.get(key) for key in ("adapter", "prompt")) if isinstance(row, dict) else (0, 0)
        if not (isinstance(name, str) and isinstance(text, str) and name and text):
            raise DataError(f"{file}:{number}: no `adapter` and `prompt` as texts", hint=shape)
        requests.append((name, text))
    if not requests:
        raise DataError(f"`{file}` holds no request", hint=shape)
    return requests


def _answer_requests(
    board: "Switchboard",
    requests: list[tuple[str, str]],
    decoding: "Decoding",
    batch_size: int,
    *,
    json: bool,
) -> None:
    from tunesmith.use import answer_requests

    asked = [(name, [Message("user", text)]) for name, text in requests]
    answers = answer_requests(
        board, asked, decoding=decoding, batch_rows=batch_size, progress=TerminalProgress()
    )
    if json:
        rows = [
            {"adapter": name, "prompt": text, "answer": reply}
            for (name, text), reply in zip(requests, answers, strict=True)
        ]
        is_mixed = board.switch.is_mixable
        print_json({"answers": rows, "shared_batches": is_mixed, "decoding": asdict(decoding)})
        return
    for (name, text), reply in zip(requests, answers, strict=True):
        output.print(name, style="bold", markup=False)
        _print_pair(text, reply)


def _print_pair(prompt: str, reply: str) -> None:
    output.print(f"> {prompt}", markup=False, style="dim")
    output.print(reply, markup=False, end="\n\n")


def _show(facts: "AdapterFacts") -> None:
    output.print(str(facts.path), style="bold", markup=False)
    output.print(
        f"  {facts.method}, {facts.size}: {facts.parameters:,} parameters, "
        f"{facts.file_bytes / 1e6:.1f} MB on disk, on the base {facts.base}",
        markup=False,
    )


app.command(list_, name="list")
app.command(switch)
