"""Loss per scored token, with logits only where a token is scored.

Shapes: B rows, T tokens, D width, V vocabulary, N scored tokens of the batch.
"""

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import Tensor, nn
from torch.nn import functional


def token_losses(model: nn.Module, input_ids_BT: Tensor, predicts_BT: Tensor) -> Tensor:
    """Negative log-likelihood in nats of each scored token, float32, shape (N,), row by row.

    The logits are the largest tensor of a small fine-tune, and most of them belong to prompts and
    padding. Here the output layer sees scored positions alone: (1, N, D) goes in, (1, N, V) comes out.
    The model's own forward runs around it, so soft-capping and logit scaling stay as they are.

    No attention mask is passed: under causal attention a token never sees the padding to its right.

    Args:
        model: a causal language model, wrapped or not.
        input_ids_BT: token ids, padded on the right.
        predicts_BT: True at position t where token t + 1 is scored.

    Raises:
        RuntimeError: if the model does not compute its logits through its output embeddings.
    """
    targets_N = input_ids_BT[:, 1:][predicts_BT[:, :-1]]
    with _only_at(_output_layer(model), predicts_BT):
        logits_1NV = model(input_ids=input_ids_BT, use_cache=False).logits
    if logits_1NV.shape[:2] != (1, len(targets_N)):
        raise RuntimeError(f"{type(model).__name__} gave logits of shape {tuple(logits_1NV.shape)}")
    return functional.cross_entropy(logits_1NV[0].float(), targets_N, reduction="none")


@contextmanager
def _only_at(output_layer: nn.Module, keep_BT: Tensor) -> Iterator[None]:
    """Let the output layer see only the positions in `keep_BT`."""

    def select(_: nn.Module, arguments: tuple[Tensor, ...]) -> Tensor:
        (hidden_BTD,) = arguments
        return hidden_BTD[keep_BT].unsqueeze(0)

    handle = output_layer.register_forward_pre_hook(select)
    try:
        yield
    finally:
        handle.remove()


def _output_layer(model: nn.Module) -> nn.Module:
    bare = model.module if isinstance(model, nn.parallel.DistributedDataParallel) else model
    layer: nn.Module = bare.get_output_embeddings()  # type: ignore[operator]
    return layer


def logits_at_last(model: nn.Module, input_ids_BT: Tensor) -> Tensor:
    """Next-token logits after the last position, float32, shape (B, V); rows must have equal length."""
    with torch.no_grad():
        logits_BTV: Tensor = model(input_ids=input_ids_BT, use_cache=False).logits
    return logits_BTV[:, -1].float()
