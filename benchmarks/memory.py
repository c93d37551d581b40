"""Memory planned beside memory taken: five methods, sizes of micro-batch, lengths, checkpointing on and off.

`python benchmarks/memory.py` trains each cell for two steps of two micro-batches with the real loop, in a
process of its own, probes it in another, and writes `benchmarks/memory.md`. What was measured is kept in
`benchmarks/memory.jsonl`; a cell that is there is not measured again, so the work can be cut short and
continued. `--cells N` measures N more of them, small ones first; `--cells 0` only writes the page.
"""

import argparse
import json
import os
import platform
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import product
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import psutil
from transformers import AutoConfig

from tunesmith.config import MethodConfig, TrainingConfig
from tunesmith.hardware import peak_memory_bytes
from tunesmith.methods import METHODS
from tunesmith.models.find import find_model
from tunesmith.planning.heap import keep_heap_small
from tunesmith.planning.probe import plain_values, probe
from tunesmith.planning.probe_child import Asked, ready_model, synthetic_rows
from tunesmith.planning.rehearse import Setup, rehearse
from tunesmith.planning.terms import Memory
from tunesmith.progress import Silent
from tunesmith.training.loop import Loop
from tunesmith.training.optimizer import choose_optim

HERE = Path(__file__).parent
MEASURED = HERE / "memory.jsonl"
MODEL = "smollm2-135m"
ROWS, LENGTHS = (1, 4, 8), (128, 512)
MICRO_BATCHES, STEPS = 2, 2
MB = 1_000_000


@dataclass(frozen=True, slots=True)
class Cell:
    """One kind of training."""

    method: str
    rows: int
    length_tokens: int
    is_checkpointed: bool

    @property
    def setup(self) -> Setup:
        """As it is planned: half of the tokens scored, the heap held small, no evaluation."""
        is_four_bit = METHODS[self.method].base == "four_bit"
        return Setup(
            config=AutoConfig.from_pretrained(find_model(MODEL).path),
            method=MethodConfig.model_validate({"name": self.method}),
            rows=self.rows,
            length_tokens=self.length_tokens,
            scored_tokens=self.rows * self.length_tokens // 2,
            device="cpu",
            dtype="float32",
            is_checkpointed=self.is_checkpointed,
            optim=choose_optim("auto", device="cpu", is_four_bit=is_four_bit)[0],
            evaluation_rows=1,
            answer_tokens=0,
        )


@dataclass(frozen=True, slots=True)
class Result:
    """Peaks in bytes: of the process that trained, and of the one that probed."""

    cell: Cell
    trained_bytes: int
    probed_bytes: int


def cells() -> list[Cell]:
    """All of them, small ones first."""
    found = [Cell(*values) for values in product(METHODS, ROWS, LENGTHS, (True, False))]
    return sorted(found, key=lambda cell: (cell.rows * cell.length_tokens, cell.rows))


def train(asked: Asked) -> int:
    """Peak of this process after a short training by the real loop."""
    keep_heap_small()
    model: Any = ready_model(asked)
    rows = [
        row for _ in range(MICRO_BATCHES) for row in synthetic_rows(asked, vocabulary=model.config.vocab_size)
    ]
    settings = TrainingConfig.model_validate(
        {
            "max_steps": STEPS,
            "per_device_train_batch_size": asked.rows,
            "gradient_accumulation_steps": MICRO_BATCHES,
            "optim": asked.optim,
            "learning_rate": 1e-5,
        }
    )
    with TemporaryDirectory() as folder:
        Loop(
            model,
            rows,
            (),
            settings=settings,
            hardware=asked.hardware,
            pad_id=0,
            eval_batch_rows=1,
            checkpoints=Path(folder),
            record=lambda **line: None,
            progress=Silent(),
        ).run()
    return peak_memory_bytes("cpu")


def measured(cell: Cell) -> Result:
    """Train and probe the cell, each in a process of its own."""
    setup = cell.setup
    asked = {**plain_values(setup), "model_name": MODEL, "revision": None}
    child = subprocess.run(
        [sys.executable, __file__, "--train"],
        input=json.dumps(asked),
        stdout=subprocess.PIPE,
        text=True,
        check=True,
    )
    trained_bytes = int(child.stdout.splitlines()[-1])
    return Result(cell, trained_bytes, probe(setup, model_name=MODEL, revision=None).peak_bytes)


def kept() -> list[Result]:
    """What was measured so far, each cell once."""
    if not MEASURED.exists():
        return []
    lines = [json.loads(line) for line in MEASURED.read_text(encoding="utf-8").splitlines()]
    found = [Result(Cell(**line.pop("cell")), **line) for line in lines]
    # Two that worked on it at once may both have measured a cell.
    latest = {result.cell: result for result in found}
    return [latest[cell] for cell in cells() if cell in latest]


def error(planned: int, taken: int) -> float:
    """Signed, in percent of what was taken."""
    return 100 * (planned / taken - 1)


def page(results: Sequence[Result]) -> str:
    """The table and what it stands for."""
    found = [(result, rehearse(result.cell.setup)) for result in results]
    before = [error(planned_peak(memory), result.trained_bytes) for result, memory in found]
    after = [error(result.probed_bytes, result.trained_bytes) for result in results]
    lines = [
        "# Memory: planned and taken",
        "",
        f"{datetime.now(UTC):%Y-%m-%d}, {machine()}.",
        "",
        CONDITIONS,
        "",
        f"{len(results)} of {len(cells())} cells measured. Planned within 10 %: {share(before, 10)}, "
        f"within 5 %: {share(before, 5)}; probed within 5 %: {share(after, 5)}.",
    ]
    for method in METHODS:
        rows = [
            line(result, planned_peak(memory), was, now)
            for (result, memory), was, now in zip(found, before, after, strict=True)
            if result.cell.method == method
        ]
        lines += ["", f"## {method}", "", HEAD, "|---|---|---|---|---|---|---|", *rows] if rows else []
    return "\n".join(lines) + "\n"


CONDITIONS = f"""SmolLM2-135M in float32, {STEPS} steps of {MICRO_BATCHES} micro-batches by the real loop,
all rows of exactly that length, half of the tokens scored; each cell in processes of its own. *Taken* is the
most resident memory of the process that trains, loading included, its heap held small (`planning/heap.py`).
*Planned* is `rehearse`, before the model is loaded. *Probed* is `probe`: one micro-batch, a step and another
micro-batch. Errors are signed, in percent of what was taken."""
HEAD = "| rows x tokens | checkpointing | planned MB | taken MB | error | probed MB | error |"


def line(result: Result, planned: int, was: float, now: float) -> str:
    """One row of the table."""
    cell = result.cell
    figures = (
        f"{cell.rows} x {cell.length_tokens}",
        "on" if cell.is_checkpointed else "off",
        str(planned // MB),
        str(result.trained_bytes // MB),
        f"{was:+.1f} %",
        str(result.probed_bytes // MB),
        f"{now:+.1f} %",
    )
    return f"| {' | '.join(figures)} |"


def machine() -> str:
    """What it ran on."""
    libraries = ("torch", "transformers", "peft", "bitsandbytes")
    return ", ".join(
        [
            f"CPU with {os.cpu_count()} cores and {psutil.virtual_memory().total / 1e9:.0f} GB",
            " ".join(platform.libc_ver()),
            f"Python {platform.python_version()}",
            *(f"{name} {version(name)}" for name in libraries),
        ]
    )


def planned_peak(memory: Memory) -> int:
    """Of loading and training; these cells evaluate nothing."""
    return max(memory.training_peak_bytes, memory.loading_bytes)


def share(errors: Sequence[float], percent: float) -> str:
    """How many of them stay within so many percent."""
    good = sum(abs(value) <= percent for value in errors)
    return f"{good} of {len(errors)}"


def main() -> None:
    """Measure what is asked for and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--cells", type=int, default=len(cells()), help="how many more to measure")
    parser.add_argument("--train", action="store_true", help=argparse.SUPPRESS)
    asked = parser.parse_args()
    if asked.train:
        print(train(Asked(**json.load(sys.stdin))))
        return
    done = {result.cell for result in kept()}
    for cell in [cell for cell in cells() if cell not in done][: asked.cells]:
        result = measured(cell)
        with MEASURED.open("a", encoding="utf-8") as stream:
            stream.write(json.dumps(asdict(result)) + "\n")
        print(cell, result.trained_bytes // MB, result.probed_bytes // MB, flush=True)
    (HERE / "memory.md").write_text(page(kept()), encoding="utf-8")


if __name__ == "__main__":
    main()
