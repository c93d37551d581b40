"""Load a model that was found, with its tokenizer.

A *target* for using a model is a name as `find.py` takes it, a run folder, an adapter folder or a merged
folder. Only safetensors weights are read and no code of a model's author runs.
"""

from dataclasses import dataclass

import torch
from transformers import AutoModelForCausalLM, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.models.tokenizer import load_tokenizer, reading

NAMED_TENSORS = 3


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to compute, its tokenizer, and where both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource

    @property
    def pad_id(self) -> int:
        """Id that fills batches; never scored and never attended to, so any id is right."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else 0)


def load_model(source: ModelSource, *, dtype: torch.dtype, device: str) -> LoadedModel:
    """Weights in `dtype` on `device`, and the tokenizer.

    Raises:
        ModelError: if files are missing, damaged, not safetensors, or need code of their own.
    """
    tokenizer = load_tokenizer(source)
    model, report = reading(
        source,
        lambda: AutoModelForCausalLM.from_pretrained(
            source.path,
            revision=source.revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
    )
    _check_all_weights_came(source, sorted(report["missing_keys"]))
    return LoadedModel(model.to(device).eval(), tokenizer, source)


def _check_all_weights_came(source: ModelSource, missing: list[str]) -> None:
    """Upstream fills what the file lacks with random numbers and goes on; no result would be right."""
    if missing:
        named = ", ".join(missing[:NAMED_TENSORS]) + (" ..." if len(missing) > NAMED_TENSORS else "")
        raise ModelError(
            f"the weights of `{source.name}` lack {len(missing)} tensors its config.json asks for: {named}",
            hint="take a whole causal language model; a file of it may be missing",
        )
