"""The tokenizer of a model that was found, without the model: enough to check, preview and clean data."""

import logging
from collections.abc import Callable
from difflib import get_close_matches
from typing import Any

from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
from transformers import PreTrainedTokenizerBase, PreTrainedTokenizerFast

from tunesmith.errors import ModelError
from tunesmith.models.find import EMBEDDED, ModelSource, has_plain_tokenizer
from tunesmith.models.foreign import FOLDER_HINT

UNREADABLE = (
    OSError,
    ValueError,
    # What the libraries stumble over where a file holds another kind of value than they expect.
    TypeError,
    LookupError,
    AttributeError,
    ArithmeticError,
    RecursionError,
    SafetensorError,
    hub_errors.HfHubHTTPError,
    hub_errors.HFValidationError,
    hub_errors.StrictDataclassError,
    RuntimeError,
)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer alone.

    Raises:
        ModelError: if files are missing, damaged, or need code of their own.
    """
    tokenizer: PreTrainedTokenizerBase = reading(source, lambda: _load(source))
    return tokenizer


def _load(source: ModelSource) -> Any:
    if has_plain_tokenizer(source):
        return PreTrainedTokenizerFast.from_pretrained(source.path)
    # Loaded here because it brings torch along, 700 MB that a plain tokenizer does without.
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False)


def reading(source: ModelSource, read: Callable[[], Any]) -> Any:
    """Run `read`, turning the many errors of hub and parser into one that says what to do.

    Raises:
        ModelError: in place of whatever hub, parser or file system raised.
    """
    try:
        return read()
    except UNREADABLE as error:
        if isinstance(error, RuntimeError) and type(error) is not RuntimeError:
            raise  # a device without memory says nothing of the files
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.kind == "hub":
            raise ModelError(
                f"there is no folder `{source.name}` here, and the hub gave no such model: {first_line}",
                hint=_hub_hint(source.name),
            ) from error
        raise ModelError(
            f"`{source.name}` cannot be loaded: {first_line}",
            hint=FOLDER_HINT,
        ) from error


def _hub_hint(name: str) -> str:
    near = get_close_matches(name, [EMBEDDED], cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`, the embedded model?"
    return (
        "check the spelling and the network; offline, give a local folder or a `.gguf` file, "
        f"or take the embedded `{EMBEDDED}`"
    )
