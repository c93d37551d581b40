"""The shape of a model by name: its configuration, without its weights.

Well-known models are here as numbers, so that a plan needs neither network nor licence. The numbers are
those of the models' published config.json files; a test holds each against the published parameter count.
Read next: `setups.py`.
"""

from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

import torch
from transformers import AutoConfig, AutoModelForCausalLM, PretrainedConfig

from tunesmith.errors import ModelError
from tunesmith.models.find import EMBEDDED, ModelSource, find_model
from tunesmith.models.tokenizer import reading


@dataclass(frozen=True, slots=True)
class Shape:
    """What decides the memory of a transformer.

    Attributes:
        kind: transformers' name of the architecture, such as `llama`.
        width: size of the hidden state.
        layers: transformer blocks.
        heads: query heads.
        kv_heads: key and value heads.
        inner: width of the feed-forward layer.
        vocabulary: tokens.
        is_tied: whether the output layer is the embedding.
        head_width: width of a head, where it is not width / heads.
        hub: who publishes it under which id, without revision.
    """

    kind: str
    width: int
    layers: int
    heads: int
    kv_heads: int
    inner: int
    vocabulary: int
    is_tied: bool
    head_width: int | None
    hub: str


# width, layers, query heads, key and value heads, inner width, vocabulary, tied, head width, hub id
SHAPES = {
    "smollm2-135m": Shape(
        "llama", 576, 30, 9, 3, 1536, 49152, True, None, "HuggingFaceTB/SmolLM2-135M-Instruct"
    ),
    "smollm2-360m": Shape(
        "llama", 960, 32, 15, 5, 2560, 49152, True, None, "HuggingFaceTB/SmolLM2-360M-Instruct"
    ),
    "smollm2-1.7b": Shape(
        "llama", 2048, 24, 32, 32, 8192, 49152, True, None, "HuggingFaceTB/SmolLM2-1.7B-Instruct"
    ),
    "tinyllama-1.1b": Shape(
        "llama", 2048, 22, 32, 4, 5632, 32000, False, None, "TinyLlama/TinyLlama-1.1B-Chat-v1.0"
    ),
    "llama-2-7b": Shape("llama", 4096, 32, 32, 32, 11008, 32000, False, None, "meta-llama/Llama-2-7b-hf"),
    "llama-2-13b": Shape("llama", 5120, 40, 40, 40, 13824, 32000, False, None, "meta-llama/Llama-2-13b-hf"),
    "llama-2-70b": Shape("llama", 8192, 80, 64, 8, 28672, 32000, False, None, "meta-llama/Llama-2-70b-hf"),
    "llama-3.1-8b": Shape("llama", 4096, 32, 32, 8, 14336, 128256, False, None, "meta-llama/Llama-3.1-8B"),
    "llama-3.1-70b": Shape("llama", 8192, 80, 64, 8, 28672, 128256, False, None, "meta-llama/Llama-3.1-70B"),
    "llama-3.2-1b": Shape("llama", 2048, 16, 32, 8, 8192, 128256, True, None, "meta-llama/Llama-3.2-1B"),
    "llama-3.2-3b": Shape("llama", 3072, 28, 24, 8, 8192, 128256, True, None, "meta-llama/Llama-3.2-3B"),
    "qwen2.5-0.5b": Shape("qwen2", 896, 24, 14, 2, 4864, 151936, True, None, "Qwen/Qwen2.5-0.5B"),
    "qwen2.5-1.5b": Shape("qwen2", 1536, 28, 12, 2, 8960, 151936, True, None, "Qwen/Qwen2.5-1.5B"),
    "qwen2.5-3b": Shape("qwen2", 2048, 36, 16, 2, 11008, 151936, True, None, "Qwen/Qwen2.5-3B"),
    "qwen2.5-7b": Shape("qwen2", 3584, 28, 28, 4, 18944, 152064, False, None, "Qwen/Qwen2.5-7B"),
    "qwen2.5-14b": Shape("qwen2", 5120, 48, 40, 8, 13824, 152064, False, None, "Qwen/Qwen2.5-14B"),
    "qwen2.5-32b": Shape("qwen2", 5120, 64, 40, 8, 27648, 152064, False, None, "Qwen/Qwen2.5-32B"),
    "qwen2.5-72b": Shape("qwen2", 8192, 80, 64, 8, 29568, 152064, False, None, "Qwen/Qwen2.5-72B"),
    "qwen3-0.6b": Shape("qwen3", 1024, 28, 16, 8, 3072, 151936, True, 128, "Qwen/Qwen3-0.6B"),
    "qwen3-1.7b": Shape("qwen3", 2048, 28, 16, 8, 6144, 151936, True, 128, "Qwen/Qwen3-1.7B"),
    "qwen3-4b": Shape("qwen3", 2560, 36, 32, 8, 9728, 151936, True, 128, "Qwen/Qwen3-4B"),
    "qwen3-8b": Shape("qwen3", 4096, 36, 32, 8, 12288, 151936, False, 128, "Qwen/Qwen3-8B"),
    "mistral-7b": Shape("mistral", 4096, 32, 32, 8, 14336, 32768, False, None, "mistralai/Mistral-7B-v0.3"),
    "gemma-2-2b": Shape("gemma2", 2304, 26, 8, 4, 9216, 256000, True, 256, "google/gemma-2-2b"),
    "gemma-2-9b": Shape("gemma2", 3584, 42, 16, 8, 14336, 256000, True, 256, "google/gemma-2-9b"),
    "phi-3-mini": Shape(
        "phi3", 3072, 32, 32, 32, 8192, 32064, False, None, "microsoft/Phi-3-mini-4k-instruct"
    ),
    "phi-4": Shape("phi3", 5120, 40, 40, 10, 17920, 100352, False, None, "microsoft/phi-4"),
}
LONGEST_TOKENS = 131_072
PUBLISHED = "its published shape"
ENDINGS = ("-it", "-chat", "-instruct", "-base", "-hf", "-v0.1", "-v0.3")


def find_config(name: str, *, revision: str | None = None) -> tuple[PretrainedConfig, str]:
    """The configuration of the model called `name`, and a sentence on where it is from.

    Args:
        name: the embedded model, a local folder, a `.gguf` file, a hub id, or a well-known name such as
            `llama-2-7b`. A hub id that cannot be fetched is taken for the well-known model it names.
        revision: branch, tag or commit of a hub model.

    Raises:
        ModelError: if nothing is known by this name; names the nearest.
    """
    known = known_name(name) if revision is None else None
    if known is not None and "/" not in name and name != EMBEDDED and not Path(name).is_dir():
        return known_config(known), f"{known} ({PUBLISHED})"
    try:
        source = find_model(name, revision=revision)
        return architecture(source), f"{name} ({source.kind})"
    except ModelError as error:
        if known is not None:
            return known_config(known), f"{known} ({PUBLISHED}; `{name}` itself is not at hand)"
        raise ModelError(str(error), hint=_hint(name, error.hint)) from error


def known_name(name: str) -> str | None:
    """The well-known model that `name`, a short name or a hub id, stands for; None if there is none.

    Tuned variants of a model have its shape: `meta-llama/Llama-3.1-8B-Instruct` is a `llama-3.1-8b`.
    """
    low = name.lower()
    for known, shape in SHAPES.items():
        if low in (known, shape.hub.lower()):
            return known
    owner, _, last = low.rpartition("/")
    if owner and owner not in {shape.hub.lower().partition("/")[0] for shape in SHAPES.values()}:
        return None
    while end := next((end for end in ENDINGS if last.endswith(end)), None):
        last = last.removesuffix(end)
    return last if last in SHAPES else None


def known_config(name: str) -> PretrainedConfig:
    """The well-known model as a transformers configuration.

    Raises:
        KeyError: for a name that is not in `SHAPES`.
    """
    shape = SHAPES[name]
    head_width = {} if shape.head_width is None else {"head_dim": shape.head_width}
    config: PretrainedConfig = AutoConfig.for_model(
        shape.kind,
        hidden_size=shape.width,
        num_hidden_layers=shape.layers,
        num_attention_heads=shape.heads,
        num_key_value_heads=shape.kv_heads,
        intermediate_size=shape.inner,
        vocab_size=shape.vocabulary,
        tie_word_embeddings=shape.is_tied,
        max_position_embeddings=LONGEST_TOKENS,
        pad_token_id=0,
        **head_width,
    )
    return config


def parameters_of(config: PretrainedConfig) -> int:
    """Parameters of a model with this configuration, tied ones once; nothing is allocated."""
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, trust_remote_code=False)
    return sum(parameter.numel() for parameter in model.parameters())


def architecture(source: ModelSource) -> PretrainedConfig:
    """The numbers of a model that was found; no weights are read."""
    config: PretrainedConfig = reading(
        source,
        lambda: AutoConfig.from_pretrained(source.path, revision=source.revision, trust_remote_code=False),
    )
    return config


def _hint(name: str, otherwise: str) -> str:
    near = get_close_matches(name.lower().rpartition("/")[2], SHAPES, n=1, cutoff=0.7)
    return f"nearest that can be planned without its files: `{near[0]}`" if near else otherwise
