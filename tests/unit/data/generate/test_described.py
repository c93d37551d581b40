"""A described task: what it draws, and all that is wrong with one at once, each with its line."""

import json
import re
from collections import Counter
from datetime import date
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.data.generate.described import read_task
from tunesmith.data.generate.providers import PROVIDERS
from tunesmith.data.generate.tasks import find_task
from tunesmith.errors import ConfigError, DataError

EXAMPLE = Path(__file__).parents[4] / "examples" / "tasks" / "reviews.yaml"


def task(tmp_path: Path, text: str):
    file = tmp_path / "task.yaml"
    file.write_text(text, encoding="utf-8")
    return read_task(file)


def one_field(tmp_path: Path, field: str, *, count: int = 50, shown: str = "x") -> list[dict[str, str]]:
    """Rows whose prompt is unlike the others by a number, and whose answer is JSON with the field."""
    text = (
        f"fields:\n  x: {field}\n  n: {{number: [1, 1000000]}}\n"
        f'prompts: ["{{n}}: {{{shown}}}"]\ncompletions: [{{x: "{{{shown}}}"}}]\n'
    )
    return list(task(tmp_path, text).rows(4, count))


def problems(tmp_path: Path, text: str) -> list[str]:
    """What is complained about, without the path: `line: key: what`."""
    with pytest.raises(ConfigError) as raised:
        task(tmp_path, text)
    return [line.split("task.yaml")[1].lstrip(":") for line in str(raised.value).split("\n")[1:]]


def values(rows: list[dict[str, str]]) -> list[object]:
    return [json.loads(row["completion"])["x"] for row in rows]


# What it draws


def test_the_shipped_example_says_its_answers_in_its_prompts() -> None:
    rows = list(read_task(EXAMPLE).rows(17, 2_000))
    assert len({row["prompt"] for row in rows}) == len(rows)
    for row in rows:
        answer = json.loads(row["completion"])
        assert list(answer) == ["product", "aspect", "mood", "days"]
        assert answer["product"] in row["prompt"]
        assert re.search(rf"\b{answer['days']} days", row["prompt"])
        assert row["completion"] == json.dumps(answer, separators=(",", ":"))
    assert {json.loads(row["completion"])["mood"] for row in rows} == {"positive", "negative", "neutral"}


@given(seed=st.integers(0, 2**32), count=st.integers(0, 60))
def test_a_seed_is_a_sequence_that_more_rows_continue(seed: int, count: int) -> None:
    example = read_task(EXAMPLE)
    assert list(example.rows(seed, 60))[:count] == list(example.rows(seed, count))


def test_two_iterators_do_not_disturb_each_other() -> None:
    example = read_task(EXAMPLE)
    alone = list(example.rows(1, 20))
    assert [first for first, _ in zip(example.rows(1, 20), example.rows(2, 20), strict=True)] == alone


def test_choices_by_weight(tmp_path: Path) -> None:
    counts = Counter(values(one_field(tmp_path, "{choices: [a, b, 3], weights: [1, 7, 2]}", count=4_000)))
    assert counts["a"] == pytest.approx(400, abs=90)
    assert counts["b"] == pytest.approx(2_800, abs=130)
    assert counts[3] == pytest.approx(800, abs=110)


@pytest.mark.parametrize(
    ("field", "allowed"),
    [
        ("{number: [2, 11], step: 3}", {2, 5, 8, 11}),
        ("{number: [-1, 1], step: 0.5}", {-1, -0.5, 0, 0.5, 1}),
        ("{number: [0.1, 0.4], step: 0.1}", {0.1, 0.2, 0.3, 0.4}),
    ],
)
def test_numbers_are_exactly_those_of_the_steps(tmp_path: Path, field: str, allowed: set[float]) -> None:
    assert set(values(one_field(tmp_path, field, count=300))) == allowed


def test_decimals_are_of_the_text_alone(tmp_path: Path) -> None:
    rows = one_field(tmp_path, "{number: [1, 9], step: 0.5, decimals: 2}", count=200)
    for row, value in zip(rows, values(rows), strict=True):
        assert row["prompt"].split(": ")[1] == f"{value:.2f}"


def test_a_date_is_shown_in_its_formats_and_as_iso(tmp_path: Path) -> None:
    text = (
        "fields:\n  day: {date: [2024-02-01, 2025-03-01], "
        "formats: ['%A, %-d %B %Y', '%d.%m.%y', '%b %-d, %Y']}\n"
        'prompts: ["{day}"]\ncompletions: ["{day_iso}"]\n'
    )
    rows = list(task(tmp_path, text).rows(1, 500))
    seen = set()
    for row in rows:
        day = date.fromisoformat(row["completion"])
        assert date(2024, 2, 1) <= day <= date(2025, 3, 1)
        shown = [
            f"{day:%A}, {day.day} {day:%B} {day:%Y}", f"{day:%d.%m.%y}", f"{day:%b} {day.day}, {day:%Y}"
        ]  # fmt: skip
        seen.add(shown.index(row["prompt"]))
    assert seen == {0, 1, 2}


def test_patterns(tmp_path: Path) -> None:
    assert all(
        re.fullmatch(r"AB-\d\d[A-Z]!", value) for value in values(one_field(tmp_path, '{pattern: "AB-##?!"}'))
    )


def test_records_stay_together_and_null_is_for_json(tmp_path: Path) -> None:
    text = (
        "fields:\n  r: {records: [{said: rush, level: 2, who: null}, {said: calm, level: 0, who: me}]}\n"
        "  n: {number: [1, 999]}\n"
        'prompts: ["{n} {said}"]\ncompletions: [{level: "{level}", who: "{who}", list: [1, "<{said}>"]}]\n'
    )
    answers = {row["prompt"].split()[1]: row["completion"] for row in task(tmp_path, text).rows(1, 50)}
    assert answers == {
        "rush": '{"level":2,"who":null,"list":[1,"<rush>"]}',
        "calm": '{"level":0,"who":"me","list":[1,"<calm>"]}',
    }


def test_braces_that_are_meant(tmp_path: Path) -> None:
    text = 'fields: {a: {choices: [1]}}\nprompts: ["{{{a}}} {{x}}"]\ncompletions: ["{a}"]\n'
    assert next(task(tmp_path, text).rows(1, 1)) == {"prompt": "{1} {x}", "completion": "1"}


def test_a_value_with_braces_is_not_filled_again(tmp_path: Path) -> None:
    text = 'fields: {a: {choices: ["{a.__class__}"]}}\nprompts: ["{a}"]\ncompletions: ["{a}"]\n'
    assert next(task(tmp_path, text).rows(1, 1))["prompt"] == "{a.__class__}"


@pytest.mark.parametrize("provider", PROVIDERS)
def test_every_provider_is_decided_by_the_seed(tmp_path: Path, provider: str) -> None:
    first, again = (one_field(tmp_path, f"{{faker: {provider}}}", count=5) for _ in range(2))
    assert first == again
    assert all(isinstance(value, str | int) for value in values(first))


def test_arguments_of_a_provider_and_its_locale(tmp_path: Path) -> None:
    lengths = {
        len(str(value).split())
        for value in values(
            one_field(tmp_path, "{faker: sentence, arguments: {nb_words: 4, variable_nb_words: false}}")
        )
    }
    assert lengths == {4}
    text = 'locale: ja_JP\nfields: {a: {faker: last_name}}\nprompts: ["{a}"]\ncompletions: ["{a}"]\n'
    assert all(ord(row["prompt"][0]) > 0x3000 for row in task(tmp_path, text).rows(1, 5))


def test_used_up_variety_names_the_task(tmp_path: Path) -> None:
    made = task(tmp_path, 'fields: {a: {choices: [1, 2]}}\nprompts: ["{a}"]\ncompletions: ["{a}"]\n')
    with pytest.raises(DataError, match="task `task` can make 2 different prompts"):
        list(made.rows(1, 3))


# What is wrong with it

REST = 'prompts: ["{x}"]\ncompletions: ["{x}"]\n'


@pytest.mark.parametrize(
    ("field", "what"),
    [
        ("{choices: []}", "fields.x.choices: needs a list of texts or numbers"),
        ("{choices: [[1]]}", "fields.x.choices: needs a list of texts or numbers"),
        ("{choices: [1, 2], weights: [1]}", "fields.x.weights: needs 2 numbers above 0"),
        ("{choices: [1, 2], weights: [1, 0]}", "fields.x.weights: needs 2 numbers above 0"),
        ("{choices: [1, 2], weights: [1, .inf]}", "fields.x.weights: needs 2 numbers above 0"),
        ("{choices: [1], step: 2}", "fields.x.step: does not go with `choices`"),
        ("{choices: [1], pattern: a#}", "fields.x: needs one of `choices`, "),
        ("{chioces: [1]}", "fields.x.chioces: unknown key; nearest: `choices`"),
        ("{records: 3}", "fields.x.records: needs a list of objects"),
        ("{records: [{x: 1}, {y: 1}]}", "fields.x.records.1: has other keys than the first, which has `x`"),
        ("{records: [{x: [1]}]}", "fields.x.records.0: holds something else than texts and numbers"),
        ("{records: [{x: 1, a b: 1}]}", "fields.x.records: `a b` cannot be used as {a b}"),
        ("{number: [5, 1]}", "fields.x.number: needs the smallest and the largest"),
        ("{number: [1, .inf]}", "fields.x.number: needs the smallest and the largest"),
        ("{number: [1, 5], step: 0}", "fields.x.step: 0 is not a number above 0"),
        (
            "{number: [1, 5], step: 0.25, decimals: 1}",
            "fields.x.decimals: 1 is not a whole number",
        ),
        ("{date: [2024-01-01]}", "fields.x.date: needs the first and the last day"),
        ("{date: [2024-01-01, 2023-01-01]}", "fields.x.date: needs the first and the last day"),
        ('{date: [2024-01-01, 2024-02-01], formats: "%Q"}', "fields.x.formats: `%Q` unknown; known a"),
        ("{date: [2024-01-01, 2024-02-01], formats: []}", "fields.x.formats: needs texts such as"),
        ("{pattern: abc}", "fields.x.pattern: needs text with `#` for a digit"),
        (
            "{faker: frist_name}",
            "fields.x.faker: `frist_name` is no provider that can be used here",
        ),
        ("{faker: pystruct}", "fields.x.faker: `pystruct` is no provider that can be used here; known"),
        ("{faker: __class__}", "fields.x.faker: `__class__` is no provider that can be used here"),
        ("{faker: date}", "fields.x.faker: `date` is no provider that can be used here"),
        (
            "{faker: sentence, arguments: {nb_word: 3}}",
            "fields.x.arguments.nb_word: unknown argument; near",
        ),
        (
            "{faker: sentence, arguments: {nb_words: 99999}}",
            "fields.x.arguments.nb_words: 99999 is not t",
        ),
        (
            "{faker: sentence, arguments: {nb_words: x}}",
            "fields.x.arguments: `sentence` does not take them: ",
        ),
        ("{faker: sentence, arguments: 3}", "fields.x.arguments: a number, not names with values"),
        ("{faker: first_name, arguments: {a: 3}}", "fields.x.arguments.a: unknown argument; it takes n"),
        ("3", "fields.x: a number, not a description such as `choices: [red, blue]`"),
    ],
)
def test_problems_of_a_field(tmp_path: Path, field: str, what: str) -> None:
    (problem, *more) = problems(tmp_path, f"fields:\n  x: {field}\n{REST}")
    assert problem.startswith(f"2: {what}")
    assert more == [] or "chioces" in field


FIELDS = "fields:\n  x: {choices: [1]}\n  y: {choices: [a, null]}\n"


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ('prompts: ["{x.real} {x} {y}"]', "`{x.real}` is not the bare name of a field"),
        ('prompts: ["{x[0]} {x}"]', "`{x[0]}` is not the bare name of a field"),
        ('prompts: ["{x!r} {x}"]', "`{x!r}` is not the bare name of a field"),
        ('prompts: ["{x:>9} {x}"]', "`{x:>9}` is not the bare name of a field"),
        ('prompts: ["{} {x}"]', "`{}` is not the bare name of a field"),
        ('prompts: ["{x} {"]', "write `{{` for a brace that is meant"),
        ('prompts: ["{x} {xx}"]', "{xx} is no field; nearest: `x`"),
        ('prompts: ["{x} {y}"]', "{y} can be null, which text has no word for"),
        ("prompts: [{x}]", "an object, not text; put quotes around it"),
        ('prompts: ["none"]', "shows `x`, of which `prompts.0` says nothing: it cannot be learned"),
        ("prompts: []", "prompts: needs at least one template"),
        ('prompts: ["{x}"]\ncompletions: [{a: {x}}]', "YAML reads `{field}` without quotes as an object"),
        ('prompts: ["{x}"]\ncompletions: [{"{x}": 1}]', "a key of JSON is plain text"),
        ('prompts: ["{x}"]\ncompletions: [{a: 2024-01-01}]', "2024-01-01 is no JSON value"),
        ('prompts: ["{x}"]\nweights: {prompts: [1, 2]}', "weights.prompts: needs 1 numbers above 0"),
        ('prompts: ["{x}"]\nweights: {prompt: [1]}', "weights: holds `prompts` and `completions` alone"),
        ('prompts: ["{x}"]\nsystem: 3', "system: a number, not text"),
        ('prompts: ["{x}"]\nsytem: a', "sytem: unknown key; nearest: `system`"),
        ('prompts: ["{x}"]\nlocale: en_UK', "locale: `en_UK` is no locale of Faker; nearest: `en_"),
    ],
)
def test_problems_of_templates_and_the_rest(tmp_path: Path, text: str, what: str) -> None:
    rest = "" if "completions" in text else '\ncompletions: [{x: "{x}", y: "{y}"}]\n'
    found = problems(tmp_path, FIELDS + text + rest)
    assert any(what in problem for problem in found)
    assert all(re.match(r"\d+: ", problem) for problem in found)


def test_all_problems_are_told_at_once_in_order(tmp_path: Path) -> None:
    fields = "fields:\n  b: {faker: citty}\n  c: {number: 3}\n"
    text = f"systm: a\n{fields}prompts: ['{{b}} {{d.e}}']\ncompletions: ['{{b}}']\n"
    found = problems(tmp_path, text)
    assert [problem.split(":")[0] for problem in found] == ["1", "3", "4", "4", "5"]
    assert found[1].endswith("nearest: `city`")


@pytest.mark.parametrize(
    ("text", "what"),
    [
        ("fields: &a {x: 1}\nprompts: *a\n", "aliases"),
        ("fields: !!python/object/apply:os.system [true]\n", "could not determine a constructor"),
        ("fields: {x: {choices: [1], choices: [2]}}\n", "given twice"),
        ("- 1\n", "holds list, not keys with values"),
    ],
)
def test_yaml_that_is_more_than_data_is_refused(tmp_path: Path, text: str, what: str) -> None:
    with pytest.raises(ConfigError, match=what):
        task(tmp_path, text)


def test_a_task_that_is_not_there(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"task `.*none\.yaml` cannot be read: No such file") as missing:
        find_task(str(tmp_path / "none.yaml"))
    assert missing.value.hint == "name a YAML file, or a ready task: `--list` shows them"
    with pytest.raises(DataError, match="`aritmetic` is neither a ready task nor a YAML file") as misspelt:
        find_task("aritmetic")
    assert misspelt.value.hint == "did you mean `arithmetic`?"
