"""Questions in plain English about a small database, and the SQLite query that answers each.

A question is drawn as data first; its sentence and its query are then written from the same data.
"""

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from random import Random

from tunesmith.data.generate.draw import Example, distinct
from tunesmith.data.generate.sql_schemas import SCHEMAS, Column, Schema, Table, Value

WHAT = "A question about a small database and the SQLite query that answers it."
SYSTEM = "Write one SQLite query that answers the question. The tables are:\n{ddl}"

SHARE_JOINED = 0.5
SHARE_TWO_CONDITIONS = 0.45
MAX_TOP = 10
MAX_HAVING = 30
FUNCTIONS = {
    "AVG": ("average", "mean"),
    "MAX": ("highest", "maximum"),
    "MIN": ("lowest", "minimum"),
    "SUM": ("total", "overall"),
}
DATE_FUNCTIONS = {"MAX": ("latest", "most recent"), "MIN": ("earliest", "first")}
_RELATIVE = ("who ", "that ", "whose ")


@dataclass(frozen=True, slots=True)
class Condition:
    """A comparison of a column: `=`, `>` or `<` with one value, `between` with two, ends included."""

    column: Column
    operator: str
    values: tuple[Value, ...]


@dataclass(frozen=True, slots=True)
class Question:
    """What is asked.

    Attributes:
        kind: a key of `KINDS`.
        schema: the database.
        table: the table asked about.
        conditions: on its columns; all must hold.
        parent_conditions: on the row's parent; the table is then the child.
        column: what is sorted, aggregated, grouped or listed, if anything; no condition is on it.
        function: the aggregate, if there is one.
        number: the limit, or the count to exceed.
        is_descending: greatest first.
    """

    kind: str
    schema: Schema
    table: Table
    conditions: tuple[Condition, ...] = ()
    parent_conditions: tuple[Condition, ...] = ()
    column: Column | None = None
    function: str = ""
    number: int = 0
    is_descending: bool = False


def rows(seed: int, count: int) -> Iterator[Example]:
    """Rows with `system` (the schema), `prompt` (the question) and `completion` (one query).

    Args:
        seed: decides every row.
        count: number of rows, 0 or more.

    Raises:
        DataError: when there are no more different questions.
    """
    return distinct(draw, task="sql", seed=seed, count=count)


def draw(random: Random) -> Example:
    """One question with its query."""
    question = draw_question(random)
    return {
        "system": SYSTEM.format(ddl=question.schema.ddl()),
        "prompt": sentence(random, question),
        "completion": query(question),
    }


def draw_question(random: Random) -> Question:
    """One question of any kind about any table."""
    kind, schema = random.choice(tuple(KINDS)), random.choice(SCHEMAS)
    table = random.choice((schema.parent, schema.child))
    with_parent = table is schema.child and random.random() < SHARE_JOINED
    amount = (0 if with_parent else 1) + (random.random() < SHARE_TWO_CONDITIONS)
    column, function = _target(random, kind, table)
    return Question(
        kind=kind,
        schema=schema,
        table=table,
        conditions=_conditions(random, [c for c in table.columns if c is not column], amount),
        parent_conditions=_conditions(random, schema.parent.columns, 1) if with_parent else (),
        column=column,
        function=function,
        number=random.randint(2, MAX_HAVING if kind == "having" else MAX_TOP),
        is_descending=random.random() < 1 / 2,
    )


def _target(random: Random, kind: str, table: Table) -> tuple[Column | None, str]:
    """The column that the kind works on, and its aggregate."""
    if kind in ("count", "list"):
        return None, ""
    if kind in ("group", "having", "distinct"):
        return random.choice([c for c in table.columns if c.kind == "text"]), ""
    if kind == "aggregate":
        column = random.choice([c for c in table.columns if c.functions])
        return column, random.choice(column.functions)
    return random.choice([c for c in table.columns if c.kind != "text"]), ""


def _conditions(random: Random, columns: Sequence[Column], amount: int) -> tuple[Condition, ...]:
    chosen = random.sample(columns, min(amount, len(columns)))
    return tuple(_condition(random, column) for column in chosen)


def _condition(random: Random, column: Column) -> Condition:
    operator = random.choice(tuple(column.phrases))
    if operator == "between":
        low, high = sorted(random.sample(range(len(column.values)), 2))
        return Condition(column, operator, (column.values[low], column.values[high]))
    return Condition(column, operator, (random.choice(column.values),))


def sentence(random: Random, question: Question) -> str:
    """The question in English."""
    table, column = question.table, question.column
    noun, plural = (column.noun, column.plural) if column else ("", "")
    of_which = _described(random, question)
    words = FUNCTIONS if column and "AVG" in column.functions else DATE_FUNCTIONS
    order = "descending" if question.is_descending else "ascending"
    text = random.choice(KINDS[question.kind]).format(
        rows=f"{table.plural}{of_which}",
        row=f"{table.noun}{of_which}",
        label=table.label,
        labels=table.label_plural,
        noun=noun,
        plural=plural,
        most=column.most[0 if question.is_descending else 1] if column else "",
        function=random.choice(words[question.function]) if question.function else "",
        order=order,
        number=question.number,
    )
    return text[0].upper() + text[1:]


KINDS = {
    "list": (
        "List the {labels} of all {rows}.",
        "Show the {labels} of the {rows}.",
        "Give me the {labels} of the {rows}.",
        "I need the {labels} of all {rows}.",
    ),
    "sorted": (
        "List the {labels} of all {rows}, by {noun} in {order} order.",
        "Show the {labels} of the {rows}, sorted by {noun}, {order}.",
        "Give me the {labels} of the {rows} in {order} order of {noun}.",
    ),
    "count": (
        "How many {rows} are there?",
        "Count the {rows}.",
        "What is the number of {rows}?",
        "Tell me how many {rows} we have.",
    ),
    "aggregate": (
        "What is the {function} {noun} of the {rows}?",
        "Find the {function} {noun} of all {rows}.",
        "Give the {function} {noun} for the {rows}.",
    ),
    "group": (
        "For each {noun}, count the {rows}.",
        "How many {rows} are there for each {noun}?",
        "Show every {noun} with its number of {rows}.",
    ),
    "having": (
        "Which {plural} occur more than {number} times among the {rows}?",
        "Name the {plural} that have more than {number} {rows}.",
    ),
    "top": (
        "What are the {labels} of the {number} {most} {rows}?",
        "List the {labels} of the {number} {most} {rows}, starting with the {most}.",
        "Of the {rows}, give me the {labels} of the {number} {most}.",
    ),
    "distinct": (
        "Which different {plural} occur among the {rows}?",
        "List each {noun} of the {rows} once.",
    ),
}


def _described(random: Random, question: Question) -> str:
    """What follows the table's noun: its own conditions, then those of the parent."""
    if not question.parent_conditions:
        return _clauses(random, question.conditions, allow_relative=True)
    own = _clauses(random, question.conditions, allow_relative=False)
    parents = _clauses(random, question.parent_conditions, allow_relative=True)
    return f"{own} {question.schema.of_parent} {question.schema.parent.plural}{parents}"


def _clauses(random: Random, conditions: tuple[Condition, ...], *, allow_relative: bool) -> str:
    """The conditions as phrases; those with `who`, `that` or `whose` last, as English has it."""
    phrases = [_phrase(random, condition, allow_relative=allow_relative) for condition in conditions]
    short = [phrase for phrase in phrases if not phrase.startswith(_RELATIVE)]
    relative = [phrase for phrase in phrases if phrase.startswith(_RELATIVE)]
    return "".join(f" {' and '.join(part)}" for part in (short, relative) if part)


def _phrase(random: Random, condition: Condition, *, allow_relative: bool) -> str:
    phrases = condition.column.phrases[condition.operator]
    fitting = [phrase for phrase in phrases if allow_relative or not phrase.startswith(_RELATIVE)]
    low, high = condition.values[0], condition.values[-1]
    return random.choice(fitting).format(v=low, low=low, high=high)


def query(question: Question) -> str:
    """The query in SQLite's dialect, on one line. Columns carry their table's name where two are joined."""
    table, parent = question.table, question.schema.parent
    prefix = f"{table.name}." if question.parent_conditions else ""
    source = f" FROM {table.name}"
    if question.parent_conditions:
        source += f" JOIN {parent.name} ON {table.name}.{question.schema.key} = {parent.name}.id"
    tests = [_test(prefix, condition) for condition in question.conditions]
    tests += [_test(f"{parent.name}.", condition) for condition in question.parent_conditions]
    source += f" WHERE {' AND '.join(tests)}" if tests else ""
    column = f"{prefix}{question.column.name}" if question.column else ""
    return _SELECTS[question.kind](question, source, f"{prefix}{table.label}", column) + ";"


def _test(prefix: str, condition: Condition) -> str:
    left, values = f"{prefix}{condition.column.name}", [_literal(value) for value in condition.values]
    if condition.operator == "between":
        return f"{left} BETWEEN {values[0]} AND {values[1]}"
    return f"{left} {condition.operator} {values[0]}"


def _literal(value: Value) -> str:
    return str(value) if isinstance(value, int) else f"'{value}'"


def _order(question: Question, column: str) -> str:
    return f" ORDER BY {column}{' DESC' if question.is_descending else ''}"


_SELECTS: dict[str, Callable[[Question, str, str, str], str]] = {
    "list": lambda q, source, label, column: f"SELECT {label}{source}",
    "sorted": lambda q, source, label, column: f"SELECT {label}{source}{_order(q, column)}",
    "count": lambda q, source, label, column: f"SELECT COUNT(*){source}",
    "aggregate": lambda q, source, label, column: f"SELECT {q.function}({column}){source}",
    "group": lambda q, source, label, column: f"SELECT {column}, COUNT(*){source} GROUP BY {column}",
    "having": lambda q, source, label, column: (
        f"SELECT {column}{source} GROUP BY {column} HAVING COUNT(*) > {q.number}"
    ),
    "top": lambda q, source, label, column: f"SELECT {label}{source}{_order(q, column)} LIMIT {q.number}",
    "distinct": lambda q, source, label, column: f"SELECT DISTINCT {column}{source}",
}
