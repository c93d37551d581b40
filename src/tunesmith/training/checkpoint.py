"""Checkpoints: everything a run needs to go on, in safetensors and JSON, whole or not there at all.

`whole_folder` writes each one, on the disk and under its name in one rename, with the sha256 of each file.
Reading one checks all of them first, and a run goes on from the newest that is whole. A checkpoint holds
whole tensors, however many processes wrote it, and can be read by any number of them.
"""

import errno
import json
import math
import os
import re
import shutil
from collections.abc import Mapping
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from tunesmith.errors import NO_ROOM, RunFolderError
from tunesmith.training.randomness import random_states, restore_random_states
from tunesmith.training.ranks import ALONE, Ranks
from tunesmith.training.shards import like, reshard, whole
from tunesmith.training.whole_folder import clear_leftovers, damage, remove_folder, write_bytes, write_folder

WEIGHTS, OPTIMIZER, STATE = FILES = ("weights.safetensors", "optimizer.safetensors", "state.json")

HEADER_BYTES, MARGIN_BYTES = 256, 64 * 1024
"""Free space wanted beside the numbers: for each tensor's entry, and for all that is small."""


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

    All processes must call it; rank 0 writes, and the others go on when it has. What a crash left beside
    the checkpoints is removed first.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        model: its parameters with `requires_grad` are saved, under their own names.
        optimizer: AdamW or another whose state is tensors and numbers.
        state: JSON-ready values of the loop.
        ranks: the processes of the run.

    Raises:
        RunFolderError: if the disk refuses or has too little space: says bytes needed and free. It is
            raised in all processes; older checkpoints stay as they were.
    """
    reshard(model)
    weights = _whole_on_main(_learning(model), ranks)
    tensors, numbers, groups = _split_optimizer_state(optimizer.state_dict())
    tensors = _whole_on_main(tensors, ranks) | random_states()
    final = folder / f"step-{step:06d}"
    values = {"step": step, "param_groups": groups, "optimizer_numbers": numbers, **state}
    refusal = ranks.share(_write(final, weights, tensors, values) if ranks.is_main else None)
    if refusal:
        raise RunFolderError(refusal[0], hint=refusal[1])
    return final


def _write(
    final: Path, weights: dict[str, Tensor], tensors: dict[str, Tensor], values: Mapping[str, Any]
) -> tuple[str, str] | None:
    """Put the files on the disk; where it refuses, what to tell the user and the hint."""
    text = json.dumps(values, indent=2)
    needed_bytes = len(text) + _bytes_to_write(weights) + _bytes_to_write(tensors) + MARGIN_BYTES
    try:
        clear_leftovers(final.parent, names=FILES)
        if _free_bytes(final.parent) < needed_bytes:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        write_folder(
            final,
            {
                WEIGHTS: partial(save_file, weights),
                OPTIMIZER: partial(save_file, tensors),
                STATE: lambda path: write_bytes(path, text.encode()),
            },
        )
    except (OSError, SafetensorError) as error:
        with suppress(OSError):
            clear_leftovers(final.parent, names=FILES)
        return _refusal(final, _system_error(error), needed_bytes)
    return None


def _bytes_to_write(tensors: Mapping[str, Tensor]) -> int:
    return sum(tensor.numel() * tensor.element_size() + HEADER_BYTES for tensor in tensors.values())


def _free_bytes(folder: Path) -> float:
    """Infinite where the file system does not tell."""
    while not folder.exists():
        folder = folder.parent
    usage = shutil.disk_usage(folder)
    return usage.free if usage.total else math.inf


def _system_error(error: OSError | SafetensorError) -> OSError:
    """An error of safetensors says the system's in words."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else OSError(errno.EIO, str(error))


def _refusal(final: Path, error: OSError, needed_bytes: int) -> tuple[str, str]:
    """Message and hint."""
    go_on = f"then go on with `tunesmith train --resume {final.parent.parent}`"
    told = f"checkpoint `{final}` cannot be written: {error.strerror or error}"
    if error.errno not in NO_ROOM:
        return told, f"make the folder writable, {go_on}"
    told += f"; it needs {needed_bytes} bytes, and {_free_bytes(final.parent)} are free"
    return told, f"free some disk space, {go_on}"


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
    """Compare each file with the manifest's bytes and sha256.

    Raises:
        RunFolderError: names the files that are missing, truncated or changed.
    """
    found = damage(path, names=FILES)
    if found:
        raise RunFolderError(
            f"checkpoint `{path}` is damaged: {found}",
            hint=f"`tunesmith train --resume {path.parent.parent}` goes on from the newest whole one",
        )


def newest_whole(folder: Path, *, ranks: Ranks = ALONE) -> tuple[Path | None, tuple[str, ...]]:
    """The checkpoint to go on from, and one sentence for each newer one that is damaged.

    What a crash left beside the checkpoints is removed first, so only the run itself may ask.

    Args:
        folder: the run's `checkpoints/`; it may be absent.
        ranks: the processes of the run; all must call it, rank 0 looks, and all get its answer.

    Returns:
        The newest checkpoint whose files agree with its manifest, or None; the sentences name checkpoint
        and file, newest first.

    Raises:
        RunFolderError: if the disk refuses.
    """
    found, damaged = ranks.share(_newest_whole(folder) if ranks.is_main else (None, []))
    return Path(found) if found else None, tuple(damaged)


def _newest_whole(folder: Path) -> tuple[str | None, list[str]]:
    """Path as text, and sentences: what one process can send to the others."""
    try:
        clear_leftovers(folder, names=FILES)
    except OSError as error:
        raise RunFolderError(
            f"`{folder}` cannot be tidied: {error.strerror}", hint="make the folder writable"
        ) from error
    damaged: list[str] = []
    for path in reversed(checkpoints_in(folder)):
        found = damage(path, names=FILES)
        if not found:
            return str(path), damaged
        damaged.append(f"checkpoint `{path}` is damaged: {found}")
    return None, damaged


def checkpoints_in(folder: Path) -> list[Path]:
    """Checkpoints by step, oldest first, whole or not."""
    named = [path for path in folder.glob("step-*") if re.fullmatch(r"step-\d{6,}", path.name)]
    return sorted(named, key=lambda path: int(path.name.removeprefix("step-")))


def remove_old(folder: Path, *, keep: int, best: Path | None) -> None:
    """Delete old checkpoints until `keep` are left; the best one and the newest whole one always are.

    A damaged one that is newer than those is left for the run to write again, and counts for nothing.
    """
    found = checkpoints_in(folder)
    if len(found) <= keep:
        return
    while found and damage(found[-1], names=FILES):
        found.pop()
    kept = {path for path in found if path in (best, found[-1])}
    for path in reversed(found):
        if len(kept) < keep:
            kept.add(path)
        elif path not in kept:
            remove_folder(path)


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
