"""Gradient checkpointing: a layer's activations are computed again in the backward pass, not kept.

Source: Chen et al. 2016, arXiv:1604.06174. The learned keys and values of a prefix reach the layers as a
cache, which needs care here: see `Recomputable`.
"""

from copy import copy
from typing import Any

import torch
from peft import PeftModel
from torch import Tensor, nn
from transformers import Cache, PreTrainedModel
from transformers.modeling_layers import GradientCheckpointingLayer

from tunesmith.errors import ConfigError


class Recomputable(Cache):
    """Keys and values of a prefix that a layer may read twice.

    The usual cache keeps what a layer adds to it, so a layer that is computed again would see its own
    tokens twice. Here each update starts from the prefix alone.
    """

    def update(
        self, key_states: Tensor, value_states: Tensor, layer_idx: int, *args: Any, **kwargs: Any
    ) -> tuple[Tensor, Tensor]:
        """Prefix and new states of one layer, joined: keys and values of shape (B, heads, P + T, width)."""
        # A layer binds its states anew and writes none in place, so the copy takes the change with it.
        layer: Any = copy(self.layers[layer_idx])
        joined: tuple[Tensor, Tensor] = layer.update(key_states, value_states, *args, **kwargs)
        return joined


def enable_checkpointing(model: nn.Module) -> None:
    """Keep the inputs of each layer alone while `model` trains; losses and gradients stay what they were.

    Args:
        model: a causal language model, plain or prepared by any method; prepare it first.

    Raises:
        ConfigError: if the model's layers cannot be computed again.
    """
    bare: PreTrainedModel = model.get_base_model() if isinstance(model, PeftModel) else model  # type: ignore[assignment]
    layers = [layer for layer in bare.modules() if isinstance(layer, GradientCheckpointingLayer)]
    if not layers or not bare.supports_gradient_checkpointing:
        raise ConfigError(
            f"{type(bare).__name__} has no layers for gradient checkpointing",
            hint="set `training.gradient_checkpointing` to never",
        )
    bare.activation_checkpointing_enable({"use_reentrant": False})
    # The line above lets embeddings ask for gradients, which only the reentrant kind needs.
    bare.disable_input_require_grads()
    if isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning:
        _keep_prefix(bare, layers)


def _keep_prefix(bare: PreTrainedModel, layers: list[GradientCheckpointingLayer]) -> None:
    """Layers drop any cache while they are checkpointed; hand them one that they can read again instead."""
    bare.register_forward_pre_hook(_recomputable, with_kwargs=True)
    for module in bare.modules():
        # A model with the flag may drop the cache before its layers see it, as GPT-2 does.
        if hasattr(module, "gradient_checkpointing"):
            is_layer = isinstance(module, GradientCheckpointingLayer)
            module.gradient_checkpointing = is_layer  # type: ignore[assignment]
    for layer in layers:
        layer._can_checkpoint_with_cache = True


def _recomputable(
    _: nn.Module, arguments: tuple[Any, ...], keywords: dict[str, Any]
) -> tuple[tuple[Any, ...], dict[str, Any]]:
    past = keywords.get("past_key_values")
    # Without gradients nothing is computed again, and generation needs a cache that grows.
    if isinstance(past, Cache) and torch.is_grad_enabled():
        keywords = {**keywords, "past_key_values": Recomputable(past.layers)}
    return arguments, keywords
