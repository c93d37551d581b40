"""Recommended settings against the usual tutorial's, and the forecast for twice the data against the truth.

`python benchmarks/recommend.py [--data FOLDER] [--work FOLDER]` writes `benchmarks/recommend.md`. Stopped,
the same call goes on. A task whose rows are not in FOLDER is left out with a word; rows stay in the work
folder. It fails where the recommendation does not win, or fewer than four in five intervals hold the truth.
"""

import argparse
import csv
import json
import os
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import numpy as np

from tunesmith.approaches.child_run import finished_run
from tunesmith.approaches.learning_curve import Size, fitted, measured, trained_sizes
from tunesmith.approaches.learning_curve_fit import Forecast
from tunesmith.approaches.recommend import Recommendation, recommend
from tunesmith.cli.terminal import quiet_libraries
from tunesmith.data.tickets import generate_tickets
from tunesmith.evaluation.metrics import loss_metric
from tunesmith.evaluation.scores import Comparison
from tunesmith.evaluation.significance import compare
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.pipeline import read_data
from tunesmith.progress import Silent
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import RunFolder

HERE = Path(__file__).parent
PAGE = Path(__file__).with_suffix(".md")
SEED = 17
# Of the forecasts: rows and runs that had no part in choosing the rule.
FORECAST_SEEDS = (20, 21)
TEST_ROWS, VALIDATION_ROWS = 48, 16
# What the usual tutorial sets, whatever the model and the rows are; all else is equal.
TUTORIAL: dict[str, Any] = {
    "learning-rate": 2e-4,
    "per-device-train-batch-size": 4,
    "gradient-accumulation-steps": 4,
    "rank": 16,
    "alpha": 32,
    "warmup-ratio": 0.03,
}
EPOCHS, CURVE_EPOCHS = 3, 1
SHARES = (1 / 16, 1 / 8, 1 / 4, 1 / 2, 1.0)
# Of a prompt with its answer; longer rows only cost time here.
MOST_CHARACTERS = 300

Example = dict[str, str]
Rows = tuple[list[Example], list[Example]]


@dataclass(frozen=True, slots=True)
class Task:
    """Where rows are from: a function of (folder, training rows, held-out rows, seed), and its files."""

    name: str
    files: tuple[str, ...]
    rows: Callable[[Path, int, int, int], Rows]


@dataclass(frozen=True, slots=True)
class Won:
    """Both settings on one task."""

    task: str
    rows: int
    tutorial: Size
    advised: Size
    change: Comparison
    settings: str


@dataclass(frozen=True, slots=True)
class Foretold:
    """A forecast and what came."""

    task: str
    seed: int
    sizes: tuple[Size, ...]
    forecast: Forecast

    @property
    def truth(self) -> float:
        """Loss of the model trained on twice the rows."""
        return self.sizes[-1].loss.value

    @property
    def gain(self) -> float:
        """What twice the rows really gave."""
        return self.sizes[-2].loss.value - self.truth

    @property
    def is_held(self) -> bool:
        """Whether the interval of the loss holds it."""
        return self.forecast.low <= self.truth <= self.forecast.high

    @property
    def is_gain_held(self) -> bool:
        """Whether the interval of the gain does."""
        return self.forecast.gain_low <= self.gain <= self.forecast.gain_high


def tickets(_: Path, train: int, test: int, seed: int) -> Rows:
    """The demo's messages."""
    return generate_tickets(seed=seed, train_rows=train, test_rows=test)


def e2e(folder: Path, train: int, test: int, seed: int) -> Rows:
    """Restaurant facts to a sentence; each set of facts once."""

    def read(name: str, count: int) -> list[Example]:
        with (folder / "e2e_nlg" / name).open(encoding="utf-8", newline="") as file:
            by_facts = {row["mr"]: row["ref"] for row in csv.DictReader(file)}
        pairs = sorted(by_facts.items())
        Random(seed).shuffle(pairs)  # noqa: S311  nothing secret is drawn
        return [_row("Describe the restaurant.", facts, text) for facts, text in pairs[:count]]

    return read("trainset_rebuilt.csv", train), read("devset.csv", test)


def clinc(folder: Path, train: int, test: int, seed: int) -> Rows:
    """Requests to one of 30 intents."""
    parts = json.loads((folder / "clinc150" / "data_full.json").read_text(encoding="utf-8"))
    random = Random(seed)  # noqa: S311
    intents = set(random.sample(sorted({intent for _, intent in parts["train"]}), k=30))

    def some(name: str, count: int) -> list[Example]:
        pairs = [(text, intent) for text, intent in parts[name] if intent in intents]
        random.shuffle(pairs)
        return [_row("Name the intent.", text, intent) for text, intent in pairs[:count]]

    return some("train", train), some("test", test)


def gsm8k(folder: Path, train: int, test: int, seed: int) -> Rows:
    """Word problems with their way to the number."""
    return tuple(  # type: ignore[return-value]
        _short(folder / "gsm8k" / f"{name}.jsonl", ("question", "answer"), count, seed)
        for name, count in (("train", train), ("test", test))
    )


def alpaca(folder: Path, train: int, test: int, seed: int) -> Rows:
    """Free instructions."""
    found = _short(
        folder / "llamafactory_demo" / "alpaca_en_demo.json", ("instruction", "output"), train + test, seed
    )
    return found[test:], found[:test]


TASKS = (
    Task("tickets", (), tickets),
    Task("e2e", ("e2e_nlg/trainset_rebuilt.csv", "e2e_nlg/devset.csv"), e2e),
    Task("clinc", ("clinc150/data_full.json",), clinc),
    Task("gsm8k", ("gsm8k/train.jsonl", "gsm8k/test.jsonl"), gsm8k),
    Task("alpaca", ("llamafactory_demo/alpaca_en_demo.json",), alpaca),
)
COMPARED = ("tickets", "e2e", "clinc")


def _row(system: str, prompt: str, completion: str) -> Example:
    return {"system": system, "prompt": prompt, "completion": completion}


def _short(file: Path, keys: tuple[str, str], count: int, seed: int) -> list[Example]:
    text = file.read_text(encoding="utf-8")
    records = json.loads(text) if file.suffix == ".json" else [json.loads(line) for line in text.splitlines()]
    pairs = [
        ("\n\n".join(filter(None, (each[keys[0]], each.get("input")))), each[keys[1]]) for each in records
    ]
    fitting = [
        _row("Answer.", prompt, answer)
        for prompt, answer in pairs
        if answer and len(prompt) + len(answer) <= MOST_CHARACTERS
    ]
    Random(seed).shuffle(fitting)  # noqa: S311
    return fitting[:count]


def written(
    task: Task, asked: argparse.Namespace, folder: Path, train_rows: int, seed: int
) -> dict[str, Any]:
    """The task's files in the work folder, as flags."""
    results = RunFolder(folder / "data")
    train, test = task.rows(asked.data, train_rows, TEST_ROWS, seed)
    if len(train) < train_rows or len(test) < TEST_ROWS:
        raise SystemExit(f"{task.name}: {len(train)} and {len(test)} rows are too few")
    files = {
        name: results.write_lines(f"{name}.jsonl", rows) for name, rows in (("train", train), ("test", test))
    }
    return {"model": EMBEDDED, "data": str(files["train"]), "test-file": str(files["test"]), "seed": seed}


def won(task: Task, asked: argparse.Namespace) -> Won:
    """Train with both settings and measure both on the same rows."""
    folder = asked.work / "settings" / task.name
    flags = written(task, asked, folder, asked.rows + VALIDATION_ROWS, SEED) | {
        "num-train-epochs": EPOCHS,
        "validation-size": VALIDATION_ROWS,
    }
    advice = recommend(resolve(None, flags))
    plain = resolve(None, flags | TUTORIAL)
    config = plain.config
    _, data = read_data(config, find_model(EMBEDDED), Silent())
    sizes = []
    for name, resolved in (("tutorial", plain), ("recommended", advice.resolved)):
        told(f"{task.name}: {name}")
        run = finished_run(folder / name, _untested(resolved), progress=Silent())
        sizes.append(measured(run, len(data.train), data.test, config))
    change = compare(loss_metric(), *(size.statistics for size in sizes), seed=SEED)
    told(f"{task.name}: {sizes[0].loss.value:.3f} to {sizes[1].loss.value:.3f}")
    return Won(task.name, len(data.train), *sizes, change, _settings(advice))


def _untested(resolved: Resolved) -> Resolved:
    """The same without held-out rows, which are measured here."""
    data = resolved.config.data.model_copy(update={"test_file": None, "test_size": 0})
    return Resolved(resolved.config.model_copy(update={"data": data}), resolved.origins)


def _settings(advice: Recommendation) -> str:
    config = advice.resolved.config
    training, method = config.training, config.method
    rows = training.per_device_train_batch_size * training.gradient_accumulation_steps
    return (
        f"{advice.facts.complexity}: rate {training.learning_rate:.0e}, {rows} rows a step, "
        f"rank {method.rank}, alpha {method.alpha:g}, dropout {method.dropout:g}, "
        f"warmup {training.warmup_ratio:g}"
    )


def foretold(task: Task, asked: argparse.Namespace, seed: int) -> Foretold:
    """Four sizes, the forecast from them, and the fifth, which it is about."""
    folder = asked.work / "forecast" / str(seed) / task.name
    flags = written(task, asked, folder, 2 * asked.rows, seed) | {
        "num-train-epochs": CURVE_EPOCHS,
        "validation-size": 0,
    }
    advice = recommend(resolve(None, flags))
    told(f"{task.name}: five sizes, seed {seed}")
    sizes = trained_sizes(advice.resolved, folder, shares=SHARES, progress=Silent())
    forecast = fitted(sizes[:-1], seed=seed).forecast(sizes[-1].rows, seed=seed)
    found = Foretold(task.name, seed, sizes, forecast)
    told(
        f"{task.name}: {forecast.loss:.3f} [{forecast.low:.3f}, {forecast.high:.3f}], came {found.truth:.3f}"
    )
    return found


def told(text: str) -> None:
    """A line for who waits."""
    print(f"{datetime.now(UTC):%H:%M:%S} {text}", file=sys.stderr, flush=True)


def page(wins: Sequence[Won], forecasts: Sequence[Foretold], missing: Sequence[str], seconds: float) -> str:
    """The whole page."""
    held, gains = (sum(getattr(each, name) for each in forecasts) for name in ("is_held", "is_gain_held"))
    return "\n".join(
        [
            "# Recommendations, measured",
            "",
            f"Made by `make bench-recommend` on {datetime.now(UTC):%Y-%m-%d}: {EMBEDDED} in float32, "
            f"LoRA on all linear layers, {TEST_ROWS} held-out rows a task, "
            f"{os.environ.get('OMP_NUM_THREADS', 'all')} threads, {seconds / 60:.0f} min in the last call.",
            *([f"Left out, because their rows are not here: {', '.join(missing)}."] if missing else []),
            "",
            "## Recommended against the tutorial's settings",
            "",
            f"The tutorial: rate 2e-4, 4 x 4 rows a step, rank 16, alpha 32, warmup 0.03. Both take {EPOCHS} "
            f"passes over the same rows, so the same tokens, and keep the best weights by {VALIDATION_ROWS} "
            f"validation rows; seed {SEED}. Losses are in nats a token; the difference is paired, with a "
            "95 % interval.",
            "",
            "| task | rows | tutorial, steps | recommended, steps | difference | recommended settings |",
            "|---|---:|---:|---:|---:|---|",
            *(
                f"| {each.task} | {each.rows} | {each.tutorial.loss.value:.3f}, {each.tutorial.steps} "
                f"| {each.advised.loss.value:.3f}, {each.advised.steps} | {each.change.difference:+.3f} "
                f"[{each.change.low:+.3f}, {each.change.high:+.3f}] | {each.settings} |"
                for each in wins
            ),
            "",
            "## The forecast for twice the data",
            "",
            f"Four sizes of the same rows, {CURVE_EPOCHS} pass each, recommended settings; then a real run "
            f"on twice as many as the largest. The 95 % interval of the loss held it in {held} of "
            f"{len(forecasts)}, that of the gain in {gains}.",
            "",
            "| task | seed | rows | loss at each | forecast | twice the rows | gain, forecast | gain, real |",
            "|---|---:|---:|---|---:|---:|---:|---:|",
            *map(_line, forecasts),
            "",
        ]
    )


def _line(each: Foretold) -> str:
    told = each.forecast
    return (
        f"| {each.task} | {each.seed} | {', '.join(str(size.rows) for size in each.sizes[:-1])} "
        f"| {', '.join(f'{size.loss.value:.3f}' for size in each.sizes[:-1])} "
        f"| {told.loss:.3f} [{told.low:.3f}, {told.high:.3f}] | {told.rows}: {each.truth:.3f} "
        f"| {told.gain:.3f} [{told.gain_low:.3f}, {told.gain_high:.3f}] | {each.gain:.3f} |"
    )


def main() -> None:
    """Measure both parts and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--data", type=Path, default=HERE.parent.parent / "shared" / "data")
    parser.add_argument("--work", type=Path, default=HERE.parent / "runs" / "bench-recommend")
    parser.add_argument(
        "--rows", type=int, default=64, help="training rows; the forecast trains on twice as many"
    )
    asked = parser.parse_args()
    quiet_libraries()
    began = time.perf_counter()
    here = [task for task in TASKS if all((asked.data / file).is_file() for file in task.files)]
    missing = [task.name for task in TASKS if task not in here]
    for name in missing:
        told(f"{name}: its rows are not in {asked.data}, left out")
    wins = [won(task, asked) for task in here if task.name in COMPARED]
    forecasts = [foretold(task, asked, seed) for seed in FORECAST_SEEDS for task in here]
    PAGE.write_text(page(wins, forecasts, missing, time.perf_counter() - began), encoding="utf-8")
    lost = [each.task for each in wins if each.change.high is None or each.change.high >= 0]
    held = np.mean([each.is_held for each in forecasts])
    if lost or held < 0.8:
        raise SystemExit(f"not better on: {', '.join(lost) or 'none'}; intervals that held: {held:.0%}")


if __name__ == "__main__":
    main()
