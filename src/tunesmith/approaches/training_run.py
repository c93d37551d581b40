"""The fine-tuned model of a comparison: trained in a process of its own, or a finished run that fits.

A process of its own gives all its memory back, and its peak is its own.
"""

import subprocess
import sys
from pathlib import Path

from tunesmith.approaches.asking import Asking
from tunesmith.config import RunConfig
from tunesmith.data.prepare import Prepared
from tunesmith.errors import Interrupted, RunFailed, RunFolderError
from tunesmith.identity import drifts, identity_of
from tunesmith.progress import Progress
from tunesmith.resolve import Resolved, resolve
from tunesmith.runs import RunFolder, is_run_folder, open_run
from tunesmith.training.stop import Signalled, heeded_signals

RUN = "run"
# What decides which rows were learned and which held out, and how the model is asked.
_DECIDING = ("template.sha256", "model.fingerprint", "training.seed")
_EXIT_INTERRUPTED = (130, 143)


def trained_run(resolved: Resolved, folder: Path, progress: Progress) -> RunFolder:
    """The run in `folder`/run: kept where it is finished, resumed where it was begun, else trained.

    The run itself answers nothing: the comparison asks base and tuned on the same held-out inputs.

    Raises:
        RunFolderError: if the folder holds a run of other settings.
        RunFailed: if training failed.
        Interrupted: if it was stopped; repeated, the same call goes on.
    """
    path = folder / RUN
    config = resolved.config
    silent = config.evaluation.model_copy(update={"generate_rows": 0})
    wanted = Resolved(config.model_copy(update={"evaluation": silent}), resolved.origins).to_repeat()
    if is_run_folder(path):
        _check_same_settings(path, wanted.config)
        run = open_run(path)
        if run.manifest.get("status") == "succeeded":
            progress.say(f"fine-tuned model: `{path}` was finished before, kept")
            return run
        arguments = ["--resume", str(path)]
    else:
        settings = RunFolder(folder).write_text(f"{RUN}.yaml", wanted.as_yaml())
        arguments = [str(settings), "--output-dir", str(path)]
    progress.say(f"training the fine-tuned model in `{path}`")
    code = _tunesmith("train", *arguments, "--json")
    if code in _EXIT_INTERRUPTED:
        raise Interrupted(
            f"training was stopped; its state is in `{path}`",
            hint=f"repeat the command with `--output-dir {folder}` to go on",
        )
    if code:
        raise RunFailed(
            f"training the fine-tuned model failed (exit code {code}); what it said stands above",
            hint=f"mend it and repeat the command with `--output-dir {folder}`",
        )
    return open_run(path)


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


def _check_same_settings(path: Path, wanted: RunConfig) -> None:
    """A run of other settings must not slip into the comparison."""
    before, now = (
        {key: value for key, value, _ in Resolved(config, {}).to_repeat().rows() if key != "output_dir"}
        for config in (resolve(open_run(path).config).config, wanted)
    )
    # How many rows are asked and in which batches changes nothing in what is learned.
    changed = sorted(key for key in now if before.get(key) != now[key] and not key.startswith("evaluation."))
    if changed:
        raise RunFolderError(
            f"`{path}` was trained with another {', '.join(changed)}",
            hint="choose another folder with `--output-dir`, or give the settings it was started with",
        )


def _tunesmith(*arguments: str) -> int:
    """Our own command line in a new process; what it says reaches people, and each signal reaches it."""
    command = (sys.executable, "-m", "tunesmith", *arguments)
    # A group of its own, or the terminal and we would both tell it of one Ctrl-C.
    group = 0 if sys.platform != "win32" else None
    with heeded_signals():
        process = subprocess.Popen(command, stdout=subprocess.DEVNULL, process_group=group)  # noqa: S603 (own program)
        try:
            while True:
                try:
                    return process.wait()
                except Signalled as stop:
                    process.send_signal(stop.number)
        finally:
            if process.poll() is None:
                process.terminate()
                process.wait()
