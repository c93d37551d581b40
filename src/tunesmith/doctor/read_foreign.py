"""Signs of a run that another program logged: a Hugging Face Trainer's state, or a table of losses.

A `trainer_state.json` holds what `transformers.TrainerState` writes. Nothing else of a checkpoint is opened
but `adapter_config.json`, which says in JSON what was trained.
"""

import json
import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from tunesmith.data.json_records import decoded_text, explain
from tunesmith.data.records import kind_of, listed, nearest
from tunesmith.doctor.lines import NAMES, Curves, last_epoch, number, peak_rate
from tunesmith.doctor.loss_table import read_loss_table
from tunesmith.doctor.signs import Signs
from tunesmith.errors import DataError

STATE, ADAPTER = "trainer_state.json", "adapter_config.json"
MOST_BYTES = 200_000_000
# What a TrainerState says of settings, under our keys.
_STATE_KEYS = {
    "num_train_epochs": "training.num_train_epochs",
    "train_batch_size": "training.per_device_train_batch_size",
    "save_steps": "training.save_steps",
}
# What a PEFT adapter says of itself, under our keys.
_ADAPTER_KEYS = {"r": "method.rank", "lora_alpha": "method.alpha", "lora_dropout": "method.dropout"}
_GIVE = f"give a run folder of ours, a `{STATE}` or a folder that holds one, or a CSV of losses"


def read_foreign(path: Path) -> Signs:
    """What a log tells.

    Args:
        path: a `trainer_state.json`; an output or checkpoint folder of a Hugging Face Trainer, of which the
            state with the highest step is taken; or a table of losses (CSV with a header, or one column).

    Raises:
        DataError: if it is none of these, too large, or damaged; names file and, where it can, line.
    """
    if path.is_dir():
        return _furthest(path)
    if not path.is_file():
        names = [each.name for each in path.parent.iterdir()] if path.parent.is_dir() else []
        near = nearest(path.name, names)
        raise DataError(
            f"{path}: there is no such file or folder", hint=f"did you mean `{near}`?" if near else _GIVE
        )
    text = _text(path)
    if text.lstrip().startswith("{") or path.suffix == ".json":
        return _signs_of_state(path, _state(path, text))
    return read_loss_table(path, text)


def _text(path: Path) -> str:
    try:
        size_bytes = path.stat().st_size
        if size_bytes > MOST_BYTES:
            raise DataError(
                f"{path}: {size_bytes / 1e6:,.0f} MB are more than a log's {MOST_BYTES / 1e6:.0f} MB at most",
                hint="log less often, or keep every tenth line",
            )
        data = path.read_bytes()
    except OSError as error:
        raise DataError(
            f"{path}: cannot be read: {error.strerror or error}", hint="check its permissions"
        ) from None
    if not data.strip():
        raise DataError(f"{path}:1: the file is empty", hint=_GIVE)
    return decoded_text(data, path)


def _furthest(folder: Path) -> Signs:
    """The state with the highest step of an output or a checkpoint folder."""
    numbered = [
        (int(part), each) for each in folder.glob("checkpoint-*") if (part := each.name[11:]).isdecimal()
    ]
    ordered = [folder, *(each for _, each in sorted(numbered, reverse=True))]
    found = [each / STATE for each in ordered if (each / STATE).is_file()][:2]
    if not found:
        raise DataError(f"{folder}: holds no run of ours and no `{STATE}`", hint=_GIVE)
    states = [(file, _state(file, _text(file))) for file in found]
    # The first of equals is that of the folder itself, written at the end.
    file, state = max(states, key=lambda pair: number(pair[1].get("global_step")) or 0)
    return _signs_of_state(file, state)


def _state(path: Path, text: str) -> dict[str, Any]:
    value = _json(path, text)
    if not isinstance(value, dict) or "log_history" not in value:
        what = f"an object with {listed(list(value)[:5])}" if isinstance(value, dict) else kind_of(value)
        raise DataError(f"{path}:1: no trainer state: `log_history` is missing from {what}", hint=_GIVE)
    history = value["log_history"]
    if not isinstance(history, list):
        raise DataError(f"{path}: `log_history` is {kind_of(history)}, not a list", hint=_GIVE)
    for place, line in enumerate(history):
        if not isinstance(line, dict):
            raise DataError(f"{path}: log_history[{place}] is {kind_of(line)}, not an object", hint=_MEND)
        for name in ("step", *NAMES):
            if line.get(name) is not None and number(line[name]) is None:
                what = f"log_history[{place}]: `{name}` is {kind_of(line[name])}, not a number"
                raise DataError(f"{path}: {what}", hint=_MEND)
    return value


_MEND = "mend that entry, or remove it"


def _json(path: Path, text: str) -> Any:
    try:
        return json.loads(text)  # NaN and Infinity, which a Trainer writes, are read as such
    except json.JSONDecodeError as error:
        at_fault = f"{path}:{error.lineno}: {explain(error, at_end=True)}"
        raise DataError(
            at_fault, hint="fetch the file again, or take that of an earlier checkpoint"
        ) from None
    except (RecursionError, ValueError) as error:
        what = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise DataError(f"{path}: not usable JSON: {what}", hint=_GIVE) from None


def _signs_of_state(path: Path, state: Mapping[str, Any]) -> Signs:
    lines = state["log_history"]
    curves = Curves(lines).as_curves()
    if not curves:
        raise DataError(
            f"{path}: `log_history` holds no loss: it has {len(lines)} entries",
            hint="train with `logging_steps` set",
        )
    settings = {
        ours: state[theirs] for theirs, ours in _STATE_KEYS.items() if _is_above_zero(state.get(theirs))
    }
    if "eval_loss" in curves and _is_above_zero(state.get("eval_steps")):
        settings["training.eval_steps"] = state["eval_steps"]
    total, at = number(state.get("max_steps")), number(state.get("global_step")) or 0
    is_planned = total is not None and math.isfinite(total) and total > 0
    pair = last_epoch(lines)
    return Signs(
        name=str(path),
        kind="trainer_state",
        curves=curves,
        settings=settings | peak_rate(curves) | _adapter_settings(path.parent / ADAPTER),
        total_steps=int(total) if total is not None and is_planned else None,
        steps_per_epoch=pair[0] / pair[1] if pair else None,
        status="succeeded" if total is not None and is_planned and at >= total else "",
    )


def _is_above_zero(value: object) -> bool:
    found = number(value)
    return found is not None and math.isfinite(found) and found > 0


def _adapter_settings(file: Path) -> dict[str, Any]:
    """Method, rank, alpha and dropout of a LoRA beside the state; nothing where there is none."""
    if not file.is_file() or file.stat().st_size > MOST_BYTES:
        return {}
    found = _json(file, _text(file))
    if not isinstance(found, dict) or found.get("peft_type") != "LORA":
        return {}
    known = {
        ours: found[theirs] for theirs, ours in _ADAPTER_KEYS.items() if number(found.get(theirs)) is not None
    }
    return {"method.name": "lora"} | known
