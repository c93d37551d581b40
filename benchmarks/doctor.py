"""The doctor, checked in a clinic: real trainings with ailments induced, diagnosed, corrected, trained again.

`make bench-doctor` writes `benchmarks/doctor.md`. It fails where a target is not met on the reported half:
recall, false alarms on healthy runs, cures. With `--work DIR` runs are kept, and what was done is not done
again: after a change of a rule only the diagnoses and the remedies that changed are new.
"""

import argparse
import multiprocessing
import os
import signal
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from contextlib import contextmanager
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from clinic import HEALTHY, REPORTED, TUNING, Case, Diagnosed, halves, misses
from clinic_cases import all_cases
from clinic_page import page

PAGE = Path(__file__).with_suffix(".md")
REAL = "smollm2-135m"


def main() -> int:
    """Treat all cases, write the page, and fail where a target is missed."""
    options = asked()
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit(128 + number))
    cases = chosen(all_cases(), options.only, options.half)
    # Each process computes on one core; set before any of them loads its libraries.
    os.environ |= {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false", "HF_HUB_OFFLINE": "1"}
    with work_folder(options.work) as work:
        treated, problems = treated_in(work, cases, jobs=options.jobs, wants_cure=not options.no_cure)
        pairs = trl_pairs(work) if not (options.only or options.half or options.no_trl) else []
        minutes = seconds_of(work, treated) / 60
    half_of = halves(all_cases())
    text = page(
        treated, half_of, pairs=pairs, problems=problems, minutes=minutes, machine=machine(options.jobs)
    )
    print(text)
    if options.only or options.half:
        return 0
    PAGE.write_text(text, encoding="utf-8")
    missed = misses([each for each in treated if half_of[each.case.name] == REPORTED])
    for sentence in missed:
        print(f"target missed: {sentence}", file=sys.stderr)
    return 1 if missed else 0


def asked(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """The command line."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--work", type=Path, help="folder to keep runs in; a temporary one without it")
    parser.add_argument("--jobs", type=int, default=2, help="trainings at once, one core each")
    parser.add_argument("--only", nargs="+", metavar="NAME", help="cases or ailments; prints, writes no page")
    parser.add_argument("--half", choices=[TUNING, REPORTED], help="one half; prints, writes no page")
    parser.add_argument("--no-cure", action="store_true", help="diagnose only")
    parser.add_argument("--no-trl", action="store_true", help="leave the comparison with TRL out")
    return parser.parse_args(arguments)


def chosen(cases: Sequence[Case], only: Iterable[str] | None, half: str | None) -> list[Case]:
    """The cases that were asked for.

    Raises:
        SystemExit: for a name that is no case and no ailment.
    """
    half_of, names = halves(cases), set(only or ())
    unknown = names - {case.name for case in cases} - {case.ailment for case in cases}
    if unknown:
        raise SystemExit(f"no case and no ailment is called {', '.join(sorted(unknown))}")
    return [
        case
        for case in cases
        if (not names or names & {case.name, case.ailment}) and half in (None, half_of[case.name])
    ]


@contextmanager
def work_folder(path: Path | None) -> Iterator[Path]:
    """The given folder, or one that is gone afterwards."""
    if path is not None:
        path.mkdir(parents=True, exist_ok=True)
        yield path.resolve()
        return
    with TemporaryDirectory() as name:
        yield Path(name)


def treated_in(
    work: Path, cases: Sequence[Case], *, jobs: int, wants_cure: bool
) -> tuple[list[Diagnosed], list[tuple[str, str]]]:
    """All cases, several at once; and the names of those that the clinic could not treat, with why."""
    with ProcessPoolExecutor(jobs, mp_context=multiprocessing.get_context("spawn")) as pool:
        models = pool.submit(_models, work).result()
        # The long ones first, so that none is left for the end.
        ordered = sorted(cases, key=lambda case: case.model != REAL)
        waiting = [pool.submit(_treat, case, work, models, wants_cure) for case in ordered]
        found, problems = [], []
        for number, done in enumerate(_as_done(waiting), start=1):
            name, diagnosed, problem = done
            said = _line(diagnosed) if diagnosed else problem.strip().splitlines()[-1]
            print(f"{number}/{len(waiting)} {name}: {said}", flush=True)
            if diagnosed:
                found.append(diagnosed)
            else:
                print(problem, file=sys.stderr, flush=True)
                problems.append((name, said))
    place = {case.name: number for number, case in enumerate(cases)}
    return sorted(found, key=lambda each: place[each.case.name]), problems


def _as_done(waiting: Iterable["Future[Any]"]) -> Iterator[Any]:
    try:
        for future in as_completed(waiting):
            yield future.result()
    except BaseException:
        # Whoever stops the clinic wants its trainings to end too.
        for process in multiprocessing.active_children():
            process.terminate()
        raise


def _models(work: Path) -> Mapping[str, Path]:
    """In a worker: the clinic's own models."""
    from clinic_base import made_models

    return made_models(work / "models")


def _treat(
    case: Case, work: Path, models: Mapping[str, Path], wants_cure: bool
) -> tuple[str, Diagnosed | None, str]:
    """In a worker: one case; the heavy libraries are loaded the first time."""
    from clinic_ward import treat

    treated = treat(case, work, models, wants_cure=wants_cure)
    return treated.name, treated.diagnosed, treated.problem


def _line(each: Diagnosed) -> str:
    induced = each.case.ailment
    verdict = "" if induced == HEALTHY else "found, " if each.is_found else "MISSED, "
    if each.cure is not None:
        verdict += "cured, " if each.is_cured else "NOT CURED, "
    losses = f"{each.outcome.start_loss} to {each.outcome.end_loss}"
    found = " ".join(each.found) or "nothing"
    return f"{induced}: {verdict}{found}; {losses}; {each.outcome.status}, {each.outcome.seconds:.1f} s"


def seconds_of(work: Path, cases: Sequence[Diagnosed]) -> float:
    """What all trainings took, each on one core."""
    outcomes = [o for each in cases for o in (each.outcome, each.cure) if o is not None]
    return sum(outcome.seconds for outcome in outcomes)


def machine(jobs: int) -> str:
    """What it ran on."""
    from speed_page import machine as told

    return f"{jobs} at once, each on {told(1)}"


def trl_pairs(work: Path) -> list[tuple[str, Diagnosed, Diagnosed]]:
    """The same cases by TRL and by us; nothing where TRL's environment cannot be had."""
    from clinic_pairs import pairs_in

    return pairs_in(work)


if __name__ == "__main__":
    sys.exit(main())
