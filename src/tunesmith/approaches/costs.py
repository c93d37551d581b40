"""What an approach costs: tokens, time, memory, money, and from how many requests on training pays."""

import sys
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from fractions import Fraction
from math import ceil
from pathlib import Path
from typing import Any

import torch

from tunesmith.approaches.settings import Prices
from tunesmith.runs import RunFolder

MILLION = 1_000_000
HOUR_SECONDS = 3600
# A token that is trained goes forward and backward, which is about three times the arithmetic of reading it.
TRAINED_PER_READ = 3


@dataclass(frozen=True, slots=True)
class Training:
    """What it took to make the fine-tuned model.

    Attributes:
        tokens: tokens trained, repeats counted.
        seconds: of its steps, those before a stop included; loading and evaluation are not.
        peak_memory_bytes: highest on record while training.
    """

    tokens: int
    seconds: float
    peak_memory_bytes: int


@dataclass(frozen=True, slots=True)
class Costs:
    """What answering took, over all requests together.

    Attributes:
        requests: answered inputs.
        prompt_tokens: tokens of all prompts.
        shared_tokens: those of them that were not computed again, since all prompts begin with them.
        answer_tokens: tokens of all answers, end of turn not counted.
        seconds: wall time of answering, prompts in batches.
        peak_memory_bytes: highest while answering.
        is_peak_own: whether the count of the peak began with this approach; else it is the process's.
        training: of the fine-tuned model; None where nothing was trained.
    """

    requests: int
    prompt_tokens: int
    shared_tokens: int
    answer_tokens: int
    seconds: float
    peak_memory_bytes: int
    is_peak_own: bool
    training: Training | None = None

    @property
    def prompt_tokens_per_request(self) -> float:
        """Mean length of a prompt in tokens."""
        return self.prompt_tokens / self.requests

    @property
    def answer_tokens_per_request(self) -> float:
        """Mean length of an answer in tokens."""
        return self.answer_tokens / self.requests

    @property
    def tokens_per_request(self) -> float:
        """Prompt and answer tokens of a request, on average."""
        return (self.prompt_tokens + self.answer_tokens) / self.requests

    @property
    def seconds_per_request(self) -> float:
        """Wall time by requests."""
        return self.seconds / self.requests

    @property
    def shared_share(self) -> float:
        """Share of the prompt tokens that the shared prefix saved, 0 to 1."""
        return self.shared_tokens / self.prompt_tokens if self.prompt_tokens else 0.0

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, the means included."""
        return asdict(self) | {
            "prompt_tokens_per_request": self.prompt_tokens_per_request,
            "answer_tokens_per_request": self.answer_tokens_per_request,
            "seconds_per_request": self.seconds_per_request,
            "shared_share": self.shared_share,
        }


@dataclass(frozen=True, slots=True)
class BreakEven:
    """From how many requests on a fine-tuned model has earned its training.

    Attributes:
        approach: the fine-tuned approach.
        against: the approach it would replace.
        is_money: whether the amounts are in the user's currency; else they are prompt tokens, where training
            counts as `TRAINED_PER_READ` times the tokens trained.
        training: cost of training.
        saving: what each request saves in the same unit; may be negative.
        requests: the least number that pays; None for never.
    """

    approach: str
    against: str
    is_money: bool
    training: float
    saving: float
    requests: int | None


def training_of(run: RunFolder) -> Training:
    """What the run on record took."""
    manifest = run.manifest
    peaks = [line["peak_memory_bytes"] for line in run.metrics if "peak_memory_bytes" in line]
    return Training(
        tokens=int(manifest["training"]["tokens"]),
        # The run's own seconds are those of its last start.
        seconds=float(manifest["training"]["seconds"]),
        peak_memory_bytes=max(peaks, default=0),
    )


def request_price(costs: Costs, prices: Prices) -> float | None:
    """Price of a request: by its tokens where these have prices, else by machine time; None without."""
    if prices.prompt is not None and prices.answer is not None:
        amount = costs.prompt_tokens * prices.prompt + costs.answer_tokens * prices.answer
        return amount / MILLION / costs.requests
    return None if prices.hour is None else costs.seconds_per_request / HOUR_SECONDS * prices.hour


def training_price(training: Training, prices: Prices) -> float | None:
    """Price of training by machine time; None where an hour has no price."""
    return None if prices.hour is None else training.seconds / HOUR_SECONDS * prices.hour


def break_even(training: float, saving: float) -> int | None:
    """The least number of requests whose savings reach what training cost; None where there is no saving.

    Args:
        training: cost of training, from 0 up.
        saving: what each request saves in the same unit.
    """
    if training <= 0:
        return 0
    if saving <= 0:
        return None
    # Exact, so that the law holds to the last request.
    return ceil(Fraction(training) / Fraction(saving))


def break_evens(
    tuned: Sequence[tuple[str, Costs]], prompted: Sequence[tuple[str, Costs]], prices: Prices
) -> list[BreakEven]:
    """Every fine-tuned approach against every prompted one: in money where it is known, and in tokens.

    Args:
        tuned: name and costs of fine-tuned approaches; those without a training are left out.
        prompted: name and costs of the others.
        prices: of tokens and hours.
    """
    found = []
    for name, costs in tuned:
        training = costs.training
        if training is None:
            continue
        for other, spared in prompted:
            price, other_price = (request_price(each, prices) for each in (costs, spared))
            paid = training_price(training, prices)
            if price is not None and other_price is not None and paid is not None:
                saving = other_price - price
                found.append(BreakEven(name, other, True, paid, saving, break_even(paid, saving)))
            read = float(TRAINED_PER_READ * training.tokens)
            tokens = spared.prompt_tokens_per_request - costs.prompt_tokens_per_request
            found.append(BreakEven(name, other, False, read, tokens, break_even(read, tokens)))
    return found


def forget_peak_memory(device: str) -> bool:
    """Let the count of the peak of memory begin anew, where the system allows it.

    Returns:
        Whether it did.
    """
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()
        return True
    if sys.platform != "linux":
        return False
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="ascii")
    except OSError:
        return False
    return True
