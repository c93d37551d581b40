"""The loop: our own, on accelerate. A step is an optimizer step.

The data arrive rendered and fitted; the method is prepared. What is here: windows to gradients to steps,
validation, the best checkpoint, early stopping, the guard against non-finite numbers, and fewer rows at
once where memory is short.
"""

import math
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from torch import nn

from tunesmith.config import TrainingConfig
from tunesmith.data.batches import Batch, dealt, micro_batches, most_tokens_on, windows
from tunesmith.data.render import Rendered
from tunesmith.errors import RunFailed
from tunesmith.hardware import Hardware, peak_memory_bytes
from tunesmith.models.packing import enable_packing
from tunesmith.progress import Progress, Silent
from tunesmith.training.checkpoint import checkpoints_in, load_checkpoint, remove_old, save_checkpoint
from tunesmith.training.engine import Engine, optimizer_maker
from tunesmith.training.loss import LOSS_BATCH_TOKENS, mean_loss, row_losses
from tunesmith.training.memory_error import NoMemory, half_of, release_memory, within_memory
from tunesmith.training.randomness import seed_step
from tunesmith.training.ranks import Ranks, is_zero, this_process
from tunesmith.training.schedule import Plan, learning_rate_at, plan_steps
from tunesmith.training.state import State, TakenStep, Trained
from tunesmith.training.stop import Signalled, StopRequest
from tunesmith.training.zero import ZeroEngine

# Told the number of a step and the rows it saw.
OnRows = Callable[[int, Sequence[Rendered]], None]


class Loop:
    """One training run over prepared data; with several processes each one has a loop, in lockstep.

    Args:
        model: prepared by a method; parameters with `requires_grad` learn.
        train_rows: at least one; all of them, on every process.
        validation_rows: may be empty; then the last weights are kept and nothing stops early.
        settings: the configuration's `training` section.
        hardware: device and number type.
        pad_id: id that fills batches.
        eval_batch_rows: rows in one validation batch.
        checkpoints: folder for checkpoints, the same for all processes.
        record: takes each line of metrics, on rank 0.
        progress: shows it to the user, on rank 0.
    """

    def __init__(
        self,
        model: nn.Module,
        train_rows: Sequence[Rendered],
        validation_rows: Sequence[Rendered],
        *,
        settings: TrainingConfig,
        hardware: Hardware,
        pad_id: int,
        eval_batch_rows: int,
        checkpoints: Path,
        record: Callable[..., None],
        progress: Progress,
    ) -> None:
        self.ranks = this_process()
        self.train_rows, self.validation_rows = train_rows, validation_rows
        self.settings, self.hardware = settings, hardware
        self.pad_id, self.eval_batch_rows = pad_id, eval_batch_rows
        self.checkpoints = checkpoints
        self.record = record if self.ranks.is_main else _drop
        self.progress = progress if self.ranks.is_main else Silent()
        self.plan = plan_steps(settings, rows=len(train_rows), processes=self.ranks.count)
        self.state = State(window_rows=self.plan.window_rows)
        self._saved_step: int | None = None
        # Processes that train together must cut their rows alike, and pass them through a wrapped model.
        self.is_packed = self.ranks.count == 1 and not is_zero() and enable_packing(model)
        engine = ZeroEngine if is_zero() else Engine
        self.engine = engine(
            model,
            optimizer_maker(settings),
            hardware=hardware,
            most_norm=settings.max_grad_norm,
            ranks=self.ranks,
        )

    @property
    def micro_batch_rows(self) -> int:
        """Rows that go through the model at once: as asked for, or as many as memory allowed."""
        asked = self.settings.per_device_train_batch_size
        return min(self.state.micro_batch_rows or asked, asked)

    def resume(self, checkpoint: Path) -> None:
        """Go on from `checkpoint`; the finished run equals an uninterrupted one."""
        saved = load_checkpoint(checkpoint, model=self.engine.bare, optimizer=self.engine.optimizer)
        self.state = State(**{name: saved[name] for name in State.__dataclass_fields__ if name in saved})
        self.plan = plan_steps(self.settings, rows=len(self.train_rows), window_rows=self.state.window_rows)

    def run(self, *, stop: StopRequest | None = None, on_rows: OnRows = lambda step, rows: None) -> Trained:
        """Train to the end, and leave the best weights in the model.

        Args:
            stop: asked between steps whether a signal wants the run to end.
            on_rows: told each step and the rows it saw, when it is done.

        Raises:
            RunFailed: on a non-finite loss or gradient, before the step is taken.
            Signalled: when `stop` asks for it, with the state saved.
        """
        stop = stop or StopRequest()
        self.progress.begin("training", self.plan.total_steps)
        self.progress.advance(self.state.step)
        if self.state.step == 0 and self.validation_rows:
            self.state.first_loss = self._validation_loss()
        with stop.heard_between_steps(), self.engine.ready():
            self._train(stop, on_rows)
        self.progress.end()
        self._take_best()
        return self.state.outcome(total_steps=self.plan.total_steps)

    def _train(self, stop: StopRequest, on_rows: OnRows) -> None:
        if self.state.looked_up_step < self.state.step:
            self._look_up()
            self._stop_if_asked(stop)
        for window in _windows_after(
            self.state.step, self.train_rows, plan=self.plan, seed=self.settings.seed
        ):
            if self.state.is_out_of_patience(self.settings):
                break
            self._step(window)
            on_rows(self.state.step, window)
            self._stop_if_asked(stop)
            self._look_up()
            self._stop_if_asked(stop)

    def _stop_if_asked(self, stop: StopRequest) -> None:
        """Save, unless that was just done, and end."""
        number = stop.agreed(self.ranks)
        if number is None:
            return
        if self._saved_step != self.state.step:
            self._save()
        raise Signalled(number, saved_step=self.state.step)

    def _step(self, window: Sequence[Rendered]) -> None:
        """Forward, backward and update over one window; the loss is a mean over all its scored tokens."""
        started = time.perf_counter()
        step = self.state.step + 1
        learning_rate = _learning_rate(step, plan=self.plan, settings=self.settings)
        self.engine.set_learning_rate(learning_rate)
        loss, input_seconds = self._gradient(window)
        grad_norm = self.engine.clip()
        self._guard(f"step {step} was not taken", window, loss=loss, grad_norm=grad_norm)
        self.engine.step()
        taken = TakenStep(
            loss=loss,
            learning_rate=learning_rate,
            grad_norm=grad_norm,
            tokens=sum(len(row.ids) for row in window),
            seconds=time.perf_counter() - started,
            input_seconds=input_seconds,
        )
        self.state.add(taken)
        peak_bytes = peak_memory_bytes(self.hardware.device)
        self.record(step=step, epoch=self._epoch(), **taken.figures, peak_memory_bytes=peak_bytes)
        self.progress.advance(1, taken.told)

    def _gradient(self, window: Sequence[Rendered]) -> tuple[float, float]:
        """Gradient of the window's mean loss, in as many micro-batches as memory asks for.

        Returns:
            The loss in nats a token, and the seconds until the micro-batches were there.
        """
        while isinstance(found := within_memory(partial(self._accumulate, window)), NoMemory):
            self.engine.forget_gradient()
            rows = _rows_at_once(window, self._cut(window))
            self.state.micro_batch_rows = self._fewer(f"step {self.state.step + 1}", window, rows, found)
            step = self.state.step + 1
            self.record(step=step, epoch=self._epoch(), micro_batch_rows=self.state.micro_batch_rows)
        return found

    def _accumulate(self, window: Sequence[Rendered]) -> tuple[float, float]:
        self.engine.model.train()
        rank, count = self.ranks.rank, self.ranks.count
        if count > 1:
            seed_step(self.settings.seed, step=self.state.step + 1, rank=rank)
        started = time.perf_counter()
        batches = list(dealt(self._cut(window), rank=rank, count=count, pad_id=self.pad_id))
        input_seconds = time.perf_counter() - started
        window_tokens = sum(row.scored_tokens for row in window)
        nats = self.engine.accumulate(batches, scored_tokens=window_tokens)
        return float(self.ranks.sum(np.array([nats]))[0]) / window_tokens, input_seconds

    def _cut(self, window: Sequence[Rendered]) -> Iterator[Batch]:
        count = self.ranks.count
        rows = min(self.micro_batch_rows, math.ceil(len(window) / count))
        return micro_batches(
            window,
            micro_batch_rows=rows,
            pad_id=self.pad_id,
            most_tokens=most_tokens_on(self.hardware.device),
            is_packed=self.is_packed,
            processes=count,
        )

    def _fewer(self, where: str, rows: Sequence[Rendered], at_once: int, found: NoMemory) -> int:
        return _fewer(where, rows, at_once, found, ranks=self.ranks, progress=self.progress)

    def _guard(self, what: str, rows: Sequence[Rendered], **figures: float) -> None:
        bad = {name: value for name, value in figures.items() if not math.isfinite(value)}
        if bad:
            raise _not_finite(what, rows, bad, checkpoints=self.checkpoints, settings=self.settings)

    def _epoch(self) -> float:
        return round(self.state.step / self.plan.steps_per_epoch, 4)

    def _look_up(self) -> None:
        """Validate and save where due."""
        step, plan = self.state.step, self.plan
        is_last = step == plan.total_steps
        is_better = False
        if self.validation_rows and (step % plan.eval_every == 0 or is_last):
            is_better = self.state.judge(self._validation_loss())
        self.state.looked_up_step = step
        if (
            is_better
            or step % plan.save_every == 0
            or is_last
            or self.state.is_out_of_patience(self.settings)
        ):
            self._save()

    def _validation_loss(self) -> float:
        after = f"validation after step {self.state.step}"
        while isinstance(found := within_memory(self._row_losses), NoMemory):
            longest = max(len(row.ids) for row in self.validation_rows)
            at_once = min(self._eval_rows(), len(self.validation_rows), max(1, LOSS_BATCH_TOKENS // longest))
            self.state.eval_batch_rows = self._fewer(after, self.validation_rows, at_once, found)
        loss = mean_loss(found)
        self._guard(f"{after} failed", self.validation_rows, eval_loss=loss)
        self.record(step=self.state.step, epoch=self._epoch(), eval_loss=loss)
        self.progress.say(f"step {self.state.step}: validation loss {loss:.4f}")
        return loss

    def _row_losses(self) -> NDArray[np.float64]:
        return row_losses(
            self.engine.model,
            self.validation_rows,
            batch_rows=self._eval_rows(),
            pad_id=self.pad_id,
            device=self.engine.device,
            ranks=self.ranks,
        )

    def _eval_rows(self) -> int:
        return min(self.state.eval_batch_rows or self.eval_batch_rows, self.eval_batch_rows)

    def _save(self) -> None:
        save_checkpoint(
            self.checkpoints,
            step=self.state.step,
            model=self.engine.bare,
            optimizer=self.engine.optimizer,
            state=asdict(self.state),
            ranks=self.ranks,
        )
        self._saved_step = self.state.step
        if self.ranks.is_main:
            remove_old(self.checkpoints, keep=self.settings.save_total_limit, best=self._best_checkpoint())

    def _best_checkpoint(self) -> Path | None:
        best = self.state.best_step
        return None if best is None else self.checkpoints / f"step-{best:06d}"

    def _take_best(self) -> None:
        best = self._best_checkpoint()
        if best is not None and self.state.best_step != self.state.step:
            load_checkpoint(best, model=self.engine.bare, optimizer=None)


def _learning_rate(step: int, *, plan: Plan, settings: TrainingConfig) -> float:
    return learning_rate_at(
        step,
        peak=settings.learning_rate,
        total_steps=plan.total_steps,
        warmup_steps=plan.warmup_steps,
        kind=settings.lr_scheduler_type,
    )


def _rows_at_once(window: Sequence[Rendered], cut: Iterable[Batch]) -> int:
    """How many of the window's longest rows its largest micro-batch is worth; half of that is less."""
    longest = max(len(row.ids) for row in window)
    return math.ceil(max(batch.input_ids_BT.numel() for batch in cut) / longest)


def _windows_after(step: int, rows: Sequence[Rendered], *, plan: Plan, seed: int) -> Iterator[list[Rendered]]:
    """The windows of the steps still to do; where they start follows from the step alone."""
    while step < plan.total_steps:
        epoch, position = divmod(step, plan.steps_per_epoch)
        ahead = windows(rows, window_rows=plan.window_rows, seed=seed, epoch=epoch)
        ahead = ahead[position:][: plan.total_steps - step]
        yield from ahead
        step += len(ahead)


def _fewer(
    where: str, rows: Sequence[Rendered], at_once: int, found: NoMemory, *, ranks: Ranks, progress: Progress
) -> int:
    """Half the rows at once, said to the user."""
    longest = max(len(row.ids) for row in rows)
    what = f"{where}: {at_once} rows of up to {longest} tokens do not fit into memory ({found.told})"
    fewer = half_of(at_once, what=what, ranks=ranks)
    release_memory()
    progress.say(f"{what}; from here on {fewer} at once, with the same result")
    return fewer


def _not_finite(
    what: str,
    rows: Sequence[Rendered],
    bad: Mapping[str, float],
    *,
    checkpoints: Path,
    settings: TrainingConfig,
) -> RunFailed:
    found = ", ".join(f"{name} is {value}" for name, value in bad.items())
    places = ", ".join(row.row.place for row in rows[:8])
    kept = checkpoints_in(checkpoints)
    return RunFailed(
        f"{what}: {found}; its rows: {places}" + (" ..." if len(rows) > 8 else ""),
        hint=f"lower `--learning-rate` (now {settings.learning_rate:g}) or look at these rows; "
        + (f"the last good checkpoint is `{kept[-1]}`" if kept else "no checkpoint was due yet"),
    )


def _drop(**line: float) -> None:
    """Metrics of a process that does not write."""
