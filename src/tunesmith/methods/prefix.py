"""Prefix-tuning through peft: learned keys and values that every layer attends to before the row.

Source: Li & Liang 2021, arXiv:2101.00190. Without the reparametrisation of their section 4.3: the prefix
starts from activations of real tokens (their section 7.4), and learns well from there.

Shapes: P virtual tokens, L layers, S = 2L states (keys and values of each layer in turn), H heads of keys
and values, K width of a head.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import cast

import torch
from peft import PeftModel, PrefixEncoder, PrefixTuningConfig, get_peft_model
from torch import Tensor
from transformers import PreTrainedModel
from transformers.cache_utils import CacheLayerMixin, DynamicLayer

from tunesmith.config import MethodConfig
from tunesmith.errors import ConfigError


def prepare(model: PreTrainedModel, settings: MethodConfig) -> PeftModel:
    """`model`, frozen, with a trainable prefix; checkpointing is enabled after this, not before.

    The prefix starts as the keys and values that the model has for random tokens behind its start token,
    so the first answers are those after a text without meaning. The tokens come from torch's generator:
    seed it first. The prefix is float32, whatever the model's number type.

    Raises:
        ConfigError: if a layer has no plain attention over all tokens, or the prefix takes all positions.
    """
    _check_positions(model, settings.num_virtual_tokens)
    states_SHPK = _states(model, _tokens(model, settings.num_virtual_tokens))
    states, heads, virtual_tokens, width = states_SHPK.shape
    config = PrefixTuningConfig(
        task_type="CAUSAL_LM",
        num_virtual_tokens=virtual_tokens,
        num_layers=states // 2,
        num_attention_heads=heads,
        token_dim=heads * width,
    )
    tuned = get_peft_model(model, config)
    encoder = cast(PrefixEncoder, tuned.prompt_encoder["default"])
    with torch.no_grad():
        encoder.embedding.weight.copy_(states_SHPK.permute(2, 0, 1, 3).reshape(virtual_tokens, -1))
    return tuned


def _check_positions(model: PreTrainedModel, virtual_tokens: int) -> None:
    positions = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    if positions is not None and virtual_tokens >= positions:
        raise ConfigError(
            f"`num_virtual_tokens` is {virtual_tokens}, and {type(model).__name__} has {positions} positions",
            hint="take fewer virtual tokens: rows need positions too",
        )


def _tokens(model: PreTrainedModel, virtual_tokens: int) -> Tensor:
    """Random ids, shape (1, P), behind the start token where the model has one."""
    config = model.config.get_text_config()
    # Drawn on the CPU, so that a seed means the same prefix on every device.
    ids_1P = torch.randint(config.vocab_size, (1, virtual_tokens))
    if config.bos_token_id is not None:
        # Many models park attention on the first token; without it their layers are far from what they know.
        ids_1P[:, 0] = config.bos_token_id
    return ids_1P.to(model.device)


def _states(model: PreTrainedModel, ids_1P: Tensor) -> Tensor:
    """Keys and values of every layer for these tokens, shape (S, H, P, K)."""
    with _evaluating(model), torch.no_grad():
        cache = getattr(model(input_ids=ids_1P, use_cache=True), "past_key_values", None)
    layers = list(getattr(cache, "layers", []))
    _check_layers(model, layers)
    states = [cast(Tensor, states_1HPK) for layer in layers for states_1HPK in (layer.keys, layer.values)]
    shapes = sorted({tuple(states_1HPK.shape) for states_1HPK in states})
    if len(shapes) != 1:
        raise _unfit(model, f"they keep states of the shapes {', '.join(map(str, shapes))}")
    return torch.cat(states)


def _check_layers(model: PreTrainedModel, layers: list[CacheLayerMixin]) -> None:
    kinds = sorted({type(layer).__name__ for layer in layers if type(layer) is not DynamicLayer})
    if not layers or kinds:
        raise _unfit(model, f"they keep {', '.join(kinds) or 'no keys and values'}")
    # GPT-Neo keeps all keys and values and lets some layers see the nearest alone.
    if "local" in getattr(model.config, "attention_layers", ()):
        raise _unfit(model, "some see the nearest tokens alone")


def _unfit(model: PreTrainedModel, found: str) -> ConfigError:
    # A window moves on and loses the prefix, sooner where padding lies between prefix and row.
    return ConfigError(
        f"prefix-tuning needs layers that all see all tokens; {type(model).__name__}: {found}",
        hint="use another method for this model, such as lora",
    )


@contextmanager
def _evaluating(model: PreTrainedModel) -> Iterator[None]:
    """No dropout within; afterwards each module is in the mode that it was in."""
    training = [module for module in model.modules() if module.training]
    model.eval()
    try:
        yield
    finally:
        for module in training:
            module.training = True
