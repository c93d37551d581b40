"""What `data preview` prints: with colour, without, for machines; and how far it reads."""

import io
import json
from pathlib import Path
from typing import Any

import pytest
from cyclopts import App
from rich.console import Console

from tiny import tiny_model_folder
from tunesmith.cli import data_preview
from tunesmith.cli.data_preview import preview
from tunesmith.cli.preview_text import coloured_preview, plain_preview
from tunesmith.data.preview import RowView, Token
from tunesmith.errors import DataError, UserError

LINES = (
    '{"instruction": "Say\\tone", "output": "1 <|im_end|>"}',
    '{"question": "x"}',
    '{"instruction": "Say two", "output": "  "}',
    "{broken",
    '{"instruction": "Say\\u200b three", "output": "你好\\nthree"}',
)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_model_folder(tmp_path_factory.mktemp("model"))


@pytest.fixture
def rows(tmp_path: Path) -> Path:
    file = tmp_path / "rows.jsonl"
    file.write_text("\n".join(LINES) + "\n", encoding="utf-8")
    return file


def run(file: Path, model: Path, *words: object) -> None:
    """As a user types it."""
    app = App(result_action="return_value")
    app.command(preview)
    app(["preview", str(file), "--model", str(model), *map(str, words)], exit_on_error=False)


def shown(capsys: pytest.CaptureFixture[str], file: Path, model: Path, *words: object) -> str:
    capsys.readouterr()
    run(file, model, *words)
    return capsys.readouterr().out


def as_json(capsys: pytest.CaptureFixture[str], file: Path, model: Path, *words: object) -> dict[str, Any]:
    return dict(json.loads(shown(capsys, file, model, "--json", *words)))


def test_without_colour_brackets_hold_what_is_scored(
    rows: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    text = shown(capsys, rows, model, "--row", 1, 5)
    assert "\x1b" not in text
    assert text.startswith("⟦scored⟧")
    assert f"row 1  {rows}:1  " in text
    assert "`<|im_end|>` is text here, no control token" in text
    assert (
        "<|im_start|>user⏎\nSay⇥one<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦1 <|im_end|><|im_end|>⟧⏎\n" in text
    )
    assert "Say\\u200b three<|im_end|>⏎\n<|im_start|>assistant⏎\n⟦你好⏎\nthree<|im_end|>⟧⏎\n" in text


def test_rows_that_cannot_be_used_say_why_and_the_others_are_shown(
    rows: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, rows, model, "--rows", 5)["rows"]
    assert [row["place"] for row in found] == [f"{rows}:{line}" for line in range(1, 6)]
    assert [bool(row["error"]) for row in found] == [False, True, True, True, False]
    assert "which are of no known shape" in found[1]["error"]
    assert found[2]["error"] == "the answer is empty (turn 2)"
    assert found[2]["hint"]
    text = shown(capsys, rows, model, "--row", 3)
    assert f"row 3  {rows}:3  cannot be used\n\nthe answer is empty (turn 2)\nhint: " in text


def test_pieces_for_machines_are_the_whole_row(
    rows: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    found = as_json(capsys, rows, model, "--row", 5)
    (row,) = found["rows"]
    pieces = row["pieces"]
    assert found["max_length"] == 1024
    assert row["row"] == 5
    assert "".join(piece["text"] for piece in pieces) == (
        "<|im_start|>user\nSay\u200b three<|im_end|>\n<|im_start|>assistant\n你好\nthree<|im_end|>\n"
    )
    assert "".join(piece["text"] for piece in pieces if piece["scored"]) == "你好\nthree<|im_end|>"
    assert [piece["text"] for piece in pieces if piece["control"]] == ["<|im_start|>", "<|im_end|>"] * 2
    assert sum(len(piece["ids"]) for piece in pieces) == row["tokens"]
    assert sum(len(piece["ids"]) for piece in pieces if piece["scored"]) == row["scored_tokens"]


def test_what_does_not_fit_is_cut_with_scissors(
    rows: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (row,) = as_json(capsys, rows, model, "--rows", 1)["rows"]
    longest = row["tokens"] - 3
    text = shown(capsys, rows, model, "--rows", 1, "--max-length", longest)
    assert f"too long: 3 beyond {longest}" in text
    assert text.endswith("⟦1 <|im_end|⟧✂⟦><|im_end|>⟧⏎\n")
    (row,) = as_json(capsys, rows, model, "--rows", 1, "--max-length", longest)["rows"]
    assert row["is_too_long"]
    assert "".join(piece["text"] for piece in row["pieces"] if piece["cut"]) == "><|im_end|>\n"


def test_columns_format_system_and_template_are_those_of_training(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = tmp_path / "table.csv"
    table.write_text("question,answer\nq,a\n", encoding="utf-8")
    words = ("--columns", "instruction=question", "output=answer", "--system", "Be brief.")
    assert "<|im_start|>system⏎\nBe brief.<|im_end|>" in shown(capsys, table, model, *words)
    layout = shown(capsys, table, model, *words, "--template", "instruction", "--format", "instruction")
    assert "Be brief.⏎\n⏎\n### Instruction:⏎\nq⏎\n⏎\n### Response:⏎\n⟦a<|im_end|>⟧" in layout


def test_the_page_is_written_beside_what_is_printed(
    rows: Path, model: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    page = tmp_path / "rows.html"
    found = as_json(capsys, rows, model, "--html", page)
    assert found["html"] == str(page)
    assert "the answer is empty (turn 2)" in page.read_text(encoding="utf-8")
    with pytest.raises(DataError, match="the output exists already"):
        run(rows, model, "--html", page)


def test_only_as_much_is_read_as_is_shown(
    tmp_path: Path, model: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = tmp_path / "long.jsonl"
    line = json.dumps({"instruction": "q", "output": "a"}) + "\n"
    long.write_text(line * 2 + '{"instruction": "q", "output": "a' + "\x00" * 4_000_000, encoding="utf-8")
    assert len(as_json(capsys, long, model, "--rows", 2)["rows"]) == 2


@pytest.mark.parametrize(
    ("words", "error", "message", "hint"),
    [
        (["--row", "2", "9"], DataError, "there is no row 9; it holds 5", "name a row that is there"),
        (["--columns", "instruction"], UserError, "not of the form OURS=THEIRS", "instruction=question"),
        (["--columns", "instrution=q"], UserError, "which is no field of a row", "`instruction=q`"),
        (["--columns", "zzz=q"], UserError, "maps `zzz`", "our fields are `instruction`"),
        (["--template", "none.jinja"], UserError, "cannot be read", "give a Jinja file"),
    ],
)
def test_what_cannot_be_done_is_said(
    rows: Path, model: Path, words: list[str], error: type[UserError], message: str, hint: str
) -> None:
    with pytest.raises(error, match=message) as refused:
        run(rows, model, *words)
    assert hint in refused.value.hint


def test_a_file_without_rows_is_refused(tmp_path: Path, model: Path) -> None:
    empty = tmp_path / "empty.json"
    empty.write_text("[]", encoding="utf-8")
    with pytest.raises(DataError, match="the file holds no rows"):
        run(empty, model)


def test_on_a_terminal_green_is_scored_and_no_bracket_is_needed(
    rows: Path, model: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen = io.StringIO()
    monkeypatch.delenv("NO_COLOR", raising=False)
    monkeypatch.setattr(
        data_preview, "output", Console(file=screen, force_terminal=True, color_system="256", soft_wrap=True)
    )
    run(rows, model, "--rows", 1)
    assert "\x1b[38;5;255;48;5;22m" in screen.getvalue()
    assert "⟦" not in screen.getvalue()


def test_no_color_is_honoured_on_a_terminal(rows: Path, model: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    screen = io.StringIO()
    monkeypatch.setenv("NO_COLOR", "1")
    monkeypatch.setattr(
        data_preview, "output", Console(file=screen, force_terminal=True, soft_wrap=True, highlight=False)
    )
    run(rows, model, "--rows", 1)
    assert "\x1b" not in screen.getvalue()
    assert "⟦1 <|im_end|><|im_end|>⟧" in screen.getvalue()


def test_styles_tell_scored_control_cut_and_hidden_apart() -> None:
    tokens = (
        Token("a", (1,), False, False, False),
        Token("b", (1,), False, False, False),
        Token("<s>", (1,), False, True, False),
        Token("c\u200b", (1,), True, False, False),
        Token("</s>", (1,), True, True, False),
        Token("d", (1,), True, False, True),
        Token("e\n", (1,), False, False, True),
    )
    page = coloured_preview([RowView(1, "rows.jsonl:1", tokens, 7)], max_length=5)
    start = page.plain.rindex("ab<s>")
    styles = {
        page.plain[span.start : span.end]: str(span.style) for span in page.spans if span.start >= start
    }
    assert styles == {
        "a": "dim",
        "b": "dim underline",
        "<s>": "black on yellow3",
        "c": "grey93 on green4",
        r"\u200b": "bold grey93 on red3",
        "</s>": "bold yellow1 on dark_green",
        "d": "strike grey93 on dark_red",
        "e": "strike red",
        "⏎": "strike red",
    }


def test_the_data_can_send_no_code_to_the_terminal() -> None:
    evil = "\x1b]0;mine\x07"
    view = RowView(1, evil, (Token(evil, (1,), True, False, False),), 1, lookalike=evil)
    refused = RowView(2, evil, error=evil, hint=evil)
    for text in (
        plain_preview([view, refused], max_length=9),
        coloured_preview([view, refused], max_length=9).plain,
    ):
        assert "\x1b" not in text
        assert text.count(r"\u001b]0;mine\u0007") == 6
