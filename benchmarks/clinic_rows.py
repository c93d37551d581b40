"""The clinic's rows: generated tasks with what makes a run ill planted in them; foreign templates."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

from clinic import OWN_MODELS, Case

from tunesmith.data.generate.tasks import TASKS
from tunesmith.data.write import write_records

Fields = dict[str, str]
TEST_ROWS, VALIDATION_ROWS = 16, 12
# A real model takes half a second for a row, at each validation again.
REAL_VALIDATION_ROWS = 8


@dataclass(frozen=True, slots=True)
class Parts:
    """Rows of a case; validation may be empty."""

    train: tuple[Fields, ...]
    validation: tuple[Fields, ...]
    test: tuple[Fields, ...]


def parts_of(case: Case) -> Parts:
    """The rows of a case with its data fault in them."""
    made = tuple(TASKS[case.task].rows(case.seed, case.rows + TEST_ROWS + VALIDATION_ROWS))
    held = TEST_ROWS + VALIDATION_ROWS
    parts = Parts(made[held:], made[TEST_ROWS:held], made[:TEST_ROWS])
    kind, _, argument = case.data_fault.partition(":")
    return DATA_FAULTS[kind](parts, argument, Random(case.seed))  # noqa: S311  nothing secret is drawn


def written(case: Case, folder: Path) -> Mapping[str, str]:
    """The rows as files; settings that name them. No validation or test rows where the settings say so."""
    parts = parts_of(case)
    files = {"data.path": parts.train}
    if "data.test_size" not in case.settings:
        files["data.test_file"] = parts.test
    if "data.validation_size" not in case.settings:
        is_real = case.model not in OWN_MODELS
        files["data.validation_file"] = parts.validation[: REAL_VALIDATION_ROWS if is_real else None]
    found = {}
    for key, rows in files.items():
        path = folder / f"{key.removeprefix('data.').removesuffix('_file').replace('path', 'rows')}.jsonl"
        write_records(path, rows)
        found[key] = str(path)
    return found


def _as_they_are(parts: Parts, _: str, random: Random) -> Parts:
    return parts


def _copied(parts: Parts, argument: str, random: Random) -> Parts:
    """`share/kinds`: that share of the training rows become copies of `kinds` rows."""
    share, _, kinds = argument.partition("/")
    copies = round(float(share) * len(parts.train))
    own = list(parts.train[: len(parts.train) - copies])
    sources = own[: int(kinds or 4)]
    rows = own + [sources[number % len(sources)] for number in range(copies)]
    random.shuffle(rows)
    return replace(parts, train=tuple(rows))


def _leaked(parts: Parts, lead_in: str, random: Random) -> Parts:
    """The answer stands in the prompt, behind a lead-in."""

    def leak(rows: Sequence[Fields]) -> tuple[Fields, ...]:
        return tuple(row | {"prompt": f"{row['prompt']}\n{lead_in} {row['completion']}"} for row in rows)

    return Parts(leak(parts.train), leak(parts.validation), leak(parts.test))


def _partly_leaked(parts: Parts, lead_in: str, random: Random) -> Parts:
    """Only in two training rows of three."""
    leaked = _leaked(parts, lead_in, random).train
    mixed = tuple(row if n % 3 == 0 else leaked[n] for n, row in enumerate(parts.train))
    return replace(parts, train=mixed)


def _test_is_train(parts: Parts, share: str, random: Random) -> Parts:
    """So many of the test rows are training rows."""
    count = round(float(share) * len(parts.test))
    return replace(parts, test=parts.train[:count] + parts.test[count:])


def _shuffled(parts: Parts, _: str, random: Random) -> Parts:
    """Training answers that belong to other prompts."""
    answers = [row["completion"] for row in parts.train]
    random.shuffle(answers)
    rows = (row | {"completion": answer} for row, answer in zip(parts.train, answers, strict=True))
    return replace(parts, train=tuple(rows))


def _reversed(parts: Parts, _: str, random: Random) -> Parts:
    """Training answers written backwards, as a broken export leaves them."""
    return replace(parts, train=tuple(row | {"completion": row["completion"][::-1]} for row in parts.train))


def _tested_on(parts: Parts, task: str, random: Random) -> Parts:
    """Held-out rows of another kind."""
    rows = tuple(TASKS[task].rows(random.randrange(1 << 30), TEST_ROWS))
    return replace(parts, test=rows)


DATA_FAULTS: Mapping[str, Callable[[Parts, str, Random], Parts]] = {
    "": _as_they_are,
    "copies": _copied,
    "leak": _leaked,
    "part_leak": _partly_leaked,
    "test_is_train": _test_is_train,
    "shuffled": _shuffled,
    "reversed": _reversed,
    "tested_on": _tested_on,
}

# Layouts of model families that the clinic's models do not belong to; the end token is the model's own, as
# people put it there who adapt a template by hand.
FOREIGN_TEMPLATES = {
    "llama2": (
        "{% for m in messages %}{% if m.role == 'system' %}<<SYS>>\n{{ m.content }}\n<</SYS>>\n\n"
        "{% elif m.role == 'user' %}[INST] {{ m.content }} [/INST]{% else %} {{ m.content }}"
        "{{ eos_token }}{% endif %}{% endfor %}"
    ),
    "llama3": (
        "{% for m in messages %}<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else '<|eot_id|>' }}{% endfor %}"
        "{% if add_generation_prompt %}<|start_header_id|>assistant<|end_header_id|>\n\n{% endif %}"
    ),
    "gemma": (
        "{% for m in messages %}<start_of_turn>{{ 'model' if m.role == 'assistant' else 'user' }}\n"
        "{{ m.content }}{{ eos_token if m.role == 'assistant' else '<end_of_turn>' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
    ),
    "vicuna": (
        "{% for m in messages %}{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}"
        "USER: {{ m.content }} {% else %}ASSISTANT: {{ m.content }}{{ eos_token }}{% endif %}{% endfor %}"
        "{% if add_generation_prompt %}ASSISTANT: {% endif %}"
    ),
    "zephyr": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else '</s>' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
    "phi3": (
        "{% for m in messages %}<|{{ m.role }}|>\n{{ m.content }}"
        "{{ eos_token if m.role == 'assistant' else '<|end|>' }}\n{% endfor %}"
        "{% if add_generation_prompt %}<|assistant|>\n{% endif %}"
    ),
}
