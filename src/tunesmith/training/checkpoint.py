"""Checkpoints: everything a run needs to go on, in safetensors and JSON, whole or not there at all.

A checkpoint is written into a staging folder, its manifest with the sha256 of each file last, and
appears under its name in one rename. Reading one checks the manifest first.
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

WEIGHTS, OPTIMIZER, STATE, MANIFEST = (
    "weights.safetensors",
    "optimizer.safetensors",
    "state.json",
    "MANIFEST.json",
)


def save_checkpoint(
    folder: Path, *, step: int, model: nn.Module, optimizer: torch.optim.Optimizer, state: Mapping[str, Any]
) -> Path:
    """Write `folder/step-NNNNNN` with trainable weights, optimizer, random generators and `state`.

    Args:
        folder: the run's `checkpoints/`.
        step: optimizer steps done.
        model: its parameters with `requires_grad` are saved, under their own names.
        optimizer: AdamW or another whose state is tensors and numbers.
        state: JSON-ready values of the loop.

    Raises:
        RunFolderError: if the disk refuses; an older checkpoint stays as it was.
    """
    final = folder / f"step-{step:06d}"
    staging = folder / f".step-{step:06d}.partial"
    try:
        shutil.rmtree(staging, ignore_errors=True)
        staging.mkdir(parents=True)
        save_file(_trainable(model), staging / WEIGHTS)
        tensors, groups = _split_optimizer_state(optimizer.state_dict())
        save_file(tensors | _random_states(), staging / OPTIMIZER)
        (staging / STATE).write_text(json.dumps({"step": step, "param_groups": groups, **state}, indent=2))
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
    return final


def load_checkpoint(
    path: Path, *, model: nn.Module, optimizer: torch.optim.Optimizer | None
) -> dict[str, Any]:
    """Put a checkpoint's weights into `model` (and its optimizer and generators back), return its `state`.

    Raises:
        RunFolderError: if a file is missing or differs from the manifest, or fits another model.
    """
    check_checkpoint(path)
    weights = load_file(path / WEIGHTS)
    parameters = {name: p for name, p in model.named_parameters() if p.requires_grad}
    if _shapes(weights) != _shapes(parameters):
        raise RunFolderError(
            f"`{path}` holds {_described(weights)}, and this model trains {_described(parameters)}",
            hint="resume with the configuration the run was started with",
        )
    with torch.no_grad():
        for name, parameter in parameters.items():
            parameter.copy_(weights[name])
    state: dict[str, Any] = json.loads((path / STATE).read_text())
    if optimizer is not None:
        tensors = load_file(path / OPTIMIZER)
        _restore_random_states(tensors)
        optimizer.load_state_dict(_joined_optimizer_state(tensors, state["param_groups"]))
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


def _trainable(model: nn.Module) -> dict[str, Tensor]:
    return {name: p.detach().cpu().contiguous() for name, p in model.named_parameters() if p.requires_grad}


def _shapes(tensors: Mapping[str, Tensor]) -> dict[str, torch.Size]:
    return {name: tensor.shape for name, tensor in tensors.items()}


def _described(tensors: Mapping[str, Tensor]) -> str:
    return f"{len(tensors)} tensors of {sum(tensor.numel() for tensor in tensors.values())} numbers"


def _split_optimizer_state(state: dict[str, Any]) -> tuple[dict[str, Tensor], list[dict[str, Any]]]:
    """Tensors under `<parameter index>.<name>`; the groups are plain JSON."""
    tensors = {
        f"{index}.{name}": value.detach().cpu().contiguous()
        for index, values in state["state"].items()
        for name, value in values.items()
    }
    return tensors, state["param_groups"]


def _joined_optimizer_state(tensors: dict[str, Tensor], groups: list[dict[str, Any]]) -> dict[str, Any]:
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, _, name = key.partition(".")
        if index.isdigit():
            state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": groups}


def _random_states() -> dict[str, Tensor]:
    states = {"random.cpu": torch.get_rng_state()}
    if torch.cuda.is_available():
        states["random.cuda"] = torch.cuda.get_rng_state()
    return states


def _restore_random_states(tensors: dict[str, Tensor]) -> None:
    torch.set_rng_state(tensors["random.cpu"])
    if torch.cuda.is_available() and "random.cuda" in tensors:
        torch.cuda.set_rng_state(tensors["random.cuda"])
