"""Put an adapter's update into the weights, and show that nothing else changed."""

import json
import os
import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel

from tunesmith.errors import ModelError, RunFailed
from tunesmith.models.adapter import Target, load_target
from tunesmith.models.folders import write_note
from tunesmith.models.forward import logits_at_last

# W + BA is rounded once where W x + B (A x) is rounded twice; logits are of order 10, so these are some
# hundred units in the last place of float32 and about four of bfloat16.
TOLERANCE = {"float32": 2e-2, "bfloat16": 0.5}


@dataclass(frozen=True, slots=True)
class Merged:
    """A merged folder and how far it is from base plus adapter.

    Attributes:
        path: standard Hugging Face folder.
        max_logit_difference: largest absolute difference of next-token logits over the probes.
        tolerance: what was allowed.
    """

    path: Path
    max_logit_difference: float
    tolerance: float


def merge_adapter(
    target: Target,
    output: Path,
    *,
    probes: Sequence[Sequence[int]],
    stop_ids: Sequence[int],
    dtype: str = "float32",
) -> Merged:
    """Write `output`, a folder that plain `AutoModelForCausalLM.from_pretrained` loads.

    Args:
        target: must carry an adapter.
        output: folder to make; must not exist.
        probes: prompts (token ids) on which merged and unmerged are compared.
        stop_ids: end-of-turn ids, written to generation_config.json so that any tool stops there.
        dtype: `float32` or `bfloat16`, in which the sum is computed and stored.

    Raises:
        ModelError: if there is nothing to merge or `output` exists.
        RunFailed: if the adapter's weights are not finite, or the merged model differs from base plus
            adapter by more than `TOLERANCE`.
    """
    if target.adapter is None:
        raise ModelError(f"`{target.name}` has no adapter to merge", hint="give a run or an adapter folder")
    if output.exists():
        raise ModelError(f"`{output}` exists already", hint="choose another folder with `--output`")
    loaded = load_target(target, dtype=getattr(torch, dtype), device="cpu")
    before = [logits_at_last(loaded.model, torch.tensor([list(probe)])) for probe in probes]
    merged = _merged(cast(PeftModel, loaded.model), target.adapter)
    after = [logits_at_last(merged, torch.tensor([list(probe)])) for probe in probes]
    gap = max(float((a - b).abs().max()) for a, b in zip(after, before, strict=True))
    if not gap <= TOLERANCE[dtype]:
        raise RunFailed(
            f"merged and unmerged logits differ by {gap:.3g}, above {TOLERANCE[dtype]:g} for {dtype}",
            hint="merge in float32 (`--dtype float32`), or keep using the adapter unmerged",
        )
    merged.generation_config.update(eos_token_id=list(stop_ids), pad_token_id=loaded.pad_id)
    output.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{output.name}-", dir=output.parent))
    try:
        merged.save_pretrained(staging, safe_serialization=True)
        loaded.tokenizer.save_pretrained(staging)
        _clean_config(staging)
        write_note(staging, {"merged_from": target.base.name, "system": target.system})
        staging.chmod(0o755)
        os.replace(staging, output)
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return Merged(output, gap, TOLERANCE[dtype])


def _merged(model: PeftModel, adapter: Path) -> PreTrainedModel:
    try:
        return cast(PreTrainedModel, model.merge_and_unload(safe_merge=True))
    except ValueError as error:
        raise RunFailed(
            f"`{adapter}` cannot be merged: {error}",
            hint="its training went wrong; train again with a lower `--learning-rate`",
        ) from error


def _clean_config(folder: Path) -> None:
    """Drop the path of the machine it was made on from config.json."""
    path = folder / "config.json"
    config = json.loads(path.read_text(encoding="utf-8"))
    config.pop("_name_or_path", None)
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")
