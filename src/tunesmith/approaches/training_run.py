"""The fine-tuned model of a comparison: trained for it, or a finished run that fits."""

from pathlib import Path

from tunesmith.approaches.asking import Asking
from tunesmith.approaches.child_run import finished_run
from tunesmith.data.prepare import Prepared
from tunesmith.errors import RunFolderError
from tunesmith.identity import drifts, identity_of
from tunesmith.progress import Progress
from tunesmith.resolve import Resolved
from tunesmith.runs import RunFolder, open_run

RUN = "run"
# What decides which rows were learned and which held out, and how the model is asked.
_DECIDING = ("template.sha256", "model.fingerprint", "training.seed")


def trained_run(resolved: Resolved, folder: Path, progress: Progress) -> RunFolder:
    """The run in `folder`/run: kept where it is finished, resumed where it was begun, else trained.

    The run itself answers nothing: the comparison asks base and tuned on the same held-out inputs.

    Raises:
        RunFolderError: if the folder holds a run of other settings.
        RunFailed: if training failed.
        Interrupted: if it was stopped; repeated, the same call goes on.
    """
    config = resolved.config
    silent = config.evaluation.model_copy(update={"generate_rows": 0})
    wanted = Resolved(config.model_copy(update={"evaluation": silent}), resolved.origins)
    progress.say(f"the fine-tuned model is trained in `{folder / RUN}`")
    # How many rows are asked and in which batches changes nothing in what is learned.
    return finished_run(folder / RUN, wanted, progress=progress, ignored="evaluation")


def given_run(path: Path, asking: Asking, data: Prepared) -> RunFolder:
    """A finished run that learned and held out the same rows as this comparison.

    Raises:
        RunFolderError: if it is not finished, or lists what was otherwise.
    """
    run = open_run(path)
    manifest = run.manifest
    if manifest.get("status") != "succeeded":
        raise RunFolderError(
            f"run `{path}` is {manifest.get('status', 'without a status')}, so there is no model to compare",
            hint=f"go on with `tunesmith train --resume {path}`",
        )
    config = asking.config
    now = identity_of(
        config,
        data=data,
        template=asking.renderer.template,
        source=asking.source,
        hardware=asking.hardware,
    )
    found = [
        drift
        for drift in drifts(manifest.get("identity", {}), now, data=data, config=config)
        if (drift.field.startswith("data.") and drift.field != "data.score") or drift.field in _DECIDING
    ]
    if found:
        listed = "\n".join(f"  {drift}" for drift in found)
        raise RunFolderError(
            f"run `{path}` did not hold out the rows of this comparison, so its scores would say little:\n"
            f"{listed}",
            hint=f"compare with its own configuration: `tunesmith compare --run {path}`",
        )
    return run
