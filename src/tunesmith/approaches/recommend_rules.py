"""The rules of thumb behind `tunesmith recommend`: facts of a task in, one setting with its reason out.

Ranges are those of the usual guides (learning rate 1e-5 to 5e-4, 4 to 16 rows a step, 2 to 5 epochs, rank 8
to 64, warmup 0.03 to 0.1); the rules say where in a range a task lies. Needs no torch.
"""

import json
from dataclasses import dataclass
from math import ceil, floor, log10
from typing import Any, Literal

from tunesmith.config import LEARNING_RATES

Complexity = Literal["simple", "medium", "complex"]
COMPLEXITIES: tuple[Complexity, ...] = ("simple", "medium", "complex")

GUIDE = "usual range"
LOWEST_RATE, HIGHEST_RATE = 1e-5, 5e-4
# QLoRA's rates, arXiv:2305.14314, hyperparameters: 2e-4 for 7 and 13 billion parameters, 1e-4 for 33 and 65.
QLORA_RATE, QLORA_LARGE_RATE, QLORA_LARGE = 2e-4, 1e-4, 20e9
# A fourth root through 2e-4 at 7 billion meets 1e-4 at 65 billion, and 5e-4 below 200 million.
ANCHOR_RATE, ANCHOR_PARAMETERS, SIZE_POWER = 2e-4, 7e9, 0.25
LORA_BY_FULL = 10

STEP_ROWS = (4, 8, 16)
# With fewer steps small batches win at the same number of passes; see benchmarks/recommend.md.
ENOUGH_STEPS = 200
LOWEST_WARMUP, HIGHEST_WARMUP, WARMUP_STEPS = 0.03, 0.1, 10
# Most training rows for so many epochs; more rows take the fewest.
EPOCHS = ((200, 5), (1_000, 4), (5_000, 3))
FEWEST_EPOCHS, UNWATCHED_EPOCHS = 2, 3
FEW_ROWS = 1_000
RANKS: dict[Complexity, int] = {"simple": 8, "medium": 16, "complex": 64}
MANY_ROWS, MANY_ROWS_RANK = 5_000, 32
DROPOUT = 0.05
VALIDATIONS_PER_EPOCH, PATIENCE = 2, 3

# Rows that such a task usually takes, from and to.
USUAL_ROWS: dict[Complexity, tuple[int, int]] = {
    "simple": (100, 500),
    "medium": (500, 5_000),
    "complex": (5_000, 10_000),
}
TASKS: dict[Complexity, str] = {
    "simple": "a style, a format or a choice among few answers",
    "medium": "answers of a few sentences",
    "complex": "long free text or a field of knowledge",
}
FEW_ANSWERS, SHORT_TOKENS, STRUCTURED_TOKENS, LONG_TOKENS = 0.2, 16, 64, 128
MOSTLY = 0.9


@dataclass(frozen=True, slots=True)
class Advised:
    """One setting as the rules want it.

    Attributes:
        key: of the configuration.
        value: what to set.
        reason: why, one clause with the figures in it.
        source: where the rule is from.
    """

    key: str
    value: Any
    reason: str
    source: str


@dataclass(frozen=True, slots=True)
class Answers:
    """What the training answers look like.

    Attributes:
        count: of answers, at least 1.
        distinct: different ones.
        median_tokens: scored tokens of an answer, end of turn included.
        structured_share: of them that are JSON objects or lists, 0 to 1.
    """

    count: int
    distinct: int
    median_tokens: float
    structured_share: float


@dataclass(frozen=True, slots=True)
class Situation:
    """What the rules look at.

    Attributes:
        method: name of the method.
        parameters: of the whole model.
        rows: training rows, at least 1.
        has_validation: whether rows watch the training.
        complexity: of the task.
    """

    method: str
    parameters: int
    rows: int
    has_validation: bool
    complexity: Complexity


def is_structured(text: str) -> bool:
    """Whether an answer is a JSON object or list."""
    if not text.lstrip().startswith(("{", "[")):
        return False
    try:
        return isinstance(json.loads(text), dict | list)
    except (ValueError, RecursionError):
        return False


def complexity_of(answers: Answers) -> tuple[Complexity, str]:
    """How complex a task looks by its answers, and what says so."""
    share, tokens = answers.distinct / answers.count, answers.median_tokens
    if share <= FEW_ANSWERS:
        return "simple", f"{answers.count:,} answers are only {answers.distinct:,} different ones"
    if tokens <= SHORT_TOKENS:
        return "simple", f"answers are short: {tokens:.0f} tokens in the middle"
    if answers.structured_share >= MOSTLY and tokens <= STRUCTURED_TOKENS:
        return "simple", f"answers are short JSON: {tokens:.0f} tokens in the middle"
    if tokens > LONG_TOKENS:
        return "complex", f"answers are long: {tokens:.0f} tokens in the middle"
    return "medium", f"answers are free text of {tokens:.0f} tokens in the middle"


def learning_rate(situation: Situation) -> Advised:
    """The peak rate for the method and the model's size."""
    key, method, size = "training.learning_rate", situation.method, shown_size(situation.parameters)
    if method in ("prefix", "adapter"):
        reason = f"what {method} adds learns from nothing, at rates above those for a model's own weights"
        return Advised(key, LEARNING_RATES[method], reason, "default of the method")
    if method == "qlora":
        is_large = situation.parameters > QLORA_LARGE
        value = QLORA_LARGE_RATE if is_large else QLORA_RATE
        reason = f"what QLoRA was tuned with at {'33 and 65' if is_large else '7 and 13'} billion parameters"
        return Advised(key, value, reason, "arXiv:2305.14314, hyperparameters")
    rate = ANCHOR_RATE * (ANCHOR_PARAMETERS / situation.parameters) ** SIZE_POWER
    reason = f"2e-4 suits 7 billion parameters, a smaller model takes more; this one has {size}"
    if method == "full":
        rate /= LORA_BY_FULL
        reason = f"all of {size} parameters learn, at about a tenth of LoRA's rate"
        source = f"{GUIDE}; LoRA by full: Schulman 2025"
    else:
        source = f"{GUIDE}; arXiv:2305.14314, hyperparameters"
    return Advised(key, one_digit(min(max(rate, LOWEST_RATE), HIGHEST_RATE)), reason, source)


def epochs(situation: Situation) -> Advised:
    """Passes over the rows: more where they are few, fewer where nothing watches."""
    rows = situation.rows
    wanted = next((count for most, count in EPOCHS if rows < most), FEWEST_EPOCHS)
    reason = f"{rows:,} rows"
    if not situation.has_validation and wanted > UNWATCHED_EPOCHS:
        wanted, reason = UNWATCHED_EPOCHS, f"{rows:,} rows, and no validation rows to stop in time"
    elif situation.has_validation:
        reason += "; validation keeps the best pass"
    return Advised("training.num_train_epochs", float(wanted), reason, f"{GUIDE} 2 to 5")


def step_rows(rows: int, passes: float) -> tuple[int, str]:
    """Rows in one step, and why: as many as leave enough steps."""
    fitting = [each for each in STEP_ROWS if steps_of(rows, each, passes) >= ENOUGH_STEPS]
    chosen = fitting[-1] if fitting else STEP_ROWS[0]
    count = steps_of(rows, chosen, passes)
    why = "enough steps" if fitting else f"below {ENOUGH_STEPS}, so the smallest step"
    return chosen, f"{rows:,} rows x {passes:g} in steps of {chosen} are {count:,} steps: {why}"


def steps_of(rows: int, rows_of_a_step: int, passes: float) -> int:
    """Optimizer steps, as the loop counts them."""
    return ceil(passes * ceil(rows / rows_of_a_step))


def warmup(total_steps: int) -> Advised:
    """Share of the steps: about ten, within the usual range."""
    share = round(min(max(WARMUP_STEPS / total_steps, LOWEST_WARMUP), HIGHEST_WARMUP), 2)
    reason = f"about {max(1, round(share * total_steps))} of {total_steps:,} steps"
    reason += "; few steps need a larger share" if share > LOWEST_WARMUP else ""
    return Advised("training.warmup_ratio", share, reason, f"{GUIDE} 0.03 to 0.1")


def rank(situation: Situation) -> Advised:
    """Rank of a low-rank update: small first, more where the task is complex or medium with many rows."""
    value, reason = RANKS[situation.complexity], f"{situation.complexity} task"
    if situation.complexity == "medium" and situation.rows >= MANY_ROWS:
        value, reason = MANY_ROWS_RANK, f"medium task with {situation.rows:,} rows"
    return Advised("method.rank", value, reason, f"{GUIDE}: 8 simple, 16 to 32 medium, 64 complex")


def alpha(rank_value: int) -> Advised:
    """Scale of a low-rank update."""
    return Advised("method.alpha", 2.0 * rank_value, "twice the rank", GUIDE)


def dropout(situation: Situation) -> Advised:
    """Dropout on what a method adds: for few rows."""
    is_small = situation.rows < FEW_ROWS
    said = "few, and dropout delays learning by heart" if is_small else "enough to do without"
    source = f"{GUIDE}: dropout against overfitting"
    return Advised(
        "method.dropout", DROPOUT if is_small else 0.0, f"{situation.rows:,} rows are {said}", source
    )


def watching(situation: Situation, steps_per_epoch: int) -> list[Advised]:
    """How often validation looks, and when it ends the run; nothing without validation rows."""
    if not situation.has_validation:
        return []
    every = max(1, round(steps_per_epoch / VALIDATIONS_PER_EPOCH))
    stop = f"stops after {PATIENCE / VALIDATIONS_PER_EPOCH:g} epochs without gain; the best weights are kept"
    return [
        Advised("training.eval_steps", every, f"twice in an epoch of {steps_per_epoch:,} steps", GUIDE),
        Advised("training.early_stopping_patience", PATIENCE, stop, f"{GUIDE}; Prechelt 1998"),
    ]


def data_verdict(rows: int, complexity: Complexity) -> tuple[bool, str]:
    """Whether so many training rows are enough for such a task, and the sentence."""
    least, most = USUAL_ROWS[complexity]
    usual = f"{TASKS[complexity]} usually takes {least:,} to {most:,} good rows"
    if rows < least:
        return False, f"{rows:,} training rows are few: {usual}. `--learning-curve` says what more would give"
    if rows > most:
        return True, f"{rows:,} training rows are plenty: {usual}"
    return True, f"{rows:,} training rows are enough to start: {usual}"


def one_digit(value: float) -> float:
    """A positive number with one digit that says something: 0.00033 is 3e-4."""
    return round(value, -floor(log10(value)))


def shown_size(parameters: int) -> str:
    """Parameters as people say them."""
    if parameters >= 1e9:
        return f"{parameters / 1e9:.3g} billion"
    return f"{parameters / 1e6:.3g} million" if parameters >= 1e6 else f"{parameters:,}"
