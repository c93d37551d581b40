"""What a run's result depends on, and how a change of it is named."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from tiny import tiny_model_folder
from tunesmith.config import MethodConfig, RunConfig, TrainingConfig
from tunesmith.data.conversation import Message, Row
from tunesmith.data.prepare import prepare_data
from tunesmith.data.render import make_renderer
from tunesmith.errors import RunFolderError
from tunesmith.hardware import choose_hardware
from tunesmith.identity import MOST_PRINTS, check_identity, drifts, fingerprint_rows, identity_of
from tunesmith.models.find import find_model
from tunesmith.models.tokenizer import load_tokenizer

RUN = Path("runs/one")


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    return find_model(str(tiny_model_folder(tmp_path_factory.mktemp("model"))))


@pytest.fixture
def lines():
    return [json.dumps({"instruction": f"Say {at}", "output": f"It is {at}."}) for at in range(1, 31)]


@pytest.fixture
def measured(tmp_path, model):
    """Identity, rows and configuration for the lines of a file and other values of the configuration."""

    def of(lines, **sections):
        path = tmp_path / "rows.jsonl"
        path.write_text("\n".join(lines) + "\n", encoding="utf-8")
        values = {"data": {"path": str(path)}} | sections
        values["data"] = {"path": str(path)} | values["data"]
        config = RunConfig.model_validate(values)
        renderer = make_renderer(load_tokenizer(model), config.data.template)
        data = prepare_data(config.data, renderer, seed=config.training.seed)
        hardware = choose_hardware(device="cpu")
        found = identity_of(config, data=data, template=renderer.template, source=model, hardware=hardware)
        return json.loads(json.dumps(found)), data, config

    return of


def told(before, after):
    (then, _, _), (now, data, config) = before, after
    return [str(drift) for drift in drifts(then, now, data=data, config=config)]


def test_nothing_changed_is_no_drift(measured, lines):
    assert told(measured(lines), measured(lines)) == []


def test_every_option_that_decides_the_result_is_a_field(measured, lines):
    found, _, _ = measured(lines)
    options = {f"method.{name}" for name in MethodConfig.model_fields}
    options |= {f"training.{name}" for name in TrainingConfig.model_fields}
    assert options - found.keys() == {"training.save_steps", "training.save_total_limit"}
    assert not [name for name in found if name.startswith("evaluation")]


@pytest.mark.parametrize(
    ("section", "name", "value", "expected"),
    [
        ("training", "seed", 18, "training.seed: 17 then, 18 now"),
        (
            "training",
            "per_device_train_batch_size",
            2,
            "training.per_device_train_batch_size: 4 then, 2 now",
        ),
        (
            "training",
            "gradient_accumulation_steps",
            8,
            "training.gradient_accumulation_steps: 4 then, 8 now",
        ),
        ("training", "learning_rate", 1e-4, "training.learning_rate: 0.0002 then, 0.0001 now"),
        ("training", "max_steps", 7, "training.max_steps: nothing then, 7 now"),
        ("data", "max_length", 512, "data.max_length: 1024 then, 512 now"),
        ("data", "score", "all", "data.score: answers then, all now"),
        ("method", "rank", 8, "method.rank: 16 then, 8 now"),
        ("method", "target_modules", ["q_proj"], "method.target_modules: all-linear then, ['q_proj'] now"),
    ],
)
def test_other_value_of_an_option_is_named_with_both(measured, lines, section, name, value, expected):
    found = told(measured(lines), measured(lines, **{section: {name: value}}))
    assert [line for line in found if not line.startswith("data.path")] == [expected]


@pytest.mark.parametrize(
    ("section", "name", "value"),
    [
        ("training", "save_steps", 3),
        ("training", "save_total_limit", 9),
        ("evaluation", "generate_rows", 1),
        ("evaluation", "confidence", 0.9),
    ],
)
def test_option_without_effect_on_the_weights_may_change(measured, lines, section, name, value):
    assert told(measured(lines), measured(lines, **{section: {name: value}})) == []


def test_other_template_is_named_by_its_contents_and_not_by_its_path(measured, lines, tmp_path):
    other = "{% for message in messages %}{{ message.role }}: {{ message.content }}<|im_end|>{% endfor %}"
    other += "{% if add_generation_prompt %}assistant: {% endif %}"
    for name in ("a.jinja", "b.jinja"):
        (tmp_path / name).write_text(other, encoding="utf-8")
    one, two = (measured(lines, data={"template": str(tmp_path / name)}) for name in ("a.jinja", "b.jinja"))
    (drift,) = told(measured(lines), one)
    assert drift.startswith("template.sha256: ")
    assert told(one, two) == []


def test_edited_row_is_named_with_file_and_line(measured, lines, tmp_path):
    before = measured(lines)
    (drift,) = told(before, measured([*lines[:16], lines[16].replace("It is", "It was"), *lines[17:]]))
    assert drift.startswith("data.path: sha256 ")
    assert drift.endswith(f"({tmp_path / 'rows.jsonl'}:17 is another row)")


def test_edited_prompt_which_may_move_to_another_split_is_named_too(measured, lines, tmp_path):
    before = measured(lines)
    for at in range(30):
        (drift,) = told(before, measured([*lines[:at], lines[at].replace("Say", "Tell"), *lines[at + 1 :]]))
        assert drift.endswith(f"({tmp_path / 'rows.jsonl'}:{at + 1} is another row)")


def test_rows_added_or_gone_are_counted_and_the_first_is_named(measured, lines, tmp_path):
    file = tmp_path / "rows.jsonl"
    before = measured(lines)
    (gone,) = told(before, measured([*lines[:4], *lines[5:]]))
    assert gone.endswith(f"(30 rows then, 29 now; {file}:5 is another row)")
    (ended,) = told(before, measured(lines[:-1]))
    assert ended.endswith("(30 rows then, 29 now; rows at the end are gone)")
    (added,) = told(before, measured([*lines, lines[0]]))
    assert added.endswith(f"(30 rows then, 31 now; {file}:31 is another row)")


def test_several_edited_rows_are_counted(measured, lines, tmp_path):
    (drift,) = told(measured(lines), measured([line.replace(" 2", " two") for line in lines]))
    assert drift.endswith(f"({tmp_path / 'rows.jsonl'}:2 is another row; and 10 more)")


def test_other_bytes_that_hold_the_same_rows_say_so(measured, lines):
    (drift,) = told(measured(lines), measured([line.replace(": ", ":   ") for line in lines]))
    assert drift.endswith("(the rows that the run uses are the same)")


def test_file_that_was_not_there_before(measured, lines, tmp_path):
    more = tmp_path / "more.jsonl"
    more.write_text(lines[0] + "\n", encoding="utf-8")
    found = told(measured(lines), measured(lines, data={"test_file": str(more)}))
    (drift,) = [line for line in found if line.startswith("data.test_file")]
    assert drift.startswith("data.test_file: nothing then, sha256 ")


def many(count, *, changed=()):
    return [
        Row((Message("user", "a"), Message("assistant", "b" if at in changed else "c")), "f", at + 1, "")
        for at in range(count)
    ]


@pytest.mark.parametrize("count", [0, 1, MOST_PRINTS, MOST_PRINTS + 1, 5000])
def test_record_of_many_rows_stays_small_and_finds_each_change(count):
    before = fingerprint_rows(many(count))
    assert before["rows"] == count
    assert len(before["prints"]) <= MOST_PRINTS
    for at in range(0, count, 997):
        after = fingerprint_rows(many(count, changed=[at]))
        differ = [
            block
            for block, pair in enumerate(zip(before["prints"], after["prints"], strict=True))
            if pair[0] != pair[1]
        ]
        assert differ == [at // before["block_rows"]]


def test_changed_row_among_many_is_named_by_its_block(measured, lines):
    _, data, config = measured(lines)
    path = config.data.path
    rows = [replace(row, path=path) for row in many(5000, changed=[12])]
    train = tuple(replace(data.train[0], row=row) for row in rows)
    data = replace(data, train=train, validation=(), test=())
    then, now = ({"sha256": "0", **fingerprint_rows(these)} for these in (many(5000), rows))
    then["sha256"] = "1"
    (drift,) = drifts({"data.path": then}, {"data.path": now}, data=data, config=config)
    assert drift.detail == f"{path}:11 to line 15 hold another row"


def test_other_versions_device_and_model_are_named(measured, lines):
    then, data, config = measured(lines)
    now = then | {"versions.peft": "9.9", "device": "cuda", "dtype": "bfloat16", "model.fingerprint": "other"}
    fields = {"versions.peft", "device", "dtype", "model.fingerprint"}
    assert {drift.field for drift in drifts(then, now, data=data, config=config)} == fields
    assert {name for name in then if name.startswith("versions.")} >= {
        f"versions.{name}" for name in ("tunesmith", "torch", "transformers", "peft", "accelerate")
    }


def found_drifts(measured, lines, **changes):
    then, data, config = measured(lines)
    now = then | {key.replace("__", "."): value for key, value in changes.items()}
    return drifts(then, now, data=data, config=config)


def test_drift_is_refused_with_every_field_and_accepted_on_request(measured, lines):
    found = found_drifts(measured, lines, training__seed=18, data__score="all")
    with pytest.raises(RunFolderError, match="run `runs/one` began otherwise") as caught:
        check_identity(found, RUN, accept_drift=False)
    assert str(caught.value).splitlines()[1:] == [
        "  data.score: answers then, all now",
        "  training.seed: 17 then, 18 now",
    ] or str(caught.value).splitlines()[1:] == [
        "  training.seed: 17 then, 18 now",
        "  data.score: answers then, all now",
    ]
    assert "`tunesmith train --resume runs/one --accept-drift`" in caught.value.hint
    (note,) = check_identity(found, RUN, accept_drift=True)
    assert "training.seed: 17 then, 18 now" in note


@pytest.mark.parametrize("field", ["method.name", "method.rank", "method.target_modules", "training.optim"])
def test_drift_that_changes_shapes_cannot_be_accepted(measured, lines, field):
    found = found_drifts(measured, lines, **{field.replace(".", "__"): "other", "training__seed": 18})
    for accept in (False, True):
        with pytest.raises(RunFolderError, match=f"{field}: .* then, other now") as caught:
            check_identity(found, RUN, accept_drift=accept)
        assert f"with another `{field}` the checkpoints do not fit" in caught.value.hint
        assert "training.seed: 17 then, 18 now" in str(caught.value)


def test_other_number_of_threads_is_a_warning(measured, lines):
    found = found_drifts(measured, lines, threads=torch.get_num_threads() + 1)
    (note,) = check_identity(found, RUN, accept_drift=False)
    assert note.startswith(f"note: threads: {torch.get_num_threads()} then, ")
    assert note.endswith("the last bits of the result may differ")
    assert check_identity([], RUN, accept_drift=False) == ()
