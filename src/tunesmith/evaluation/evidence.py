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


def write_evidence(
    run: RunFolder,
    resolved: Resolved,
    found: Evidence,
    *,
    outcome: Mapping[str, Any],
    source_is_local: bool,
) -> None:
    """Write all that a run found into its folder, each file whole.

    Args:
        run: its folder, with manifest and metrics.
        resolved: configuration with the origin of each value.
        found: what was measured.
        outcome: what the manifest will say of the end.
        source_is_local: whether the base model was read from a folder or file.

    Raises:
        RunFolderError: if the disk refuses.
    """
    # The identity repeats in hashes what the report says in words.
    known = {name: value for name, value in run.manifest.items() if name != "identity"}
    proof, elsewhere = found.proof, found.elsewhere
    if proof is not None:
        run.write_json("evaluation.json", proof.evaluation.as_dict())
        run.write_lines("samples.jsonl", map(asdict, proof.samples))
    if elsewhere is not None:
        run.write_json("elsewhere.json", elsewhere.as_dict())
    facts = RunFacts(
        title=run.path.name,
        base_model=resolved.config.model.name,
        base_is_local=source_is_local,
        method=resolved.config.method.name,
        evaluation=found.evaluation,
        elsewhere=elsewhere,
        samples=proof.samples if proof else (),
        metrics=run.metrics,
        config=resolved.rows(),
        manifest=known | dict(outcome),
    )
    run.write_text("report.html", render_report(facts))
    run.write_text(f"{run.result.name}/README.md", render_card(facts))
