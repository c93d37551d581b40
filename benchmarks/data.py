"""How well and how fast the data check works: planted faults found, rows a second, memory.

`make bench-data` runs all of it and writes `benchmarks/data.md`; `--quick` leaves out the large files.
"""

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from faker import Faker

from tunesmith.data.audit.check import check_files
from tunesmith.data.generate.dirt import plant
from tunesmith.data.tickets import generate_tickets

FAULT_SHARE = 0.015
PROSE_ROWS, TICKET_ROWS = 7_000, 3_000
SEED = 17
LEAST = 0.98


def prose_rows(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Questions about made-up passages, answered in a few sentences; no two alike."""
    fake = Faker("en_US", use_weighting=False)
    fake.seed_instance(seed)
    random = Random(seed)
    asks = (
        "What does this passage say?",
        "Sum up the text.",
        "What is the main point of the note?",
        "Explain it to me in a few sentences.",
    )
    for _ in range(count):
        passage = fake.paragraph(nb_sentences=random.randint(4, 8), variable_nb_sentences=False)
        answer = fake.paragraph(nb_sentences=random.randint(2, 5), variable_nb_sentences=False)
        yield {"prompt": f"{random.choice(asks)}\n\n{passage}", "completion": f"It is about this: {answer}"}


def planted_faults(folder: Path) -> list[tuple[str, int, int, int]]:
    """Kind, planted, found of them, and flagged in all, over a file of prose and one of JSON answers."""
    tickets, _ = generate_tickets(seed=SEED, train_rows=TICKET_ROWS, test_rows=0)
    totals: dict[str, list[int]] = {}
    for name, rows, kinds in (
        ("prose", list(prose_rows(PROSE_ROWS, SEED)), None),
        ("tickets", tickets, ["format_drift", "bad_bytes", "not_json", "duplicate_key", "empty_answer"]),
    ):
        planted = plant(rows, share=FAULT_SHARE, seed=SEED, kinds=kinds)
        file = folder / f"{name}.jsonl"
        file.write_bytes(b"".join(line + b"\n" for line in planted.lines))
        report = check_files([file], workers=1)
        truth: dict[str, set[int]] = {}
        for entry in planted.key:
            truth.setdefault(entry["kind"], set()).add(entry["line"])
        for kind, lines in truth.items():
            flagged = {line for f in report.findings if f.kind == kind for line in f.lines[str(file)]}
            if kind == "near_duplicate":
                # The planted foreign rows are variations of some thirty sentences: near copies indeed.
                flagged -= truth.get("mixed_language", set())
            sums = totals.setdefault(kind, [0, 0, 0])
            for at, value in enumerate((len(lines), len(lines & flagged), len(flagged))):
                sums[at] += value
            if "-v" in sys.argv:
                texts = planted.lines
                for word, odd in (("missed", lines - flagged), ("false", flagged - lines)):
                    for line in sorted(odd)[:4]:
                        print(kind, word, line, texts[line - 1][-300:])
    return [(kind, *sums) for kind, sums in sorted(totals.items())]


def main() -> None:
    with TemporaryDirectory() as folder:
        for kind, planted, found, flagged in planted_faults(Path(folder)):
            print(f"{kind:22}{planted:6}{found / planted:8.3f}{found / max(1, flagged):8.3f}")


if __name__ == "__main__":
    main()
