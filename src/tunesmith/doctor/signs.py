"""What is known of a training run, ours or another program's, in one shape that every rule reads.

Nothing here judges. `read_run.py` and `read_foreign.py` make signs from files, `live.py` from a run that
goes on.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Curve:
    """One figure over optimizer steps.

    Attributes:
        steps: shape (N,), not falling.
        values: shape (N,); may hold NaN and infinity where a program logged them.
    """

    steps: Array
    values: Array

    def __len__(self) -> int:
        return len(self.steps)

    @property
    def finite(self) -> "Curve":
        """The points with a finite value."""
        kept = np.isfinite(self.values)
        return Curve(self.steps[kept], self.values[kept])


NO_CURVE = Curve(np.empty(0), np.empty(0))


@dataclass(frozen=True, slots=True)
class Signs:
    """A run as far as it is known; whatever a source does not tell is empty or None.

    Attributes:
        name: of the run folder or file, for people.
        kind: `run` (ours), `trainer_state` (a Hugging Face Trainer's) or `csv`.
        curves: by name: `loss` and `eval_loss` (nats a token), `learning_rate`, `grad_norm`,
            `tokens_per_second`, `input_share` (share of a step's seconds spent waiting for input, 0 to 1).
        settings: known settings by our configuration key, such as `training.learning_rate`; the same key
            holds what another program calls by the same Hugging Face name.
        total_steps: optimizer steps that were planned.
        steps_per_epoch: steps in one pass over the training rows.
        status: `running`, `succeeded`, `failed` or `interrupted`, as the manifest says.
        why: what ended a run that did not succeed, in its own words.
        halvings: (step, rows at once from there on) of each time that memory was short.
        data: the manifest's account of the data (`data.prepare.Prepared.account`).
        facts: the rest of the manifest.
        evaluation: evaluation.json: base and tuned on held-out rows.
        elsewhere: elsewhere.json.
        samples: lines of samples.jsonl: prompt, references, base and tuned answer.
    """

    name: str
    kind: Literal["run", "trainer_state", "csv"]
    curves: Mapping[str, Curve]
    settings: Mapping[str, Any] = field(default_factory=dict)
    total_steps: int | None = None
    steps_per_epoch: float | None = None
    status: str = ""
    why: str = ""
    halvings: tuple[tuple[int, int], ...] = ()
    data: Mapping[str, Any] = field(default_factory=dict)
    facts: Mapping[str, Any] = field(default_factory=dict)
    evaluation: Mapping[str, Any] = field(default_factory=dict)
    elsewhere: Mapping[str, Any] = field(default_factory=dict)
    samples: Sequence[Mapping[str, Any]] = ()

    def curve(self, name: str) -> Curve:
        """One curve, empty where it was not logged."""
        return self.curves.get(name, NO_CURVE)

    @property
    def loss(self) -> Curve:
        """Training loss of each logged step, nats a token."""
        return self.curve("loss")

    @property
    def validation(self) -> Curve:
        """Validation loss, nats a token; the one at step 0, where there is one, is the base model's."""
        return self.curve("eval_loss")

    @property
    def is_over(self) -> bool:
        """Whether nothing more will come."""
        return self.status != "running"

    @property
    def last_step(self) -> float:
        """The last step of which anything is known; 0 before the first."""
        return max((float(curve.steps[-1]) for curve in self.curves.values() if len(curve)), default=0.0)

    def setting(self, key: str, default: Any = None) -> Any:
        """A setting by our configuration key, or `default` where it is not known."""
        found = self.settings.get(key)
        return default if found is None else found

    def epoch_of(self, step: float) -> float | None:
        """How many passes over the rows that many steps are."""
        return step / self.steps_per_epoch if self.steps_per_epoch else None
