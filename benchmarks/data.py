"""How well and how fast the data check works: planted faults found, rows a second, memory, and others beside.

`make bench-data` writes `benchmarks/data.md`. Files are made here; each program runs alone, one after the
other, in processes of its own. Others are installed into an environment of their own the first time, and
left out with a word where that fails.
"""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import psutil
from faker import Faker

from tunesmith.data.audit.check import check_files
from tunesmith.data.audit.findings import Finding
from tunesmith.data.generate.dirt import Planted, plant
from tunesmith.data.tickets import generate_tickets

HERE = Path(__file__).parent
SEED = 17
FAULT_SHARE = 0.015
PROSE_ROWS, TICKET_ROWS = 7_000, 3_000
TICKET_KINDS = ["format_drift", "bad_bytes", "not_json", "duplicate_key", "empty_answer", "unrendered"]
LEAST = 0.98
LARGE, MIDDLE, SMALL = 1_000_000, 100_000, 20_000
PEERS = ("datasets==5.2.0", "text-dedup==0.4.0", "py-data-juicer==1.6.1", "aiohttp", "ftfy", "orjson")
TUNESMITH = [sys.executable, "-m", "tunesmith", "data", "check"]


@dataclass(frozen=True, slots=True)
class Measured:
    """One program on one file: wall time, and the highest sum of its processes' memory."""

    what: str
    rows: int
    seconds: float
    peak_bytes: int

    @property
    def rows_per_second(self) -> float:
        """All of the program counted, its start too."""
        return self.rows / self.seconds


def prose_rows(count: int, seed: int) -> Iterator[dict[str, str]]:
    """Questions about made-up passages, answered in a few sentences; no two alike."""
    fake = Faker("en_US", use_weighting=False)
    fake.seed_instance(seed)
    random = Random(seed)  # noqa: S311  nothing secret is drawn
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
        ("tickets", tickets, TICKET_KINDS),
    ):
        planted = plant(rows, share=FAULT_SHARE, seed=SEED, kinds=kinds)
        file = folder / f"{name}.jsonl"
        file.write_bytes(b"".join(line + b"\n" for line in planted.lines))
        findings = check_files([file], workers=1).findings
        for kind, counts in _scored(planted, findings, str(file)):
            sums = totals.setdefault(kind, [0, 0, 0])
            totals[kind] = [total + count for total, count in zip(sums, counts, strict=True)]
    return [(kind, *sums) for kind, sums in sorted(totals.items())]


def _scored(
    planted: Planted, findings: Sequence[Finding], file: str
) -> Iterator[tuple[str, tuple[int, int, int]]]:
    truth: dict[str, set[object]] = {}
    for entry in planted.key:
        truth.setdefault(str(entry["kind"]), set()).add(entry["line"])
    for kind, lines in truth.items():
        flagged: set[object] = {
            line for found in findings if found.kind == kind for line in found.lines[file]
        }
        if "--verbose" in sys.argv:
            for word, odd in (("missed", lines - flagged), ("false", flagged - lines)):
                print(kind, word, sorted(map(str, odd))[:5])
        yield kind, (len(lines), len(lines & flagged), len(flagged))


def write_large(path: Path, rows: int) -> None:
    """Rows of about 930 bytes; sentences come from a pool, since making each anew would take an hour."""
    fake = Faker("en_US", use_weighting=False)
    fake.seed_instance(SEED)
    random = Random(SEED)  # noqa: S311  nothing secret is drawn
    small = ["the", "of", "and", "to", "in", "a", "is", "that", "for", "it", "with", "as", "on", "by", "this"]
    words = [fake.word() for _ in range(3_000)] + small * 30
    pool = []
    for _ in range(200_000):
        sentence = " ".join(random.choices(words, k=random.randint(8, 18)))
        pool.append(sentence[:1].upper() + sentence[1:] + ".")
    with path.open("w", encoding="utf-8") as file:
        for _ in range(rows):
            prompt, answer = (" ".join(random.choices(pool, k=k)) for k in (3, 8))
            file.write(json.dumps({"prompt": prompt, "completion": answer}) + "\n")


def measured(what: str, command: Sequence[str], rows: int, **environment: str) -> Measured:
    """Run a program to its end and watch its memory.

    Raises:
        RuntimeError: if it fails; with the end of what it printed.
    """
    started, peak = time.perf_counter(), 0
    with TemporaryDirectory() as folder:
        log = Path(folder) / "log"
        with log.open("wb") as output:
            process = subprocess.Popen(
                command, stdout=output, stderr=output, env=os.environ | {"HF_HUB_OFFLINE": "1"} | environment
            )
            while process.poll() is None:
                peak = max(peak, _memory_bytes(process.pid))
                time.sleep(0.1)
        if process.returncode:
            raise RuntimeError(f"{what}: {log.read_text(encoding='utf-8', errors='replace')[-400:]}")
    return Measured(what, rows, time.perf_counter() - started, peak)


def _memory_bytes(pid: int) -> int:
    """Memory of a process and its children, shared pages counted once."""
    total = 0
    try:
        parent = psutil.Process(pid)
        for process in (parent, *parent.children(recursive=True)):
            total += process.memory_full_info().pss
    except psutil.Error:
        pass
    return total


def our_scale(folder: Path) -> list[Measured]:
    """The command as users run it, on three sizes."""
    names = {LARGE: folder / "large.jsonl", MIDDLE: folder / "middle.jsonl", SMALL: folder / "small.jsonl"}
    write_large(names[LARGE], LARGE)
    with names[LARGE].open("rb") as whole:
        lines = [next(whole) for _ in range(MIDDLE)]
    names[MIDDLE].write_bytes(b"".join(lines))
    names[SMALL].write_bytes(b"".join(lines[:SMALL]))
    plain = ["--model", "none", "--no-near-duplicates", "--json"]
    results = []
    for rows in (MIDDLE, LARGE):
        results.append(measured("check", [*TUNESMITH, str(names[rows]), *plain], rows))
    results.append(
        measured(
            "check with tokens", [*TUNESMITH, str(names[LARGE]), "--no-near-duplicates", "--json"], LARGE
        )
    )
    near = ["--model", "none", "--near-duplicates", "--json"]
    results.append(measured("check with near duplicates", [*TUNESMITH, str(names[MIDDLE]), *near], MIDDLE))
    results.append(measured("check", [*TUNESMITH, str(names[SMALL]), *plain], SMALL))
    return results


def others_beside(folder: Path) -> Iterator[Measured | str]:
    """The peers on the same files, or why one is left out."""
    python = _peers_python()
    if python is None:
        yield "The environment for the others could not be made, so none of them ran."
        return
    script, source = str(HERE / "data_peers.py"), str(HERE.parent / "src")
    middle, small = folder / "middle.jsonl", folder / "small.jsonl"
    text = folder / "text.jsonl"
    with text.open("w", encoding="utf-8") as file, middle.open(encoding="utf-8") as rows:
        for row in map(json.loads, rows):
            file.write(json.dumps({"text": f"{row['prompt']}\n{row['completion']}"}) + "\n")
    dedup = ["-m", "text_dedup.minhash", "--path", "json", "--data_files", str(text), "--split", "train"]
    dedup += ["--column", "text", "--output", str(folder / "out"), "--cache_dir", str(folder / "cache")]
    dedup += [
        "--num_perm",
        "64",
        "--ngram",
        "3",
        "--b",
        "16",
        "--r",
        "4",
        "--threshold",
        "0.8",
        "--num_proc",
        "2",
    ]
    runs = (
        ("datasets.map, lengths only", [script, "datasets-lengths", str(middle)], MIDDLE),
        ("datasets.map, our look at a row", [script, "datasets-signs", str(middle)], MIDDLE),
        ("text-dedup minhash, same parameters", dedup, MIDDLE),
        ("data-juicer, five operators", [script, "juicer", str(small)], SMALL),
    )
    for what, arguments, count in runs:
        try:
            yield measured(what, [str(python), *arguments], count, PYTHONPATH=source)
        except RuntimeError as error:
            yield f"Left out: {' '.join(str(error).split())[:300]}"


def _peers_python() -> Path | None:
    """An environment with the peers; made once, beside the project's own."""
    folder = HERE.parent / ".venv-peers" / "data"
    uv = Path(sys.executable).parent / "uv"
    python = folder / "bin" / "python"
    try:
        if not python.exists():
            subprocess.run([str(uv), "venv", "--quiet", str(folder)], check=True)
        install = [str(uv), "pip", "install", "--quiet", "--python", str(python), *PEERS]
        subprocess.run(install, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return python


def page(faults: list[tuple[str, int, int, int]], ours: list[Measured], others: list[Measured | str]) -> str:
    """`data.md`."""
    lines = [
        "# The data check, measured",
        "",
        f"Made by `make bench-data` on {datetime.now(UTC):%Y-%m-%d}, Python {sys.version.split()[0]}, "
        f"{len(psutil.Process().cpu_affinity())} cores, orjson {version('orjson')}, seed {SEED}.",
        "",
        "## Planted faults",
        "",
        f"{PROSE_ROWS:,} rows of prose and {TICKET_ROWS:,} rows with JSON answers; each kind is planted in "
        f"{FAULT_SHARE:.1%} of the rows. Recall: found of the planted. Precision: planted of the flagged. "
        "The planted wordings are the generator's own, and some word lists of the check were completed after "
        "seeing what it missed: it finds what it is made for, not all there is in the world.",
        "",
        "| kind | planted | recall | precision |",
        "|---|---:|---:|---:|",
        *(
            f"| `{kind}` | {planted} | {found / planted:.3f} | {found / max(1, flagged):.3f} |"
            for kind, planted, found, flagged in faults
        ),
        "",
        "## Scale",
        "",
        "Whole commands, start included; memory is the highest sum over all processes, shared pages once.",
        "",
        "| command | rows | seconds | rows/s | peak memory |",
        "|---|---:|---:|---:|---:|",
        *map(_scale_row, ours),
        "",
        "## Beside others",
        "",
        "On the same files and machine, each alone, two processes each. Ratio: their seconds for ours.",
        "",
        "| program | rows | seconds | rows/s | peak memory | ours | ratio |",
        "|---|---:|---:|---:|---:|---|---:|",
        *(_peer_row(found, ours) for found in others if isinstance(found, Measured)),
        "",
        *(found for found in others if isinstance(found, str)),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _scale_row(found: Measured) -> str:
    memory = f"{found.peak_bytes / 2**20:,.0f} MiB"
    return (
        f"| {found.what} | {found.rows:,} | {found.seconds:.1f} | {found.rows_per_second:,.0f} | {memory} |"
    )


def _peer_row(found: Measured, ours: list[Measured]) -> str:
    ours_name = "check with near duplicates" if "minhash" in found.what else "check"
    own = next(one for one in ours if one.what == ours_name and one.rows == found.rows)
    return f"{_scale_row(found)} {own.what} | {found.seconds / own.seconds:.1f} |"


def main() -> int:
    """Measure, write the page, and fail where a promise is broken."""
    with TemporaryDirectory() as name:
        folder = Path(name)
        faults = planted_faults(folder)
        for kind, planted, found, flagged in faults:
            print(
                f"{kind:22}{planted:6}  recall {found / planted:.3f}  precision {found / max(1, flagged):.3f}"
            )
        weak = [f[0] for f in faults if f[2] < LEAST * f[1] or f[2] < LEAST * f[3]]
        if "--faults" not in sys.argv:
            ours = our_scale(folder)
            others = list(others_beside(folder))
            (HERE / "data.md").write_text(page(faults, ours, others), encoding="utf-8")
            print((HERE / "data.md").read_text(encoding="utf-8"))
    if weak:
        print(f"below {LEAST}: {', '.join(weak)}")
    return 1 if weak else 0


if __name__ == "__main__":
    sys.exit(main())
