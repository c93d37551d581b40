"""Packing: rows laid one after another in one sequence, each of which attends to itself alone.

Padding costs every layer's products; packed rows have none. Attention goes row by row through a causal
kernel, so no mask of T x T is made either.
Shapes: B rows, H query heads, K key heads, T tokens of all rows, D width of a head.
"""

from collections.abc import Sequence
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.nn.functional import scaled_dot_product_attention
from transformers import AttentionInterface, AttentionMaskInterface, PreTrainedModel
from transformers.integrations.sdpa_attention import sdpa_attention_forward
from transformers.masking_utils import sdpa_mask

from tunesmith.models.fused_attention import causal_attention

# How a model's config names the attention below.
ROW_BY_ROW = "sdpa_row_by_row"
TRIAL_LENGTHS = (5, 3, 2)
# Largest difference between packed and single rows that is rounding, in standard deviations of the logits.
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


def packed_arguments(row_lengths: Sequence[int], device: torch.device) -> dict[str, Any]:
    """What a model takes beside `input_ids` of shape (1, T) whose rows lie one after another.

    Only for a model after `enable_packing`.

    Args:
        row_lengths: tokens of each row, in order; their sum is T.
        device: of the model.
    """
    positions_T = torch.cat([torch.arange(length, device=device) for length in row_lengths])
    return {
        "position_ids": positions_T.unsqueeze(0),
        # Models make no mask of their own where they are handed one; this one is never read.
        "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device),
        "row_lengths": tuple(row_lengths),
    }


def enable_packing(model: nn.Module) -> bool:
    """Let `model` take packed rows, if they come out as they would alone; says whether it can.

    Without `packed_arguments` the model computes as before. It is tried with a few tokens, since not every
    model tells its attention what it was told: layers that look back in another way would mix the rows.

    Args:
        model: a causal language model, plain or prepared by any method, not yet wrapped for processes.
    """
    if is_packing(model):
        return True
    if not _is_candidate(model):
        return False
    bare = _bare(model)
    bare.set_attn_implementation(ROW_BY_ROW)
    if is_packing(model) and _keeps_rows_apart(model):
        return True
    bare.set_attn_implementation("sdpa")
    return False


def is_packing(model: nn.Module) -> bool:
    """Whether `model` takes packed rows."""
    config = getattr(_bare(model), "config", None)
    return getattr(config, "_attn_implementation", None) == ROW_BY_ROW


def _bare(model: nn.Module) -> PreTrainedModel:
    return cast(PreTrainedModel, model.get_base_model() if isinstance(model, PeftModel) else model)


def _is_candidate(model: nn.Module) -> bool:
    bare = _bare(model)
    if not isinstance(bare, PreTrainedModel) or bare.config._attn_implementation != "sdpa":
        return False
    # A learned prefix comes as a cache, one for each row of a batch.
    has_prefix = isinstance(model, PeftModel) and model.active_peft_config.is_prompt_learning
    # Elsewhere a kernel call for each row costs more than the padding it saves.
    is_on_cpu = all(weight.device.type == "cpu" for weight in bare.parameters())
    return is_on_cpu and not has_prefix


def _keeps_rows_apart(model: nn.Module) -> bool:
    """Three short rows, packed and alone."""
    words = int(_bare(model).config.get_text_config().vocab_size)
    first = torch.arange(1, sum(TRIAL_LENGTHS) + 1) * 7919 % words
    rows = first.split(list(TRIAL_LENGTHS))
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [_logits(model, row) for row in rows]
            packed = _logits(model, first, **packed_arguments(TRIAL_LENGTHS, torch.device("cpu")))
    except (TypeError, ValueError, RuntimeError, IndexError):
        # A model that does not know the arguments, or uses the mask, cannot.
        return False
    finally:
        model.train(was_training)
    expected = torch.cat(alone)
    off = (packed - expected).abs().max() / expected.std()
    return bool(off <= ROUNDING[expected.dtype])


def _logits(model: nn.Module, ids_T: Tensor, **arguments: Any) -> Tensor:
    logits_TV: Tensor = model(input_ids=ids_T.unsqueeze(0), use_cache=False, **arguments).logits[0]
    return logits_TV


def _attention(
    module: nn.Module,
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    attention_mask: Tensor | None,
    *,
    row_lengths: Sequence[int] | None = None,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; gives (B, T, H, D)."""
    states = (query_BHTD, key_BKTD, value_BKTD)
    if row_lengths is None:
        return sdpa_attention_forward(module, *states, attention_mask, **arguments)
    _check_plain(module, arguments)
    rows = zip(*(state.split(list(row_lengths), dim=2) for state in states), strict=True)
    found = [_one_row(*row, **arguments).transpose(1, 2) for row in rows]
    return torch.cat(found, dim=1), None


def _check_plain(module: nn.Module, arguments: dict[str, Any]) -> None:
    """Only what is computed below may be asked for; the trial takes the error for a no."""
    config = getattr(module, "config", None)
    asked = [name for name in ("softcap", "position_bias", "s_aux") if arguments.get(name) is not None]
    # What short rows in a trial cannot show: a reach that the mask alone would have told.
    is_untold = "sliding_window" not in arguments and getattr(config, "sliding_window", None) is not None
    is_chunked = getattr(config, "attention_chunk_size", None) is not None
    is_causal = arguments.get("is_causal")
    is_causal = getattr(module, "is_causal", True) if is_causal is None else is_causal
    if asked or is_untold or is_chunked or not is_causal:
        raise ValueError(f"{type(module).__name__} asks for more than causal attention within each row")


def _one_row(
    query_BHTD: Tensor,
    key_BKTD: Tensor,
    value_BKTD: Tensor,
    *,
    dropout: float = 0.0,
    scaling: float | None = None,
    sliding_window: int | None = None,
    **_: Any,
) -> Tensor:
    """Causal attention within one row, (B, H, T, D)."""
    length, width = query_BHTD.shape[2], sliding_window
    mask_TT = _window(length, width, query_BHTD.device) if width is not None and length > width else None
    scale = query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling
    if mask_TT is None and not dropout:
        return causal_attention(query_BHTD, key_BKTD, value_BKTD, scaling=scale)
    return scaled_dot_product_attention(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        attn_mask=mask_TT,
        dropout_p=dropout,
        scale=scale,
        is_causal=mask_TT is None,
        enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
    )


def _window(length: int, width: int, device: torch.device) -> Tensor:
    """True where a position sees another: itself and the `width` - 1 before it."""
    ones = torch.ones((length, length), dtype=torch.bool, device=device)
    return ones.tril().triu(1 - width)


AttentionInterface.register(ROW_BY_ROW, _attention)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
