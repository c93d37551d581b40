"""One model in memory, asked by every approach: which inputs, how long an answer, base or fine-tuned."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tunesmith.approaches.answers import Answered, answer_plan, identity_of_answers, kept_answers
from tunesmith.approaches.requests import HeldOut, Plan
from tunesmith.approaches.settings import APPROACHES, FINE_TUNED
from tunesmith.config import RunConfig
from tunesmith.data.prepare import Prepared
from tunesmith.data.render import Renderer
from tunesmith.errors import DataError, RunFailed, RunFolderError
from tunesmith.evaluation.inputs import prompt_text, rows_to_ask
from tunesmith.evaluation.measure import answer_limit, group_references
from tunesmith.evaluation.outputs import item_ids
from tunesmith.evaluation.slices import perturbations_of, slices_of
from tunesmith.hardware import Hardware
from tunesmith.methods import METHODS
from tunesmith.models.adapter import find_target, load_target
from tunesmith.models.base import as_base
from tunesmith.models.find import ModelSource
from tunesmith.models.generate import Decoding
from tunesmith.models.load import LoadedModel, load_model
from tunesmith.planning.shapes import architecture
from tunesmith.progress import Progress
from tunesmith.runs import RunFolder
from tunesmith.tools.digest import file_sha256


@dataclass(frozen=True, slots=True)
class Asking:
    """What all approaches have in common.

    Attributes:
        config: of the run.
        source: the pretrained model.
        hardware: where it computes.
        renderer: of the rows and of every prompt.
        inputs: held-out inputs.
        decoding: greedy, with one limit for all.
        run: the fine-tuned model's, or None.
    """

    config: RunConfig
    source: ModelSource
    hardware: Hardware
    renderer: Renderer
    inputs: tuple[HeldOut, ...]
    decoding: Decoding
    run: RunFolder | None

    @property
    def batch_rows(self) -> int:
        """Rows answered together."""
        return self.config.evaluation.per_device_eval_batch_size


def held_out_inputs(data: Prepared, config: RunConfig) -> tuple[tuple[HeldOut, ...], int]:
    """The inputs that all approaches are asked, and the longest answer in tokens.

    Rows with the same prompt are one input with several references. At most `evaluation.generate_rows` inputs
    are taken, drawn by the seed.

    Raises:
        DataError: if no row is held out, or none is asked.
    """
    if not data.test or not config.evaluation.generate_rows:
        what = "no row is held out" if not data.test else "`generate_rows` is 0"
        raise DataError(
            f"{what}, so there is nothing to compare on",
            hint="hold rows out (`--test-file` or `--test-size`) and ask some (`--generate-rows`)",
        )
    asked = rows_to_ask(
        group_references(data.test), most=config.evaluation.generate_rows, seed=config.training.seed
    )
    limit = answer_limit(data.test, asked, config.evaluation)
    rows = [first.row for first, _ in asked]
    references = [found for _, found in asked]
    prompts = [prompt_text(row) for row in rows]
    ids = item_ids(zip(prompts, references, strict=True))
    slices = slices_of(prompts, references, perturbations=perturbations_of(rows))
    return tuple(map(HeldOut, ids, rows, prompts, references, slices)), limit


def room_tokens(asking: Asking) -> dict[str, int | None]:
    """By approach, the longest prompt whose answer still fits the model's context; None for any."""
    context = getattr(architecture(asking.source).get_text_config(), "max_position_embeddings", None)
    if not context:
        return dict.fromkeys(APPROACHES)
    method = asking.config.method
    # The learned positions of a prefix take room too.
    learned = method.num_virtual_tokens if method.name == "prefix" else 0
    room = int(context) - asking.decoding.max_new_tokens
    return {name: room - learned * (name in FINE_TUNED) for name in APPROACHES}


def answer_all(
    asking: Asking, plans: Sequence[Plan], folder: Path, progress: Progress
) -> dict[str, list[Answered]]:
    """The answers of every possible approach, by name. The model is loaded only if one is missing."""
    possible = [plan for plan in plans if not plan.impossible]
    if not possible:
        reasons = "; ".join(f"{plan.approach}: {plan.impossible}" for plan in plans)
        raise RunFailed(
            f"no approach is possible. {reasons}",
            hint="shorten the inputs, or take a model with a longer context",
        )
    weights = _weights_hash(asking.run) if asking.run else ""
    identities = {plan.approach: _identity(asking, plan, weights) for plan in possible}
    found = {plan.approach: kept_answers(folder, plan, identities[plan.approach]) for plan in possible}
    unfinished = [plan for plan in possible if len(found[plan.approach]) < len(plan.requests)]
    for plan in possible:
        if plan not in unfinished:
            progress.say(f"{plan.approach}: answered before, kept")
    if not unfinished:
        return found
    loaded = _load(asking, progress)

    def answer(those: Sequence[Plan]) -> None:
        for plan in those:
            found[plan.approach] = answer_plan(
                loaded,
                asking.renderer,
                plan,
                folder=folder,
                identity=identities[plan.approach],
                decoding=asking.decoding,
                batch_rows=asking.batch_rows,
                device=asking.hardware.device,
                progress=progress,
            )

    prompted = [plan for plan in unfinished if plan.approach not in FINE_TUNED]
    if prompted and asking.run is not None:
        # One context for all: the base of a fully tuned model is read from its files each time.
        with as_base(loaded):
            answer(prompted)
    else:
        answer(prompted)
    answer([plan for plan in unfinished if plan.approach in FINE_TUNED])
    return found


def _weights_hash(run: RunFolder) -> str:
    files = sorted(run.result.glob("*.safetensors"))
    return "+".join(file_sha256(file) for file in files)


def _identity(asking: Asking, plan: Plan, weights: str) -> dict[str, Any]:
    model = {
        "model": asking.source.fingerprint,
        "weights": weights if plan.approach in FINE_TUNED else "",
        "held_in": METHODS[asking.config.method.name].base,
        "device": asking.hardware.device,
        "dtype": asking.hardware.dtype,
    }
    return identity_of_answers(plan, model, decoding=asking.decoding, batch_rows=asking.batch_rows)


def _load(asking: Asking, progress: Progress) -> LoadedModel:
    """The fine-tuned model, whose base is asked too; the base alone where nothing was tuned."""
    progress.say(f"answering in {asking.hardware.reason}")
    dtype, device = asking.hardware.torch_dtype, asking.hardware.device
    if asking.run is None:
        four_bit = METHODS[asking.config.method.name].base == "four_bit"
        return load_model(asking.source, dtype=dtype, device=device, four_bit=four_bit)
    loaded = load_target(find_target(str(asking.run.path)), dtype=dtype, device=device)
    template = loaded.tokenizer.chat_template
    if template != asking.renderer.template.text:
        raise RunFolderError(
            f"run `{asking.run.path}` was trained with another prompt template than this one asks with",
            hint="give the `--template` it was trained with",
        )
    return loaded
