"""The report of one run: a single HTML page that opens anywhere, offline, without scripts.

Whatever models, data files or users wrote is shown as text, never read as markup: the template escapes
everything, pictures are `data:` images, and the page's own policy forbids scripts and the network.
The same facts give the same bytes. Read next: `templates/report.html.j2`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any

from jinja2 import Template

from tunesmith.data import pages
from tunesmith.evaluation.curves import draw_curves
from tunesmith.evaluation.elsewhere import GENERAL_PLACE, MARGIN_NATS, OTHERWISE_PLACE, Elsewhere
from tunesmith.evaluation.findings import marks_of, view_findings
from tunesmith.evaluation.marks import (
    ENOUGH_ROWS,
    flatten,
    format_difference,
    format_fact,
    result_rows,
    slice_rows,
    verdict,
)
from tunesmith.evaluation.scores import Evaluation, Sample
from tunesmith.tools.text_diff import Span, equal_share, word_diff

SHOWN_SAMPLES = 10
SHOWN_CHARACTERS = 1_200
# Below this share the marks would colour nearly every word and tell nothing.
_LEAST_SHARED = 0.25


@dataclass(frozen=True, slots=True)
class RunFacts:
    """All that the report and the model card of a run need, as the run folder holds it.

    Attributes:
        title: name of the run.
        base_model: the base model as the user named it: a hub id, a local path or the embedded model.
        base_is_local: True where `base_model` was read from a local folder or file.
        method: the method's name in the configuration, such as `lora`.
        evaluation: base and tuned on the held-out rows, or None where nothing was evaluated.
        elsewhere: base and tuned beside the task, or None where they were not looked at there.
        samples: held-out rows with both answers, in file order.
        metrics: the lines of `metrics.jsonl`; any key may be missing.
        config: each configuration key with its value and origin (`default`, `file` or `flag`).
        manifest: everything else on record, nested freely. `status` is shown at the top where it is not
            `succeeded`; the model card reads `data` (and `rows`, `split`, `overlap`) and the template's hash.
        findings: what the doctor found, as dicts; None where nobody looked.
    """

    title: str
    base_model: str
    method: str
    base_is_local: bool = False
    evaluation: Evaluation | None = None
    elsewhere: Elsewhere | None = None
    samples: Sequence[Sample] = ()
    metrics: Sequence[Mapping[str, Any]] = ()
    config: Sequence[tuple[str, object, str]] = ()
    manifest: Mapping[str, Any] = field(default_factory=dict)
    findings: Sequence[Mapping[str, Any]] | None = None


@dataclass(frozen=True, slots=True)
class Answer:
    """A model's answer as spans against the reference, and a word on how to read it."""

    spans: tuple[Span, ...]
    note: str


@dataclass(frozen=True, slots=True)
class SampleView:
    """One row of the side-by-side part, every text cut to a printable length.

    The answers are compared with the reference each is nearest to.
    """

    place: str
    prompt: str
    references: tuple[str, ...]
    base: Answer
    tuned: Answer


def render_report(facts: RunFacts) -> str:
    """The whole page as HTML text (UTF-8), below 400 kB for ordinary runs.

    Args:
        facts: what is known of the run.

    Returns:
        A page without scripts, links to other files or dates; equal for equal facts.
    """
    findings = facts.findings or ()
    curves = draw_curves(facts.metrics, marks_of(findings))
    return page_template("report.html.j2").render(
        title=facts.title,
        base_model=facts.base_model,
        method=facts.method,
        status=str(facts.manifest.get("status", "succeeded")),
        verdict=verdict(facts.evaluation),
        results=result_rows(facts.evaluation) if facts.evaluation else [],
        slices=slice_rows(facts.evaluation) if facts.evaluation else [],
        elsewhere=facts.elsewhere,
        places=facts.elsewhere.rows() if facts.elsewhere else [],
        general_place=GENERAL_PLACE,
        otherwise_place=OTHERWISE_PLACE,
        margin=format_difference(MARGIN_NATS, unit="nats/token"),
        enough_rows=ENOUGH_ROWS,
        wide_curves=[curve for curve in curves if curve.title == "Loss"],
        small_curves=[curve for curve in curves if curve.title != "Loss"],
        is_examined=facts.findings is not None,
        findings=view_findings(findings, {key: value for key, value, _ in facts.config}),
        samples=[view_sample(sample) for sample in facts.samples[:SHOWN_SAMPLES]],
        samples_total=len(facts.samples),
        config=[(key, format_fact(value), origin) for key, value, origin in facts.config],
        manifest=flatten(facts.manifest),
    )


def view_sample(sample: Sample) -> SampleView:
    """A sample ready to show, each answer compared with the nearest of its references."""
    references = sample_references(sample)
    return SampleView(
        place=sample.place,
        prompt=cut_text(sample.prompt),
        references=tuple(map(cut_text, references)),
        base=compare_answer(sample.base, reference=nearest_reference(sample.base, references)),
        tuned=compare_answer(sample.tuned, reference=nearest_reference(sample.tuned, references)),
    )


def sample_references(sample: Sample) -> tuple[str, ...]:
    """All right answers to the sample's prompt; one where the row has one."""
    return sample.references or (sample.reference,)


def nearest_reference(answer: str, references: Sequence[str]) -> str:
    """The reference that shares most with the answer, the first of equals."""
    if len(references) == 1 or answer in references:
        return answer if answer in references else references[0]
    shown = cut_text(answer)
    return max(references, key=lambda reference: equal_share(word_diff(cut_text(reference), shown)))


def compare_answer(answer: str, *, reference: str) -> Answer:
    """The answer with its differences from the reference, or plain where the two share too little."""
    shown = cut_text(answer)
    if not answer:
        return Answer((), "Empty answer.")
    if answer == reference:
        return Answer((Span("equal", shown),), "Same as the reference.")
    spans = word_diff(cut_text(reference), shown)
    if equal_share(spans) < _LEAST_SHARED:
        return Answer((Span("equal", shown),), "Shares little with the reference; differences not marked.")
    return Answer(tuple(spans), "")


def cut_text(text: str) -> str:
    """At most `SHOWN_CHARACTERS` characters; what was left out is counted at the end."""
    left_out = len(text) - SHOWN_CHARACTERS
    return text if left_out <= 0 else f"{text[:SHOWN_CHARACTERS]} … ({left_out:,} more characters)"


def visible(value: object) -> object:
    """Text that every reader and file can hold: control signs as pictures, lone surrogates replaced."""
    if not isinstance(value, str):
        return value
    return "".join(_visible_character(character) for character in value)


def _visible_character(character: str) -> str:
    code = ord(character)
    if code < 0x20 and character not in "\t\n":
        return chr(0x2400 + code)
    return "\N{REPLACEMENT CHARACTER}" if 0xD800 <= code <= 0xDFFF or code == 0x7F else character


@lru_cache(maxsize=2)
def page_template(name: str) -> Template:
    """A page of this package's templates, in which every value is text that a reader can hold."""
    return pages.page_template(name, {}, package="tunesmith.evaluation", finalize=visible)
