"""A small survey for tests of people's votes: items, a survey and an open file of votes."""

from pathlib import Path

from tunesmith.evaluation.outputs import Item
from tunesmith.people.sessions import Act, Kind, Survey, Task, tasks_of
from tunesmith.people.store import Binding, VoteStore, open_store

# Odd enough that finding them anywhere means they leaked.
SYSTEMS = ("sys-zebra-7", "sys-quokka-9")


def make_items(count: int) -> dict[str, Item]:
    """Items whose answers do not name their systems; every second one is of slice `even`."""
    return {
        f"item{number:04d}": Item(
            id=f"item{number:04d}",
            place=f"rows.jsonl:{number + 1}",
            prompt=f"Question {number}?",
            references=(f"Right {number}.",) if number % 3 else (),
            answers={SYSTEMS[0]: f"One says {number}.", SYSTEMS[1]: f"Another says {number}!"},
            slices={"parity": "odd" if number % 2 else "even"},
        )
        for number in range(count)
    }


def make_survey(kind: Kind = "ab", count: int = 6, seed: int = 17) -> Survey:
    return Survey(kind, "Which one?", "Be fair.", seed, SYSTEMS, make_items(count))


def open_votes(path: Path, survey: Survey) -> VoteStore:
    return open_store(path, Binding(survey.kind, survey.systems, survey.items, survey.seed))


def task_for(survey: Survey, rater: str, item: str, system: str = "") -> Task:
    return next(
        task for task in tasks_of(survey, rater).values() if (task.item.id, task.system) == (item, system)
    )


def preference(survey: Survey, rater: str, item: str, wanted: str, act_id: str) -> Act:
    """A vote for a system by name, or `tie` or `skip`, as the page would send it."""
    left, right = task_for(survey, rater, item).systems
    choice = {left: "left", right: "right"}.get(wanted, wanted)
    return Act(act_id, "", rater, "answer", item, "", {"choice": choice, "left": left, "right": right})


def rating(rater: str, item: str, system: str, scores: dict[str, int] | None, act_id: str) -> Act:
    return Act(act_id, "", rater, "answer", item, system, {"scores": scores})
