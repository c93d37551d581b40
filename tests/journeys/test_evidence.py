"""Two models' outputs read side by side, through the real command line."""

import json
from pathlib import Path

import pytest

from tunesmith.cli.main import main


def run(*arguments: object) -> int:
    """Exit code of `tunesmith ARGUMENTS`."""
    with pytest.raises(SystemExit) as stopped:
        main([*map(str, arguments)])
    return int(stopped.value.code or 0)


@pytest.fixture
def printed(tmp_path: Path) -> tuple[Path, Path]:
    """What `tunesmith generate --json` printed for two models, and one reference written beside."""
    pairs = {
        "before": [("Pet?", "the red cat sat"), ("茶？", "我喜欢红茶"), ("Why?", "because")],
        "after": [("Pet?", "the red dog sat"), ("茶？", "我喜欢绿茶"), ("Why?", "because")],
    }
    paths = []
    for name, rows in pairs.items():
        answers = [
            {"prompt": prompt, "answer": answer, "reference": "the red dog sat"} for prompt, answer in rows
        ]
        path = tmp_path / f"{name}.json"
        path.write_text(json.dumps({"target": name, "answers": answers}, indent=2), encoding="utf-8")
        paths.append(path)
    return paths[0], paths[1]


def test_from_two_outputs_to_text_page_and_numbers(
    printed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("diff", *printed) == 0
    text = capsys.readouterr().out
    assert "the red [-cat-]{+dog+} sat" in text
    assert "我喜欢[-红-]{+绿+}茶" in text

    page = tmp_path / "diff.html"
    assert run("diff", *printed, "--html", page, "--json") == 0
    found = json.loads(capsys.readouterr().out)
    assert found["html"] == str(page)
    assert [score["metric"] for score in found["scores"]] == ["exact_match", "chrf"]
    assert found["scores"][0]["comparison"]["difference"] == pytest.approx(100 / 3)
    html = page.read_text(encoding="utf-8")
    for item in found["items"]:
        assert item["place"] in html
    assert "<script" not in html


def test_bad_input_is_named_and_the_exit_code_says_whose_fault(
    printed: tuple[Path, Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    other = tmp_path / "other.jsonl"
    other.write_text('{"prompt": "Something else", "answer": "x"}\n', encoding="utf-8")
    assert run("diff", printed[0], other) == 2
    assert "share no prompt" in capsys.readouterr().err

    other.write_text(
        '{"prompt": "Pet?", "answer": "x"}\n{"prompt": "Why?", "anser": "y"}\n', encoding="utf-8"
    )
    assert run("diff", printed[0], other, "--json") == 2
    refused = json.loads(capsys.readouterr().out)
    assert f"{other}:2: the row has no answer" in refused["error"]
    assert refused["hint"] == "did you mean `answer`?"

    assert run("diff", printed[0], "--html", other) == 2
    assert "the output exists already" in capsys.readouterr().err
