"""The tasks by name: ready ones, and those that a YAML file describes."""

from collections.abc import Iterator
from pathlib import Path

from tunesmith.data.generate import arithmetic, dates, sql, style
from tunesmith.data.generate.described import read_task
from tunesmith.data.generate.draw import Example, Task
from tunesmith.data.records import listed, nearest
from tunesmith.data.tickets import generate_tickets
from tunesmith.errors import DataError

YAML_SUFFIXES = (".yaml", ".yml")


def _tickets(seed: int, count: int) -> Iterator[Example]:
    return iter(generate_tickets(seed=seed, train_rows=count, test_rows=0)[0])


TASKS = {
    task.name: task
    for task in (
        Task("tickets", "A customer's message, and the JSON ticket that it should become.", _tickets),
        Task("dates", dates.WHAT, dates.rows),
        Task("sql", sql.WHAT, sql.rows),
        Task("arithmetic", arithmetic.WHAT, arithmetic.rows),
        Task("style", style.WHAT, style.rows),
    )
}


def find_task(name: str) -> Task:
    """The ready task of this name, or the one that the YAML file describes.

    Raises:
        DataError: for a name that is neither.
        ConfigError: for a YAML file with problems; lists all of them.
    """
    if name in TASKS:
        return TASKS[name]
    if Path(name).suffix.lower() in YAML_SUFFIXES:
        return read_task(Path(name))
    close = nearest(name, TASKS)
    raise DataError(
        f"`{name}` is neither a ready task nor a YAML file",
        hint=f"did you mean `{close}`?"
        if close
        else f"the tasks are {listed(TASKS)}; or name a `.yaml` file",
    )
