"""Load a model that was found, with its tokenizer.

A *target* for using a model is a name as `find.py` takes it, a run folder, an adapter folder or a merged
folder. Only safetensors weights are read and no
code of a model's author runs.
"""

import logging
from dataclasses import dataclass
from difflib import get_close_matches
from typing import Any

import torch
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
from transformers import (
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith.errors import ModelError
from tunesmith.models.find import EMBEDDED, ModelSource

NAMED_TENSORS = 3
UNREADABLE = (
    OSError,
    ValueError,
    SafetensorError,
    hub_errors.HfHubHTTPError,
    hub_errors.HFValidationError,
)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


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
    model, report = _reading(
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


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer alone: seconds faster than the model, and enough to check data."""
    tokenizer: PreTrainedTokenizerBase = _reading(
        source,
        lambda: AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False),
    )
    return tokenizer


def _reading(source: ModelSource, read: Any) -> Any:
    """Run `read`, turning the many errors of hub and parser into one that says what to do."""
    try:
        return read()
    except UNREADABLE as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.kind == "hub":
            raise ModelError(
                f"there is no folder `{source.name}` here, and the hub gave no such model: {first_line}",
                hint=_hub_hint(source.name),
            ) from error
        raise ModelError(
            f"`{source.name}` cannot be loaded: {first_line}",
            hint="the folder needs config.json, tokenizer files and *.safetensors weights",
        ) from error


def _hub_hint(name: str) -> str:
    near = get_close_matches(name, [EMBEDDED], cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`, the embedded model?"
    return (
        "check the spelling and the network; offline, give a local folder or a `.gguf` file, "
        f"or take the embedded `{EMBEDDED}`"
    )
