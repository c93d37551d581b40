"""GGUF files: turned once into a standard safetensors folder in the cache, then loaded from there."""

import os
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from tunesmith.errors import ModelError
from tunesmith.models.gguf_header import header_problem
from tunesmith.tools.digest import file_sha256

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

# llama.cpp names the way a model cuts text before merging in `tokenizer.ggml.pre`; transformers 5.23 reads
# every BPE GGUF with GPT-2's rule. For these models digits are cut one by one first, as they were trained.
SINGLE_DIGITS = {"smollm", "starcoder", "refact", "command-r"}
FORMAT = 1


def cache_folder() -> Path:
    """Where converted models live: `$TUNESMITH_CACHE`, else `tunesmith` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("TUNESMITH_CACHE") or Path(base) / "tunesmith")


def converted(path: Path) -> Path:
    """A folder with the GGUF file's config, tokenizer and weights, dequantized to float32.

    Raises:
        ModelError: if the file is not a GGUF model that transformers reads.
    """
    folder = cache_folder() / "gguf" / f"{path.stem}-{file_sha256(path)[:16]}-v{FORMAT}"
    if (folder / "config.json").exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    if problem := header_problem(path):
        raise _unreadable(path, problem)
    staging = Path(tempfile.mkdtemp(prefix="converting-", dir=folder.parent))
    try:
        _convert(path, staging)
        os.replace(staging, folder)
    except OSError:
        if not (folder / "config.json").exists():
            raise
    finally:
        shutil.rmtree(staging, ignore_errors=True)
    return folder


def _convert(path: Path, folder: Path) -> None:
    # Loaded here because finding a model that is converted already needs none of it.
    import torch
    from transformers import AutoModelForCausalLM, AutoTokenizer

    arguments: dict[str, Any] = {"gguf_file": path.name, "trust_remote_code": False}
    try:
        with _alone(path, folder.parent) as place:
            loaded = AutoModelForCausalLM.from_pretrained(place, dtype=torch.float32, **arguments)
            tokenizer = AutoTokenizer.from_pretrained(place, **arguments)
    except Exception as error:
        raise _unreadable(path, error) from error
    # A model read from GGUF refuses `save_pretrained`; a fresh one of the same shape takes its weights.
    del loaded.config.quantization_config
    model = AutoModelForCausalLM.from_config(loaded.config, dtype=torch.float32, trust_remote_code=False)
    model.load_state_dict(loaded.state_dict())
    model.generation_config = loaded.generation_config
    model.save_pretrained(folder)
    _restore_pre_tokenizer(tokenizer, path)
    tokenizer.save_pretrained(folder)


def _unreadable(path: Path, why: object) -> ModelError:
    return ModelError(
        f"`{path}` cannot be read as a GGUF model: {why}",
        hint="check that the download is whole, or take the model's safetensors folder",
    )


@contextmanager
def _alone(path: Path, parent: Path) -> Iterator[Path]:
    """A folder that holds this file and nothing else.

    transformers looks around beside it, and would follow an adapter_config.json there to another model.
    """
    with tempfile.TemporaryDirectory(prefix="reading-", dir=parent) as place:
        try:
            os.symlink(path.resolve(), Path(place) / path.name)
        except OSError:  # Windows allows links to few users
            shutil.copyfile(path, Path(place) / path.name)
        yield Path(place)


def _restore_pre_tokenizer(tokenizer: "PreTrainedTokenizerBase", path: Path) -> None:
    from gguf import GGUFReader
    from tokenizers import pre_tokenizers

    field = GGUFReader(path).get_field("tokenizer.ggml.pre")
    if field is not None and field.contents() in SINGLE_DIGITS:
        backend: Any = tokenizer.backend_tokenizer
        digits = pre_tokenizers.Digits(individual_digits=True)
        backend.pre_tokenizer = pre_tokenizers.Sequence([digits, backend.pre_tokenizer])
