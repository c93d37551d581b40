"""What training leaves, found and loaded: adapter folders of every method, and whole tuned models.

An adapter folder is a standard PEFT folder, a whole model a standard Hugging Face folder; each has one small
note of ours, see `folders.py`. Folders without it load as well.
"""

import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from peft import PeftModel
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from tunesmith.errors import ModelError
from tunesmith.models.attach import put_on
from tunesmith.models.find import ModelSource, find_model
from tunesmith.models.folders import NOTE, method_of, read_note, read_object, write_note
from tunesmith.models.load import LoadedModel, load_model
from tunesmith.models.tokenizer import load_tokenizer

__all__ = ["NOTE", "Target", "find_target", "load_target", "save_adapter", "save_whole", "target_tokenizer"]


@dataclass(frozen=True, slots=True)
class Target:
    """What a user wants to talk to.

    Attributes:
        name: as given.
        base: the model itself, or the base of the adapter.
        adapter: PEFT folder, or None.
        system: system message of the training rows, or None.
        method: how it was tuned, by its name in the configuration; None for a model that was not.
        four_bit: whether the adapter was trained on a base held in 4 bit.
        tuned_from: base of a fully tuned model, looked for only when it is needed; else None.
    """

    name: str
    base: ModelSource
    adapter: Path | None
    system: str | None
    method: str | None = None
    four_bit: bool = False
    tuned_from: ModelSource | None = None


def find_target(name: str, *, revision: str | None = None) -> Target:
    """A run folder, an adapter folder, a fully tuned model, or anything `find_model` knows.

    Raises:
        ModelError: if it is none of these, or the adapter's base cannot be found.
    """
    path = Path(name).expanduser()
    adapter = next((p for p in (path / "adapter", path) if (p / "adapter_config.json").is_file()), None)
    if adapter is not None:
        return _adapter_target(name, adapter)
    is_run = (path / "manifest.json").is_file()
    if is_run and not (path / "model" / "config.json").is_file():
        raise ModelError(
            f"run `{name}` has no adapter: its training did not finish",
            hint=f"go on with `tunesmith train --resume {name}`",
        )
    whole = path / "model" if is_run else path
    note = read_note(whole)
    source = find_model(str(whole) if is_run else name, revision=revision)
    base_name = note.get("base_model") if note.get("method") == "full" else None
    # Not searched for yet: the tuned model answers without its base.
    tuned_from = ModelSource(base_name, base_name, note.get("revision"), "named") if base_name else None
    return Target(name, source, None, note.get("system"), note.get("method"), tuned_from=tuned_from)


def _adapter_target(name: str, folder: Path) -> Target:
    note, config = read_note(folder), read_object(folder / "adapter_config.json")
    base_name = note.get("base_model") or config.get("base_model_name_or_path")
    if not base_name:
        raise ModelError(f"`{folder}` does not name its base model", hint="add `base_model_name_or_path`")
    base = find_model(base_name, revision=note.get("revision") or config.get("revision"))
    four_bit = bool(note.get("four_bit", False))
    return Target(name, base, folder, note.get("system"), method_of(note, config), four_bit)


def load_target(target: Target, *, dtype: torch.dtype, device: str) -> LoadedModel:
    """The model as it was tuned, by any method, and the tokenizer it was tuned with.

    Raises:
        ModelError: if the adapter does not fit the base, is damaged, or is not safetensors.
    """
    loaded = load_model(target.base, dtype=dtype, device=device, four_bit=target.four_bit)
    if target.adapter is None:
        return replace(loaded, tuned_from=target.tuned_from)
    tokenizer = target_tokenizer(target)
    model = put_on(loaded.model, target.adapter, tokenizer=tokenizer, base_name=target.base.name)
    # PeftModel forwards whatever it lacks to the model inside.
    return LoadedModel(cast(PreTrainedModel, model.to(device).eval()), tokenizer, target.base)


def target_tokenizer(target: Target) -> PreTrainedTokenizerBase:
    """The tokenizer saved beside the adapter, which carries the trained template; else the base's."""
    has_own = target.adapter is not None and (target.adapter / "tokenizer.json").is_file()
    source = ModelSource(target.name, str(target.adapter), None, "folder") if has_own else target.base
    return load_tokenizer(source)


def save_adapter(
    model: PeftModel, folder: Path, *, tokenizer: PreTrainedTokenizerBase, note: Mapping[str, Any]
) -> None:
    """Write the standard folder: weights, config, tokenizer with its chat template, and our note.

    The config names the base as the user did (`base_model` of the note), not where its files lay.
    """
    model.save_pretrained(str(folder), safe_serialization=True)
    path = folder / "adapter_config.json"
    config = read_object(path)
    if note.get("base_model"):
        config["base_model_name_or_path"] = note["base_model"]
    if isinstance(config.get("target_modules"), list):
        # A set in peft, which lists it in another order each time.
        config["target_modules"] = sorted(config["target_modules"])
    _write_object(path, config)
    tokenizer.save_pretrained(folder)
    write_note(folder, note)


def save_whole(
    model: PreTrainedModel, folder: Path, *, tokenizer: PreTrainedTokenizerBase, note: Mapping[str, Any]
) -> None:
    """Write a standard Hugging Face folder in one rename; one that was there before is replaced.

    The weights keep the type they have, after full fine-tuning float32 also where the base was stored in
    16 bit: what was evaluated is what is stored, to the bit. At the usual learning rates most updates are
    smaller than half a step of bfloat16 and would be rounded away; whoever loads may still round.
    """
    folder.parent.mkdir(parents=True, exist_ok=True)
    staging = Path(tempfile.mkdtemp(prefix=f".{folder.name}-", dir=folder.parent))
    try:
        model.save_pretrained(staging, safe_serialization=True)
        tokenizer.save_pretrained(staging)
        config = read_object(staging / "config.json")
        # Where it was loaded from: a path of this machine.
        config.pop("_name_or_path", None)
        _write_object(staging / "config.json", config)
        write_note(staging, note)
        staging.chmod(0o755)
        if folder.exists():
            shutil.rmtree(folder)
        os.replace(staging, folder)
    finally:
        shutil.rmtree(staging, ignore_errors=True)


def _write_object(path: Path, value: Mapping[str, Any]) -> None:
    path.write_text(json.dumps(value, indent=2, sort_keys=True) + "\n", encoding="utf-8")
