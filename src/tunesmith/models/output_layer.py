"""The output layer of a model, and what the model does to the logits that come out of it.

Shapes: B rows, T tokens, D width, V vocabulary.
"""

import math
from typing import Any, cast
from weakref import WeakKeyDictionary

import torch
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.nn.parallel import DistributedDataParallel
from transformers import PretrainedConfig, PreTrainedModel

from tunesmith.models.fused_product import QuickLinear
from tunesmith.models.head_loss import Formula

# A logit large enough that every cap in use (20 to 50) bends it.
PROBE = 37.0

_IS_KNOWN: WeakKeyDictionary[nn.Module, bool] = WeakKeyDictionary()


def output_layer(model: nn.Module) -> nn.Module:
    """The layer behind which the logits come, of a model that may be wrapped."""
    bare: Any = model.module if isinstance(model, DistributedDataParallel) else model
    layer: nn.Module = bare.get_output_embeddings()
    return layer


def logits_formula(model: nn.Module, input_ids_BT: Tensor) -> Formula | None:
    """What this model does to its logits; None where they are not made as `head_loss.Head` says.

    The configuration names scale and cap. At the first call one token goes through the model, whose output
    layer answers with one known logit: what comes out must be what scale and cap make of it.

    Args:
        model: a causal language model, wrapped or not. Several processes must call this together.
        input_ids_BT: the batch that comes; only its number of rows matters.
    """
    layer = output_layer(model)
    pretrained = next((each for each in model.modules() if isinstance(each, PreTrainedModel)), None)
    # Weights in shards are whole only while the model's own forward runs.
    if pretrained is None or not _is_plain(layer) or isinstance(model, FSDPModule):
        return None
    config = pretrained.config.get_text_config()
    if config.vocab_size != cast(nn.Linear, layer).weight.shape[0]:
        return None
    formula = _named(config)
    if layer not in _IS_KNOWN:
        _IS_KNOWN[layer] = _is_so(model, layer, formula, rows=max(1, len(input_ids_BT)))
    return formula if _IS_KNOWN[layer] else None


def _is_plain(layer: nn.Module) -> bool:
    """Whether it is a linear layer with no adapter and no offloading."""
    return type(layer) in (nn.Linear, QuickLinear) and "forward" not in vars(layer)


def _named(config: PretrainedConfig) -> Formula:
    """Gemma caps; Cohere and Falcon-H1 multiply, Granite divides."""

    def factor(name: str) -> float:
        return float(getattr(config, name, None) or 1)

    scale = factor("logit_scale") * factor("lm_head_multiplier") / factor("logits_scaling")
    return Formula(scale, getattr(config, "final_logit_softcapping", None))


def _is_so(model: nn.Module, layer: nn.Module, formula: Formula, *, rows: int) -> bool:
    """Whether a known logit comes out of the model as the formula says; random numbers stay undrawn."""
    device = cast(Tensor, layer.weight).device
    handles = [
        layer.register_forward_pre_hook(lambda _, arguments: arguments[0][:, :0]),
        layer.register_forward_hook(lambda *_: torch.tensor([[[PROBE]]], device=device)),
    ]
    ids_B1 = torch.zeros((rows, 1), dtype=torch.long, device=device)
    generators = [device] if device.type == "cuda" else []
    try:
        with torch.no_grad(), torch.random.fork_rng(devices=generators):
            found: Tensor = model(input_ids=ids_B1, use_cache=False).logits
    finally:
        for handle in handles:
            handle.remove()
    return found.shape == (1, 1, 1) and math.isclose(found.item(), formula.of(PROBE), rel_tol=1e-5)
