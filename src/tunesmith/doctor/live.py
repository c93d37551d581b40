"""The doctor beside a running training: hears every line, speaks once of each ailment, stops nothing."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

from tunesmith.doctor.diagnose import diagnose
from tunesmith.doctor.finding import Finding
from tunesmith.doctor.lines import Curves, number
from tunesmith.doctor.read_run import read_run
from tunesmith.doctor.signs import Signs
from tunesmith.errors import RunFailed
from tunesmith.runs import RunFolder

EVERY_LINE_UP_TO = 200
# From there on a look each time the log has grown by this share, so that all looks together cost little.
LATER_SHARE = 0.01


class Watch:
    """A run as its lines come; asks the rules that may speak while it goes on.

    Args:
        settings: by configuration key.
        facts: the manifest as it is at the start, with the account of the data under `data`.
        total_steps: optimizer steps that are planned.
        steps_per_epoch: of one pass over the training rows.
    """

    def __init__(
        self,
        settings: Mapping[str, Any],
        facts: Mapping[str, Any],
        total_steps: int | None,
        steps_per_epoch: float | None,
    ) -> None:
        data = facts.get("data", {})
        self._known = Signs(
            name="",
            kind="run",
            curves={},
            settings=dict(settings),
            total_steps=total_steps,
            steps_per_epoch=steps_per_epoch,
            status="running",
            data=data,
            facts={name: value for name, value in facts.items() if name != "data"},
        )
        self._curves = Curves()
        self._halvings: tuple[tuple[int, int], ...] = ()
        self._lines = 0
        self._next_look = 1
        self._told: set[str] = set()

    def recall(self, line: Mapping[str, Any]) -> None:
        """Take a line without looking: one that a run that goes on wrote before."""
        self._lines += 1
        self._curves.add(line)
        step, rows = number(line.get("step")), number(line.get("micro_batch_rows"))
        if step is not None and rows is not None:
            self._halvings = (*self._halvings, (int(step), int(rows)))

    def look(self, line: Mapping[str, Any]) -> tuple[Finding, ...]:
        """Take a line; what is found now and was not told before, the surest first."""
        self.recall(line)
        if self._lines < self._next_look:
            return ()
        self._next_look = self._lines + 1
        if self._lines >= EVERY_LINE_UP_TO:
            self._next_look = self._lines + max(1, int(self._lines * LATER_SHARE))
        signs = replace(self._known, curves=self._curves.as_curves(), halvings=self._halvings)
        found = tuple(each for each in diagnose(signs) if each.ailment not in self._told)
        self._told |= {each.ailment for each in found}
        return found


class Bedside:
    """Who speaks to the user about one run, and what was said already.

    Args:
        run: its folder.
        say: tells the user.
    """

    def __init__(self, run: RunFolder, say: Callable[[str], None]) -> None:
        self._run, self._say = run, say
        self._said: set[str] = set()

    def watching(self, watch: Watch, record: Callable[..., None]) -> Callable[..., None]:
        """`record`, which also tells what the watch finds; a watch that fails says so and is not asked again.

        Args:
            watch: that has seen no line yet; it is told those the run wrote before it went on.
            record: takes each line into metrics.jsonl of the run.
        """
        state = {"has_begun": False, "is_awake": True}

        def recording(**line: Any) -> None:
            record(**line)
            if not state["is_awake"]:
                return
            try:
                if not state["has_begun"]:
                    for earlier in self._run.metrics[:-1]:
                        watch.recall(earlier)
                    state["has_begun"] = True
                self.tell([found.as_dict() for found in watch.look(line)])
            # Whatever goes wrong in a diagnosis, the training is worth more.
            except Exception as error:
                state["is_awake"] = False
                self._say(f"doctor: stopped watching: {_named(error)}")

        return recording

    def tell(self, findings: Iterable[Mapping[str, Any]]) -> None:
        """Say each finding in a line, but none of an ailment that was told before."""
        for found in findings:
            if found["ailment"] not in self._said:
                first = str(found["evidence"][0]["text"]).rstrip(".")
                self._say(f"doctor: {found['title']}: {first}; {found['remedy']}")
            self._said.add(found["ailment"])

    def conclude(self, record: Mapping[str, Any]) -> None:
        """Say what the manifest holds at the end of the run, and where there is more of it."""
        self.tell(record.get("findings") or ())
        if record.get("findings"):
            self._say(
                f"doctor: `tunesmith doctor {self._run.path}` shows evidence and a corrected configuration"
            )
        if trouble := record.get("findings_trouble"):
            self._say(f"doctor: could not look at this run: {trouble}")


@contextmanager
def at_bedside(run: RunFolder, say: Callable[[str], None]) -> Iterator[Bedside]:
    """Inside, a run is watched; at its end what was found is said, and for one that fails put on record."""
    bedside = Bedside(run, say)
    try:
        yield bedside
    except RunFailed:
        if run.is_writer:
            found = examined(run, {})
            run.update_manifest(**found)
            bedside.conclude(found)
        raise
    if run.is_writer:
        bedside.conclude(run.manifest)


def examined(run: RunFolder, outcome: Mapping[str, Any]) -> dict[str, Any]:
    """Entries of the manifest about the findings of a run that is ending.

    Args:
        run: its folder, with everything but the end on record.
        outcome: what the manifest will say of the end.

    Returns:
        `findings`, None where the diagnosis itself failed, which must not cost a run; and `findings_trouble`,
        what made it fail, or None.
    """
    try:
        found = diagnose(read_run(run, outcome=outcome))
    except Exception as error:
        return {"findings": None, "findings_trouble": _named(error)}
    return {"findings": [each.as_dict() for each in found], "findings_trouble": None}


def _named(error: Exception) -> str:
    return f"{type(error).__name__}: {error}"
