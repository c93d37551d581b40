"""Packing: rows laid one after another in one sequence, each of which attends to itself alone.

Padding costs every layer's products; packed rows have none. Attention goes row by row through a causal
kernel, so no mask of T x T is made either. What all rows begin with can lie there once, before the first: a
token's states follow from those before it, so they are the same in every row.
Shapes: B rows, H query heads, K key heads, T tokens of all rows, D width of a head.
"""

from collections.abc import Sequence
from dataclasses import dataclass
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
TRIAL_LENGTHS, TRIAL_SHARED = (5, 4, 3), 2
# Largest difference between packed and single rows that is rounding, in standard deviations of the logits.
ROUNDING = {torch.float64: 1e-8, torch.float32: 1e-3, torch.bfloat16: 0.2, torch.float16: 0.05}


def packed_arguments(
    row_lengths: Sequence[int], device: torch.device, *, shared_tokens: int = 0
) -> dict[str, Any]:
    """What a model takes beside `input_ids` of shape (1, T) whose rows lie one after another.

    Only for a model after `enable_packing`.

    Args:
        row_lengths: tokens of each row as they lie there, in order; their sum is T.
        device: of the model.
        shared_tokens: tokens at the beginning of the first row that every other row begins with too, and
            that lie there only.
    """
    first, *others = row_lengths
    spans = [(0, first), *((shared_tokens, shared_tokens + length) for length in others)]
    positions_T = torch.cat([torch.arange(*span, device=device) for span in spans])
    return {
        "position_ids": positions_T.unsqueeze(0),
        # Models make no mask of their own where they are handed one; this one is never read.
        "attention_mask": torch.ones((1, 1, 1, 1), dtype=torch.bool, device=device),
        "row_lengths": tuple(row_lengths),
        "shared_tokens": shared_tokens,
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
    """Whether three short rows come out packed as alone, and so when what all begin with lies there once."""
    words = int(_bare(model).config.get_text_config().vocab_size)
    some = torch.arange(1, sum(TRIAL_LENGTHS) + 1) * 7919 % words
    rows = [torch.cat([some[:TRIAL_SHARED], own[TRIAL_SHARED:]]) for own in some.split(list(TRIAL_LENGTHS))]
    was_training = model.training
    model.eval()
    try:
        with torch.no_grad():
            alone = [_logits(model, row) for row in rows]
            off = [_off(model, rows, alone, shared_tokens=shared) for shared in (0, TRIAL_SHARED)]
    except (TypeError, ValueError, RuntimeError, IndexError):
        # A model that does not know the arguments, or uses the mask, cannot.
        return False
    finally:
        model.train(was_training)
    return max(off) <= ROUNDING[alone[0].dtype]


def _off(model: nn.Module, rows: list[Tensor], alone: list[Tensor], *, shared_tokens: int) -> float:
    """Largest difference of packed rows from the same rows alone, in standard deviations of the logits."""
    lying, expected = (
        [each if row == 0 else each[shared_tokens:] for row, each in enumerate(them)]
        for them in (rows, alone)
    )
    arguments = packed_arguments(
        [len(row) for row in lying], torch.device("cpu"), shared_tokens=shared_tokens
    )
    difference = _logits(model, torch.cat(lying), **arguments) - torch.cat(expected)
    return float(difference.abs().max() / torch.cat(alone).std())


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
    shared_tokens: int = 0,
    **arguments: Any,
) -> tuple[Tensor, None]:
    """Attention as transformers calls it; gives (B, T, H, D)."""
    states = (query_BHTD, key_BKTD, value_BKTD)
    if row_lengths is None:
        return sdpa_attention_forward(module, *states, attention_mask, **arguments)
    _check_plain(module, arguments)
    asked = _Asked.of(query_BHTD, arguments)
    is_cut = asked.window is not None and asked.window < shared_tokens + max(row_lengths)
    if asked.dropout or is_cut or query_BHTD.shape[-1] != value_BKTD.shape[-1]:
        return _apart(states, row_lengths, shared_tokens, asked), None
    found = causal_attention(
        *states, row_lengths=row_lengths, shared_tokens=shared_tokens, scaling=asked.scaling
    )
    return found, None


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


@dataclass(frozen=True, slots=True)
class _Asked:
    """What a layer asks of its attention: factor of the products, share to drop, reach in tokens."""

    scaling: float
    dropout: float
    window: int | None

    @classmethod
    def of(cls, query_BHTD: Tensor, arguments: dict[str, Any]) -> "_Asked":
        scaling = arguments.get("scaling")
        return cls(
            query_BHTD.shape[-1] ** -0.5 if scaling is None else scaling,
            arguments.get("dropout", 0.0),
            arguments.get("sliding_window"),
        )


def _apart(
    states: tuple[Tensor, Tensor, Tensor], row_lengths: Sequence[int], shared_tokens: int, asked: _Asked
) -> Tensor:
    """Attention of each row by itself, those that share a beginning with a copy of it; (B, T, H, D)."""
    found = []
    for row, own in enumerate(zip(*(state.split(list(row_lengths), dim=2) for state in states), strict=True)):
        shared = shared_tokens if row else 0
        query, key, value = (
            torch.cat([state[:, :, :shared], part], dim=2) for state, part in zip(states, own, strict=True)
        )
        found.append(_one_row(query, key, value, asked)[:, :, shared:].transpose(1, 2))
    return torch.cat(found, dim=1)


def _one_row(query_BHTD: Tensor, key_BKTD: Tensor, value_BKTD: Tensor, asked: _Asked) -> Tensor:
    """Causal attention within one row, (B, H, T, D)."""
    length = query_BHTD.shape[2]
    mask_TT = None
    if asked.window is not None and length > asked.window:
        # True where a position sees another: itself and the `window` - 1 before it.
        mask_TT = torch.ones((length, length), dtype=torch.bool, device=query_BHTD.device)
        mask_TT = mask_TT.tril().triu(1 - asked.window)
    return scaled_dot_product_attention(
        query_BHTD,
        key_BKTD,
        value_BKTD,
        attn_mask=mask_TT,
        dropout_p=asked.dropout,
        scale=asked.scaling,
        is_causal=mask_TT is None,
        enable_gqa=query_BHTD.shape[1] != key_BKTD.shape[1],
    )


AttentionInterface.register(ROW_BY_ROW, _attention)
AttentionMaskInterface.register(ROW_BY_ROW, sdpa_mask)
