"""What `diff` prints: with colour, without, for machines, as a page; and what it refuses."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from rich.console import Console

from tiny import tiny_model_folder
from tunesmith.cli import diff as module
from tunesmith.cli.diff import diff
from tunesmith.cli.diff_text import SHOWN_PROMPT_CHARACTERS, row_text
from tunesmith.errors import ConfigError, DataError, UserError
from two_systems import SYSTEMS, compared

RED, GREEN = "\x1b[31m", "\x1b[32m"


def write(path: Path, *rows: tuple[str, ...]) -> Path:
    """Outputs from (prompt, answer) or (prompt, answer, reference)."""
    names = ("prompt", "answer", "reference")
    lines = [json.dumps(dict(zip(names, row, strict=False)), ensure_ascii=False) for row in rows]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


@pytest.fixture
def before(tmp_path: Path) -> Path:
    return write(
        tmp_path / "before.jsonl",
        ("Same?", "yes", "yes"),
        ("Pet?", "the red cat sat", "the red dog sat"),
        ("茶？", "我喜欢红茶"),
        ("Only here?", "x"),
    )


@pytest.fixture
def after(tmp_path: Path) -> Path:
    return write(
        tmp_path / "after.jsonl", ("Pet?", "the red dog sat"), ("Same?", "yes"), ("茶？", "我喜欢绿茶")
    )


def run(*words: object) -> None:
    """As a user types it."""
    app = App(result_action="return_value")
    app.command(diff)
    app(["diff", *map(str, words)], exit_on_error=False)


def shown(capsys: pytest.CaptureFixture[str], *words: object) -> str:
    capsys.readouterr()
    run(*words)
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], *words: object) -> dict[str, Any]:
    return dict(json.loads(shown(capsys, *words, "--json")))


def test_signs_tell_what_only_one_has_without_any_colour(
    before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, before, after)
    assert "\x1b" not in text
    assert text.startswith("only in [-before-]  only in {+after+}\n")
    assert "the red [-cat-]{+dog+} sat\nreference: the red dog sat\n" in text
    assert "我喜欢[-红-]{+绿+}茶" in text
    assert f"row 2  {before}:2  " in text
    assert "Exact match 0.0 → 100.0" in text
    assert "1 of 3 answers is identical; on average" in text
    assert text.index("Pet?") < text.index("茶？") < text.index("Same?")
    table = text[text.rindex("metric") :]
    assert "chrF" in table
    assert "after is" in table
    assert "few rows" in table


def test_order_and_number_of_rows(before: Path, after: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, before, after, "--order", "file", "--rows", 2)
    assert text.index("Same?") < text.index("Pet?")
    assert "茶" not in text
    assert "\n1 more: `--rows 3`, or `--html FILE`\n" in text
    alone = shown(capsys, before, after, "--rows", 0)
    assert "Pet?" not in alone
    assert "of 3 answers is identical" in alone


def test_the_rows_left_out_are_counted(before: Path, after: Path, capsys: pytest.CaptureFixture[str]) -> None:
    capsys.readouterr()
    run(before, after)
    assert f"1 row of {before} left out" in capsys.readouterr().err


def test_machines_get_all_rows_spans_and_scores(
    before: Path, after: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, before, after, "--rows", 1)
    assert found["systems"] == ["before", "after"]
    assert found["left_out"] == {str(before): 1, str(after): 0}
    assert (found["rows"], found["identical"], found["html"]) == (3, 1, None)
    assert [item["row"] for item in found["items"]] == [2, 3, 1]
    pet = found["items"][0]
    assert pet["answers"] == {"before": "the red cat sat", "after": "the red dog sat"}
    assert "".join(span["text"] for span in pet["spans"] if span["kind"] != "delete") == "the red dog sat"
    assert pet["scores"]["exact_match"] == {"unit": "percent", "before": 0, "after": 100}
    assert found["items"][1]["scores"] == {}
    exact = found["scores"][0]
    assert (exact["metric"], exact["comparison"]["difference"], exact["comparison"]["n"]) == (
        "exact_match",
        50,
        2,
    )


def test_equal_outputs_are_said_to_be_equal(before: Path, capsys: pytest.CaptureFixture[str]) -> None:
    text = shown(capsys, before, before)
    assert text.startswith("All 4 answers are identical.\n")
    assert "[-" not in text


def test_a_folder_of_three_systems_wants_two_of_them(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    row = {"prompt": "p", "answers": {"zero-shot": "a b", "few-shot": "a c", "fine-tuned": "a d"}}
    (tmp_path / "answers.jsonl").write_text(json.dumps(row), encoding="utf-8")
    with pytest.raises(ConfigError, match="there are 3 systems: `zero-shot`, `few-shot`, `fine-tuned`"):
        run(tmp_path)
    text = shown(capsys, tmp_path, "--systems", "few-shot", "fine-tuned")
    assert "a [-c-]{+d+}" in text


def test_the_page_is_written_once(
    before: Path, after: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "diff.html"
    assert as_json(capsys, before, after, "--html", page)["html"] == str(page)
    html = page.read_text(encoding="utf-8")
    assert "<del>cat</del>" in html
    assert "left out" in html
    with pytest.raises(DataError, match="the output exists already"):
        run(before, after, "--html", page)


def test_on_a_terminal_signs_have_colours(before: Path, after: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(
        module, "output", Console(file=screen, force_terminal=True, color_system="standard", soft_wrap=True)
    )
    run(before, after)
    assert f"{RED}[-cat-]" in screen.getvalue()
    assert f"{GREEN}{{+dog+}}" in screen.getvalue()


def test_no_color_leaves_the_signs(before: Path, after: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(module, "output", Console(file=screen, force_terminal=True, soft_wrap=True))
    run(before, after)
    assert RED not in screen.getvalue()
    assert GREEN not in screen.getvalue()
    assert "the red [-cat-]{+dog+} sat" in screen.getvalue()


def test_answers_that_share_little_stand_one_after_the_other() -> None:
    (row,) = compared(("alpha\nbeta", "one two", ())).rows
    assert row_text(row, SYSTEMS).plain.endswith("- old:\n- alpha\n- beta\n+ new:\n+ one two")
    (row,) = compared(("alpha", "", ())).rows
    assert row_text(row, SYSTEMS).plain.endswith("- old:\n- alpha\n+ new:\n+ (empty)")


def test_long_prompts_and_long_equal_stretches_are_cut() -> None:
    long = "same words " * 100
    (row,) = compared((f"{long}a", f"{long}b", ())).rows
    text = row_text(row, SYSTEMS).plain
    assert "equal characters) …" in text
    assert text.endswith("[-a-]{+b+}")
    assert len(text) < 700
    assert len(long) > SHOWN_PROMPT_CHARACTERS


def test_of_many_references_the_first_are_shown() -> None:
    (row,) = compared(("a b", "a c", tuple("uvwxy"))).rows
    assert row_text(row, SYSTEMS).plain.endswith(
        "reference: u\nreference: v\nreference: w\n(2 more references)"
    )


def test_no_answer_can_send_a_code_to_the_terminal() -> None:
    evil = "\x1b]0;mine\x07 a b c d"
    for row in compared((f"{evil} e", f"{evil} f", (evil,)), (evil, "z", ()), (evil, evil, ())).rows:
        text = row_text(row, (evil, evil)).plain
        assert "\x1b" not in text
        assert r"\u001b]0;mine\u0007" in text


@pytest.mark.parametrize(
    ("words", "error", "message", "hint"),
    [
        ([], ConfigError, "there is nothing to compare", "two files of outputs"),
        (["BEFORE"], ConfigError, "there is one system only, `before`", "a second file"),
        (["BEFORE", "AFTER", "--temperature", "1"], ConfigError, "`--temperature`: no effect", "--data FILE"),
        (["BEFORE", "AFTER", "--batch-size", "2"], ConfigError, "`--batch-size`: no effect", "--data FILE"),
        (["BEFORE", "smollm2"], DataError, "smollm2: there is no such file or folder", "--data FILE"),
        (["BEFORE", "BEFORE.jsonl"], DataError, "there is no such file", "nearest name"),
        (["BEFORE", "AFTER", "--systems", "before", "aftr"], ConfigError, "no system `aftr`", "`after`"),
        (["m", "--data", "BEFORE"], ConfigError, "asks two different models, not `m`", "as in"),
        (["m", "m", "--data", "BEFORE"], ConfigError, "asks two different models, not `m` and `m`", "as in"),
        (
            ["m", "n", "--data", "BEFORE", "--systems", "m", "n"],
            ConfigError,
            "`--systems` has no effect",
            "leave",
        ),
        (["m", "n", "--data", "NONE"], DataError, "there is no such file", ""),
    ],
)
def test_what_cannot_be_done_is_said(
    words: list[str], error: type[UserError], message: str, hint: str, before: Path, after: Path
) -> None:
    places = {"BEFORE": before, "AFTER": after, "BEFORE.jsonl": before.with_name("befor.jsonl")}
    with pytest.raises(error, match=message) as refused:
        run(*(places.get(word, word) for word in words))
    assert hint in refused.value.hint


def test_two_models_answer_the_same_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    models = [tiny_model_folder(tmp_path / name, seed=seed) for seed, name in enumerate(("one", "two"))]
    data = tmp_path / "rows.jsonl"
    rows = [{"instruction": f"Say {number}", "output": str(number)} for number in range(6)]
    rows.append({"instruction": "Say 0", "output": "zero"})
    data.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")
    # Greedy answers of random models are all alike.
    words = (*models, "--data", data, "--max-new-tokens", 6, "--temperature", 1, "--order", "file")
    found = as_json(capsys, *words)
    assert found["systems"] == ["one", "two"]
    assert found["rows"] == 6
    assert found["items"][0]["references"] == ["0", "zero"]
    assert found["decoding"]["max_new_tokens"] == 6
    assert any(item["answers"]["one"] != item["answers"]["two"] for item in found["items"])
    fewer = as_json(capsys, *words, "--generate-rows", 2)
    drawn = {item["place"] for item in fewer["items"]}
    assert len(drawn) == fewer["rows"] == 2
    places = [item["place"] for item in found["items"]]
    assert [item["place"] for item in fewer["items"]] == [place for place in places if place in drawn]
