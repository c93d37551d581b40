"""Put an adapter folder on a model, and make sure that it fits and that all of it came."""

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel, get_peft_model_state_dict
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.adapter_config import check_adapter_config
from tunesmith.models.base import set_vocabulary, vocabulary_rows
from tunesmith.models.folders import read_object
from tunesmith.models.weights_header import header_problem

INSIDE = "base_model.model."
KINDS = {"LORA": "LoRA ", "PREFIX_TUNING": "prefix "}


def put_on(
    model: PreTrainedModel | PeftModel,
    folder: Path,
    *,
    base_name: str,
    tokenizer: PreTrainedTokenizerBase,
    name: str = "default",
) -> PeftModel:
    """The model with the adapter of `folder` on it, called `name`, beside those it has already.

    Where `tokenizer` has tokens that the model lacks, it gets rows for them, and the folder must hold what
    was learned for these.

    Raises:
        ModelError: if the folder is not safetensors, is damaged, of an unknown type, or does not fit.
    """
    config = _checked_config(folder)
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # looked for below
            # Without effect, or they would have been refused.
            warnings.filterwarnings("ignore", message="Unexpected keyword arguments")
            # The folder decides what is tied, and merging looks at it again.
            warnings.filterwarnings("ignore", message="Model has `tie_word_embeddings=True`")
            if problem := header_problem(folder / "adapter_model.safetensors"):
                raise ValueError(problem)
            saved = _shapes(folder)
            _check_rank(saved, config)
            rows = vocabulary_rows(_bare(model))
            _fit_vocabulary(model, saved, config, tokenizer)
            if isinstance(model, PeftModel):
                model.load_adapter(str(folder), adapter_name=name)
            else:
                with _kept_embeddings(model, saved, rows=rows):
                    model = PeftModel.from_pretrained(model, folder, adapter_name=name)
            _check_all_came(model, saved, config, name=name)
    except (RuntimeError, ValueError, KeyError, SafetensorError) as error:
        raise ModelError(
            f"adapter `{folder}` does not fit `{base_name}`: {_cause(error)}",
            hint="load it on the base model it was trained on, and check that the copy is whole",
        ) from error
    return model


def saves_embedding(folder: Path, model: PreTrainedModel | PeftModel) -> bool:
    """Whether the folder holds a whole embedding or output layer, which loading writes into the base."""
    return _saved_rows(_shapes(folder), _paths(_bare(model))) is not None


def _checked_config(folder: Path) -> dict[str, Any]:
    if not (folder / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"`{folder}` has no adapter_model.safetensors",
            hint="other weight formats can run code when they are read; save the adapter as safetensors",
        )
    config = read_object(folder / "adapter_config.json")
    check_adapter_config(folder, config)
    return config


def _shapes(folder: Path) -> dict[str, list[int]]:
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        return {name: file.get_slice(name).get_shape() for name in file.keys()}  # noqa: SIM118


def _check_rank(saved: Mapping[str, list[int]], config: Mapping[str, Any]) -> None:
    if config["peft_type"] != "LORA" or config.get("rank_pattern"):
        return
    ranks = {shape[0] for name, shape in saved.items() if name.endswith("lora_A.weight")}
    if ranks - {config.get("r")}:
        found = ", ".join(map(str, sorted(ranks)))
        raise ValueError(f"its weights are of rank {found}, its adapter_config.json says {config.get('r')}")


def _fit_vocabulary(
    model: PreTrainedModel | PeftModel,
    saved: Mapping[str, list[int]],
    config: Mapping[str, Any],
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    """Rows for tokens that were added before training; the saved ones come with the adapter."""
    base = _bare(model)
    rows = vocabulary_rows(base)
    wanted = max(tokenizer.get_vocab().values()) + 1
    whole = _saved_rows(saved, _paths(base))
    if whole is not None and whole >= wanted:
        return _resize(model, base, whole)
    if wanted <= rows:
        return None
    missing = sorted(set(range(rows, wanted)) - _trained_tokens(config))
    if missing:
        text = tokenizer.convert_ids_to_tokens(missing[0])
        raise ModelError(
            f"the adapter's tokenizer has {wanted} tokens and its base {rows}, and the folder holds no "
            f"weights for {len(missing)} of the new ones, such as `{text}`",
            hint="save the embedding with it (peft: `modules_to_save` or `trainable_token_indices`)",
        )
    return _resize(model, base, wanted)


def _resize(model: PreTrainedModel | PeftModel, base: PreTrainedModel, rows: int) -> None:
    if rows == vocabulary_rows(base):
        return
    if model is not base:
        raise ValueError(f"its vocabulary has {rows} rows, unlike that of the adapters beside it")
    set_vocabulary(base, rows)


@contextmanager
def _kept_embeddings(base: PreTrainedModel, saved: Mapping[str, list[int]], *, rows: int) -> Iterator[None]:
    """A folder with a whole embedding writes it into the base, whose own `rows` rows must stay."""
    is_written = _saved_rows(saved, _paths(base)) is not None
    weights = [layer.weight for layer in _ends(base)] if is_written else []
    before = [weight[:rows].detach().clone() for weight in weights]
    yield
    for weight, was in zip(weights, before, strict=True):
        # The folder may have been saved in 16 bit.
        if not torch.allclose(weight[:rows], was[: len(weight)], rtol=2**-7, atol=0):
            raise ValueError("it replaces weights of the base itself, in its embedding")


def _ends(base: PreTrainedModel) -> list[Any]:
    return [base.get_input_embeddings(), base.get_output_embeddings()]


def _bare(model: PreTrainedModel | PeftModel) -> PreTrainedModel:
    return cast(PreTrainedModel, model.get_base_model()) if isinstance(model, PeftModel) else model


def _paths(base: PreTrainedModel) -> list[str]:
    """Paths of embedding and output layer, as an adapter's tensors name them."""
    ends = _ends(base)
    return [INSIDE + path + "." for path, layer in base.named_modules() if any(layer is end for end in ends)]


def _saved_rows(saved: Mapping[str, list[int]], ends: list[str]) -> int | None:
    """Rows of an embedding that was saved whole, if one was."""
    for name, shape in saved.items():
        if name.startswith(tuple(ends)) and name.endswith(".weight") and "lora_" not in name:
            return shape[0]
    return None


def _trained_tokens(config: Mapping[str, Any]) -> set[int]:
    """Ids whose rows were trained alone."""
    found = config.get("trainable_token_indices") or config.get("token_indices") or []
    lists = found.values() if isinstance(found, dict) else [found]
    return {token_id for ids in lists for token_id in ids}


def _check_all_came(
    model: PeftModel, saved: Mapping[str, list[int]], config: Mapping[str, Any], *, name: str
) -> None:
    """Upstream leaves out what does not fit by name, and fills what is missing with its start values."""
    taken = set(get_peft_model_state_dict(model, adapter_name=name, save_embedding_layers=False))
    # A resized embedding is saved beside the adapter, under several names; it is no part of it.
    ends = tuple(_paths(_bare(model)))
    held = {tensor for tensor in saved if tensor in taken or not tensor.startswith(ends)}
    if held != taken:
        kind = KINDS.get(config["peft_type"], "")
        other = f", {len(held - taken)} of them under other names" if len(held) == len(taken) else ""
        raise ValueError(f"it holds {len(held)} {kind}tensors where the model takes {len(taken)}{other}")


def _cause(error: Exception) -> str:
    """The line that says what is wrong, of an error that may list every tensor."""
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    mismatches = [line for line in lines if line.startswith("size mismatch")]
    return (mismatches or lines or [type(error).__name__])[0]
