"""The one task all contestants get, and how each tells what it took. Standard library only."""

import json
import resource
import sys
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

RANK, ALPHA, TARGETS = 16, 32, ("q_proj", "k_proj", "v_proj", "o_proj")
USUAL_DROPOUT = 0.05
LEARNING_RATE = 2e-4
WINDOW_ROWS, MICRO_BATCH_ROWS = 16, 4
MAX_LENGTH, SEED = 512, 17
IGNORED = -100

# What a contestant finds in its work folder: the rows as text, and what our own run leaves for the others.
ROWS, SAME_ROWS, ADAPTER = "rows.json", "same_rows.json", "adapter"
MARK = "measured: "


@dataclass(frozen=True, slots=True)
class Measured:
    """One training, loading not counted.

    Attributes:
        tokens: of the rows.
        computed_tokens: that went through the model: with padding, or fewer where rows share some.
        seconds: from before the first batch to after the last step.
        losses: of each step, as the contestant reports them.
        peak_bytes: highest memory of the process, model and libraries included.
        versions: of what it ran on.
    """

    tokens: int
    computed_tokens: int
    seconds: float
    losses: tuple[float, ...]
    peak_bytes: int
    versions: Mapping[str, str]

    @property
    def rate(self) -> float:
        """Tokens of the rows a second."""
        return self.tokens / self.seconds


class Counter:
    """Counts the tokens of a transformers model's batches: a hook for `register_forward_pre_hook`."""

    def __init__(self) -> None:
        self.tokens = self.computed_tokens = 0

    def __call__(self, module: Any, positional: tuple[Any, ...], named: dict[str, Any]) -> None:
        """Take the batch's ids and mask as they come by."""
        self.computed_tokens += named["input_ids"].numel()
        self.tokens += int(named["attention_mask"].sum())


def peak_bytes() -> int:
    """Highest memory of this process; without what `getrusage` would count of the one that started it."""
    status = Path("/proc/self/status")
    if status.is_file():
        return 1024 * int(status.read_text().split("VmHWM:")[1].split()[0])
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


def versions_of(names: Sequence[str]) -> dict[str, str]:
    """Installed versions; what is not there is left out."""
    found = {}
    for name in names:
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def tell(measured: Measured) -> None:
    """One JSON line for whoever started this process."""
    print(MARK + json.dumps(asdict(measured)), flush=True)


def heard(output: str) -> Measured | None:
    """What a process told with `tell`, or None."""
    lines = [line for line in output.splitlines() if line.startswith(MARK)]
    if not lines:
        return None
    found = json.loads(lines[-1].removeprefix(MARK))
    return Measured(**found | {"losses": tuple(found["losses"])})


def instruction_text(row: Mapping[str, str]) -> str:
    """A row in the layout of the usual tutorial, as one text."""
    asked = f"### Instruction:\n{row['instruction']}\n\n"
    given = f"### Input:\n{row['input']}\n\n" if row.get("input") else ""
    return f"{asked}{given}### Response:\n{row['output']}"
