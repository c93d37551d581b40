"""What a loader will need of an adapter's or a model's config, checked as warnings.

Small on purpose: the loaders of peft and transformers have the last word.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from difflib import get_close_matches

_SIMILARITY = 0.8


@dataclass(frozen=True, slots=True)
class _Wanted:
    """What a key's value must be, in words and as a test."""

    words: str
    holds: Callable[[object], bool]


@dataclass(frozen=True, slots=True)
class ConfigWarning:
    """A key that a loader will stumble over, or that is missing (`key` None)."""

    key: str | None
    message: str


def _is_count(value: object) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value > 0


def _is_number(value: object) -> bool:
    return isinstance(value, int | float) and not isinstance(value, bool)


def _is_text_list(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(item, str) for item in value)


_TEXT = _Wanted("text", lambda value: isinstance(value, str))
_TEXT_OR_NULL = _Wanted("text or null", lambda value: value is None or isinstance(value, str))
_COUNT = _Wanted("a whole number above 0", _is_count)
_NUMBER = _Wanted("a number", _is_number)
_FRACTION = _Wanted("a number from 0 to 1", lambda value: _is_number(value) and 0 <= float(str(value)) <= 1)
_SWITCH = _Wanted("true or false", lambda value: isinstance(value, bool))
_NAMES = _Wanted("a list of texts", _is_text_list)
_MODULES = _Wanted(
    "a list of texts, text or null",
    lambda value: value is None or isinstance(value, str) or _is_text_list(value),
)

_ADAPTER: Mapping[str, _Wanted] = {
    "peft_type": _TEXT,
    "task_type": _TEXT_OR_NULL,
    "base_model_name_or_path": _TEXT_OR_NULL,
    "revision": _TEXT_OR_NULL,
    "r": _COUNT,
    "lora_alpha": _NUMBER,
    "lora_dropout": _FRACTION,
    "target_modules": _MODULES,
    "modules_to_save": _Wanted(
        "a list of texts or null", lambda value: value is None or _is_text_list(value)
    ),
    "bias": _TEXT,
    "fan_in_fan_out": _SWITCH,
    "inference_mode": _SWITCH,
    "use_rslora": _SWITCH,
    "use_dora": _SWITCH,
}
_MODEL: Mapping[str, _Wanted] = {
    "model_type": _TEXT,
    "architectures": _Wanted("a list of texts or null", lambda value: value is None or _is_text_list(value)),
    "vocab_size": _COUNT,
    "hidden_size": _COUNT,
    "intermediate_size": _COUNT,
    "num_hidden_layers": _COUNT,
    "num_attention_heads": _COUNT,
    "num_key_value_heads": _COUNT,
    "max_position_embeddings": _COUNT,
    "rms_norm_eps": _NUMBER,
    "tie_word_embeddings": _SWITCH,
    "torch_dtype": _TEXT_OR_NULL,
}
# Names that other tools use for the same thing; they look too different to be found by their letters.
_ALIASES: Mapping[str, str] = {
    "rank": "r",
    "lora_r": "r",
    "lora_rank": "r",
    "alpha": "lora_alpha",
    "dropout": "lora_dropout",
    "modules": "target_modules",
    "lora_target": "target_modules",
    "base_model": "base_model_name_or_path",
    "model_name_or_path": "base_model_name_or_path",
    "type": "model_type",
    "n_layers": "num_hidden_layers",
    "n_heads": "num_attention_heads",
}
_KNOWN: Mapping[str, tuple[Mapping[str, _Wanted], tuple[str, ...]]] = {
    "adapter_config.json": (_ADAPTER, ("peft_type", "base_model_name_or_path")),
    "config.json": (_MODEL, ("model_type",)),
}


def is_config_name(name: str) -> bool:
    """True if files of this name are checked."""
    return name in _KNOWN


def check_config(name: str, value: object) -> list[ConfigWarning]:
    """What a loader will miss or refuse, in the order of the file; missing keys last.

    Args:
        name: the file's name, `adapter_config.json` or `config.json`.
        value: the decoded document.
    """
    known, needed = _KNOWN[name]
    if not isinstance(value, dict):
        return [ConfigWarning(None, f"`{name}` must hold one object")]
    found = [warning for key, inner in value.items() if (warning := _judge(key, inner, value, known))]
    lora = ("r", "lora_alpha", "target_modules") if value.get("peft_type") == "LORA" else ()
    suspected = {known_key for key in value if (known_key := _meant(key, known))}
    missing = [key for key in (*needed, *lora) if key not in value and key not in suspected]
    return found + [ConfigWarning(None, f"the key `{key}` is missing") for key in missing]


def _judge(
    key: str, inner: object, value: Mapping[str, object], known: Mapping[str, _Wanted]
) -> ConfigWarning | None:
    if wanted := known.get(key):
        if wanted.holds(inner):
            return None
        return ConfigWarning(key, f"`{key}` must be {wanted.words}")
    meant = _meant(key, known)
    if meant is None or meant in value:
        return None
    return ConfigWarning(key, f"no loader reads `{key}`; the key is called `{meant}`")


def _meant(key: str, known: Mapping[str, _Wanted]) -> str | None:
    """The known key that an unknown one is nearly."""
    if key in known:
        return None
    alias = _ALIASES.get(key.lower())
    if alias in known:
        return alias
    return next(iter(get_close_matches(key, list(known), n=1, cutoff=_SIMILARITY)), None)
