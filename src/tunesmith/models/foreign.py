"""What a stranger's model folder may say: checked before any library acts on it.

`config.json` chooses classes, attention kernels and files, and libraries have followed it into code that
nobody asked for (CVE-2026-4372, CVE-2026-5241). Only numbers and plain words pass. Light: no torch.
"""

import re
from collections.abc import Iterator, Mapping
from pathlib import Path, PurePath, PureWindowsPath
from typing import Any

from tunesmith.errors import ModelError
from tunesmith.models.folders import read_object
from tunesmith.models.weights_header import header_problem

FOLDER_HINT = "the folder needs config.json, tokenizer files and *.safetensors weights"
_FOREIGN_HINT = "take the model from someone you trust, or remove what is named from the file"
_INDEX = "model.safetensors.index.json"

# Texts that libraries write under private names themselves.
_PRIVATE_TEXTS = {"_name_or_path", "_model_name_or_path", "_commit_hash"}
_KERNELS = {
    f"{private}{part}_implementation" for private in ("", "_") for part in ("attn", "experts", "attention")
}
_PLAIN_KERNELS = {
    *("eager", "sdpa", "flash_attention_2", "flash_attention_3", "flex_attention"),
    *("paged_attention", "grouped_mm", "batched_mm"),
}
_NAMES_FILES_OR_CODE = {"trust_remote_code", "configuration_files", "custom_generate", "use_kernels"}
_COUNTS_MODULES = re.compile(r"(?:n|num)_(?:\w+_)?(?:layers?|blocks|experts)")
_MOST_MODULES = 10_000
_MOST_NESTING = 20


def check_config(config: Mapping[str, Any], *, name: str) -> None:
    """Refuse a `config.json` that says more than a model's shape.

    `auto_map`, which names Python files of the model's author, may stand: it is never followed, and a model
    that transformers does not know without it is refused when it is loaded.

    Args:
        config: its content.
        name: the model as the user called it.

    Raises:
        ModelError: names the key.
    """
    for key, value, why in _odd(config):
        raise ModelError(
            f"`{name}` cannot be loaded: its config.json sets `{key}` to {str(value)[:80]!r}, which {why}",
            hint=_FOREIGN_HINT,
        )


def check_folder(path: Path) -> None:
    """Refuse a model folder whose files lie or reach beyond it.

    Raises:
        ModelError: names file and fault.
    """
    if (path / "adapter_config.json").is_file():
        raise ModelError(
            f"`{path}` holds an adapter beside a model, which would be put on it unasked",
            hint="merge it with `tunesmith merge`, or move the adapter's files into a folder of their own",
        )
    try:
        config = read_object(path / "config.json")
    except (ModelError, RecursionError) as error:
        raise ModelError(f"`{path}` cannot be loaded: {error}", hint=FOLDER_HINT) from error
    check_config(config, name=str(path))
    index = path / _INDEX
    if index.is_file():
        _check_index(path, read_object(index).get("weight_map"))
    for file in sorted(path.glob("*.safetensors")):
        problem = header_problem(file)
        if problem:
            raise ModelError(f"`{path}` cannot be loaded: `{file.name}`: {problem}", hint=FOLDER_HINT)


def _check_index(path: Path, parts: Any) -> None:
    names = set(parts.values()) if isinstance(parts, dict) and _are_texts(parts) else {None}
    for name in names:
        if not name or PurePath(name).name != name or PureWindowsPath(name).name != name:
            raise ModelError(
                f"`{path}` cannot be loaded: {_INDEX} names the file {name!r}, which is none of this folder",
                hint=_FOREIGN_HINT,
            )


def _are_texts(parts: Mapping[str, Any]) -> bool:
    return all(isinstance(value, str) for value in parts.values())


def _odd(config: Mapping[str, Any], nesting: int = 0) -> Iterator[tuple[str, Any, str]]:
    """Key, value and what is wrong with it, in the order of the file."""
    for key, value in config.items():
        if key in _KERNELS:
            if value is not None and not (isinstance(value, str) and value in _PLAIN_KERNELS):
                yield key, value, "names code to compute with that is none of transformers' own"
        elif key in _NAMES_FILES_OR_CODE and value:
            yield key, value, "asks for other files or code"
        elif key.startswith("_") and key not in _PRIVATE_TEXTS and not _is_plain(key, value):
            yield key, value, "is a private setting of the library"
        elif _COUNTS_MODULES.fullmatch(key) and isinstance(value, int) and value > _MOST_MODULES:
            yield key, value, f"is above {_MOST_MODULES}"
        elif isinstance(value, dict):
            if nesting >= _MOST_NESTING:
                yield key, "...", "is nested too deeply"
            else:
                yield from _odd(value, nesting + 1)


def _is_plain(key: str, value: Any) -> bool:
    """Whether a private setting can only be a number or a switch."""
    return not key.endswith("_internal") and (value is None or isinstance(value, int | float))
