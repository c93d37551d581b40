"""What a run can prove, and its files in the run folder: scores, samples, elsewhere, report, model card."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from tunesmith.evaluation.card import render_card
from tunesmith.evaluation.elsewhere import Elsewhere
from tunesmith.evaluation.measure import Proof
from tunesmith.evaluation.report import RunFacts, render_report
from tunesmith.evaluation.scores import Evaluation
from tunesmith.resolve import Resolved
from tunesmith.runs import RunFolder

# The identity repeats in hashes what the report says in words; findings have a part of their own.
_ELSEWHERE_IN_REPORT = ("identity", "findings", "findings_trouble")


@dataclass(frozen=True, slots=True)
class Evidence:
    """What was measured when training had ended; nothing where no rows were held out.

    Attributes:
        proof: base and tuned on the held-out rows, with the answers.
        elsewhere: base and tuned beside the task.
    """

    proof: Proof | None = None
    elsewhere: Elsewhere | None = None

    @property
    def evaluation(self) -> Evaluation | None:
        """The scores on the held-out rows."""
        return self.proof.evaluation if self.proof else None


def write_measured(run: RunFolder, found: Evidence) -> None:
    """Write what was measured into the run's folder, each file whole.

    Raises:
        RunFolderError: if the disk refuses.
    """
    proof, elsewhere = found.proof, found.elsewhere
    if proof is not None:
        run.write_json("evaluation.json", proof.evaluation.as_dict())
        run.write_lines("samples.jsonl", map(asdict, proof.samples))
    if elsewhere is not None:
        run.write_json("elsewhere.json", elsewhere.as_dict())


def write_pages(
    run: RunFolder,
    resolved: Resolved,
    found: Evidence,
    *,
    outcome: Mapping[str, Any],
    source_is_local: bool,
) -> None:
    """Write report and model card of a run into its folder, each file whole.

    Args:
        run: its folder, with manifest and metrics.
        resolved: configuration with the origin of each value.
        found: what was measured.
        outcome: what the manifest will say of the end, findings among it.
        source_is_local: whether the base model was read from a folder or file.

    Raises:
        RunFolderError: if the disk refuses.
    """
    known = {**run.manifest, **outcome}
    proof = found.proof
    facts = RunFacts(
        title=run.path.name,
        base_model=resolved.config.model.name,
        base_is_local=source_is_local,
        method=resolved.config.method.name,
        evaluation=found.evaluation,
        elsewhere=found.elsewhere,
        samples=proof.samples if proof else (),
        metrics=run.metrics,
        config=resolved.rows(),
        manifest={name: value for name, value in known.items() if name not in _ELSEWHERE_IN_REPORT},
        findings=known.get("findings"),
    )
    run.write_text("report.html", render_report(facts))
    run.write_text(f"{run.result.name}/README.md", render_card(facts))
