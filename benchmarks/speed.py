"""Training speed beside TRL, LitGPT and LLaMA-Factory: the same rows, model and machine, in turn.

`make bench` writes `benchmarks/speed.md`. Each contestant trains in a process of its own, the others in
environments of their own, made the first time and left out with a word where that fails. It fails where our
losses and TRL's on the same ids, order and initial weights differ.
"""

import argparse
import json
import os
import re
import shutil
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

from faker import Faker
from peers import task
from speed_page import MOST_LOSS_GAP, OURS, SHORT, Outcome, Point, loss_gap, page

from tunesmith.models.find import find_model

HERE = Path(__file__).parent
PEERS = HERE.parent / ".venv-peers"
MODEL = "smollm2-135m"
MOST_SECONDS = 1800
# Pinned: what was the newest that installs together when this was written.
PINS = {
    "trl": ("trl==1.16.0", "transformers==5.24.0", "peft==0.21.2", "datasets==5.2.0", "torch==2.15.0"),
    "litgpt": ("litgpt==0.5.13", "torch==2.15.0"),
    # It imports torchaudio, whose newest release needs this torch.
    "llamafactory": (
        "llamafactory==0.9.5",
        "torch==2.11.0",
        "torchaudio==2.11.0",
        "torchvision==0.26.0",
    ),
}


@dataclass(frozen=True, slots=True)
class Contestant:
    """Who trains: a module run with the Python of `environment` (None: our own) and further arguments."""

    name: str
    environment: str | None
    module: str
    arguments: tuple[str, ...] = ()


CONTESTANTS = (
    Contestant("ours", None, "speed_ours", ("0",)),
    Contestant("products alone", None, "speed_bound"),
    Contestant("ours, dropout 0.05", None, "speed_ours", (str(task.USUAL_DROPOUT),)),
    Contestant(SHORT, None, "speed_ours", ("0", "bfloat16")),
    Contestant("TRL, same", "trl", "peers.trl", ("same",)),
    Contestant("TRL, tuned", "trl", "peers.trl", ("tuned",)),
    Contestant("TRL, guide", "trl", "peers.trl", ("guide",)),
    Contestant("LitGPT", "litgpt", "peers.litgpt"),
    Contestant("LLaMA-Factory", "llamafactory", "peers.llamafactory"),
)


def made_rows(count: int, seed: int) -> list[dict[str, str]]:
    """Questions with answers of one sentence up to long ones, as such files have them; no two alike."""
    fake = Faker("en_US", use_weighting=False)
    fake.seed_instance(seed)
    random = Random(seed)  # noqa: S311  nothing secret is drawn
    rows = []
    for _ in range(count):
        sentences = min(90, max(1, round(random.lognormvariate(3.3, 0.6))))
        given = fake.paragraph(nb_sentences=2) if random.random() < 0.3 else ""
        answer = fake.paragraph(nb_sentences=sentences, variable_nb_sentences=False)
        rows.append(
            {"instruction": f"Explain: {fake.sentence(nb_words=10)}", "input": given, "output": answer}
        )
    return rows


def read_rows(path: Path | None, count: int) -> list[dict[str, str]]:
    """The first rows of an alpaca-style JSON file, or made ones.

    Raises:
        SystemExit: if the file has too few.
    """
    if path is None:
        return made_rows(count, task.SEED)
    rows = json.loads(path.read_text(encoding="utf-8"))[:count]
    if len(rows) < count:
        raise SystemExit(f"`{path}` has {len(rows)} rows; {count} were asked for")
    return [{name: str(row.get(name) or "") for name in ("instruction", "input", "output")} for row in rows]


def python_of(environment: str | None) -> Path | str:
    """The interpreter of an environment, made now if need be; or why there is none."""
    if environment is None:
        return Path(sys.executable)
    folder, pins = PEERS / environment, PINS[environment]
    python, stamp = folder / "bin" / "python", folder / ".installed"
    if stamp.is_file() and stamp.read_text(encoding="utf-8") == "\n".join(pins):
        return python
    uv = shutil.which("uv", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ.get('PATH', '')}")
    if uv is None:
        return "there is no uv to install it with"
    print(f"installing {' '.join(pins)} ...", flush=True)
    install = [uv, "pip", "install", "--quiet", "--python", str(python), *pins]
    # Small wheels without CUDA first, where that index can be reached.
    small = [*install, "--torch-backend=cpu"]
    try:
        subprocess.run(
            [uv, "venv", "--quiet", "--clear", "--python", sys.executable, str(folder)], check=True
        )
        patience = os.environ | {"UV_HTTP_RETRIES": "1"}
        if subprocess.run(small, env=patience, stderr=subprocess.DEVNULL, check=False).returncode:
            subprocess.run(install, check=True)
    except (OSError, subprocess.CalledProcessError):
        return f"{pins[0]} could not be installed"
    stamp.write_text("\n".join(pins), encoding="utf-8")
    return python


def run(python: Path, module: str, arguments: Sequence[str], *, work: Path, threads: int) -> str:
    """What a child printed.

    Raises:
        RuntimeError: if it failed or took too long; with the end of what it said, paths taken out.
    """
    environment = os.environ | {
        "OMP_NUM_THREADS": str(threads),
        "HF_HUB_OFFLINE": "1",
        "HF_HOME": str(work / "hf"),
        "PYTHONPATH": str(HERE),
        "TOKENIZERS_PARALLELISM": "false",
    }
    command = [str(python), "-m", module, *arguments]
    try:
        done = subprocess.run(
            command,
            cwd=work,
            env=environment,
            capture_output=True,
            text=True,
            errors="replace",
            timeout=MOST_SECONDS,
            check=False,
        )
    except (OSError, subprocess.TimeoutExpired) as error:
        raise RuntimeError(type(error).__name__) from error
    if done.returncode:
        raise RuntimeError(last_words(done.stderr))
    return done.stdout


def last_words(text: str) -> str:
    """The last line that says something, without paths."""
    lines = [line for line in text.splitlines() if line.strip()]
    return re.sub(r"(?:~|/)[\w.~/-]*/", "", lines[-1] if lines else "nothing was said")[-300:]


def compete(contestant: Contestant, *, model: str, work: Path, threads: int) -> Outcome:
    """One training of one contestant."""
    python = python_of(contestant.environment)
    if isinstance(python, str):
        return Outcome(contestant.name, None, python)
    name = MODEL if contestant.module == "speed_ours" else model
    try:
        output = run(
            python, contestant.module, [name, str(work), *contestant.arguments], work=work, threads=threads
        )
    except RuntimeError as error:
        return Outcome(contestant.name, None, str(error))
    found = task.heard(output)
    return Outcome(contestant.name, found, "" if found else "it told no figures")


def grown(*, model: str, work: Path, threads: int) -> list[Point]:
    """How our own time grows."""
    print("how time grows ...", flush=True)
    output = run(Path(sys.executable), "speed_growth", [model, str(work)], work=work, threads=threads)
    line = next(line for line in output.splitlines() if line.startswith(task.MARK))
    return [Point(**point) for point in json.loads(line.removeprefix(task.MARK))]


def rounds_of(
    chosen: Sequence[Contestant], *, rounds: int, model: str, work: Path, threads: int
) -> list[list[Outcome]]:
    """All trainings, ours before and after each of the others; who failed once is not asked again."""
    ours, *others = chosen
    turns = [ours, *(turn for other in others for turn in (other, ours))]
    left_out: dict[str, Outcome] = {}
    found = []
    for number in range(1, rounds + 1):
        outcomes = []
        for contestant in turns:
            outcome = left_out.get(contestant.name) or compete(
                contestant, model=model, work=work, threads=threads
            )
            if outcome.measured is None:
                left_out[contestant.name] = outcome
            outcomes.append(outcome)
            print(f"round {number}: {outcome.line}", flush=True)
        found.append(outcomes)
    return found


def threads_here() -> int:
    """As many as there are cores for this process, or what OMP_NUM_THREADS says."""
    # macOS has no affinity.
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return int(os.environ.get("OMP_NUM_THREADS") or cores)


def asked(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line.

    Raises:
        SystemExit: if the rows do not make whole steps.
    """
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--data", type=Path, help="alpaca-style JSON file; rows are made without it")
    parser.add_argument("--rows", type=int, default=64, help=f"a multiple of {task.WINDOW_ROWS}")
    parser.add_argument("--rounds", type=int, default=1)
    parser.add_argument("--only", nargs="+", choices=[c.name for c in CONTESTANTS], help="leave others out")
    parser.add_argument("--no-page", action="store_true", help="print the page and write none")
    found = parser.parse_args(arguments)
    if found.rows < task.WINDOW_ROWS or found.rows % task.WINDOW_ROWS:
        parser.error(f"--rows must be a multiple of {task.WINDOW_ROWS}, the rows of a step")
    return found


def main() -> int:
    """Measure in turn, write the page, and fail where losses that must agree do not."""
    options, threads = asked(), threads_here()
    # Ours leaves what the others need.
    chosen = [c for c in CONTESTANTS if not options.only or c.name in (OURS, *options.only)]
    rows, model = read_rows(options.data, options.rows), find_model(MODEL).path
    with TemporaryDirectory() as name:
        work = Path(name)
        (work / task.ROWS).write_text(json.dumps(rows), encoding="utf-8")
        rounds = rounds_of(chosen, rounds=options.rounds, model=model, work=work, threads=threads)
        growth = grown(model=model, work=work, threads=threads) if not options.only else []
    told = f"the first {options.rows} rows of a file" if options.data else f"{options.rows} made rows"
    text = page(rounds, growth, rows=told, threads=threads)
    print(text)
    if not options.no_page:
        (HERE / "speed.md").write_text(text, encoding="utf-8")
    gap = loss_gap(rounds[0])
    return 1 if gap is not None and gap > MOST_LOSS_GAP else 0


if __name__ == "__main__":
    sys.exit(main())
