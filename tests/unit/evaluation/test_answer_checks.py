import json
import socket

import pytest

from tunesmith.config import EvaluationConfig
from tunesmith.errors import ConfigError
from tunesmith.evaluation.answer_checks import AnswerChecks, checks_of, choices_among
from tunesmith.evaluation.metrics import choice_metric, json_schema_metric, pattern_metric

TICKET = {
    "type": "object",
    "required": ["topic", "urgent"],
    "properties": {"topic": {"enum": ["bill", "parcel"]}, "urgent": {"$ref": "#/$defs/flag"}},
    "additionalProperties": False,
    "$defs": {"flag": {"type": "boolean"}},
}


def hits(metric, predictions):
    return metric.statistics(predictions, [["whatever"]] * len(predictions))[:, 0].tolist()


def schema_file(folder, content):
    file = folder / "schema.json"
    file.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return EvaluationConfig(answer_schema=str(file))


def test_nothing_asked_is_nothing_checked():
    assert checks_of(EvaluationConfig()) == AnswerChecks(None, None, ())


def test_all_three_come_from_the_settings(tmp_path):
    settings = schema_file(tmp_path, TICKET).model_copy(
        update={"answer_pattern": "a|b", "answer_choices": ["a", "b"]}
    )
    assert checks_of(settings) == AnswerChecks(TICKET, "a|b", ("a", "b"))


def test_a_schema_is_obeyed_by_strict_json_alone(tmp_path):
    schema = checks_of(schema_file(tmp_path, TICKET)).schema
    predictions = [
        '{"topic": "bill", "urgent": true}',
        ' {"urgent": false, "topic": "parcel"}\n',
        '{"topic": "bill", "urgent": 1}',
        '{"topic": "other", "urgent": true}',
        '{"topic": "bill"}',
        '{"topic": "bill", "urgent": true, "more": 1}',
        '{"topic": "bill", "topic": "bill", "urgent": true}',
        '```json\n{"topic": "bill", "urgent": true}\n```',
        "[]",
        "",
    ]
    assert hits(json_schema_metric(schema), predictions) == [1, 1, 0, 0, 0, 0, 0, 0, 0, 0]


def test_a_schema_of_itself_follows_values_as_deep_as_it_can():
    schema = {"type": "array", "items": {"$ref": "#"}}
    assert hits(json_schema_metric(schema), ["[" * 20 + "]" * 20, "[" * 20 + "1" + "]" * 20]) == [1, 0]
    # At the deepest nesting there is a verdict, whichever it is, and no crash.
    assert hits(json_schema_metric(schema), ["[" * 100 + "]" * 100])[0] in (0, 1)


def test_older_dialects_are_read_as_what_they_are(tmp_path):
    old = {"$schema": "http://json-schema.org/draft-04/schema#", "maximum": 3, "exclusiveMaximum": True}
    assert hits(json_schema_metric(checks_of(schema_file(tmp_path, old)).schema), ["2", "3"]) == [1, 0]
    assert checks_of(schema_file(tmp_path, {"$schema": "https://example.org/own", "type": "null"})).schema


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('{"type": "object",}', r"schema\.json:1 is no JSON: "),
        ('{"a": 1, "a": 2}', r"schema\.json is no JSON: duplicate key `a`"),
        ("[1]", r"schema\.json` is no JSON object"),
        (
            {"properties": {"x": {"type": "text"}}},
            r"is no JSON Schema: at `\$\.properties\.x\.type`: 'text' is not",
        ),
        ({"pattern": "("}, r"is no JSON Schema: at `\$\.pattern`: '\(' is not a 'regex'"),
        ({"$schema": 3}, r"is no JSON Schema: at `\$\['\$schema'\]`: 3 is not of type"),
        ({"$ref": "#/$defs/gone"}, r"refers to `#/\$defs/gone`, which is not in it"),
        ({"items": [{"$ref": "https://example.org/x.json"}]}, r"is no JSON Schema: at `\$\.items`"),
        (
            {"allOf": [{"$ref": "https://example.org/x.json"}]},
            r"refers to `https://example.org/x.json`, which",
        ),
        ({"$ref": "other.json"}, r"refers to `other\.json`, which is not in it"),
    ],
)
def test_a_bad_schema_is_refused_with_its_place(tmp_path, content, message):
    with pytest.raises(ConfigError, match=message) as caught:
        checks_of(schema_file(tmp_path, content))
    assert caught.value.hint


def test_a_value_that_looks_like_a_reference_is_none(tmp_path):
    schema = {"const": {"$ref": "elsewhere.json"}, "$comment": "kept"}
    assert checks_of(schema_file(tmp_path, schema)).schema == schema


def test_a_schema_that_cannot_be_read_is_refused(tmp_path):
    with pytest.raises(
        ConfigError, match=r"answer_schema` `.*gone\.json` cannot be read: No such file"
    ) as caught:
        checks_of(EvaluationConfig(answer_schema=str(tmp_path / "gone.json")))
    assert "--answer-schema" in caught.value.hint
    (tmp_path / "latin.json").write_bytes(b'{"title": "\xe9"}')
    with pytest.raises(ConfigError, match=r"cannot be read: .*utf-8"):
        checks_of(EvaluationConfig(answer_schema=str(tmp_path / "latin.json")))


def test_no_schema_makes_the_program_call_out(monkeypatch):
    def refuse(*given, **named):
        raise AssertionError("a schema was fetched")

    monkeypatch.setattr(socket.socket, "connect", refuse)
    metric = json_schema_metric(
        {"anyOf": [{"type": "null"}, {"$id": "http://127.0.0.1:9/x", "type": "array"}]}
    )
    assert hits(metric, ["null", "[]", "1"]) == [1, 1, 0]


def test_a_pattern_must_match_the_whole_answer():
    metric = pattern_metric(r"(yes|no)\. .+")
    assert hits(metric, ["yes. Because.", " no. Never\n", "yes.", "Well, yes. So", "no. a\nb"]) == [
        1,
        1,
        0,
        0,
        0,
    ]


def test_a_bad_pattern_is_refused():
    with pytest.raises(
        ConfigError, match=r"answer_pattern` `\(a` is no regular expression: missing \)"
    ) as caught:
        checks_of(EvaluationConfig(answer_pattern="(a"))
    assert "re" in caught.value.hint


def test_a_choice_is_one_of_the_list_right_or_wrong():
    metric = choice_metric(("yes", "no "))
    assert hits(metric, ["yes", " no\n", "Yes", "yes.", ""]) == [1, 1, 0, 0, 0]


def test_an_empty_choice_is_refused():
    with pytest.raises(ConfigError, match="`answer_choices` holds an empty answer") as caught:
        checks_of(EvaluationConfig(answer_choices=["yes", " "]))
    assert "leave it out" in caught.value.hint


@pytest.mark.parametrize(
    ("references", "labels"),
    [
        ([["yes"], ["no"], ["no "], ["yes"]], ("no", "yes")),
        ([["yes", "no"], ["yes", "no"]], ("no", "yes")),
        ([["yes"], ["no"], ["no"]], ()),
        ([["yes"]] * 9, ()),
        ([[""], [""], ["a"], ["a"]], ()),
        ([[str(label)] for label in range(50)] * 2, tuple(sorted(map(str, range(50))))),
        ([[str(label)] for label in range(51)] * 2, ()),
        ([], ()),
    ],
)
def test_labels_are_few_and_repeated(references, labels):
    assert choices_among(references) == labels


def test_signatures_tell_one_check_from_another():
    assert json_schema_metric({"a": 1, "b": 2}).signature == json_schema_metric({"b": 2, "a": 1}).signature
    assert json_schema_metric({}).signature != json_schema_metric({"type": "null"}).signature
    assert pattern_metric("a").signature != pattern_metric("b").signature
    assert choice_metric(("a", "b")).signature == choice_metric(("b", "a")).signature
    assert "from:references" in choice_metric(("a",), origin="references").signature
