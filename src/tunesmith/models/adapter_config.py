"""What a stranger's adapter_config.json may say: checked before peft reads it.

peft imports modules and loads pickled files that some of its keys name, and leaves out with a warning what it
does not know, so that a newer adapter would compute something else. Here only known keys with plain values
pass.
"""

import re
from collections.abc import Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from peft import PeftType
from peft.mapping import PEFT_TYPE_TO_CONFIG_MAPPING

from tunesmith.errors import ModelError
from tunesmith.models import bottleneck  # noqa: F401  # makes its peft type known

# Keys that lead to imports, tokenizers' code or files of pickled numbers, with the values that lead nowhere.
_HARMLESS: Mapping[str, tuple[Any, ...]] = {
    "megatron_core": (None, "megatron.core"),
    "megatron_config": (None,),
    "tokenizer_kwargs": (None, {}),
    "prompt_tuning_init_state_dict_path": (None,),
    "corda_config": (None,),
    "lora_ga_config": (None,),
    "adapters": (None, {}),
    "trust_remote_code": (None, False),
}
_MODULE_OF_TRANSFORMERS = re.compile(r"transformers(?:\.[a-z0-9_]+)*")
_ALWAYS = {"peft_version", "auto_mapping", "revision"}


def check_adapter_config(folder: Path, config: Mapping[str, Any]) -> None:
    """Refuse settings that peft would follow elsewhere, or not at all.

    Args:
        folder: the adapter's, for the message.
        config: content of its `adapter_config.json`.

    Raises:
        ModelError: names the key.
    """
    kind = config.get("peft_type")
    if not isinstance(kind, str) or kind not in PEFT_TYPE_TO_CONFIG_MAPPING:
        raise ModelError(
            f"`{folder}` is an adapter of the type {str(kind)[:80]}, which is not known here",
            hint="a newer peft may know it: `pip install --upgrade peft`",
        )
    # Our own type is none of peft's enum; as text it is found in the mapping as well.
    known = {field.name for field in fields(PEFT_TYPE_TO_CONFIG_MAPPING[cast(PeftType, kind)])} | _ALWAYS
    for key, value in config.items():
        if key in _HARMLESS and not any(value == plain for plain in _HARMLESS[key]):
            raise _refused(folder, key, value)
        if key == "auto_mapping" and not _is_of_transformers(value):
            raise _refused(folder, key, value)
        if key not in known and value not in (None, False, [], {}):
            raise ModelError(
                f"`{folder}` sets `{key}`, which {kind} does not know here, so it would compute otherwise",
                hint="a newer peft may know it: `pip install --upgrade peft`",
            )


def _refused(folder: Path, key: str, value: Any) -> ModelError:
    return ModelError(
        f"`{folder}` sets `{key}` to {str(value)[:80]!r} in its adapter_config.json, which can lead to code",
        hint="take the adapter from someone you trust, or set this key to null",
    )


def _is_of_transformers(mapping: Any) -> bool:
    """Whether `auto_mapping`, which an adapter without a task carries, names a class of transformers."""
    if not mapping:
        return True
    library = mapping.get("parent_library") if isinstance(mapping, dict) else None
    return isinstance(library, str) and bool(_MODULE_OF_TRANSFORMERS.fullmatch(library))
