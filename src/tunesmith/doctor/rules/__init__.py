"""The ailments, one file each. A rule is a module with `TITLE`, `IS_LIVE` and `examine(signs)`.

`IS_LIVE` says whether it may speak while the run goes on. Adding an ailment is a file and a line here.
"""

from types import MappingProxyType, ModuleType

from tunesmith.doctor.rules import (
    label_leak,
    loss_not_decreasing,
    loss_unstable,
    memorised_duplicates,
    non_finite,
    out_of_memory,
    overfitting,
    repetitive_output,
    schedule_ends_early,
    slow_input,
    template_mismatch,
    worse_than_before,
)

RULES: MappingProxyType[str, ModuleType] = MappingProxyType(
    {
        "loss_not_decreasing": loss_not_decreasing,
        "loss_unstable": loss_unstable,
        "overfitting": overfitting,
        "out_of_memory": out_of_memory,
        "repetitive_output": repetitive_output,
        "worse_than_before": worse_than_before,
        "non_finite": non_finite,
        "template_mismatch": template_mismatch,
        "memorised_duplicates": memorised_duplicates,
        "label_leak": label_leak,
        "schedule_ends_early": schedule_ends_early,
        "slow_input": slow_input,
    }
)
