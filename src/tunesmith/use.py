"""Use of a model or a run: evaluate, answer, merge. Each asks in the form the model was trained on."""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from tunesmith.config import DataConfig, EvaluationConfig
from tunesmith.data.conversation import Message
from tunesmith.data.prepare import fit_parts, read_rows, skip_notes
from tunesmith.data.render import Renderer, choose_template
from tunesmith.errors import DataError
from tunesmith.evaluation.measure import evaluate_model
from tunesmith.evaluation.scores import Evaluation
from tunesmith.hardware import choose_hardware
from tunesmith.models.adapter import Target, find_target, load_target, target_tokenizer
from tunesmith.models.generate import Decoding, generate_ids, stream_answer
from tunesmith.models.load import LoadedModel
from tunesmith.models.merge import Merged, merge_adapter
from tunesmith.progress import Progress, Silent
from tunesmith.training.loss import held_out_losses

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
    """Load a run, an adapter, a merged folder, a hub model, a GGUF file or the embedded model.

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
        target = Target(target.name, target.base, target.adapter, system)
    hardware = choose_hardware(device=device, dtype=dtype)
    loaded = load_target(target, dtype=hardware.torch_dtype, device=hardware.device)
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
    ids = generate_ids(
        session.loaded.model,
        [session.ask(prompt) for prompt in prompts],
        decoding=decoding,
        stop_ids=session.renderer.end_of_turn_ids,
        pad_id=session.loaded.pad_id,
        batch_rows=batch_rows,
        on_rows=progress.advance,
    )
    progress.end()
    return [session.renderer.text(row) for row in ids]


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


def evaluate_session(
    session: Session,
    data: DataConfig,
    settings: EvaluationConfig,
    *,
    seed: int,
    progress: Progress | None = None,
) -> Evaluation:
    """Scores on all rows of `data.path`; base and tuned side by side where the session has an adapter.

    Raises:
        DataError: if a row cannot be used, or none is left.
    """
    progress = progress or Silent()
    skipped: list[DataError] = []
    rows = read_rows(data, data.path, skipped, system=session.target.system)
    for note in skip_notes(skipped):
        progress.say(note)
    parts = fit_parts({"test": rows}, session.renderer, max_length=data.max_length, overlong=data.overlong)
    kept = parts["test"].rows
    if not kept:
        raise DataError(f"no row of `{data.path}` is left to evaluate", hint="raise `--max-length`")
    proof = evaluate_model(
        session.loaded,
        session.renderer,
        kept,
        settings=settings,
        seed=seed,
        losses_of=partial(held_out_losses, session.loaded),
        progress=progress,
    )
    return proof.evaluation


def merge(name: str, output: Path | None = None, *, dtype: str = "float32") -> Merged:
    """Merge a run's or folder's adapter into its base; see `merge_adapter`."""
    target = find_target(name)
    tokenizer = target_tokenizer(target)
    renderer = Renderer(tokenizer, choose_template(tokenizer))
    probes = [renderer.prompt_ids(with_system([Message("user", text)], target.system)) for text in PROBES]
    return merge_adapter(
        target, output or Path(name) / "merged", probes=probes, stop_ids=renderer.end_of_turn_ids, dtype=dtype
    )
