"""How fast answers come: ours beside plain `model.generate`, in turn, on the same prompts and weights.

`python benchmarks/generation.py [--rows N] [--rounds R]` writes `benchmarks/generation.md`. Greedy answers
must be the same; where one differs, the two likeliest tokens at that place must be as likely as each other,
to the last bits of a sum.
"""

import argparse
import platform
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from itertools import islice
from pathlib import Path
from random import Random

import torch
from transformers import GenerationConfig

from tunesmith.data.conversation import Message
from tunesmith.data.render import Renderer, choose_template
from tunesmith.models.find import EMBEDDED, find_model
from tunesmith.models.generate import Decoding, generate_ids
from tunesmith.models.load import LoadedModel, load_model

PAGE = Path(__file__).with_suffix(".md")
SEED = 17
BATCH_ROWS = 16
NEAR_TIE = 1e-3
WORDS = (
    *("river", "stone", "lamp", "green", "paper", "cloud", "seven", "market", "quiet", "window"),
    *("train", "music", "bread", "winter", "garden", "coin", "harbour", "letter", "copper", "meadow"),
)
Ids = list[list[int]]


@dataclass(frozen=True, slots=True)
class Task:
    """Prompts, and when their answers end."""

    name: str
    prompts: Ids
    stop_ids: tuple[int, ...]
    max_new_tokens: int


def few_shot(loaded: LoadedModel, rows: int) -> Task:
    """Thirty examples of a label before each text to label; an answer is a line."""
    random, tokenizer = Random(SEED), loaded.tokenizer  # noqa: S311  nothing secret is drawn

    def text(most: int) -> list[str]:
        return random.choices(WORDS, k=random.randint(6, most))

    examples = [text(14) for _ in range(30)]
    head = "".join(
        f"Text: {' '.join(words)}\nFirst and last: {words[0]} {words[-1]}\n\n" for words in examples
    )
    prompts = [tokenizer(f"{head}Text: {' '.join(text(30))}\nFirst and last:").input_ids for _ in range(rows)]
    return Task("few-shot labels", prompts, tuple(tokenizer("\n").input_ids), 16)


def questions(loaded: LoadedModel, rows: int) -> Task:
    """Chat questions of unlike length, whose answers end when the model says so."""
    random = Random(SEED)  # noqa: S311
    renderer = Renderer(loaded.tokenizer, choose_template(loaded.tokenizer))
    asked = []
    for number in range(rows):
        words = ", ".join(random.sample(WORDS, k=random.randint(1, 12)))
        how = ("Name one thing about", "Say in one word what goes with", "Write two sentences with")[
            number % 3
        ]
        asked.append(renderer.prompt_ids([Message("user", f"{how}: {words}.")]))
    return Task("chat answers", asked, tuple(renderer.end_of_turn_ids), 64)


def ours(loaded: LoadedModel, task: Task) -> Ids:
    """As `evaluate` and `generate` answer."""
    return generate_ids(
        loaded.model,
        task.prompts,
        decoding=Decoding(max_new_tokens=task.max_new_tokens),
        stop_ids=task.stop_ids,
        pad_id=loaded.pad_id,
        batch_rows=BATCH_ROWS,
    )


def plain(loaded: LoadedModel, task: Task, *, rows_at_once: int) -> Ids:
    """`model.generate` on so many rows at once, in the order they come, padded on the left."""
    config = GenerationConfig(
        max_new_tokens=task.max_new_tokens,
        do_sample=False,
        eos_token_id=list(task.stop_ids),
        pad_token_id=loaded.pad_id,
    )
    answers: Ids = []
    prompts = iter(task.prompts)
    while batch := list(islice(prompts, rows_at_once)):
        longest = max(map(len, batch))
        padded = [[loaded.pad_id] * (longest - len(ids)) + ids for ids in batch]
        mask = [[0] * (longest - len(ids)) + [1] * len(ids) for ids in batch]
        with torch.inference_mode():
            output_BT = loaded.model.generate(
                input_ids=torch.tensor(padded), attention_mask=torch.tensor(mask), generation_config=config
            )
        answers += [until(ids, task.stop_ids) for ids in output_BT[:, longest:].tolist()]
    return answers


def until(ids: Sequence[int], stop_ids: Sequence[int]) -> list[int]:
    """The ids before the first stop token."""
    return list(ids[: next((at for at, token in enumerate(ids) if token in stop_ids), len(ids))])


def gap(loaded: LoadedModel, prompt: Sequence[int], one: Sequence[int], other: Sequence[int]) -> float:
    """How far apart, in logits, the two likeliest tokens are where two answers part."""
    same = next(
        (at for at, (a, b) in enumerate(zip(one, other, strict=False)) if a != b), min(len(one), len(other))
    )
    ids_1T = torch.tensor([[*prompt, *one[:same]]])
    with torch.inference_mode():
        best = loaded.model(input_ids=ids_1T, logits_to_keep=1).logits[0, -1].float().topk(2).values
    return float(best[0] - best[1])


def check(loaded: LoadedModel, task: Task, found: Ids, expected: Ids) -> int:
    """Rows that are answered alike; others must part at a near tie.

    Raises:
        SystemExit: if one parts where the model had no doubt.
    """
    for prompt, one, other in zip(task.prompts, found, expected, strict=True):
        if one != other and (apart := gap(loaded, prompt, one, other)) > NEAR_TIE:
            raise SystemExit(f"{task.name}: an answer differs where the likeliest token leads by {apart:.3g}")
    return sum(one == other for one, other in zip(found, expected, strict=True))


CONTESTANTS: dict[str, Callable[[LoadedModel, Task], Ids]] = {
    "ours": ours,
    f"plain, {BATCH_ROWS} rows at once": lambda loaded, task: plain(loaded, task, rows_at_once=BATCH_ROWS),
    "plain, row by row": lambda loaded, task: plain(loaded, task, rows_at_once=1),
}


def measured(loaded: LoadedModel, task: Task, rounds: int) -> list[str]:
    """Lines of the page's table for one task."""
    seconds: dict[str, list[float]] = {name: [] for name in CONTESTANTS}
    answers: dict[str, Ids] = {}
    for _ in range(rounds):
        for name, answer in CONTESTANTS.items():
            start = time.perf_counter()
            answers[name] = answer(loaded, task)
            seconds[name].append(time.perf_counter() - start)
            print(f"{task.name}: {name}: {seconds[name][-1]:.1f} s", file=sys.stderr, flush=True)
    lines = []
    for name, taken in seconds.items():
        alike = check(loaded, task, answers["ours"], answers[name])
        ratios = [theirs / mine for theirs, mine in zip(taken, seconds["ours"], strict=True)]
        tokens = sum(len(ids) + 1 for ids in answers[name])
        lines.append(
            f"| {task.name} | {name} | {min(taken):.1f} | {tokens / min(taken):.0f} "
            f"| {min(ratios):.1f} to {max(ratios):.1f} | {alike} of {len(task.prompts)} |"
        )
    return lines


def about(task: Task) -> str:
    """One line on what a task asks."""
    lengths = [len(ids) for ids in task.prompts]
    shared = next(at for at, tokens in enumerate(zip(*task.prompts, strict=False)) if len(set(tokens)) > 1)
    return (
        f"- {task.name}: {len(lengths)} prompts of {min(lengths)} to {max(lengths)} tokens that share their "
        f"first {shared}; answers of at most {task.max_new_tokens} tokens."
    )


def page(tasks: Sequence[Task], lines: Sequence[str], rounds: int) -> str:
    """The whole page."""
    return "\n".join(
        [
            "# Answers, measured",
            "",
            f"Made by `python benchmarks/generation.py` on {datetime.now(UTC):%Y-%m-%d}: {EMBEDDED} in "
            f"float32, greedy, {torch.get_num_threads()} threads of {platform.machine()}, "
            f"{torch.backends.cpu.get_cpu_capability()}, torch {version('torch')}, transformers "
            f"{version('transformers')}, {rounds} rounds in turn.",
            "",
            *map(about, tasks),
            "",
            "| task | who | s | answer tokens/s | times ours | same answers as ours |",
            "|---|---|---:|---:|---:|---:|",
            *lines,
            "",
            "Seconds and tokens/s are of the fastest round, end tokens counted; `times ours` goes from the "
            f"least to the greatest ratio of a round. Where an answer differs, the two likeliest tokens are "
            f"within {NEAR_TIE:g} of each other in logits there: sums of another order round otherwise.",
            "",
        ]
    )


def main() -> None:
    """Measure both tasks and write the page."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rows", type=int, default=40)
    parser.add_argument("--rounds", type=int, default=1)
    asked = parser.parse_args()
    loaded = load_model(find_model(EMBEDDED), dtype=torch.float32, device="cpu")
    tasks = [few_shot(loaded, asked.rows), questions(loaded, asked.rows)]
    lines = [line for task in tasks for line in measured(loaded, task, asked.rounds)]
    PAGE.write_text(page(tasks, lines, asked.rounds), encoding="utf-8")


if __name__ == "__main__":
    main()
