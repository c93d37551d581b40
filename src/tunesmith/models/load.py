"""Load a model that was found, with its tokenizer.

A *target* for using a model is a name as `find.py` takes it, a run folder, an adapter folder or a merged
folder. Only safetensors weights are read and no code of a model's author runs.
"""

from dataclasses import dataclass
from typing import Any, cast

import torch
from transformers import AutoModelForCausalLM, PretrainedConfig, PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource
from tunesmith.models.foreign import check_config
from tunesmith.models.four_bit import (
    cast_whole_weights,
    check_device,
    check_library,
    dequantized,
    quantization,
    settle,
)
from tunesmith.models.tokenizer import load_tokenizer, reading

NAMED_TENSORS = 3


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to compute, its tokenizer, and where both came from.

    Attributes:
        model: in eval mode.
        tokenizer: the one it was trained with.
        source: of the model itself, or of the base its adapter sits on.
        tuned_from: base of a model whose weights were all trained, or None.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource
    tuned_from: ModelSource | None = None

    @property
    def pad_id(self) -> int:
        """Id that fills batches; never scored and never attended to, so any id is right."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else 0)


def load_model(
    source: ModelSource, *, dtype: torch.dtype, device: str, four_bit: bool = False
) -> LoadedModel:
    """Weights in `dtype` on `device`, and the tokenizer.

    Args:
        source: where the model is.
        dtype: of the weights; with `four_bit`, what the layers compute in and what stays unquantized is.
        device: `cpu`, `cuda` or `mps`.
        four_bit: hold the linear layers in 4 bit (NF4, double quantization), quantized while they load.
            Embeddings and output layer stay whole. A model that is stored in 4 bit keeps its own numbers;
            without `four_bit` it comes dequantized.

    Raises:
        ModelError: if files are missing, damaged, not safetensors, need code of their own, or are quantized
            in a way that is not read here; if 4 bit is asked for where it cannot be.
    """
    tokenizer = load_tokenizer(source)
    is_stored = _is_stored_in_four_bit(source)
    if four_bit:
        check_device(device)
    arguments: dict[str, Any] = {}
    if four_bit or is_stored:
        check_library()
        # Named, because else transformers takes a GPU whenever there is one.
        arguments = {"device_map": {"": "cpu" if device == "mps" else device}}
    if four_bit and not is_stored:
        arguments["quantization_config"] = quantization(dtype)
    model = _read(source, dtype=dtype, **arguments)
    if four_bit or is_stored:
        settle(model, dtype)
    if is_stored:
        cast_whole_weights(model, dtype)
    if is_stored and not four_bit:
        model = dequantized(model, dtype=dtype)
    return LoadedModel(cast(Any, model).to(device).eval(), tokenizer, source)


def _read(source: ModelSource, **arguments: Any) -> PreTrainedModel:
    model, report = reading(
        source,
        lambda: AutoModelForCausalLM.from_pretrained(
            source.path,
            revision=source.revision,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
            **arguments,
        ),
    )
    if getattr(model, "_hf_peft_config_loaded", False):
        raise ModelError(
            f"`{source.name}` is an adapter, which transformers put on its base unasked",
            hint="give its base as the model; an adapter in a folder of its own is used where it is named",
        )
    _check_all_weights_came(source, sorted(report["missing_keys"]))
    return model  # type: ignore[no-any-return]


def _is_stored_in_four_bit(source: ModelSource) -> bool:
    """Whether the files hold 4-bit weights of bitsandbytes already.

    Raises:
        ModelError: if they are quantized in any other way.
    """
    config, _ = reading(
        source, lambda: PretrainedConfig.get_config_dict(source.path, revision=source.revision)
    )
    check_config(config, name=source.name)
    text = config.get("text_config")
    stored = config.get("quantization_config") or (
        text.get("quantization_config") if isinstance(text, dict) else None
    )
    if not stored:
        return False
    if not isinstance(stored, dict):
        raise ModelError(
            f"`{source.name}` cannot be loaded: `quantization_config` in its config.json is no object",
            hint="copy the folder again from where it came",
        )
    if stored.get("load_in_4bit"):
        return True
    kind = "bitsandbytes in 8 bit" if stored.get("load_in_8bit") else stored.get("quant_method", "unknown")
    raise ModelError(
        f"`{source.name}` is stored quantized ({kind}); only whole weights and bitsandbytes' 4 bit are read",
        hint="take the model it was made from; `--method qlora` holds it in 4 bit",
    )


def _check_all_weights_came(source: ModelSource, missing: list[str]) -> None:
    """Upstream fills what the file lacks with random numbers and goes on; no result would be right."""
    if missing:
        named = ", ".join(missing[:NAMED_TENSORS]) + (" ..." if len(missing) > NAMED_TENSORS else "")
        raise ModelError(
            f"the weights of `{source.name}` lack {len(missing)} tensors its config.json asks for: {named}",
            hint="take a whole causal language model; a file of it may be missing",
        )
