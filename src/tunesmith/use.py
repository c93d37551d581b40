"""Use of a model or a run: evaluate, answer, switch, merge, each in the form the model was trained on."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path

from tunesmith.config import DataConfig, EvaluationConfig
from tunesmith.data.conversation import Message
from tunesmith.data.prepare import fit_parts, read_rows, skip_notes
from tunesmith.data.render import Rendered, Renderer, choose_template
from tunesmith.data.split import with_given
from tunesmith.errors import DataError, ModelError
from tunesmith.evaluation.elsewhere import Elsewhere
from tunesmith.evaluation.inputs import rows_to_ask
from tunesmith.evaluation.measure import answer_texts, evaluate_model
from tunesmith.evaluation.measure_elsewhere import measure_elsewhere
from tunesmith.evaluation.scores import Evaluation
from tunesmith.hardware import choose_hardware
from tunesmith.models.adapter import Target, find_target, load_target, target_tokenizer
from tunesmith.models.base import has_base
from tunesmith.models.generate import Decoding, stream_answer
from tunesmith.models.load import LoadedModel
from tunesmith.models.merge import Merged, merge_adapter
from tunesmith.models.switch import AdapterSwitch, Request, load_switch
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import resolve
from tunesmith.runs import is_run_folder, open_run
from tunesmith.tools.digest import file_sha256
from tunesmith.training.loss import held_out_losses, mean_loss

LOSS_BATCH_ROWS = 8
PROBES = ("Hello", "Write one sentence about the sea.", "What is 12 + 30?")


@dataclass(frozen=True, slots=True)
class Session:
    """A loaded model and the renderer for its template."""

    target: Target
    loaded: LoadedModel
    renderer: Renderer

    def ask(self, messages: Sequence[Message]) -> list[int]:
        """Prompt ids of a conversation; the trained system message comes first where none is given."""
        return self.renderer.prompt_ids(with_system(messages, self.target.system))


def with_system(messages: Sequence[Message], system: str | None) -> list[Message]:
    """`messages`, led by `system` where they have no system message of their own."""
    has_own = bool(messages) and messages[0].role == "system"
    return list(messages) if has_own or not system else [Message("system", system), *messages]


def open_session(
    name: str,
    *,
    revision: str | None = None,
    device: str = "auto",
    dtype: str = "auto",
    system: str | None = None,
) -> Session:
    """Load a run, an adapter, a merged or fully tuned folder, a hub model, a GGUF file or the embedded model.

    Args:
        name: any of these.
        revision: of a hub model.
        device: as in the configuration.
        dtype: as in the configuration.
        system: system message in place of the trained one.

    Raises:
        UserError: if it cannot be found or read.
    """
    target = find_target(name, revision=revision)
    if system is not None:
        target = replace(target, system=system)
    hardware = choose_hardware(device=device, dtype=dtype)
    loaded = load_target(target, dtype=hardware.torch_dtype, device=hardware.device)
    return _session(target, loaded)


def _session(target: Target, loaded: LoadedModel) -> Session:
    return Session(target, loaded, Renderer(loaded.tokenizer, choose_template(loaded.tokenizer)))


def answer(
    session: Session,
    prompts: Sequence[Sequence[Message]],
    *,
    decoding: Decoding,
    batch_rows: int = 16,
    progress: Progress | None = None,
) -> list[str]:
    """The model's answer to each conversation, in order."""
    progress = progress or Silent()
    progress.begin("generating", len(prompts))
    texts = answer_texts(
        session.loaded,
        session.renderer,
        [session.ask(prompt) for prompt in prompts],
        decoding=decoding,
        batch_rows=batch_rows,
        on_rows=progress.advance,
    )
    progress.end()
    return texts


def stream(session: Session, messages: Sequence[Message], *, decoding: Decoding) -> str:
    """Print one answer as it comes and return its text."""
    ids = stream_answer(
        session.loaded.model,
        session.loaded.tokenizer,
        session.ask(messages),
        decoding=decoding,
        stop_ids=session.renderer.end_of_turn_ids,
        pad_id=session.loaded.pad_id,
    )
    return session.renderer.text(ids)


@dataclass(frozen=True, slots=True)
class Switchboard:
    """Several adapters on one base, each asked in the form it was trained on.

    Attributes:
        switch: the model and which adapter is active.
        sessions: by the adapter's name; `base` asks by the base's own template, without system message.
    """

    switch: AdapterSwitch
    sessions: Mapping[str, Session]

    def turn_to(self, name: str) -> Session:
        """The session of an adapter, made active; `base` for none.

        Raises:
            ModelError: if there is no such adapter.
        """
        self.switch.switch(name)
        return self.sessions[name]


def open_switchboard(
    names: Sequence[str], *, device: str = "auto", dtype: str = "auto", system: str | None = None
) -> Switchboard:
    """Load the base once and put each adapter on it; the first is active.

    Args:
        names: run or adapter folders; an adapter is called as its folder or its run's folder.
        device: as in the configuration.
        dtype: as in the configuration.
        system: system message in place of the trained ones.

    Raises:
        UserError: if one cannot be found or read, two are called alike, or they cannot share a base.
    """
    targets: dict[str, Target] = {}
    for name in names:
        called = adapter_name(name)
        if called in targets:
            raise ModelError(
                f"`{targets[called].name}` and `{name}` are both called `{called}`",
                hint="rename one of the folders; adapters are told apart by their folder's name",
            )
        target = find_target(name)
        targets[called] = target if system is None else replace(target, system=system)
    hardware = choose_hardware(device=device, dtype=dtype)
    switch = load_switch(targets, dtype=hardware.torch_dtype, device=hardware.device)
    base = next(iter(targets.values())).base
    bare = Target(base.name, base, None, system)
    sessions = {
        called: _session(targets.get(called, bare), LoadedModel(switch.model, tokenizer, base))
        for called, tokenizer in switch.tokenizers.items()
    }
    return Switchboard(switch, sessions)


def adapter_name(name: str) -> str:
    """What an adapter is called: its folder, or the run's where it is the run's `adapter`."""
    path = Path(name).expanduser().resolve()
    return path.parent.name if path.name == "adapter" else path.name


def answer_requests(
    board: Switchboard,
    requests: Sequence[tuple[str, Sequence[Message]]],
    *,
    decoding: Decoding,
    batch_rows: int = 16,
    progress: Progress | None = None,
) -> list[str]:
    """The answer to each (adapter's name, conversation) by its own adapter, in order.

    Raises:
        ModelError: if a request names no adapter that is there.
    """
    progress = progress or Silent()
    for called in {called for called, _ in requests}:
        board.turn_to(called)
    progress.begin("generating", len(requests))
    ids = board.switch.answer(
        [Request(called, board.sessions[called].ask(messages)) for called, messages in requests],
        decoding=decoding,
        stop_ids={called: session.renderer.end_of_turn_ids for called, session in board.sessions.items()},
        batch_rows=batch_rows,
        on_rows=progress.advance,
    )
    progress.end()
    return [board.sessions[called].renderer.text(row) for (called, _), row in zip(requests, ids, strict=True)]


def evaluate_session(
    session: Session,
    data: DataConfig,
    settings: EvaluationConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores on all rows of `data.path`; base and tuned side by side where the model was tuned.

    Raises:
        DataError: if a row cannot be used, or none is left.
    """
    progress = progress or Silent()
    proof = evaluate_model(
        session.loaded,
        session.renderer,
        _rows_to_measure(session, data, progress),
        settings=settings,
        seed=seed,
        losses_of=partial(held_out_losses, session.loaded),
        progress=progress,
    )
    return proof.evaluation


def evaluate_elsewhere(
    session: Session,
    data: DataConfig,
    settings: EvaluationConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Elsewhere | None:
    """Base and tuned beside the task of `data.path`; None where the model was not tuned.

    Raises:
        DataError: if a row cannot be used, or none is left.
    """
    if not has_base(session.loaded):
        return None
    rows = _rows_to_measure(session, data, Silent())
    return measure_elsewhere(
        session.loaded,
        session.renderer,
        [row.row for row in rows],
        max_length=data.max_length,
        settings=settings,
        seed=seed,
        losses_of=partial(held_out_losses, session.loaded),
        progress=progress or Silent(),
    )


def _rows_to_measure(session: Session, data: DataConfig, progress: Progress) -> tuple[Rendered, ...]:
    """All rows of `data.path` that can be used, in the form the model was trained on."""
    skipped: list[DataError] = []
    rows = read_rows(data, data.path, skipped, system=session.target.system)
    for note in skip_notes(skipped):
        progress.say(note)
    parts = fit_parts({"test": rows}, session.renderer, max_length=data.max_length, overlong=data.overlong)
    kept = tuple(parts["test"].rows)
    if not kept:
        raise DataError(f"no row of `{data.path}` is left to evaluate", hint="raise `--max-length`")
    return kept


def merge(name: str, output: Path | None = None, *, dtype: str = "float32") -> Merged:
    """Merge a run's or folder's adapter into its base; see `merge_adapter`.

    The loss is compared on the run's own held-out rows where its data is still what it was trained on, else
    on the probe texts; the result says which.
    """
    target = find_target(name)
    tokenizer = target_tokenizer(target)
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    probes = [renderer.prompt_ids(with_system([Message("user", text)], target.system)) for text in PROBES]
    rows = held_out_rows(Path(name), renderer) if target.adapter else []

    def loss_of(loaded: LoadedModel) -> float:
        return mean_loss(held_out_losses(loaded, rows, LOSS_BATCH_ROWS, lambda done: None))

    merged = merge_adapter(
        target,
        output or Path(name) / "merged",
        probes=probes,
        stop_ids=renderer.end_of_turn_ids,
        dtype=dtype,
        loss_of=loss_of if rows else None,
    )
    return replace(merged, loss_on=f"{len(rows)} held-out rows") if rows else merged


def held_out_rows(run: Path, renderer: Renderer, *, most: int = 32) -> list[Rendered]:
    """Some rows that the run in this folder did not train on; none where its data is gone or has changed."""
    if not is_run_folder(run):
        return []
    config = resolve(run / "config.yaml").config
    known = open_run(run).manifest.get("data", {}).get("files", {})
    data = config.data
    files = [path for path in (data.path, data.validation_file, data.test_file) if path]
    if any(not Path(path).is_file() or file_sha256(Path(path)) != known.get(path) for path in files):
        return []
    skipped: list[DataError] = []
    if data.test_file:
        rows = read_rows(data, data.test_file, skipped)
    else:
        rows = with_given(
            read_rows(data, data.path, skipped),
            validation=read_rows(data, data.validation_file, skipped) if data.validation_file else None,
            test=None,
            validation_size=data.validation_size,
            test_size=data.test_size,
            seed=config.training.seed,
        ).test
    parts = fit_parts({"test": rows}, renderer, max_length=data.max_length, overlong=data.overlong)
    return rows_to_ask(parts["test"].rows, most=most, seed=config.training.seed)
