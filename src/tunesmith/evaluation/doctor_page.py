"""The page of a diagnosis: the curves with the stretches of evidence marked, and each finding in words.

Self-contained and without scripts, as the report is. Read next: `templates/doctor.html.j2`.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from tunesmith.evaluation.curves import draw_curves
from tunesmith.evaluation.findings import marks_of, verdict_line, view_findings
from tunesmith.evaluation.report import page_template


def render_diagnosis(
    name: str,
    *,
    facts: Sequence[tuple[str, str]],
    findings: Sequence[Mapping[str, Any]],
    checks: int,
    metrics: Sequence[Mapping[str, Any]],
    settings: Mapping[str, Any],
    fix: str,
) -> str:
    """The whole page as HTML text; equal for equal arguments.

    Args:
        name: of the run folder or the log.
        facts: name and value of what is known of the run.
        findings: as dicts, the surest first.
        checks: number of ailments that were looked for.
        metrics: lines with `step` and figures, as metrics.jsonl has them.
        settings: known settings by configuration key.
        fix: what the corrected configuration changes, as a diff; empty where no setting helps.
    """
    curves = draw_curves(metrics, marks_of(findings))
    return page_template("doctor.html.j2").render(
        name=name,
        facts=facts,
        verdict=verdict_line(findings, checks=checks),
        findings=view_findings(findings, settings),
        wide_curves=[curve for curve in curves if curve.title == "Loss"],
        small_curves=[curve for curve in curves if curve.title != "Loss"],
        fix=fix,
    )
