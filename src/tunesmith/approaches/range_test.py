"""A short learning-rate range test: the rate grows step by step, and the loss tells where it learns fastest.

Source: Smith 2017, arXiv:1506.01186, section 3.3; the exponential growth, the smoothing, the end at four
times the best loss and the two rules of reading the curve are those of fastai's `lr_find`. Each step's loss
is taken as a share of what the untrained model has on the same rows, so that hard rows do not move the curve.
"""

import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tunesmith.approaches.recommend_rules import HIGHEST_RATE, LOWEST_RATE, one_digit
from tunesmith.config import TrainingConfig
from tunesmith.data.batches import micro_batches, most_tokens_on, windows
from tunesmith.data.render import Rendered
from tunesmith.errors import RunFailed
from tunesmith.hardware import Hardware, choose_hardware
from tunesmith.models.find import find_model
from tunesmith.models.packing import enable_packing
from tunesmith.pipeline import plan, prepare_model, read_data
from tunesmith.progress import Progress, Silent
from tunesmith.resolve import Resolved
from tunesmith.training.engine import Engine, optimizer_maker
from tunesmith.training.loss import row_losses
from tunesmith.training.ranks import this_process
from tunesmith.training.schedule import plan_steps

Array = NDArray[np.float64]

SOURCE = "range test, arXiv:1506.01186"
STEPS = 48
# From a 30th of the rate asked for to 300 times it: four decades, twelve steps each.
BELOW, ABOVE = 30.0, 300.0
SMOOTHING = 0.7
DIVERGED = 4.0
# One order of magnitude below the rate of the lowest loss.
BELOW_LOWEST = 10.0
# Below this fall there is nothing to read.
LEAST_FALL = 0.03
FEWEST_STEPS = 6


@dataclass(frozen=True, slots=True)
class RangeTest:
    """The curve, and the rates read from it.

    Attributes:
        rates: learning rate of each step.
        shares: loss before each step, as a share of the untrained model's on the same rows.
        smoothed: the same as a running mean.
        steepest: rate where the smoothed loss falls fastest.
        lowest: rate where it is lowest.
        rate: what to train with: the smaller of `steepest` and a tenth of `lowest`, to one digit.
        is_diverged: whether the loss rose to four times its lowest, which ended the test.
    """

    rates: tuple[float, ...]
    shares: tuple[float, ...]
    smoothed: tuple[float, ...]
    steepest: float
    lowest: float
    rate: float
    is_diverged: bool

    @property
    def reason(self) -> str:
        """How the rate was read, and whether it leaves the usual range."""
        said = f"the loss falls fastest at {self.steepest:.1e} and is lowest at {self.lowest:.1e}"
        if not LOWEST_RATE <= self.rate <= HIGHEST_RATE:
            said += f"; measured, so it may leave the usual {LOWEST_RATE:.0e} to {HIGHEST_RATE:.0e}"
        return said

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready."""
        return asdict(self) | {"reason": self.reason, "source": SOURCE}


def measure_rate(resolved: Resolved, *, steps: int = STEPS, progress: Progress | None = None) -> RangeTest:
    """A range test of a configuration's model, rows and method; nothing is written.

    Args:
        resolved: the configuration; its learning rate is where the test looks around.
        steps: optimizer steps.
        progress: told what happens.

    Raises:
        UserError: if data or model cannot be used.
        RunFailed: if the loss never falls.
    """
    progress = progress or Silent()
    config = resolved.config
    hardware = choose_hardware(device=config.model.device, dtype=config.model.dtype)
    source = find_model(config.model.name, revision=config.model.revision)
    _, data = read_data(config, source, progress)
    launch = plan(config, source, hardware, data, this_process())
    tuned, _ = prepare_model(source, config, hardware, launch)
    return range_test(
        tuned.model,
        data.train,
        settings=launch.training,
        hardware=hardware,
        pad_id=tuned.pad_id,
        steps=steps,
        progress=progress,
    )


def range_test(
    model: nn.Module,
    rows: Sequence[Rendered],
    *,
    settings: TrainingConfig,
    hardware: Hardware,
    pad_id: int,
    steps: int = STEPS,
    progress: Progress | None = None,
) -> RangeTest:
    """Train `model` with a rate that grows by the same factor each step, until it diverges.

    Args:
        model: prepared by a method; it is worth nothing afterwards.
        rows: training rows, at least one.
        settings: the configuration's `training` section.
        hardware: device and number type.
        pad_id: id that fills batches.
        steps: optimizer steps, at least `FEWEST_STEPS`.
        progress: shows a bar.

    Raises:
        RunFailed: if the loss never falls.
    """
    progress = progress or Silent()
    trial = _Trial(model, _windows(rows, settings, steps), settings, hardware, pad_id)
    rates = np.geomspace(settings.learning_rate / BELOW, settings.learning_rate * ABOVE, steps)
    shares: list[float] = []
    is_diverged = False
    progress.begin("learning-rate range test", steps)
    for rate, window in zip(rates, trial.windows, strict=True):
        share = trial.step(window, float(rate))
        if not math.isfinite(share):
            is_diverged = True
            break
        shares.append(share)
        smoothed = smooth(np.array(shares))
        progress.advance(1, f"rate {rate:.2g} · loss {share:.2f} of the base's")
        if len(shares) >= FEWEST_STEPS and smoothed[-1] > DIVERGED * smoothed.min():
            is_diverged = True
            break
    progress.end()
    return read_curve(rates[: len(shares)], np.array(shares), is_diverged=is_diverged)


def read_curve(rates: Array, shares: Array, *, is_diverged: bool) -> RangeTest:
    """The rates that a curve speaks for.

    Args:
        rates: growing, shape (N,).
        shares: loss of each step by the base's, shape (N,).
        is_diverged: whether the test ended by divergence.

    Raises:
        RunFailed: if the loss never falls by `LEAST_FALL`.
    """
    smoothed = smooth(shares)
    lowest_at = int(smoothed.argmin()) if len(smoothed) else 0
    if len(shares) < FEWEST_STEPS or smoothed[0] - smoothed[lowest_at] < LEAST_FALL:
        seen = f"{rates[0]:.1g} to {rates[-1]:.1g}" if len(rates) else "the first one"
        raise RunFailed(
            f"the range test found no rate that learns: over {len(shares)} steps with rates from {seen} "
            "the loss did not fall",
            hint="look at what is scored with `tunesmith data preview`, or give another `--learning-rate` "
            "to look around",
        )
    # A smoothed point stands for those before it, about the mean age of its weights back.
    lag = round(SMOOTHING / (1 - SMOOTHING))
    slopes = np.gradient(smoothed, np.log(rates))
    steepest_at = int(slopes[: lowest_at + 1].argmin())
    steepest, lowest = (float(rates[max(0, at - lag)]) for at in (steepest_at, lowest_at))
    rate = one_digit(min(steepest, lowest / BELOW_LOWEST))
    return RangeTest(
        tuple(rates.tolist()),
        tuple(shares.tolist()),
        tuple(smoothed.tolist()),
        steepest=steepest,
        lowest=lowest,
        rate=rate,
        is_diverged=is_diverged,
    )


def smooth(values: Array) -> Array:
    """Running mean with weights that fall by `SMOOTHING` a step, corrected for its start."""
    found = np.empty(len(values))
    mean = 0.0
    for at, value in enumerate(values):
        mean = SMOOTHING * mean + (1 - SMOOTHING) * value
        found[at] = mean / (1 - SMOOTHING ** (at + 1))
    return found


def _windows(rows: Sequence[Rendered], settings: TrainingConfig, steps: int) -> list[list[Rendered]]:
    """The rows of each step, those that training would see."""
    found: list[list[Rendered]] = []
    window_rows = plan_steps(settings, rows=len(rows)).window_rows
    while len(found) < steps:
        epoch = math.ceil(len(found) * window_rows / len(rows))
        found += windows(rows, window_rows=window_rows, seed=settings.seed, epoch=epoch)
    return found[:steps]


class _Trial:
    """A model that learns step by step, and what it knew before."""

    def __init__(
        self,
        model: nn.Module,
        ahead: Sequence[Sequence[Rendered]],
        settings: TrainingConfig,
        hardware: Hardware,
        pad_id: int,
    ) -> None:
        self.windows, self._settings, self._pad_id = ahead, settings, pad_id
        self._is_packed = enable_packing(model)
        self._most_tokens = most_tokens_on(hardware.device)
        self._engine = Engine(
            model,
            optimizer_maker(settings),
            hardware=hardware,
            most_norm=settings.max_grad_norm,
            ranks=this_process(),
        )
        seen = list({id(row): row for window in ahead for row in window}.values())
        nats = row_losses(
            self._engine.model,
            seen,
            batch_rows=settings.per_device_train_batch_size,
            pad_id=pad_id,
            device=self._engine.device,
        )[:, 0]
        self._nats_before = {id(row): float(value) for row, value in zip(seen, nats, strict=True)}

    def step(self, window: Sequence[Rendered], rate: float) -> float:
        """Take one step; its loss before, by the untrained model's on the same rows."""
        self._engine.model.train()
        self._engine.set_learning_rate(rate)
        scored = sum(row.scored_tokens for row in window)
        batches = micro_batches(
            window,
            micro_batch_rows=self._settings.per_device_train_batch_size,
            pad_id=self._pad_id,
            most_tokens=self._most_tokens,
            is_packed=self._is_packed,
        )
        nats = self._engine.accumulate(list(batches), scored_tokens=scored)
        norm = self._engine.clip()
        if math.isfinite(nats) and math.isfinite(norm):
            self._engine.step()
            return nats / sum(self._nats_before[id(row)] for row in window)
        return math.nan
