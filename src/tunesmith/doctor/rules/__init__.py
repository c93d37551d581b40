"""The ailments, one file each. A rule is a module with `TITLE`, `IS_LIVE` and `examine(signs)`.

`IS_LIVE` says whether it may speak while the run goes on. Adding an ailment is a file and a line here.
"""

from types import MappingProxyType, ModuleType

from tunesmith.doctor.rules import (
    loss_not_decreasing,
    loss_unstable,
    non_finite,
    overfitting,
    schedule_ends_early,
    slow_input,
)

RULES: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "loss_not_decreasing": loss_not_decreasing,
        "loss_unstable": loss_unstable,
        "overfitting": overfitting,
        "non_finite": non_finite,
        "schedule_ends_early": schedule_ends_early,
        "slow_input": slow_input,
    }
)
