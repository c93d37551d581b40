"""`tunesmith doctor`: what went wrong in a training run, what speaks for it, and what to do."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

from cyclopts import Parameter

from tunesmith.cli.loss_plot import loss_plot
from tunesmith.cli.terminal import messages, output, print_json
from tunesmith.cli.train import Json
from tunesmith.data.whole_file import refuse_taken, whole_file
from tunesmith.evaluation.findings import (
    PICTURED,
    FindingView,
    marks_of,
    shown,
    verdict_line,
    view_findings,
)
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import is_run_folder, open_run

if TYPE_CHECKING:
    from tunesmith.doctor.finding import Finding
    from tunesmith.doctor.fix import Correction
    from tunesmith.doctor.signs import Signs


@dataclass(frozen=True, slots=True)
class Examined:
    """One run, looked at.

    Attributes:
        signs: what is known of it.
        findings: the surest first.
        checks: number of ailments that were looked for.
        before: its configuration; for a foreign log only what the log tells.
        fix: the corrected configuration.
    """

    signs: "Signs"
    findings: tuple["Finding", ...]
    checks: int
    before: Resolved
    fix: "Correction"

    @property
    def is_ours(self) -> bool:
        """Whether its whole configuration is known."""
        return self.signs.kind == "run"

    @property
    def dicts(self) -> list[dict[str, Any]]:
        """The findings as plain data, the data file's name in their commands where it is known."""
        from tunesmith.doctor.fix import filled

        data = self.known.get("data.path")
        return [
            found.as_dict()
            | {"commands": list(filled(found.commands, data=str(data)) if data else found.commands)}
            for found in self.findings
        ]

    @property
    def known(self) -> dict[str, Any]:
        """Values before the changes, where they are known."""
        return {key: value for key, value, origin in self.before.rows() if origin != "unknown"}


def doctor(
    path: Annotated[
        Path, Parameter(help="Run folder, `trainer_state.json` or a folder with one, or CSV of losses.")
    ],
    /,
    *,
    fix: Annotated[
        Path | None, Parameter(help="Write the corrected configuration to this new YAML file.")
    ] = None,
    html: Annotated[
        Path | None, Parameter(help="Write curves and findings as a page to this new file too.")
    ] = None,
    json: Json = False,
) -> None:
    """Find out what went wrong in a training run, show the evidence, and write a corrected configuration.

    It reads runs of `tunesmith train`, finished, failed or going on, and logs of a Hugging Face Trainer or of
    any program that writes a CSV. Nothing is loaded or trained.

    Examples:
        tunesmith doctor runs/rows-20260102-030405

        tunesmith doctor runs/rows-20260102-030405 --fix fixed.yaml

        tunesmith doctor output/checkpoint-500/trainer_state.json --html doctor.html

        tunesmith doctor losses.csv --json
    """
    for new in (fix, html):
        if new is not None:
            refuse_taken(new)
    seen = _examine(path)
    is_written = fix is not None and bool(seen.fix.changes)
    if fix is not None and is_written:
        _write(fix, _fix_yaml(seen, fix))
    if html is not None:
        _write(html, _page(seen))
    if json:
        print_json(_as_json(seen, file=fix if is_written else None))
        return
    _show(seen)
    if fix is not None:
        _show_fix(seen, fix)
    if html is not None:
        output.print(f"\npage: {html}", markup=False)


def _examine(path: Path) -> Examined:
    from tunesmith.doctor.diagnose import diagnose
    from tunesmith.doctor.fix import correction, known_settings
    from tunesmith.doctor.read_foreign import read_foreign
    from tunesmith.doctor.read_run import read_run
    from tunesmith.doctor.rules import RULES

    if is_run_folder(path):
        run = open_run(path)
        signs, before = read_run(run), resolve(run.config)
    else:
        signs = read_foreign(path)
        before = known_settings(signs.settings)
    findings = diagnose(signs)
    checks = sum(signs.is_over or rule.IS_LIVE for rule in RULES.values())
    return Examined(signs, findings, checks, before, correction(before, findings))


def _fix_yaml(seen: Examined, file: Path) -> str:
    from tunesmith.doctor.fix import changed_yaml, whole_yaml

    if seen.is_ours:
        return whole_yaml(seen.fix.resolved, source=seen.signs.name, file=str(file))
    return changed_yaml(seen.fix.resolved, source=seen.signs.name)


def _diff(seen: Examined, new: str) -> str:
    from tunesmith.doctor.fix import diff_text

    if not seen.fix.changes:
        return ""
    if seen.is_ours:
        return diff_text(seen.before, seen.fix.resolved, old=f"{seen.signs.name}/config.yaml", new=new)
    return "".join(
        f"{key}: {shown(old, key in seen.known)} -> {shown(value)}  # {ailment}\n"
        for key, old, value, ailment in seen.fix.changes
    )


def _page(seen: Examined) -> str:
    from tunesmith.evaluation.doctor_page import render_diagnosis

    signs = seen.signs
    steps = f"{signs.last_step:g}" + (f" of {signs.total_steps:,}" if signs.total_steps else "")
    facts = [("Read as", _KINDS[signs.kind]), ("Steps", steps)]
    facts += [("Status", signs.status)] if signs.status else []
    return render_diagnosis(
        signs.name,
        facts=facts,
        findings=seen.dicts,
        checks=seen.checks,
        metrics=[
            {"step": float(step), name: float(value)}
            for name in PICTURED
            for step, value in zip(signs.curve(name).steps, signs.curve(name).values, strict=True)
        ],
        settings=seen.known,
        fix=_diff(seen, "corrected"),
    )


_KINDS = {
    "run": "a run of ours",
    "trainer_state": "the log of a Hugging Face Trainer",
    "csv": "a table of losses",
}


def _write(path: Path, text: str) -> None:
    with whole_file(path) as file:
        file.write(text.encode("utf-8", "replace"))


def _as_json(seen: Examined, *, file: Path | None) -> dict[str, Any]:
    changes = [
        {"key": key, "old": old, "new": new, "ailment": ailment}
        for key, old, new, ailment in seen.fix.changes
    ]
    left_out = [{"key": change.key, "value": change.value, "why": why} for change, why in seen.fix.left_out]
    return {
        "source": seen.signs.name,
        "kind": seen.signs.kind,
        "status": seen.signs.status or None,
        "checks": seen.checks,
        "findings": seen.dicts,
        "fix": {"file": str(file) if file else None, "changes": changes, "left_out": left_out}
        if changes
        else None,
    }


def _show(seen: Examined) -> None:
    dicts = seen.dicts
    output.print(verdict_line(dicts, checks=seen.checks), markup=False, style="bold")
    plot = loss_plot(seen.signs, marks_of(dicts), width=output.width)
    for line in [""] * bool(plot) + plot:
        output.print(line, markup=False)
    for number, view in enumerate(view_findings(dicts, seen.known), start=1):
        output.print()
        for line, style in _lines(number, view):
            output.print(line, markup=False, style=style)
    if seen.signs.status == "running":
        messages.print("\nThe run goes on; some checks wait for its end.", style="dim")


def _lines(number: int, view: FindingView) -> Iterator[tuple[str, str]]:
    """One finding as lines, each with its style."""
    yield f"{number}. {view.title} ({view.sureness})", "bold"
    yield f"   {view.cause}", ""
    for mark, text in view.evidence:
        yield f"   - {f'[{mark}] ' if mark else ''}{text}", ""
    yield f"   remedy: {view.remedy}", ""
    for key, old, new, reason in view.changes:
        yield f"   {key}: {old} -> {new}", "green"
        yield f"      {reason}", "dim"
    for command in view.commands:
        yield f"   run: {command}", ""


def _show_fix(seen: Examined, file: Path) -> None:
    output.print()
    if not seen.fix.changes:
        output.print(f"No setting to change, so {file} was not written.", markup=False)
        return
    output.print(_diff(seen, str(file)), markup=False, end="")
    for change, why in seen.fix.left_out:
        output.print(f"left out: {change.key} = {shown(change.value)}: {why}", markup=False, style="dim")
    output.print("\nnext:")
    for command in dict.fromkeys(command for found in seen.dicts for command in found["commands"]):
        output.print(f"  {command}", markup=False)
    if seen.is_ours:
        output.print(f"  tunesmith train {file}", markup=False)
    else:
        output.print(f"  add the model and the data to {file}, then: tunesmith train {file}", markup=False)
