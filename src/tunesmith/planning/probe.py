"""Measure instead of plan: the largest micro-batch, once, with the real weights, in a process of its own."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass, replace
from typing import Any

from tunesmith.errors import RunFailed
from tunesmith.planning.rehearse import Setup
from tunesmith.planning.terms import Memory

SHOWN_CHARACTERS = 600


@dataclass(frozen=True, slots=True)
class Probe:
    """What was measured.

    Attributes:
        peak_bytes: most memory of the process; on CUDA, of tensors on the device.
        seconds_per_micro_batch: forward and backward, of the faster of two.
    """

    peak_bytes: int
    seconds_per_micro_batch: float


def probe(setup: Setup, *, model_name: str, revision: str | None) -> Probe:
    """Load the real model in a child process, prepare it, and compute the micro-batch twice, with one step.

    The second micro-batch meets gradients and optimizer states, as in the middle of a run.

    Raises:
        RunFailed: if the process died or failed; says what the plan was, and the process's last words.
    """
    asked = json.dumps({**plain_values(setup), "model_name": model_name, "revision": revision})
    child = subprocess.run(
        # -P: a Python file that lies beside the data is not imported.
        [sys.executable, "-P", "-m", "tunesmith.planning.probe_child"],
        input=asked,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, "TOKENIZERS_PARALLELISM": "false"},
    )
    if child.returncode == 0:
        return Probe(**json.loads(child.stdout.splitlines()[-1]))
    words = child.stderr.strip()[-SHOWN_CHARACTERS:] or "it said nothing"
    batch = f"{setup.rows} rows x {setup.length_tokens} tokens"
    end = f"was ended by signal {-child.returncode}" if child.returncode < 0 else "failed"
    raise RunFailed(
        f"the probe of {batch} with `{setup.method.name}` {end}: {words}",
        hint="if memory ran out (signal 9 says so), take what `tunesmith plan --fit` proposes",
    )


def corrected(memory: Memory, probed: Probe) -> Memory:
    """The plan with what was measured: the difference goes into the workspace, which may fall below 0."""
    difference = probed.peak_bytes - max(memory.training_peak_bytes, memory.loading_bytes)
    grown = memory.workspace_bytes + max(0, memory.loading_bytes - memory.training_peak_bytes) + difference
    return replace(memory, workspace_bytes=grown, loading_bytes=min(memory.loading_bytes, probed.peak_bytes))


def plain_values(setup: Setup) -> dict[str, Any]:
    """All of a setup but the model's shape, which the child reads with the weights."""
    fields = {name: getattr(setup, name) for name in Setup.__dataclass_fields__ if name != "config"}
    return {**fields, "method": setup.method.model_dump()}
