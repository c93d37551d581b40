"""What adapter folders say of themselves: their two small JSON files and the heads of their weights.

Light: nothing here loads torch. The note, `tunesmith.json`, keeps what the standard files have no place for:
the base model as the user named it, how it was held, the method, and the system message of the rows.
"""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from math import prod
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from tunesmith.errors import ModelError

NOTE = "tunesmith.json"
METHOD_OF_TYPE = {"LORA": "lora", "PREFIX_TUNING": "prefix", "TUNESMITH_BOTTLENECK": "adapter"}


@dataclass(frozen=True, slots=True)
class AdapterFacts:
    """One adapter folder, or the whole model that full fine-tuning left.

    Attributes:
        path: its folder.
        method: as in the configuration; for a foreign folder, its peft type in lower case.
        base: base model as it was named.
        size: what decides the size, such as `rank 16`.
        parameters: numbers in its weight files.
        file_bytes: what all files of the folder take on disk.
    """

    path: Path
    method: str
    base: str
    size: str
    parameters: int
    file_bytes: int


def adapters_in(roots: Sequence[Path]) -> list[AdapterFacts]:
    """All adapters and fully tuned models at or below `roots`, by path.

    Raises:
        ModelError: if a root is no folder, or a file of an adapter is damaged.
    """
    folders: set[Path] = set()
    for root in roots:
        if not root.is_dir():
            raise ModelError(f"`{root}` is no folder", hint="give a folder with runs or adapters in it")
        folders |= {file.parent for file in root.rglob("adapter_config.json")}
        folders |= {
            file.parent for file in root.rglob(NOTE) if read_note(file.parent).get("method") == "full"
        }
    return [adapter_facts(folder) for folder in sorted(folders)]


def adapter_facts(folder: Path) -> AdapterFacts:
    """What one folder holds.

    Raises:
        ModelError: if one of its files is damaged.
    """
    note = read_note(folder)
    config_file = folder / "adapter_config.json"
    config = read_object(config_file) if config_file.is_file() else {}
    return AdapterFacts(
        path=folder,
        method=method_of(note, config) or "full",
        base=note.get("base_model") or config.get("base_model_name_or_path") or "unknown",
        size=", ".join(_sizes(config)) or "all weights",
        parameters=sum(prod(shape) for file in folder.glob("*.safetensors") for shape in _shapes(file)),
        file_bytes=sum(file.stat().st_size for file in folder.rglob("*") if file.is_file()),
    )


def method_of(note: Mapping[str, Any], config: Mapping[str, Any]) -> str | None:
    """The method's name by our note, else by the peft type; None where neither says it."""
    kind = config.get("peft_type")
    return note.get("method") or (METHOD_OF_TYPE.get(kind, str(kind).lower()) if kind else None)


def read_note(folder: Path) -> dict[str, Any]:
    """What `tunesmith.json` says; nothing where there is none."""
    path = folder / NOTE
    return read_object(path) if path.is_file() else {}


def write_note(folder: Path, note: Mapping[str, Any]) -> None:
    """Write `tunesmith.json`."""
    (folder / NOTE).write_text(json.dumps(note, indent=2, ensure_ascii=False) + "\n", encoding="utf-8")


def read_object(path: Path) -> dict[str, Any]:
    """A JSON object.

    Raises:
        ModelError: if the file holds none.
    """
    try:
        return dict(json.loads(path.read_text(encoding="utf-8")))
    except (ValueError, TypeError) as error:
        raise ModelError(
            f"`{path}` is no JSON object: {error}", hint="copy the folder again from where it came"
        ) from error


def _sizes(config: Mapping[str, Any]) -> Iterator[str]:
    named = {
        "r": "rank {}",
        "num_virtual_tokens": "{} virtual tokens",
        "reduction_factor": "reduced {:g} times",
        "placement": "{}",
    }
    yield from (text.format(config[key]) for key, text in named.items() if config.get(key) is not None)
    yield from (name for name in ("rslora", "dora") if config.get(f"use_{name}"))


def _shapes(file: Path) -> Iterator[list[int]]:
    try:
        with safe_open(file, framework="numpy") as tensors:
            yield from (tensors.get_slice(name).get_shape() for name in tensors.keys())  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        raise ModelError(
            f"`{file}` cannot be read: {error}", hint="copy the folder again from where it came"
        ) from error
