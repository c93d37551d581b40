"""One case from beginning to end: trained, diagnosed, corrected, trained again. Each stage is kept as JSON.

Runs in a worker process of its own, where the heavy libraries are loaded once.
"""

import json
import os
import shlex
import shutil
import subprocess
import sys
import traceback
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

from clinic import HEALTHY, Case, Diagnosed, Outcome
from clinic_programs import FOREIGN_PROGRAMS, Ran, ours_resolved, run_ours, with_changes

from tunesmith.doctor.diagnose import diagnose
from tunesmith.doctor.finding import Finding
from tunesmith.doctor.fix import corrected, filled
from tunesmith.doctor.read_foreign import read_foreign
from tunesmith.doctor.read_run import read_run
from tunesmith.doctor.signs import Signs
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import RunFolder, is_run_folder

CASE, RAN, FINDINGS, REMEDY = "case.json", "ran.json", "findings.json", "remedy.json"
WEIGHTS = ("checkpoints", "adapter", "model")


@dataclass(frozen=True, slots=True)
class Treated:
    """What became of a case: its record, or what went wrong in the clinic itself."""

    name: str
    diagnosed: Diagnosed | None
    problem: str = ""


def treat(case: Case, work: Path, models: Mapping[str, Path], *, wants_cure: bool) -> Treated:
    """The whole stay of a case; what was done before and is the same is not done again."""
    folder = work / "cases" / case.name
    try:
        _begin(case, folder)
        outcome = _trained(case, folder, models)
        findings = _diagnosed(folder, outcome, work)
        found = Diagnosed(case, outcome, tuple(each.ailment for each in findings))
        own = next((each for each in findings if each.ailment == case.ailment), None)
        if own is None or case.ailment == HEALTHY:
            return Treated(case.name, found)
        found = replace(found, has_remedy=bool(own.changes or own.commands))
        if not (found.has_remedy and wants_cure):
            return Treated(case.name, found)
        return Treated(case.name, _cured(found, findings, folder, work, models))
    except Exception:  # one broken case must not end the clinic; it is named on the page
        return Treated(case.name, None, traceback.format_exc(limit=-4))


def _begin(case: Case, folder: Path) -> None:
    """An empty folder, unless this very case was trained here before."""
    known = _read(folder / CASE) if (folder / RAN).is_file() else None
    if known != json.loads(json.dumps(case.as_dict())):
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        _write(folder / CASE, case.as_dict())


def _trained(case: Case, folder: Path, models: Mapping[str, Path]) -> Outcome:
    known = _read(folder / RAN)
    if known:
        return Outcome(**known)
    if case.program == "ours":
        ran = run_ours(case, ours_resolved(case, folder, models), folder)
    else:
        ran = FOREIGN_PROGRAMS[case.program](case, folder, models)
    return _kept(ran, folder)


def _kept(ran: Ran, folder: Path) -> Outcome:
    """The outcome on record; weights are of no more use."""
    for name in WEIGHTS:
        shutil.rmtree(folder / "run" / name, ignore_errors=True)
    source = os.path.relpath(ran.outcome.source, folder)
    outcome = replace(ran.outcome, source=source)
    _write(folder / RAN, asdict(outcome))
    return outcome


def signs_of(source: Path) -> Signs:
    """What the doctor sees of a run folder or a log."""
    return read_run(RunFolder(source)) if is_run_folder(source) else read_foreign(source)


def _diagnosed(folder: Path, outcome: Outcome, work: Path) -> Sequence[Finding]:
    findings = diagnose(signs_of(folder / outcome.source))
    _write(folder / FINDINGS, [each.as_dict() for each in findings])
    return findings


def _cured(
    found: Diagnosed, findings: Sequence[Finding], folder: Path, work: Path, models: Mapping[str, Path]
) -> Diagnosed:
    """The corrected run, trained anew where the remedy is not the one that was tried before."""
    case, cure = found.case, folder / "cure"
    remedy = [{"changes": [asdict(c) for c in each.changes], "commands": each.commands} for each in findings]
    plain: Any = json.loads(json.dumps(remedy, default=str))
    values = [[{k: v for k, v in c.items() if k != "reason"} for c in each["changes"]] for each in plain]
    tried = [values, [each["commands"] for each in plain]]
    if _read(cure / REMEDY) != tried or not (cure / RAN).is_file():
        shutil.rmtree(cure, ignore_errors=True)
        cure.mkdir()
        if case.program == "ours":
            resolved = resolve(RunFolder(folder / found.outcome.source).config)
            outcome = _kept(run_ours(case, _corrected(resolved, findings, cure), cure), cure)
        else:
            changes = {change.key: change.value for each in reversed(findings) for change in each.changes}
            changed = with_changes(case, changes)
            outcome = _kept(FOREIGN_PROGRAMS[case.program](changed, cure, models), cure)
        _write(cure / REMEDY, tried)
    outcome = Outcome(**_read(cure / RAN))
    after = _diagnosed(cure, outcome, work)
    return replace(found, cure=outcome, found_after=tuple(each.ailment for each in after))


def _corrected(resolved: Resolved, findings: Sequence[Finding], folder: Path) -> Resolved:
    """The corrected configuration, after the commands that the doctor names."""
    commands = [each for finding in findings for each in finding.commands]
    for stale in Path(resolved.config.data.path).parent.glob("*.clean.*"):
        stale.unlink()
    for command in filled(commands, data=resolved.config.data.path):
        # Each begins with `tunesmith`, our own program.
        words = [sys.executable, "-m", *shlex.split(command)]
        subprocess.run(words, cwd=folder, check=True, capture_output=True)
    fixed = corrected(resolved, findings)
    path = Path(fixed.config.data.path)
    if not path.is_absolute() and (folder / path).is_file():
        changed = fixed.config.data.model_copy(update={"path": str(folder / path)})
        fixed = Resolved(fixed.config.model_copy(update={"data": changed}), fixed.origins)
    return fixed


def _read(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8")) if path.is_file() else None


def _write(path: Path, value: Any) -> None:
    """Whole or not at all."""
    staging = path.with_name(f".{path.name}.partial")
    staging.write_text(json.dumps(value, indent=1, default=str) + "\n", encoding="utf-8")
    os.replace(staging, path)
