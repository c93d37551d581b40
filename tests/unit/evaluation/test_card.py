import ast
import re
from dataclasses import replace

import pytest
import yaml
from hypothesis import given
from hypothesis import strategies as st
from markdown_it import MarkdownIt

from tunesmith.evaluation.card import code_span, heading_text, is_hub_id, render_card, table_cell
from tunesmith.evaluation.elsewhere import GENERAL_PLACE, Elsewhere, Place
from tunesmith.evaluation.report import RunFacts
from tunesmith.evaluation.scores import Comparison, Evaluation, Score

PAYLOAD = "a|b `x` ``` <script>alert(1)</script>\n---\n# [l](javascript:x) ![i](http://x) **b**"
MARKDOWN = MarkdownIt("commonmark", {"html": True}).enable("table")
EVALUATION = Evaluation(
    base=(Score("loss", 2.3, 2.2, 2.4, 64, "loss|seed:17", False, "nats/token"),),
    tuned=(Score("loss", 1.4, 1.3, 1.5, 64, "loss|seed:17", False, "nats/token"),),
    comparisons=(Comparison("loss", -0.9, -1.0, -0.8, 0.0005, 64, "paired|seed:17"),),
)
FACTS = RunFacts(
    title="support",
    base_model="acme/small",
    method="lora",
    evaluation=EVALUATION,
    config=[
        ("training.learning_rate", 2e-4, "file"),
        ("method.rank", 16, "default"),
        ("output_dir", "runs/x", "flag"),
    ],
    manifest={"data": {"sha256": "9f2c", "rows": 2000}, "template": {"sha256": "ab12", "text": "{{ x }}"}},
)


def parts(card):
    """Front matter and body."""
    _, front, body = card.split("---\n", 2)
    return yaml.safe_load(front), body


def kinds(body):
    """Every Markdown token of the body, nested ones too."""
    tokens = MARKDOWN.parse(body)
    return [inner for token in tokens for inner in (token, *(token.children or []))]


def test_same_facts_give_the_same_bytes():
    assert render_card(FACTS) == render_card(FACTS)


def test_front_matter_names_a_hub_base():
    front, _ = parts(render_card(FACTS))
    assert front == {
        "base_model": "acme/small",
        "library_name": "peft",
        "pipeline_tag": "text-generation",
        "tags": ["lora", "tunesmith"],
    }


@pytest.mark.parametrize(
    "name", ["smollm2-135m", "./models/small", "/models/small", "models/small.gguf", "a/b/c"]
)
def test_other_bases_are_named_in_text_only(name):
    front, body = parts(render_card(replace(FACTS, base_model=name)))
    assert "base_model" not in front
    assert f"`{name}`" in body
    assert 'from_pretrained("path/to/the/base/model")' in body


def test_a_local_folder_shaped_like_a_hub_id_stays_out():
    front, _ = parts(render_card(replace(FACTS, base_is_local=True)))
    assert "base_model" not in front


def test_hub_ids():
    assert is_hub_id("Qwen/Qwen2.5-0.5B-Instruct")
    assert not any(map(is_hub_id, ["", "gpt2", "a--b/c", "a/..", "../a", "a/b c", "a/b\n", "C:\\a", "~/a"]))


def test_result_shows_interval_rows_and_signature():
    _, body = parts(render_card(FACTS))
    row = next(line for line in body.splitlines() if line.startswith("| Loss"))
    for text in ("2.300 [2.200, 2.400]", "1.400 [1.300, 1.500]", "−0.900 [−1.000, −0.800]", "64", "better"):
        assert text in row
    assert "`paired|seed:17`" in body


def test_recorded_facts_and_settings_are_shown():
    _, body = parts(render_card(FACTS))
    for line in ("| `data.sha256` | `9f2c` |", "| `data.rows` | `2000` |", "| `method.rank` | `16` |"):
        assert line in body
    assert "hash `ab12`" in body
    assert "output_dir" not in body


def test_what_is_missing_is_said():
    _, body = parts(render_card(RunFacts(title="bare", base_model="acme/small", method="lora")))
    for text in ("No scores", "Not evaluated", "its hash was not recorded", "data was not recorded"):
        assert text in body
    assert "The settings were not recorded." in body


def test_loading_example_is_python():
    _, body = parts(render_card(FACTS))
    example = re.search("```python\n(.*?)```", body, re.DOTALL)
    ast.parse(example.group(1))
    assert 'from_pretrained("acme/small")' in example.group(1)


def example_of(method):
    """The words of the card and its Python example for one method."""
    _, body = parts(render_card(replace(FACTS, method=method)))
    example = re.search("```python\n(.*?)```", body, re.DOTALL).group(1)
    ast.parse(example)
    return body, example


def test_a_whole_model_loads_without_peft():
    front, _ = parts(render_card(replace(FACTS, method="full")))
    assert (front["library_name"], front["tags"]) == ("transformers", ["full", "tunesmith"])
    body, example = example_of("full")
    assert "every weight was trained" in body
    assert "peft" not in example


def test_each_method_says_what_its_reader_must_know():
    assert "import tunesmith.models.bottleneck" in example_of("adapter")[1]
    assert "held in 4 bits" in example_of("qlora")[0]
    for method, name in (("lora", "LoRA"), ("qlora", "QLoRA"), ("prefix", "prefix-tuning")):
        body, example = example_of(method)
        assert f"A {name} adapter" in body
        assert "tunesmith" not in example


def test_tables_have_even_rows():
    _, body = parts(render_card(replace(FACTS, config=[("method.x", PAYLOAD, "flag")])))
    tokens = kinds(body)
    assert [token.type for token in tokens].count("table_open") == 3
    assert len([token for token in tokens if token.type == "td_open"]) == 7 + 2 * 2 + 2


def test_payloads_stay_text():
    hostile = replace(
        FACTS,
        title=PAYLOAD,
        base_model=PAYLOAD,
        method=PAYLOAD,
        config=[(f"method.{PAYLOAD}", PAYLOAD, PAYLOAD)],
        manifest={"data": {PAYLOAD: PAYLOAD}, "template_sha256": PAYLOAD},
    )
    front, body = parts(render_card(hostile))
    assert "base_model" not in front
    found = {token.type for token in kinds(body)}
    assert not found & {"html_inline", "html_block", "link_open", "image", "strong_open", "hr"}
    headings = [token for token in kinds(body) if token.type == "heading_open" and token.tag == "h1"]
    assert len(headings) == 1


@given(st.text())
def test_code_spans_and_headings_are_inert(text):
    for written in (code_span(text), f"x {heading_text(text)}"):
        inner = {token.type for token in kinds(f"x {written} y") if token.type not in ("inline",)}
        assert inner <= {"paragraph_open", "paragraph_close", "text", "code_inline", "text_special"}


@given(st.text(alphabet="a|`\\ <"))
def test_a_table_cell_never_opens_a_second_one(text):
    tokens = kinds(f"| a | b |\n|---|---|\n| {table_cell(text)} | z |\n")
    assert [token.content for token in tokens if token.type == "inline"][-1] == "z"


def test_verdict_about_other_places_has_a_section_of_its_own():
    loss = EVALUATION.base[0]
    change = Comparison("loss", 0.2, 0.1, 0.3, 0.001, 96, "paired|seed:17")
    found = Elsewhere((Place(GENERAL_PLACE, loss, loss, change, "worse"),), (), 0, "ab")
    card = render_card(replace(FACTS, elsewhere=found))
    assert f"## Elsewhere\n\n{found.verdict}\n\n## How to load it" in card
    assert "## Elsewhere" not in render_card(FACTS)
