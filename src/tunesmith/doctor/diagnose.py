"""All rules asked, the surest finding first."""

from tunesmith.doctor.finding import Finding
from tunesmith.doctor.rules import RULES
from tunesmith.doctor.signs import Signs


def diagnose(signs: Signs) -> tuple[Finding, ...]:
    """What ails a run, the surest first; while it goes on, only what can be told already."""
    found = [rule.examine(signs) for rule in RULES.values() if signs.is_over or rule.IS_LIVE]
    return tuple(sorted((each for each in found if each), key=lambda each: -each.confidence))
