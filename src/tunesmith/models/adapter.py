"""Adapter and merged folders: standard PEFT and Hugging Face files, plus one small note of ours.

The note, `tunesmith.json`, keeps what those formats have no place for: which base model the user named,
and the system message the rows were trained with. Folders without it load as well.
"""

import json
import warnings
from collections.abc import Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from safetensors import SafetensorError, safe_open
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.load import LoadedModel, load_model
from tunesmith.models.tokenizer import load_tokenizer

NOTE = "tunesmith.json"


@dataclass(frozen=True, slots=True)
class Target:
    """What a user wants to talk to.

    Attributes:
        name: as given.
        base: the model itself, or the base of the adapter.
        adapter: PEFT folder, or None.
        system: system message of the training rows, or None.
    """

    name: str
    base: ModelSource
    adapter: Path | None
    system: str | None


def find_target(name: str, *, revision: str | None = None) -> Target:
    """A run folder, an adapter folder, or anything `find_model` knows.

    Raises:
        ModelError: if it is none of these, or the adapter's base cannot be found.
    """
    path = Path(name).expanduser()
    adapter = next((p for p in (path / "adapter", path) if (p / "adapter_config.json").is_file()), None)
    if adapter is None:
        if (path / "manifest.json").is_file():
            raise ModelError(
                f"run `{name}` has no adapter: its training did not finish",
                hint=f"go on with `tunesmith train --resume {name}`",
            )
        note = _read_note(path)
        return Target(name, find_model(name, revision=revision), None, note.get("system"))
    note = _read_note(adapter)
    config = _read_object(adapter / "adapter_config.json")
    base_name = note.get("base_model") or config.get("base_model_name_or_path")
    if not base_name:
        raise ModelError(f"`{adapter}` does not name its base model", hint="add `base_model_name_or_path`")
    base = find_model(base_name, revision=note.get("revision") or config.get("revision"))
    return Target(name, base, adapter, note.get("system"))


def load_target(target: Target, *, dtype: torch.dtype, device: str) -> LoadedModel:
    """The model with its adapter on it, if any, and the tokenizer it was trained with.

    Raises:
        ModelError: if the adapter does not fit the base, is damaged, or is not safetensors.
    """
    loaded = load_model(target.base, dtype=dtype, device=device)
    if target.adapter is None:
        return loaded
    if not (target.adapter / "adapter_model.safetensors").is_file():
        raise ModelError(
            f"`{target.adapter}` has no adapter_model.safetensors",
            hint="other weight formats can run code when they are read; save the adapter as safetensors",
        )
    model = _with_adapter(loaded.model, target.adapter, target.base.name)
    # PeftModel forwards whatever it lacks to the model inside.
    whole = cast(PreTrainedModel, model.to(device).eval())
    return LoadedModel(whole, target_tokenizer(target), target.base)


def _with_adapter(base: PreTrainedModel, folder: Path, base_name: str) -> PeftModel:
    try:
        with warnings.catch_warnings():
            warnings.filterwarnings("ignore", message="Found missing adapter keys")  # counted below
            model = PeftModel.from_pretrained(base, folder)
        with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
            names = file.keys()
            held = sum("lora_" in name for name in names)
        taken = sum("lora_" in name for name in model.state_dict())
        if held != taken:
            raise ValueError(f"it holds {held} LoRA tensors where the model takes {taken}")
    except (RuntimeError, ValueError, SafetensorError) as error:
        raise ModelError(
            f"adapter `{folder}` does not fit `{base_name}`: {str(error).splitlines()[0]}",
            hint="load it on the base model it was trained on, and check that the copy is whole",
        ) from error
    return model


def target_tokenizer(target: Target) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the adapter, which carries the trained template; else the base's."""
    has_own = target.adapter is not None and (target.adapter / "tokenizer.json").is_file()
    source = ModelSource(target.name, str(target.adapter), None, "folder") if has_own else target.base
    return load_tokenizer(source)


def has_adapter(model: PreTrainedModel) -> bool:
    """Whether the model carries an adapter that can be switched off."""
    return isinstance(model, PeftModel)


def without_adapter(model: PreTrainedModel) -> AbstractContextManager[None]:
    """Within this context the model is its base."""
    return cast(PeftModel, model).disable_adapter()


def save_adapter(
    model: PeftModel, folder: Path, *, tokenizer: PreTrainedTokenizerBase, note: Mapping[str, Any]
) -> None:
    """Write the standard folder: weights, config, tokenizer with its chat template, and our note."""
    model.save_pretrained(str(folder), safe_serialization=True)
    tokenizer.save_pretrained(folder)
    write_note(folder, note)


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    """Write `tunesmith.json`."""
    (folder / NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_note(folder: Path) -> dict[str, Any]:
    path = folder / NOTE
    return _read_object(path) if path.is_file() else {}


def _read_object(path: Path) -> dict[str, Any]:
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"`{path}` is no JSON object: {error}", hint="copy the folder again from where it came"
        ) from error
