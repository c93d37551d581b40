"""Checkpoints: everything a run needs to go on, in safetensors and JSON, whole or not there at all.

A checkpoint is written into a staging folder, its manifest with the sha256 of each file last, and
appears under its name in one rename. Reading one checks the manifest first. It holds whole tensors, however
many processes wrote it, and can be read by any number of them.
"""

import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import RunFolderError
from tunesmith.tools.digest import file_sha256
from tunesmith.training.randomness import random_states, restore_random_states
from tunesmith.training.ranks import ALONE, Ranks
from tunesmith.training.shards import like, reshard, whole

WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "MANIFEST.json",
)


def save_checkpoint(
    folder: Path,
    *,
    step: int,
    model: nn.Module,
    optimizer: torch.optim.Optimizer,
    state: Mapping[str, Any],
    ranks: Ranks = ALONE,
) -> Path:
    """Write `folder/step-NNNNNN` with trainable weights, optimizer, random generators and `state`.

    All processes must call it; rank 0 writes, and the others go on when it has.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        model: its parameters with `requires_grad` are saved, under their own names.
        optimizer: AdamW or another whose state is tensors and numbers.
        state: JSON-ready values of the loop.
        ranks: the processes of the run.

    Raises:
        RunFolderError: if the disk refuses; an older checkpoint stays as it was.
    """
    reshard(model)
    weights = _whole_on_main(_learning(model), ranks)
    tensors, numbers, groups = _split_optimizer_state(optimizer.state_dict())
    tensors = _whole_on_main(tensors, ranks) | random_states()
    final = folder / f"step-{step:06d}"
    if ranks.is_main:
        values = {"step": step, "param_groups": groups, "optimizer_numbers": numbers, **state}
        _write(final, weights, tensors, values)
    ranks.wait()
    return final


def _write(
    final: Path, weights: dict[str, Tensor], tensors: dict[str, Tensor], values: Mapping[str, Any]
) -> None:
    staging = final.with_name(f".{final.name}.partial")
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file(weights, staging / WEIGHTS)
        save_file(tensors, staging / OPTIMIZER)
        (staging / STATE).write_text(json.dumps(values, indent=2))
        sums = {name: file_sha256(staging / name) for name in (WEIGHTS, OPTIMIZER, STATE)}
        (staging / MANIFEST).write_text(json.dumps(sums, indent=2))
        shutil.rmtree(final, ignore_errors=True)
        os.replace(staging, final)
    except (OSError, SafetensorError) as error:
        shutil.rmtree(staging, ignore_errors=True)
        raise RunFolderError(
            f"checkpoint `{final}` cannot be written: {getattr(error, 'strerror', None) or error}",
            hint="free some disk space, then go on with `tunesmith train --resume`",
        ) from error


def load_checkpoint(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Put a checkpoint's weights into `model` (and its optimizer and generators back), return its `state`.

    Raises:
        RunFolderError: if a file is missing or differs from the manifest, or fits another model.
    """
    check_checkpoint(path)
    reshard(model)
    weights = load_file(path / WEIGHTS)
    parameters = _learning(model)
    if _shapes(weights) != _shapes(parameters):
        raise RunFolderError(
            f"`{path}` holds {_described(weights)}, and this model trains {_described(parameters)}",
            hint="resume with the configuration the run was started with",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(like(parameter, weights[name]))
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    if optimizer is not None:
        tensors = load_file(path / OPTIMIZER)
        restore_random_states(tensors)
        found = _joined_optimizer_state(tensors, state["optimizer_numbers"])
        _cut_like_parameters(found, optimizer)
        optimizer.load_state_dict({"state": found, "param_groups": state["param_groups"]})
    return state


def check_checkpoint(path: Path) -> None:
    """Compare each file with the manifest's sha256.

    Raises:
        RunFolderError: names the file that is missing or differs.
    """
    try:
        sums = json.loads((path / MANIFEST).read_text(encoding="utf-8"))
        if sums.keys() != {WEIGHTS, OPTIMIZER, STATE}:
            raise ValueError("it lists other files")
    except (OSError, ValueError, AttributeError) as error:
        raise RunFolderError(
            f"checkpoint `{path}` is damaged: {MANIFEST} cannot be read: {error}", hint=_EARLIER
        ) from error
    try:
        damaged = [name for name, expected in sums.items() if file_sha256(path / name) != expected]
    except OSError as error:
        raise RunFolderError(f"checkpoint `{path}` is not whole: {error}", hint=_EARLIER) from error
    if damaged:
        raise RunFolderError(f"checkpoint `{path}` is damaged: {', '.join(damaged)} changed", hint=_EARLIER)


_EARLIER = "delete this folder to go on from the checkpoint before it"


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first."""
    return sorted(folder.glob("step-*"))


def remove_old(folder: Path, *, keep: int, best: Path | None) -> None:
    """Delete old checkpoints until `keep` are left; the best one and one to go on from always are."""
    found = checkpoints_in(folder)
    kept = {path for path in found if path in (best, found[-1])}
    for path in reversed(found):
        if len(kept) < keep:
            kept.add(path)
        elif path not in kept:
            shutil.rmtree(path, ignore_errors=True)


def _learning(model: nn.Module) -> dict[str, nn.Parameter]:
    return {name: parameter for name, parameter in model.named_parameters() if parameter.requires_grad}


def _whole_on_main(tensors: Mapping[str, Tensor], ranks: Ranks) -> dict[str, Tensor]:
    """Whole tensors in main memory on rank 0; the others take part and keep nothing."""
    found = {}
    for name, tensor in tensors.items():
        gathered = whole(tensor.detach())
        if ranks.is_main:
            found[name] = gathered.cpu().contiguous()
    return found


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _described(tensors: Mapping[str, Tensor]) -> str:
    return f"{len(tensors)} tensors of {sum(tensor.numel() for tensor in tensors.values())} numbers"


def _split_optimizer_state(
    state: dict[str, Any],
) -> tuple[dict[str, Tensor], dict[str, Any], list[dict[str, Any]]]:
    """Tensors and numbers, both under `<parameter index>.<name>`; the groups are plain JSON."""
    values = {f"{index}.{name}": value for index, of in state["state"].items() for name, value in of.items()}
    tensors = {key: value for key, value in values.items() if isinstance(value, Tensor)}
    numbers = {key: value for key, value in values.items() if not isinstance(value, Tensor)}
    return tensors, numbers, state["param_groups"]


def _joined_optimizer_state(tensors: dict[str, Tensor], numbers: dict[str, Any]) -> dict[int, dict[str, Any]]:
    state: dict[int, dict[str, Any]] = {}
    for key, value in (tensors | numbers).items():
        index, _, name = key.partition(".")
        if index.isdigit():
            state.setdefault(int(index), {})[name] = value
    return state


def _cut_like_parameters(state: dict[int, dict[str, Any]], optimizer: torch.optim.Optimizer) -> None:
    """Values of a parameter's shape become shards where the parameter is one."""
    parameters = [parameter for group in optimizer.param_groups for parameter in group["params"]]
    for index, values in state.items():
        for name, value in values.items():
            if isinstance(value, Tensor) and value.shape == parameters[index].shape:
                values[name] = like(parameters[index], value)
