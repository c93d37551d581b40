"""Requests answered in pieces, each kept on disk at once, so that a stopped comparison goes on.

Answers of other prompts, another model or other decoding are never taken for these: what decides them is kept
beside them, and compared.
"""

import json
import time
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

from tunesmith.approaches.costs import Costs, Training, forget_peak_memory
from tunesmith.approaches.requests import Plan, Request
from tunesmith.data.render import Renderer
from tunesmith.errors import RunFolderError
from tunesmith.evaluation.measure import answer_ids
from tunesmith.hardware import peak_memory_bytes
from tunesmith.models.generate import Decoding
from tunesmith.models.load import LoadedModel
from tunesmith.models.shared_prefix import can_keep, shared_tokens
from tunesmith.progress import Progress
from tunesmith.runs import RunFolder

ANSWERS = "answers"
# What all prompts share is computed once a piece, so a piece is several batches.
PIECE_BATCHES = 2


@dataclass(frozen=True, slots=True)
class Answered:
    """One answer and what it took.

    Attributes:
        id: of the held-out input.
        prompt: its turns as one text, without what the approach added.
        answer: the model's text.
        references: good answers.
        prompt_tokens: of all that was asked.
        shared_tokens: of those, computed once for all requests of the piece and not again for this one.
        answer_tokens: generated, without the end of turn.
        seconds: wall time of the piece by its requests.
        peak_memory_bytes: highest in the piece.
        is_peak_own: whether the count of the peak began with the piece.
        left_out: examples or passages left out so that the prompt fits.
        sources: what was retrieved.
    """

    id: str
    prompt: str
    answer: str
    references: tuple[str, ...]
    prompt_tokens: int
    shared_tokens: int
    answer_tokens: int
    seconds: float
    peak_memory_bytes: int
    is_peak_own: bool
    left_out: int
    sources: tuple[str, ...]


def identity_of_answers(
    plan: Plan, model: Mapping[str, Any], *, decoding: Decoding, batch_rows: int
) -> dict[str, Any]:
    """What decides an approach's answers and their time, JSON-ready.

    Args:
        plan: its prompts.
        model: which model answers, and where.
        decoding: how.
        batch_rows: rows answered together.
    """
    prompts = sha256()
    for request in plan.requests:
        prompts.update(json.dumps([request.input.id, *request.ids]).encode())
    return {
        **model,
        "max_new_tokens": decoding.max_new_tokens,
        "batch_rows": batch_rows,
        "prompts": prompts.hexdigest(),
    }


def kept_answers(folder: Path, plan: Plan, identity: Mapping[str, Any]) -> list[Answered]:
    """Answers that an earlier call left for these requests, in their order.

    Raises:
        RunFolderError: if those there are of other prompts, another model or other decoding.
    """
    store = RunFolder(folder)
    known = _identities(store).get(plan.approach)
    file = _file(plan.approach)
    if known is None or not (folder / file).is_file():
        return []
    changed = sorted(key for key in identity if known.get(key) != identity[key])
    if changed:
        raise RunFolderError(
            f"`{folder / file}` holds answers made with another {', '.join(changed)}",
            hint="choose another folder with `--output-dir`, or give the settings it was started with",
        )
    # Not `splitlines`: texts may hold other signs that end a line.
    lines = [line for line in store.read_text(file).split("\n") if line]
    there = {each.id: each for each in map(_answered, lines)}
    return [there[request.input.id] for request in plan.requests if request.input.id in there]


def answer_plan(
    loaded: LoadedModel,
    renderer: Renderer,
    plan: Plan,
    *,
    folder: Path,
    identity: Mapping[str, Any],
    decoding: Decoding,
    batch_rows: int,
    device: str,
    progress: Progress,
) -> list[Answered]:
    """Every answer of an approach, in the requests' order: those kept, and the others from the model.

    Args:
        loaded: the model as it shall answer now.
        renderer: knows where an answer ends, and its text.
        plan: requests.
        folder: of the comparison; gets `answers/<approach>.jsonl`.
        identity: from `identity_of_answers`.
        decoding: greedy or not, and how long.
        batch_rows: rows of the longest prompts in a batch.
        device: where the peak of memory is counted.
        progress: gets a bar.
    """
    done = {kept.id: kept for kept in kept_answers(folder, plan, identity)}
    left = [request for request in plan.requests if request.input.id not in done]
    # Alike lengths come together, since a batch is as long as its longest row.
    left.sort(key=lambda request: -len(request.ids))
    store = RunFolder(folder)
    if left:
        store.write_json(f"{ANSWERS}/settings.json", _identities(store) | {plan.approach: dict(identity)})
        progress.begin(f"answering {plan.approach}", len(plan.requests))
        progress.advance(len(done))
    size = PIECE_BATCHES * batch_rows
    for start in range(0, len(left), size):
        piece = left[start : start + size]
        found = _answer_piece(
            loaded,
            renderer,
            piece,
            decoding=decoding,
            batch_rows=batch_rows,
            device=device,
            progress=progress,
        )
        done |= {each.id: each for each in found}
        store.write_lines(_file(plan.approach), map(asdict, done.values()))
    if left:
        progress.end()
    return [done[request.input.id] for request in plan.requests]


def costs_of(answers: Sequence[Answered], training: Training | None) -> Costs:
    """What all answers of an approach took together."""
    return Costs(
        requests=len(answers),
        prompt_tokens=sum(each.prompt_tokens for each in answers),
        shared_tokens=sum(each.shared_tokens for each in answers),
        answer_tokens=sum(each.answer_tokens for each in answers),
        seconds=sum(each.seconds for each in answers),
        peak_memory_bytes=max(each.peak_memory_bytes for each in answers),
        is_peak_own=all(each.is_peak_own for each in answers),
        training=training,
    )


def _answer_piece(
    loaded: LoadedModel,
    renderer: Renderer,
    piece: Sequence[Request],
    *,
    decoding: Decoding,
    batch_rows: int,
    device: str,
    progress: Progress,
) -> list[Answered]:
    prompts = [request.ids for request in piece]
    longest = max(map(len, prompts)) + decoding.max_new_tokens
    shared = shared_tokens(prompts) if can_keep(loaded.model, tokens=longest) else 0
    is_peak_own = forget_peak_memory(device)
    began = time.perf_counter()
    answers = answer_ids(
        loaded, renderer, prompts, decoding=decoding, batch_rows=batch_rows, on_rows=progress.advance
    )
    seconds = (time.perf_counter() - began) / len(piece)
    peak = peak_memory_bytes(device)
    return [
        Answered(
            id=request.input.id,
            prompt=request.input.prompt,
            answer=renderer.text(ids),
            references=request.input.references,
            prompt_tokens=len(request.ids),
            shared_tokens=shared if place else 0,
            answer_tokens=len(ids),
            seconds=seconds,
            peak_memory_bytes=peak,
            is_peak_own=is_peak_own,
            left_out=request.left_out,
            sources=request.sources,
        )
        for place, (request, ids) in enumerate(zip(piece, answers, strict=True))
    ]


def _file(approach: str) -> str:
    return f"{ANSWERS}/{approach}.jsonl"


def _identities(store: RunFolder) -> dict[str, Any]:
    """What is known of the answers there, by approach."""
    name = f"{ANSWERS}/settings.json"
    if not (store.path / name).is_file():
        return {}
    try:
        found = json.loads(store.read_text(name))
    except ValueError as error:
        raise RunFolderError(
            f"`{store.path / name}` is no JSON: {error}",
            hint="remove the folder `answers` and repeat the command",
        ) from error
    return dict(found)


def _answered(line: str) -> Answered:
    values = json.loads(line)
    return Answered(**values | {name: tuple(values[name]) for name in ("references", "sources")})
