"""What a comparison takes beyond the configuration of its run. All its problems are found before any work."""

import math
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path

from tunesmith.errors import ConfigError

ZERO_SHOT, FEW_SHOT, RAG = "zero-shot", "few-shot", "rag"
TUNED, TUNED_RAG = "fine-tuned", "fine-tuned+rag"
APPROACHES = (ZERO_SHOT, FEW_SHOT, RAG, TUNED, TUNED_RAG)
RETRIEVING = (RAG, TUNED_RAG)
FINE_TUNED = (TUNED, TUNED_RAG)
LONGEST_CURRENCY = 8


@dataclass(frozen=True, slots=True)
class Prices:
    """What the user pays, each a number from 0 up, or None where it is not known.

    Attributes:
        prompt: for a million prompt tokens.
        answer: for a million answer tokens.
        hour: for an hour of the machine.
        currency: how amounts are called, such as `EUR`; free text of a few characters.
    """

    prompt: float | None = None
    answer: float | None = None
    hour: float | None = None
    currency: str = ""

    @property
    def has_tokens(self) -> bool:
        """Whether requests are paid by the token."""
        return self.prompt is not None and self.answer is not None

    @property
    def are_known(self) -> bool:
        """Whether a request has a price."""
        return self.has_tokens or self.hour is not None


@dataclass(frozen=True, slots=True)
class CompareSettings:
    """Which approaches are compared, and how the prompting ones ask.

    Attributes:
        approaches: some of `APPROACHES`, in any order.
        shots: training rows shown to the few-shot approach, at least 1.
        passages: passages retrieved for each request, at least 1.
        documents: folder that retrieval searches; without it the training rows are searched.
        embeddings: sentence-transformers model that finds passages by meaning; without it words are matched.
        run: finished run whose model is the fine-tuned one; without it a run is trained.
        prices: for the money column.
    """

    approaches: tuple[str, ...] = APPROACHES
    shots: int = 4
    passages: int = 3
    documents: Path | None = None
    embeddings: str | None = None
    run: Path | None = None
    prices: Prices = Prices()

    @property
    def ordered(self) -> tuple[str, ...]:
        """The approaches in the order of `APPROACHES`."""
        return tuple(name for name in APPROACHES if name in self.approaches)

    @property
    def needs_run(self) -> bool:
        """Whether one of the approaches is a fine-tuned model."""
        return any(name in FINE_TUNED for name in self.approaches)


def check_settings(settings: CompareSettings) -> None:
    """Refuse what cannot be meant.

    Raises:
        ConfigError: lists every problem.
    """
    problems = [
        *_approach_problems(settings.approaches),
        *_count_problems(settings),
        *_place_problems(settings),
        *_price_problems(settings.prices),
    ]
    if problems:
        listed = problems[0] if len(problems) == 1 else "\n".join(f"  {problem}" for problem in problems)
        lead = "" if len(problems) == 1 else f"{len(problems)} problems:\n"
        raise ConfigError(lead + listed, hint="`tunesmith compare --help` shows what each flag takes")


def _approach_problems(names: tuple[str, ...]) -> list[str]:
    problems = []
    for name in names:
        if name not in APPROACHES:
            near = get_close_matches(name, APPROACHES, n=1)
            problems.append(
                f"`{name}` is no approach; "
                + (f"did you mean `{near[0]}`?" if near else f"there are {', '.join(APPROACHES)}")
            )
    twice = sorted({name for name in names if names.count(name) > 1})
    problems += [f"approach `{name}` is named twice" for name in twice]
    if not names:
        problems.append(f"there is no approach to compare; there are {', '.join(APPROACHES)}")
    return problems


def _count_problems(settings: CompareSettings) -> list[str]:
    counts = {"shots": settings.shots, "passages": settings.passages}
    return [f"`{name}` is {value}, and must be at least 1" for name, value in counts.items() if value < 1]


def _place_problems(settings: CompareSettings) -> list[str]:
    problems = []
    if settings.documents is not None and not settings.documents.is_dir():
        problems.append(f"`documents` is `{settings.documents}`, which is no folder")
    if not any(name in RETRIEVING for name in settings.approaches):
        idle = [name for name in ("documents", "embeddings") if getattr(settings, name) is not None]
        problems += [f"`{name}` has no effect without {' or '.join(RETRIEVING)}" for name in idle]
    if settings.run is not None and not settings.needs_run:
        problems.append(f"`run` has no effect without {' or '.join(FINE_TUNED)}")
    return problems


def _price_problems(prices: Prices) -> list[str]:
    amounts = {"price_prompt": prices.prompt, "price_answer": prices.answer, "price_hour": prices.hour}
    problems = [
        f"`{name}` is {value:g}; a price is a number from 0 up"
        for name, value in amounts.items()
        if value is not None and not (math.isfinite(value) and value >= 0)
    ]
    if (prices.prompt is None) != (prices.answer is None):
        given, missing = ("price_answer", "price_prompt")[:: 1 if prices.prompt is None else -1]
        problems.append(f"`{given}` is given without `{missing}`; tokens are priced by both")
    if prices.currency and not prices.are_known:
        problems.append("`currency` has no effect without a price")
    if len(prices.currency) > LONGEST_CURRENCY or not prices.currency.isprintable():
        problems.append(f"`currency` must be at most {LONGEST_CURRENCY} printable characters, such as `EUR`")
    return problems
