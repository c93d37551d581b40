"""The small databases that questions are asked about, with the English for their tables and columns."""

from dataclasses import dataclass
from typing import Literal

Kind = Literal["text", "number", "date"]
Value = str | int


@dataclass(frozen=True, slots=True)
class Column:
    """One column and how a sentence speaks of it.

    Attributes:
        name: in SQL.
        kind: decides the comparisons.
        noun: what one value is called.
        plural: what several are called.
        values: what the sentences compare with, in ascending order for numbers and dates.
        phrases: by operator (`=`, `>`, `<`, `between`), what follows the table's noun; {v} or {low}, {high}.
        most: superlatives for the greatest and the least value, for numbers and dates.
        functions: the aggregates that make sense of it.
    """

    name: str
    kind: Kind
    noun: str
    plural: str
    values: tuple[Value, ...]
    phrases: dict[str, tuple[str, ...]]
    most: tuple[str, str] = ("", "")
    functions: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """One table. Its first column is `id`, its second `label`, a text that names the row."""

    name: str
    noun: str
    plural: str
    label: str
    label_plural: str
    columns: tuple[Column, ...]

    def column(self, name: str) -> Column:
        """The column of this name."""
        return next(column for column in self.columns if column.name == name)


@dataclass(frozen=True, slots=True)
class Schema:
    """A parent table, and a child table with a foreign key to it.

    Attributes:
        parent: such as customers.
        child: such as orders.
        key: the child's column with the parent's id.
        of_parent: how a child is tied to parents in a sentence, such as `placed by`.
    """

    parent: Table
    child: Table
    key: str
    of_parent: str

    def ddl(self) -> str:
        """The CREATE TABLE statements, one a line."""
        return "\n".join((_create(self.parent), _create(self.child, self.key, self.parent)))


def _create(table: Table, key: str = "", parent: Table | None = None) -> str:
    types = {"text": "TEXT", "number": "INTEGER", "date": "DATE"}
    parts = ["id INTEGER PRIMARY KEY", f"{table.label} TEXT"]
    parts += [f"{column.name} {types[column.kind]}" for column in table.columns]
    if parent:
        parts.append(f"{key} INTEGER REFERENCES {parent.name}(id)")
    return f"CREATE TABLE {table.name} ({', '.join(parts)});"


_ALL, _SPREAD, _ENDS = ("AVG", "MAX", "MIN", "SUM"), ("AVG", "MAX", "MIN"), ("MAX", "MIN")


def _dates(first_year: int, last_year: int) -> tuple[str, ...]:
    years = range(first_year, last_year + 1)
    return tuple(f"{year}-{month:02}-{day:02}" for year in years for month in range(1, 13) for day in (1, 15))


_CITIES = (
    "Accra", "Bergen", "Bologna", "Busan", "Cusco", "Dakar", "Galway", "Hanoi", "Izmir", "Leipzig", "Lyon",
    "Malaga", "Nagoya", "Porto", "Riga", "Salta", "Tampere", "Utrecht",
)  # fmt: skip


def _city(*phrases: str) -> Column:
    return Column("city", "text", "city", "cities", _CITIES, {"=": phrases})


SHOP = Schema(
    parent=Table(
        "customers", "customer", "customers", "name", "names",
        (
            _city("from {v}", "who live in {v}", "based in {v}"),
            Column(
                "age", "number", "age", "ages", tuple(range(18, 81)),
                {">": ("older than {v}", "over {v} years of age"), "<": ("younger than {v}", "under {v}"),
                 "between": ("aged {low} to {high}", "between {low} and {high} years old")},
                ("oldest", "youngest"),
                _SPREAD,
            ),
            Column(
                "joined", "date", "joining date", "joining dates", _dates(2015, 2024),
                {">": ("who joined after {v}",), "<": ("who joined before {v}", "who signed up before {v}")},
                ("newest", "longest-standing"),
                _ENDS,
            ),
        ),
    ),
    child=Table(
        "orders", "order", "orders", "product", "products",
        (
            Column(
                "amount", "number", "amount", "amounts", tuple(range(5, 1000, 5)),
                {">": ("over {v} dollars", "worth more than {v} dollars"),
                 "<": ("under {v} dollars", "worth less than {v} dollars"),
                 "between": ("worth {low} to {high} dollars", "with an amount from {low} to {high} dollars")},
                ("largest", "smallest"),
                _ALL,
            ),
            Column(
                "status", "text", "status", "statuses", ("open", "paid", "shipped", "returned", "canceled"),
                {"=": ("with status {v}", "that are marked {v}", "whose status is {v}")},
            ),
            Column(
                "ordered_on", "date", "order date", "order dates", _dates(2019, 2024),
                {">": ("placed after {v}", "dated later than {v}"), "<": ("placed before {v}",)},
                ("latest", "earliest"),
                _ENDS,
            ),
        ),
    ),
    key="customer_id",
    of_parent="of",
)  # fmt: skip

LIBRARY = Schema(
    parent=Table(
        "authors", "author", "authors", "name", "names",
        (
            Column(
                "country", "text", "country", "countries",
                ("Brazil", "Chile", "Egypt", "France", "India", "Ireland", "Japan", "Kenya", "Norway"),
                {"=": ("from {v}", "who come from {v}", "whose country is {v}")},
            ),
            Column(
                "born", "number", "year of birth", "years of birth", tuple(range(1850, 1991)),
                {">": ("born after {v}",), "<": ("born before {v}",),
                 "between": ("born from {low} to {high}",)},
                ("youngest", "oldest"),
                _ENDS,
            ),
        ),
    ),
    child=Table(
        "books", "book", "books", "title", "titles",
        (
            Column(
                "pages", "number", "page count", "page counts", tuple(range(80, 900, 10)),
                {">": ("with more than {v} pages", "longer than {v} pages"),
                 "<": ("with fewer than {v} pages", "shorter than {v} pages"),
                 "between": ("that have {low} to {high} pages", "with {low} to {high} pages")},
                ("longest", "shortest"),
                _ALL,
            ),
            Column(
                "genre", "text", "genre", "genres",
                ("biography", "crime", "essay", "fantasy", "history", "poetry", "romance", "travel"),
                {"=": ("in the {v} genre", "of the genre {v}", "filed under {v}")},
            ),
            Column(
                "published", "number", "year of publication", "years of publication",
                tuple(range(1900, 2025)),
                {">": ("published after {v}",), "<": ("published before {v}", "that came out before {v}"),
                 "between": ("published from {low} to {high}",)},
                ("newest", "oldest"),
                _ENDS,
            ),
        ),
    ),
    key="author_id",
    of_parent="by",
)  # fmt: skip

COMPANY = Schema(
    parent=Table(
        "departments", "department", "departments", "name", "names",
        (
            _city("in {v}", "located in {v}", "with their seat in {v}"),
            Column(
                "budget", "number", "budget", "budgets", tuple(range(50_000, 900_000, 10_000)),
                {">": ("with a budget above {v}", "that have a budget of more than {v}"),
                 "<": ("with a budget below {v}",), "between": ("with a budget from {low} to {high}",)},
                ("best-funded", "worst-funded"),
                _ALL,
            ),
        ),
    ),
    child=Table(
        "employees", "employee", "employees", "name", "names",
        (
            Column(
                "salary", "number", "salary", "salaries", tuple(range(20_000, 150_000, 1_000)),
                {">": ("who earn more than {v}", "with a salary above {v}"),
                 "<": ("who earn less than {v}", "with a salary below {v}"),
                 "between": ("who earn {low} to {high}", "with a salary from {low} to {high}")},
                ("best-paid", "worst-paid"),
                _ALL,
            ),
            Column(
                "role", "text", "role", "roles",
                ("analyst", "buyer", "clerk", "designer", "driver", "engineer", "manager", "trainer"),
                {"=": ("with the role {v}", "whose role is {v}", "employed in the role of {v}")},
            ),
            Column(
                "hired_on", "date", "hiring date", "hiring dates", _dates(2005, 2024),
                {">": ("hired after {v}", "who were taken on after {v}"), "<": ("hired before {v}",)},
                ("most recently hired", "longest-serving"),
                _ENDS,
            ),
        ),
    ),
    key="department_id",
    of_parent="in",
)  # fmt: skip

CLINIC = Schema(
    parent=Table(
        "doctors", "doctor", "doctors", "name", "names",
        (
            Column(
                "specialty", "text", "specialty", "specialties",
                ("cardiology", "dermatology", "neurology", "oncology", "pediatrics", "radiology", "surgery"),
                {"=": ("in {v}", "who specialize in {v}", "whose specialty is {v}")},
            ),
            Column(
                "fee", "number", "fee", "fees", tuple(range(40, 400, 5)),
                {">": ("who charge more than {v} dollars", "with a fee above {v} dollars"),
                 "<": ("who charge less than {v} dollars", "with a fee below {v} dollars"),
                 "between": ("with a fee from {low} to {high} dollars",)},
                ("most expensive", "cheapest"),
                _SPREAD,
            ),
        ),
    ),
    child=Table(
        "visits", "visit", "visits", "patient", "patients",
        (
            Column(
                "minutes", "number", "length in minutes", "lengths in minutes", tuple(range(10, 120, 5)),
                {">": ("longer than {v} minutes", "that took more than {v} minutes"),
                 "<": ("shorter than {v} minutes", "that took less than {v} minutes"),
                 "between": ("that took {low} to {high} minutes", "of {low} to {high} minutes")},
                ("longest", "shortest"),
                _ALL,
            ),
            Column(
                "reason", "text", "reason", "reasons",
                ("checkup", "fever", "injury", "pain", "rash", "vaccination"),
                {"=": ("for reason {v}", "whose reason is {v}", "with {v} as the reason")},
            ),
            Column(
                "day", "date", "date", "dates", _dates(2020, 2024),
                {">": ("after {v}", "that took place after {v}"), "<": ("before {v}", "held before {v}")},
                ("latest", "earliest"),
                _ENDS,
            ),
        ),
    ),
    key="doctor_id",
    of_parent="to",
)  # fmt: skip

SCHEMAS = (SHOP, LIBRARY, COMPANY, CLINIC)
