"""Out of memory: fewer rows at once than were asked for, or none at all.

The loop halves its rows at once when memory is short, and says so; a run that could not even do one row fails
with the allocator's words. The system's own killer leaves no words, so that case needs the plan as a witness.
"""

from tunesmith.doctor.finding import Change, Evidence, Finding
from tunesmith.doctor.signs import Signs
from tunesmith.runs import NO_WORD

TITLE = "Out of memory"
IS_LIVE = True

ROWS, ACCUMULATION = "training.per_device_train_batch_size", "training.gradient_accumulation_steps"
CHECKPOINTING = "training.gradient_checkpointing"
# How allocators of all devices say it, and how our loop does; without case.
MEMORY_WORDS = (
    *("out of memory", "outofmemory", "memoryerror", "fit into memory", "allocate memory"),
    *("not enough memory", "cublas_status_alloc_failed"),
)
# Methods that need less memory than another one for the same model.
LEANER = {"full": "lora", "lora": "qlora"}
SURE, KILLED = 0.95, 0.5


def examine(signs: Signs) -> Finding | None:
    """Memory was short in this run, or was very likely what the system killed it for."""
    is_told = signs.status == "failed" and any(word in signs.why.lower() for word in MEMORY_WORDS)
    evidence = [*_halvings(signs), *([Evidence(f"the run ended with: {signs.why}")] if is_told else ())]
    killed = None if evidence else _killed(signs)
    if killed:
        evidence = [killed]
    if not evidence:
        return None
    has_failed = is_told or killed is not None
    return Finding(
        ailment="out_of_memory",
        title=TITLE,
        cause="the rows that go through the model at once need more memory than there is",
        evidence=tuple(evidence),
        remedy="Take fewer rows at once and accumulate more of them, which trains the same. Shorter rows "
        "help more than anything else; `tunesmith plan --fit` proposes what fits.",
        confidence=KILLED if killed else SURE,
        changes=_changes(signs, has_failed=has_failed),
    )


def _halvings(signs: Signs) -> list[Evidence]:
    """Each time that memory was short, with the rows before and after."""
    before = signs.setting(ROWS)
    found = []
    for step, rows in signs.halvings:
        instead = f" instead of {before}" if before else ""
        text = f"memory was short in step {step}: from there on {rows} rows at once{instead}"
        found.append(Evidence(text, first_step=step, last_step=step))
        before = rows
    return found


def _killed(signs: Signs) -> Evidence | None:
    """A run that ended without a word, though its plan did not fit."""
    plan = signs.facts.get("plan", {})
    expected, free = plan.get("expected_bytes", 0), plan.get("free_bytes", 0)
    # Python and its libraries were there already when the free memory was read.
    needed = expected - plan.get("runtime_bytes", 0)
    if signs.status != "interrupted" or signs.why != NO_WORD or needed <= free:
        return None
    return Evidence(
        f"{NO_WORD}, and its plan needed {needed / 1e9:.2f} GB more where {free / 1e9:.2f} GB were free"
    )


def _changes(signs: Signs, *, has_failed: bool) -> tuple[Change, ...]:
    """Rows at once down to what fitted; where the run failed, half of what failed and less to keep."""
    asked = int(signs.setting(ROWS, 1))
    window = asked * int(signs.setting(ACCUMULATION, 1))
    fitted = signs.halvings[-1][1] if signs.halvings else asked
    at_once = max(1, fitted // 2) if has_failed else fitted
    rows = next(count for count in range(min(at_once, window), 0, -1) if window % count == 0)
    changes = []
    if rows < asked:
        changes = [
            Change(ROWS, rows, f"{asked} at once did not fit"),
            Change(ACCUMULATION, window // rows, f"the step stays at {window} rows"),
        ]
    is_checkpointed = "always" in (signs.setting(CHECKPOINTING), _planned_checkpointing(signs))
    if not is_checkpointed and (has_failed or rows == asked):
        changes.append(Change(CHECKPOINTING, "always", "activations are computed again instead of kept"))
    leaner = LEANER.get(str(signs.setting("method.name")))
    if not changes and leaner:
        changes.append(Change("method.name", leaner, "nothing else is left that needs less memory"))
    return tuple(changes)


def _planned_checkpointing(signs: Signs) -> str:
    return str(signs.facts.get("plan", {}).get("gradient_checkpointing", ""))
