"""Put an adapter's update into the weights, and show that nothing else changed."""

import math
import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.errors import ModelError, RunFailed
from tunesmith.models.adapter import Target, load_target, save_whole, target_tokenizer
from tunesmith.models.attach import put_on
from tunesmith.models.folders import read_note, read_object
from tunesmith.models.forward import logits_at_last, token_losses
from tunesmith.models.four_bit import dequantized
from tunesmith.models.load import LoadedModel, load_model

# W + BA is rounded once where W x + B (A x) is rounded twice; logits are of order 10, so these are some
# hundred units in the last place of float32. Of the embedded model with LoRA, unmerged, next-token logits
# in bfloat16 and in float32 differ by 0.3 to 0.7: a merge in bfloat16 cannot come nearer than that.
TOLERANCE = {"float32": 2e-2, "bfloat16": 1.0}
# Of the mean over many tokens, in nats; rounding is as often up as down.
LOSS_TOLERANCE = {"float32": 1e-3, "bfloat16": 5e-2}

LossOf = Callable[[LoadedModel], float]
"""Mean nats per scored token of a model on rows that are always the same."""


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged folder and how far it is from base plus adapter.

    Attributes:
        path: standard Hugging Face folder.
        max_logit_difference: largest absolute difference of next-token logits over the probes.
        tolerance: what was allowed.
        loss_unmerged: of base plus adapter, in nats per token.
        loss_merged: of the merged model on the same rows.
        loss_tolerance: how far they may differ.
        loss_on: what the losses were measured on.
    """

    path: Path
    max_logit_difference: float
    tolerance: float
    loss_unmerged: float
    loss_merged: float
    loss_tolerance: float
    loss_on: str = "the probe texts"


def merge_adapter(
    target: Target,
    output: Path,
    *,
    probes: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    dtype: str = "float32",
    loss_of: LossOf | None = None,
) -> Merged:
    """Write `output`, a folder that plain `AutoModelForCausalLM.from_pretrained` loads.

    The update of an adapter that was trained on a 4-bit base is added to the numbers which that base
    stands for: they come back as `dtype`, and the 4-bit model with its adapter is what is compared with.

    Args:
        target: must carry an adapter of LoRA or QLoRA.
        output: folder to make; must not exist.
        probes: prompts (token ids) on which merged and unmerged are compared.
        stop_ids: end-of-turn ids, written to generation_config.json so that any tool stops there.
        dtype: `float32` or `bfloat16`, in which the sum is computed and stored.
        loss_of: loss to compare; by default on the tokens of `probes` themselves.

    Raises:
        ModelError: if there is nothing to merge, no weight can hold it, or `output` exists.
        RunFailed: if the adapter's weights are not finite, or the merged model differs from base plus
            adapter by more than `TOLERANCE` or `LOSS_TOLERANCE`.
    """
    folder = _mergeable(target)
    if output.exists():
        raise ModelError(f"`{output}` exists already", hint="choose another folder with `--output`")
    loss_of = loss_of or (lambda loaded: _probe_loss(loaded, probes))
    loaded = load_target(target, dtype=getattr(torch, dtype), device="cpu")
    before, loss_before = _logits(loaded, probes), loss_of(loaded)
    whole = _merged(_on_plain_weights(loaded, target, folder, dtype), folder)
    merged = LoadedModel(whole, loaded.tokenizer, target.base)
    after, loss_after = _logits(merged, probes), loss_of(merged)
    gap = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    _check("logits", gap, TOLERANCE[dtype], dtype)
    _check("loss", abs(loss_after - loss_before), LOSS_TOLERANCE[dtype], dtype)
    whole.generation_config.update(eos_token_id=list(stop_ids), pad_token_id=loaded.pad_id)
    note = {"merged_from": target.base.name, "system": target.system}
    save_whole(whole, output, tokenizer=loaded.tokenizer, note=note)
    return Merged(output, gap, TOLERANCE[dtype], loss_before, loss_after, LOSS_TOLERANCE[dtype])


def _mergeable(target: Target) -> Path:
    """The adapter folder, if its method's update can be a change of weights."""
    if target.adapter is None:
        if target.method == "full" or "merged_from" in read_note(Path(target.base.path)):
            raise ModelError(
                f"`{target.name}` is a whole model already: there is nothing to merge",
                hint=f"use `{target.base.path}` as it is; any Hugging Face tool loads it",
            )
        raise ModelError(f"`{target.name}` has no adapter to merge", hint="give a run or an adapter folder")
    reasons = {
        "PREFIX_TUNING": "is a prefix: layers attend to it as to tokens, and no change of weights does that",
        "TUNESMITH_BOTTLENECK": "has a nonlinear layer inside, so it is no change of the weights beside it",
    }
    kind = read_object(target.adapter / "adapter_config.json").get("peft_type")
    if kind in reasons:
        raise ModelError(
            f"`{target.adapter}` cannot be merged: it {reasons[str(kind)]}",
            hint="keep using it beside its base, or train with `--method lora`, which merges",
        )
    return target.adapter


def _on_plain_weights(loaded: LoadedModel, target: Target, folder: Path, dtype: str) -> PeftModel:
    """The tuned model; of one on a 4-bit base, its adapter on the dequantized base."""
    if not target.four_bit:
        return cast(PeftModel, loaded.model)
    number_type = getattr(torch, dtype)
    base = load_model(target.base, dtype=number_type, device="cpu", four_bit=True).model
    plain = dequantized(base, dtype=number_type)
    tokenizer = target_tokenizer(target)
    return put_on(plain, folder, base_name=target.base.name, tokenizer=tokenizer).eval()


def _merged(model: PeftModel, adapter: Path) -> PreTrainedModel:
    try:
        with warnings.catch_warnings():
            # Said where an adapter trained them apart; the config then says so too, which is right.
            warnings.filterwarnings("ignore", message="Input and output embeddings are no longer tied")
            return cast(PreTrainedModel, model.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise RunFailed(
            f"`{adapter}` cannot be merged: {error}",
            hint="its training went wrong; train again with a lower `--learning-rate`",
        ) from error


def _logits(loaded: LoadedModel, probes: Sequence[Sequence[int]]) -> list[torch.Tensor]:
    return [logits_at_last(loaded.model, torch.tensor([list(probe)])) for probe in probes]


def _probe_loss(loaded: LoadedModel, probes: Sequence[Sequence[int]]) -> float:
    """Mean over all tokens of the probes but the first of each."""
    losses = []
    with torch.no_grad():
        for probe in probes:
            ids_1T = torch.tensor([list(probe)])
            predicts_1T = torch.ones_like(ids_1T, dtype=torch.bool)
            predicts_1T[:, -1] = False
            losses.append(token_losses(loaded.model, ids_1T, predicts_1T))
    return float(torch.cat(losses).mean())


def _check(what: str, gap: float, allowed: float, dtype: str) -> None:
    if not gap <= allowed or math.isnan(gap):
        raise RunFailed(
            f"merged and unmerged {what} differ by {gap:.3g}, above {allowed:g} for {dtype}",
            hint="merge in float32 (`--dtype float32`), or keep using the adapter unmerged",
        )
