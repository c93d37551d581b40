"""What a run computes on: its largest micro-batch, its padded tokens, its steps. From data or assumed."""

from collections.abc import Sequence
from dataclasses import dataclass

from tunesmith.config import RunConfig, TrainingConfig
from tunesmith.data.batches import cut_rows, most_tokens_on, packed_tokens, windows
from tunesmith.data.render import Rendered
from tunesmith.evaluation.measure import LONGEST_ANSWER_TOKENS
from tunesmith.planning.fit import BatchOf
from tunesmith.planning.largest import largest_batch
from tunesmith.training.schedule import plan_steps


@dataclass(frozen=True, slots=True)
class Workload:
    """What a run computes on.

    Attributes:
        batch_of: from rows in a micro-batch to (rows, padded length, scored tokens) of the largest one.
        padded_tokens_per_step: mean over the steps of an epoch; padding counts, and what packed rows
            share counts once.
        steps: optimizer steps of the run; None if that depends on unknown data.
        evaluation_rows: rows in one batch of the evaluation; 0 where nothing is held out.
        answer_tokens: longest answer in the evaluation; 0 where none is generated.
    """

    batch_of: BatchOf
    padded_tokens_per_step: float
    steps: int | None
    evaluation_rows: int
    answer_tokens: int


def assumed_workload(config: RunConfig, *, device: str) -> Workload:
    """The most a configuration allows: every row as long as `max_length`, every token scored."""
    training, length = config.training, config.data.max_length
    window_rows = training.per_device_train_batch_size * training.gradient_accumulation_steps

    def batch_of(rows: int) -> tuple[int, int, int]:
        rows = min(rows, max(1, (most_tokens_on(device) or rows * length) // length))
        # The first token of a row is never predicted.
        return rows, length, rows * (length - 1)

    return Workload(
        batch_of,
        window_rows * length,
        training.max_steps,
        *_evaluation(config, is_measured=True, is_answered=True),
    )


def workload_of(
    train: Sequence[Rendered],
    config: RunConfig,
    *,
    has_validation: bool,
    has_test: bool,
    device: str,
    processes: int = 1,
) -> Workload:
    """What the run will compute on, from its training rows.

    Args:
        train: rendered and fitted rows, at least one.
        config: of the run.
        has_validation: whether there are rows whose loss is measured.
        has_test: whether there are rows whose loss is measured and which are answered.
        device: where it trains; a CPU takes less at once, and lays rows one after another.
        processes: that train together.
    """
    # A model whose attention cannot keep such rows apart pads them instead, up to the same tokens.
    is_packed = device == "cpu" and processes == 1 and config.method.name != "prefix"
    most_tokens = most_tokens_on(device)

    def batch_of(rows: int) -> tuple[int, int, int]:
        settings = config.training
        window = settings.per_device_train_batch_size * settings.gradient_accumulation_steps
        cut = {"per_device_train_batch_size": rows, "gradient_accumulation_steps": window // rows}
        return largest_batch(
            train,
            settings=settings.model_copy(update=cut),
            most_tokens=most_tokens,
            is_packed=is_packed,
        )

    plan = plan_steps(config.training, rows=len(train))
    tokens = padded_tokens(train, settings=config.training, most_tokens=most_tokens, is_packed=is_packed)
    return Workload(
        batch_of,
        tokens / plan.steps_per_epoch,
        plan.total_steps,
        *_evaluation(config, is_measured=has_validation or has_test, is_answered=has_test),
    )


def padded_tokens(
    rows: Sequence[Rendered],
    *,
    settings: TrainingConfig,
    most_tokens: int | None = None,
    is_packed: bool = False,
) -> int:
    """Tokens in the micro-batches of the first epoch: padding counts, what packed rows share counts once."""
    at_once = settings.per_device_train_batch_size
    window_rows = at_once * settings.gradient_accumulation_steps
    return sum(
        packed_tokens(group) if is_packed else len(group) * len(group[0].ids)
        for window in windows(rows, window_rows=window_rows, seed=settings.seed, epoch=0)
        for group in cut_rows(window, micro_batch_rows=at_once, most_tokens=most_tokens, is_packed=is_packed)
    )


def _evaluation(config: RunConfig, *, is_measured: bool, is_answered: bool) -> tuple[int, int]:
    """Rows of a batch and tokens of the longest answer."""
    settings = config.evaluation
    rows = settings.per_device_eval_batch_size if is_measured else 0
    is_asked = is_answered and settings.generate_rows > 0
    return rows, (settings.max_new_tokens or LONGEST_ANSWER_TOKENS) if is_asked else 0
