"""The base beside the tuned model, whatever the method: adapters are switched off, whole weights swapped."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, cast

import torch
from peft import PeftModel
from torch import Tensor, nn
from torch.distributed.fsdp import FSDPModule
from torch.distributed.tensor import DTensor, distribute_tensor
from transformers import PreTrainedModel

from tunesmith.errors import ModelError
from tunesmith.models.find import find_model
from tunesmith.models.load import LoadedModel, load_model


def has_base(loaded: LoadedModel) -> bool:
    """Whether the model was tuned and its base is known."""
    return isinstance(loaded.model, PeftModel) or loaded.tuned_from is not None


@contextmanager
def as_base(loaded: LoadedModel) -> Iterator[None]:
    """Within this context the model computes as its base; afterwards it is what it was, to the bit.

    The base of a fully tuned model is read from its files, so a second copy of the weights is in main
    memory for the time, and none on the device. Nothing may train within.

    Raises:
        ModelError: if the base cannot be found, or is no longer what the model was tuned from.
    """
    if isinstance(loaded.model, PeftModel):
        with loaded.model.disable_adapter():
            yield
        return
    other = _weights_of_base(loaded)
    _exchange(loaded.model, other)
    try:
        yield
    finally:
        _exchange(loaded.model, other)


def vocabulary_rows(model: nn.Module) -> int:
    """Rows of the embedding: more than the tokenizer has tokens where it was padded."""
    embedding: Any = cast(PreTrainedModel, model).get_input_embeddings()
    return int(embedding.weight.shape[0])


def set_vocabulary(model: PreTrainedModel, rows: int) -> None:
    """Give embedding and output layer `rows` rows; new ones are the mean of the old, the same each time.

    A random start, as upstream draws it, would make a base of its own at each loading.
    """
    old_rows = vocabulary_rows(model)
    if rows == old_rows:
        return
    model.resize_token_embeddings(rows, mean_resizing=False)
    with torch.no_grad():
        ends: list[Any] = [model.get_input_embeddings(), model.get_output_embeddings()]
        for layer in ends:
            layer.weight[old_rows:] = layer.weight[:old_rows].mean(dim=0)


def _weights_of_base(loaded: LoadedModel) -> dict[str, Tensor]:
    """By name, on the CPU, in the types and shapes of the tuned model's own."""
    source = loaded.tuned_from
    if source is None:
        raise ModelError(f"`{loaded.source.name}` was tuned from no known base", hint="give a run's folder")
    found = find_model(source.name, revision=source.revision)
    base = load_model(found, dtype=loaded.model.dtype, device="cpu").model
    set_vocabulary(base, vocabulary_rows(loaded.model))
    theirs, ours = _tensors(base), _tensors(loaded.model)
    wrong = sorted(ours.keys() ^ theirs.keys()) or [n for n in ours if ours[n].shape != theirs[n].shape]
    if wrong:
        raise ModelError(
            f"`{source.name}` is not the base of `{loaded.source.name}`: they differ in {wrong[0]}",
            hint="put the model back that it was tuned from, or measure the tuned model alone",
        )
    return {name: _laid_as(ours[name], tensor) for name, tensor in theirs.items()}


def _laid_as(mine: Tensor, value: Tensor) -> Tensor:
    """`value` in the type of `mine`, and cut over the processes as `mine` is, if it is."""
    value = value.to(mine.dtype)
    if not isinstance(mine, DTensor):
        return value
    on_device = value.to(mine.device)
    return distribute_tensor(on_device, mine.device_mesh, mine.placements, src_data_rank=None)


def _tensors(model: nn.Module) -> dict[str, Tensor]:
    """Parameters and saved buffers; tied ones once, by their first name."""
    for module in model.modules():
        if isinstance(module, FSDPModule):
            module.reshard()  # a forward pass may have left them gathered
    unique = {id(tensor): name for name, tensor in reversed(model.state_dict(keep_vars=True).items())}
    return {
        name: tensor.detach()
        for name, tensor in model.state_dict(keep_vars=True).items()
        if unique[id(tensor)] == name
    }


def _exchange(model: nn.Module, other: dict[str, Tensor]) -> None:
    """Swap contents in place, tensor by tensor: views and tied weights stay what they are."""
    for name, mine in _tensors(model).items():
        kept = mine.clone()
        mine.copy_(other[name])
        other[name].copy_(kept)
