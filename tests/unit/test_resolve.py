import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.errors import ConfigError
from tunesmith.resolve import options, resolve

HELP = "`tunesmith train --help` lists every option with its default"


@pytest.fixture
def write(tmp_path):
    """A function that writes a configuration and returns its path."""

    def written(text, name="config.yaml"):
        path = tmp_path / name
        path.write_text(text, encoding="utf-8")
        return path

    return written


def problems_of(file=None, flags=None):
    """The lines of the message, the head checked against their number."""
    with pytest.raises(ConfigError) as caught:
        resolve(file, flags)
    head, *lines = str(caught.value).split("\n")
    count = "a problem" if len(lines) == 1 else f"{len(lines)} problems"
    assert head == f"the configuration has {count}:"
    assert caught.value.hint == HELP
    return [line.removeprefix("  ") for line in lines]


def refusal_of(file):
    """Message and hint about a file that is no configuration at all."""
    with pytest.raises(ConfigError) as caught:
        resolve(file)
    return str(caught.value), caught.value.hint


def test_flags_go_before_the_file_and_the_file_before_defaults(write):
    file = write("data:\n  path: rows.json\ntraining:\n  learning_rate: 1e-3\n  seed: 5\n")
    resolved = resolve(file, {"learning-rate": "3e-4", "rank": "8"})
    config = resolved.config
    assert (config.data.path, config.method.rank, config.method.alpha) == ("rows.json", 8, 32)
    assert (config.training.learning_rate, config.training.seed) == (3e-4, 5)
    assert resolved.origins["training.learning_rate"] == "--learning-rate"
    assert resolved.origins["method.rank"] == "--rank"
    assert resolved.origins["training.seed"] == resolved.origins["data.path"] == str(file)
    assert resolved.origins["method.alpha"] == "default"


def test_every_option_has_an_origin_and_a_row_in_order():
    resolved = resolve(None, {"data": "rows.json"})
    keys = [option.key for option in options()]
    assert [key for key, _, _ in resolved.rows()] == keys == list(resolved.origins)
    assert [origin for _, _, origin in resolved.rows()].count("default") == len(keys) - 1
    defaults = {option.key: option.default for option in options() if not option.is_required}
    assert {key: value for key, value, _ in resolved.rows() if key in defaults} == defaults


def test_number_with_an_exponent_and_no_dot_is_a_number(write):
    file = write("data: {path: a.json}\ntraining:\n  learning_rate: 2e-4\n")
    assert resolve(file).config.training.learning_rate == 2e-4


def test_section_left_empty_means_its_defaults(write):
    file = write("data: {path: a.json}\nmethod:\ntraining:\n  # learning_rate: 1e-3\n")
    assert resolve(file).config == resolve(None, {"data": "a.json"}).config
    assert resolve(file, {"rank": "4"}).config.method.rank == 4


def test_unknown_key_gives_its_line_and_the_nearest_key(write):
    file = write("data:\n  path: a.json\ntraining:\n  seed: 1\n  learning_rat: 1e-3\n")
    assert problems_of(file) == [
        f"{file}:5: training.learning_rat: unknown key; nearest: learning_rate",
    ]


def test_unknown_section_gives_its_line_and_the_nearest_section(write):
    file = write("data:\n  path: a.json\ntrainig:\n  seed: 1\n")
    assert problems_of(file) == [f"{file}:3: trainig: unknown key; nearest: training"]


def test_key_like_no_other_has_no_nearest(write):
    file = write("data: {path: a.json}\nzzz: 1\n")
    assert problems_of(file) == [f"{file}:2: zzz: unknown key"]


def test_key_that_is_no_text(write):
    file = write("data: {path: a.json}\n1: 2\n")
    assert problems_of(file) == [f"{file}:2: 1: Keys should be strings"]


def test_all_problems_are_reported_at_once_each_with_its_place(write):
    file = write(
        "data:\n  path: a.json\n  format: conversation\n  max_length: 4\n"
        "training:\n  learning_rate: abc\n  per_device_train_batch_size: 2.5\n  epoch_count: 3\n"
    )
    assert problems_of(file, {"rank": "0", "learning-rat": "1", "seed": "x"}) == [
        "--learning-rat: no such flag; nearest: --learning-rate",
        f"{file}:3: data.format: 'conversation' is none of auto, instruction, conversations, messages, "
        "prompt_completion; nearest: conversations",
        f"{file}:4: data.max_length: 4 should be greater than or equal to 16",
        "--rank: '0' should be greater than or equal to 1",
        f"{file}:6: training.learning_rate: 'abc' is not a number",
        f"{file}:7: training.per_device_train_batch_size: 2.5 is not a whole number",
        "--seed: 'x' is not a whole number",
        f"{file}:8: training.epoch_count: unknown key",
    ]


def test_learning_rate_that_is_no_number():
    assert problems_of(None, {"data": "a.json", "learning-rate": "abc"}) == [
        "--learning-rate: 'abc' is not a number"
    ]


@pytest.mark.parametrize("value", ["inf", "nan"])
def test_learning_rate_that_is_not_finite(value):
    (problem,) = problems_of(None, {"data": "a.json", "learning-rate": value})
    assert re.fullmatch(rf"--learning-rate: '?{value}'? should be a finite number", problem)


@pytest.mark.parametrize("flag", [option.flag for option in options() if len(option.flag) > 4])
def test_flag_with_a_letter_left_out_is_met_with_the_flag(flag):
    typo = flag[:2] + flag[3:]
    (problem,) = problems_of(None, {"data": "a.json", typo: "1"})
    assert problem == f"--{typo}: no such flag; nearest: --{flag}"


def test_value_of_two_allowed_kinds_is_refused_once(write):
    file = write("data: {path: a.json}\nmethod:\n  target_modules: al-linear\n")
    assert problems_of(file) == [
        f"{file}:3: method.target_modules: 'al-linear' is none of all-linear, attention; nearest: all-linear"
    ]


def test_section_that_is_no_mapping(write):
    file = write("data: rows.json\n")
    (problem,) = problems_of(file)
    assert problem.startswith(f"{file}:1: data: 'rows.json' should be a valid dictionary")


def test_fraction_of_rows_above_one(write):
    file = write("data:\n  path: a.json\n  test_size: 1.5\n")
    assert problems_of(file) == [
        f"{file}:3: data.test_size: a number of rows must be whole; a fraction must be below 1"
    ]


def test_validation_steps_without_validation_rows():
    flags = {"data": "a.json", "eval-steps": "5", "validation-size": "0"}
    assert problems_of(None, flags) == [
        "together: `eval_steps` has no effect without validation rows (`validation_size` is 0)"
    ]
    assert resolve(None, flags | {"validation-file": "b.json"}).config.training.eval_steps == 5


@pytest.mark.parametrize(
    "text", ["", "\n\n", "# nothing yet\n", "data:\n", "data: {}\n", "training: {seed: 1}\n"]
)
def test_configuration_without_data_says_how_to_give_it(write, text):
    assert problems_of(write(text)) == ["data.path: required, and not given (flag `--data`)"]


def test_nothing_given_at_all():
    assert problems_of() == ["data.path: required, and not given (flag `--data`)"]


def test_missing_file_gives_the_nearest_name(write, tmp_path):
    write("", name="lora.yaml")
    write("", name="other.yml")
    message, hint = refusal_of(tmp_path / "lorra.yaml")
    assert message.endswith("lorra.yaml` cannot be read: No such file or directory; nearest: lora.yaml")
    assert hint == "give a YAML file, or use flags alone: `tunesmith train --data FILE`"
    message, _ = refusal_of(tmp_path / "absent" / "lora.yaml")
    assert message.endswith("cannot be read: No such file or directory")


def test_file_that_is_no_text(tmp_path):
    file = tmp_path / "config.yaml"
    file.write_bytes(b"\xff\xfe\x00")
    message, _ = refusal_of(file)
    assert f"`{file}` cannot be read: 'utf-8' codec can't decode byte 0xff" in message


def test_key_given_twice_is_refused_with_its_line(write):
    file = write("data:\n  path: a.json\n  path: b.json\ntraining: {seed: 1}\ntraining: {seed: 2}\n")
    with pytest.raises(ConfigError) as caught:
        resolve(file)
    assert str(caught.value).split("\n")[1:] == [
        f"  {file}:3: data.path: given twice",
        f"  {file}:5: training: given twice",
    ]
    assert caught.value.hint == "keep one of them"


def test_alias_bomb_is_refused_before_it_grows(write):
    levels = "\n".join(f"l{n}: &l{n} [{', '.join([f'*l{n - 1}'] * 9)}]" for n in range(1, 30))
    message, hint = refusal_of(write(f"l0: &l0 [x]\n{levels}\n"))
    assert re.search(r"config\.yaml:2: not valid YAML: aliases \(`\*name`\) are not allowed here", message)
    assert hint == "mend that line"


@pytest.mark.parametrize(
    "tag", ["!!python/object:pathlib.Path", "!!python/object/apply:os.getcwd", "!!python/name:os.system"]
)
def test_python_objects_are_refused(write, tag):
    file = write(f"data:\n  path: {tag} []\n")
    message, _ = refusal_of(file)
    assert message.startswith(f"{file}:2: not valid YAML: could not determine a constructor for the tag")
    assert tag.removeprefix("!!") in message


@pytest.mark.parametrize(
    ("text", "place", "problem"),
    [
        ("data: {path: a\ntraining: [\n", ":2", "expected ',' or '}'"),
        ("data:\n\tpath: a\n", ":2", "found character '\\t' that cannot start any token"),
        ("a: 1\n---\nb: 2\n", ":2", "but found another document"),
        ("? [a, b]\n: 1\n", ":1", "found unhashable key"),
        ("data:\n  path: 2024-99-99\n", "", "month must be in 1..12"),
        ("data:\n  path: !!bool perhaps\n", "", "perhaps"),
        ("data:\n  path: !!timestamp soon\n", "", "not valid YAML"),
        ("[" * 5000, "", "recursion"),
    ],
)
def test_text_that_is_no_yaml_gives_the_line_where_it_is_known(write, text, place, problem):
    file = write(text)
    message, hint = refusal_of(file)
    assert message.startswith(f"{file}{place}: not valid YAML: ")
    assert problem in message
    assert hint == ("mend that line" if place else "put quotes around dates and other odd values")


@pytest.mark.parametrize(("text", "kind"), [("- a\n- b\n", "list"), ("rows.json\n", "str"), ("5\n", "int")])
def test_file_without_keys(write, text, kind):
    file = write(text)
    assert refusal_of(file) == (
        f"{file}: holds {kind}, not keys with values",
        "begin with `data:` and, indented below it, `path: rows.json`",
    )


TEXTS = st.text(max_size=30)
NAMES = st.text(min_size=1, max_size=12)
FLAGS = st.fixed_dictionaries(
    {"data": NAMES},
    optional={
        "system": TEXTS,
        "output-dir": TEXTS,
        "columns": st.dictionaries(NAMES, NAMES, max_size=3),
        "target-modules": st.sampled_from(["attention", "all-linear"]) | st.lists(TEXTS, max_size=3),
        "learning-rate": st.floats(1e-300, 1e300),
        "validation-size": st.floats(0, 1) | st.integers(1, 10**9),
        "seed": st.integers(0, 10**30),
        "max-steps": st.none() | st.integers(1, 10**6),
        "dtype": st.sampled_from(["auto", "bfloat16"]),
    },
)


@given(FLAGS)
def test_as_yaml_reads_back_to_the_same_configuration(tmp_path_factory, flags):
    resolved = resolve(None, flags)
    file = tmp_path_factory.getbasetemp() / "repeated.yaml"
    file.write_bytes(resolved.as_yaml().encode("utf-8"))
    assert resolve(file).config == resolved.config


def test_as_yaml_names_the_origin_of_each_value(write):
    file = write("data: {path: a.json}\n")
    lines = resolve(file, {"rank": "8"}).as_yaml().splitlines()
    assert lines[0].startswith("# The resolved configuration of a run")
    assert f"  path: a.json  # {file}" in lines
    assert "  rank: 8  # --rank" in lines
    assert "  alpha: 32.0  # default" in lines or "  alpha: 32  # default" in lines
    assert sum(" # " in line for line in lines[1:]) == len(options())


def test_to_repeat_makes_paths_absolute_and_leaves_the_folder_open(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("rows.json", "test.json", "layout.jinja"):
        Path(name).write_text("x")
    Path("model").mkdir()
    flags = {"data": "rows.json", "test-file": "test.json", "template": "layout.jinja", "model": "model"}
    resolved = resolve(None, flags | {"output-dir": "runs/a", "seed": "3"})
    repeated = resolved.to_repeat()
    data = repeated.config.data
    files = (data.path, data.test_file, data.template, repeated.config.model.name)
    assert files == tuple(str(tmp_path / flags[flag]) for flag in flags)
    assert repeated.config.output_dir is None
    assert repeated.config.training == resolved.config.training
    assert repeated.origins == resolved.origins


def test_to_repeat_leaves_names_that_are_no_paths():
    config = resolve(None, {"data": "absent.json", "model": "smollm2-135m"}).to_repeat().config
    assert (config.data.path, config.data.template) == ("absent.json", "auto")
    assert (config.model.name, config.data.validation_file) == ("smollm2-135m", None)


def test_yes_is_no_number(write):
    file = write("data:\n  path: rows.jsonl\nmethod:\n  rank: yes\n")
    (problem,) = problems_of(file)
    assert f"{file}:4" in problem
    assert "true and false are no values here" in problem
