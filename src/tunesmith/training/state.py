"""What changes from step to step, and what came out in the end."""

from dataclasses import asdict, dataclass

from tunesmith.config import TrainingConfig


@dataclass(frozen=True, slots=True)
class Trained:
    """What came out: the model now carries the best weights.

    Attributes:
        steps: optimizer steps done.
        tokens: tokens seen, prompts included, padding not.
        seconds: time in steps, validation and checkpoints not counted.
        best_step: step whose weights were kept, or None without validation rows.
        best_loss: validation loss there, in nats a token.
        first_loss: validation loss before the first step.
        is_early_stop: whether the run ended before its last planned step.
    """

    steps: int
    tokens: int
    seconds: float
    best_step: int | None
    best_loss: float | None
    first_loss: float | None
    is_early_stop: bool


@dataclass(frozen=True, slots=True)
class TakenStep:
    """What one optimizer step measured.

    Attributes:
        loss: mean over the window's scored tokens, before the step, in nats a token.
        learning_rate: that it was taken with.
        grad_norm: norm of the whole gradient before it was clipped.
        tokens: in the window, prompts included, padding not.
        seconds: for the whole step.
        input_seconds: of these, until the window's rows had become micro-batches.
    """

    loss: float
    learning_rate: float
    grad_norm: float
    tokens: int
    seconds: float
    input_seconds: float

    @property
    def figures(self) -> dict[str, float]:
        """What the step's line of metrics says of it."""
        return {
            "loss": self.loss,
            "learning_rate": self.learning_rate,
            "grad_norm": self.grad_norm,
            "tokens_per_second": self.tokens / self.seconds,
            "step_seconds": self.seconds,
            "input_seconds": self.input_seconds,
        }

    @property
    def told(self) -> str:
        """The step in a few words, for the progress line."""
        return f"loss {self.loss:.3f} · {self.tokens / self.seconds:.0f} tokens/s"


@dataclass(slots=True)
class State:
    """What changes from step to step; a checkpoint keeps it.

    `window_rows` stays what the run began with, whatever processes go on with it. `micro_batch_rows` and
    `eval_batch_rows` are set where memory allowed fewer rows at once than asked for. `looked_up_step` is the
    last step after which validation and saving were done where due; a run stopped by a signal may be one
    further.
    """

    step: int = 0
    looked_up_step: int = 0
    tokens: int = 0
    seconds: float = 0.0
    best_step: int | None = None
    best_loss: float | None = None
    first_loss: float | None = None
    stale_validations: int = 0
    window_rows: int | None = None
    micro_batch_rows: int | None = None
    eval_batch_rows: int | None = None

    def add(self, taken: TakenStep) -> None:
        """Count a step that was taken."""
        self.step += 1
        self.tokens += taken.tokens
        self.seconds += taken.seconds

    def judge(self, loss: float) -> bool:
        """Whether this is the best validation so far; keeps count."""
        if self.best_loss is None or loss < self.best_loss:
            self.best_loss, self.best_step = loss, self.step
            self.stale_validations = 0
            return True
        self.stale_validations += 1
        return False

    def is_out_of_patience(self, settings: TrainingConfig) -> bool:
        """Whether so many validations in a row were no better that the run should end."""
        patience = settings.early_stopping_patience
        return bool(patience) and self.stale_validations >= patience

    def outcome(self, *, total_steps: int) -> Trained:
        """What a run of at most `total_steps` steps that ends here has done."""
        final = asdict(self)
        keep = ("tokens", "seconds", "best_step", "best_loss", "first_loss")
        return Trained(self.step, is_early_stop=self.step < total_steps, **{n: final[n] for n in keep})
