"""Every query runs on SQLite and finds the rows that a plain loop over the data finds."""

import re
import sqlite3
from collections import Counter
from collections.abc import Callable
from random import Random
from typing import Any

import pytest

from tunesmith.data.generate.sql import KINDS, Question, draw_question, query, rows, sentence
from tunesmith.data.generate.sql_schemas import SCHEMAS, Schema, Table

Cells = dict[str, Any]
PARENTS, CHILDREN = 40, 300


def filled(table: Table, amount: int, random: Random) -> list[Cells]:
    """Made-up rows: numbers all different, so that no order is a matter of chance."""
    columns = {}
    for column in table.columns:
        values = list(column.values)
        random.shuffle(values)
        columns[column.name] = [values[n % len(values)] for n in range(amount)]
    made = [{"id": n + 1, table.label: f"{table.noun} {n + 1}"} for n in range(amount)]
    return [row | {name: cells[n] for name, cells in columns.items()} for n, row in enumerate(made)]


def database(schema: Schema) -> tuple[sqlite3.Connection, dict[str, list[Cells]]]:
    random = Random(1)  # noqa: S311
    parents, children = filled(schema.parent, PARENTS, random), filled(schema.child, CHILDREN, random)
    for child in children:
        child[schema.key] = random.randint(1, PARENTS)
    connection = sqlite3.connect(":memory:")
    connection.executescript(schema.ddl())
    for table, made in ((schema.parent.name, parents), (schema.child.name, children)):
        marks = ", ".join(f":{name}" for name in made[0])
        statement = f"INSERT INTO {table} ({', '.join(made[0])}) VALUES ({marks})"  # noqa: S608
        connection.executemany(statement, made)
    return connection, {schema.parent.name: parents, schema.child.name: children}


DATABASES = {schema.key: database(schema) for schema in SCHEMAS}
COMPARE: dict[str, Callable[[Any, tuple[Any, ...]], bool]] = {
    "=": lambda cell, values: cell == values[0],
    ">": lambda cell, values: cell > values[0],
    "<": lambda cell, values: cell < values[0],
    "between": lambda cell, values: values[0] <= cell <= values[1],
}


def chosen(question: Question) -> list[Cells]:
    """The table's rows for which all conditions hold."""
    data = DATABASES[question.schema.key][1]
    parents = {row["id"]: row for row in data[question.schema.parent.name]}
    return [
        row
        for row in data[question.table.name]
        if all(COMPARE[c.operator](row[c.column.name], c.values) for c in question.conditions)
        and all(
            COMPARE[c.operator](parents[row[question.schema.key]][c.column.name], c.values)
            for c in question.parent_conditions
        )
    ]


def expected(question: Question) -> list[tuple[Any, ...]]:
    """The answer, by a plain loop."""
    found, label = chosen(question), question.table.label
    if question.kind == "list":
        return [(row[label],) for row in found]
    if question.kind == "count":
        return [(len(found),)]
    cells = [row[question.column.name] for row in found]
    if question.kind == "aggregate":
        work = {"AVG": lambda c: sum(c) / len(c), "MAX": max, "MIN": min, "SUM": sum}[question.function]
        return [(work(cells) if cells else None,)]
    if question.kind == "group":
        return list(Counter(cells).items())
    if question.kind == "having":
        return [(cell,) for cell, count in Counter(cells).items() if count > question.number]
    if question.kind == "distinct":
        return [(cell,) for cell in dict.fromkeys(cells)]
    found.sort(key=lambda row: row[question.column.name], reverse=question.is_descending)
    return [(row[label],) for row in found[: question.number if question.kind == "top" else None]]


def questions(amount: int) -> list[tuple[Question, str]]:
    random = Random(12)  # noqa: S311
    drawn = [draw_question(random) for _ in range(amount)]
    return [(question, sentence(random, question)) for question in drawn]


QUESTIONS = questions(6_000)


def values_of(question: Question, answer: list[tuple[Any, ...]]) -> list[Any]:
    """What decides the order of the answer, in place of rows that may tie."""
    cells = {row[question.table.label]: row for row in chosen(question)}
    return [cells[label][question.column.name] for (label,) in answer]


def test_queries_find_what_a_plain_loop_finds() -> None:
    nonempty = 0
    for question, _ in QUESTIONS:
        answer = DATABASES[question.schema.key][0].execute(query(question)).fetchall()
        wanted = expected(question)
        nonempty += bool(chosen(question))
        if question.kind in ("sorted", "top"):
            assert len(answer) == len(wanted)
            assert values_of(question, answer) == values_of(question, wanted), query(question)
        elif question.function == "AVG" and answer[0][0] is not None:
            assert answer[0][0] == pytest.approx(wanted[0][0]), query(question)
        else:
            assert Counter(answer) == Counter(wanted), query(question)
    assert nonempty > 0.8 * len(QUESTIONS)


def test_sentences_name_every_value_the_table_and_no_slot() -> None:
    for question, text in QUESTIONS:
        for condition in question.conditions + question.parent_conditions:
            assert all(re.search(rf"\b{value}\b", text) for value in condition.values), text
        assert question.table.plural in text
        assert (question.schema.parent.plural in text) or not question.parent_conditions
        assert not re.search(r"[{}]|  ", text)
        assert (str(question.number) in text) or question.kind not in ("having", "top")


def test_every_kind_is_asked_of_every_table() -> None:
    asked = {(question.kind, question.table.name) for question, _ in QUESTIONS}
    tables = {table.name for schema in SCHEMAS for table in (schema.parent, schema.child)}
    assert asked == {(kind, table) for kind in KINDS for table in tables}


@pytest.mark.parametrize("schema", SCHEMAS, ids=lambda schema: schema.key)
def test_each_comparison_of_a_child_can_stand_before_its_parent(schema: Schema) -> None:
    for column in schema.child.columns:
        for operator, phrases in column.phrases.items():
            assert any(not p.startswith(("who ", "that ", "whose ")) for p in phrases), (column, operator)


READ_BY_HAND = [
    (
        r"(?:Count the|How many) orders (?:over|worth more than) (\d+) dollars(?: are there)?\W",
        lambda d, v: [sum(o["amount"] > int(v) for o in d["orders"])],
    ),
    (r"Count the customers from (\w+)\.", lambda d, v: [sum(c["city"] == v for c in d["customers"])]),
    (
        r"What is the (?:highest|maximum) salary of the employees with the role (\w+)\?",
        lambda d, v: [max(e["salary"] for e in d["employees"] if e["role"] == v)],
    ),
    (
        r"List the titles of all books shorter than (\d+) pages\.",
        lambda d, v: [b["title"] for b in d["books"] if b["pages"] < int(v)],
    ),
    (
        r"How many books by authors from (\w+) are there\?",
        lambda d, v: [
            sum(
                1 for b in d["books"] for a in d["authors"] if a["id"] == b["author_id"] and a["country"] == v
            )
        ],
    ),
]


@pytest.mark.parametrize(("pattern", "answer"), READ_BY_HAND, ids=[pattern for pattern, _ in READ_BY_HAND])
def test_sentences_read_by_hand(pattern: str, answer: Callable[[dict[str, Any], str], list[Any]]) -> None:
    found = 0
    for row in ROWS:
        if match := re.fullmatch(pattern, row["prompt"]):
            connection, data = next(d for d in DATABASES.values() if fits(d, row["completion"]))
            assert [cell for (cell,) in connection.execute(row["completion"])] == answer(data, match[1])
            found += 1
    assert found


ROWS = list(rows(3, 25_000))


def fits(database: tuple[sqlite3.Connection, dict[str, list[Cells]]], completion: str) -> bool:
    return any(f"FROM {table} " in completion for table in database[1])


def test_the_schema_of_a_row_is_that_of_its_query() -> None:
    for row in ROWS[:3_000]:
        connection = sqlite3.connect(":memory:")
        connection.executescript(row["system"].split("The tables are:\n")[1])
        connection.execute(row["completion"])
        connection.close()
