"""Two systems' answers row by row: where they differ, how much, and which is nearer to the references.

Knows nothing of pages and terminals. Read next: `diff_page.py`.
"""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from tunesmith.data.records import listed, nearest
from tunesmith.errors import ConfigError
from tunesmith.evaluation.from_sums import percent
from tunesmith.evaluation.marks import (
    ENOUGH_ROWS,
    format_difference,
    format_interval,
    format_p,
    format_value,
    mark_of,
    metric_name,
)
from tunesmith.evaluation.metrics import Metric, metrics_for
from tunesmith.evaluation.output_rows import BASE, TUNED
from tunesmith.evaluation.outputs import Item, Outputs
from tunesmith.evaluation.row_statistics import no_text_rows
from tunesmith.evaluation.scores import Comparison, Score
from tunesmith.evaluation.scripts import rouge_tokens
from tunesmith.evaluation.significance import compare, score
from tunesmith.progress import Progress, Silent
from tunesmith.runs import finite
from tunesmith.tools.text_diff import Span, equal_share, text_diff

# What is worth a look beside one row; the order is that of the table.
ROW_METRICS = ("exact_match", "numeric", "field_accuracy", "chrf")
# Below this share the marks would colour nearly every word and tell nothing.
LEAST_SHARED = 0.25


@dataclass(frozen=True, slots=True)
class RowScore:
    """One metric of both answers to one prompt, in the metric's unit."""

    metric: str
    unit: str
    first: float
    second: float


@dataclass(frozen=True, slots=True)
class DiffRow:
    """One prompt with both answers.

    Attributes:
        number: its place in the sources, from 1.
        item: prompt, references and where it stands.
        first: answer of the first system.
        second: answer of the second.
        spans: what leads from the first answer to the second.
        equal_share: characters that both share, 0 to 1, as `text_diff.equal_share` counts them.
        words: words of the first and of the second; characters where a script puts no spaces.
        scores: against the references; empty where there are none.
    """

    number: int
    item: Item
    first: str
    second: str
    spans: tuple[Span, ...]
    equal_share: float
    words: tuple[int, int]
    scores: tuple[RowScore, ...]

    @property
    def is_identical(self) -> bool:
        """Whether both answers are the same text, white space included."""
        return self.first == self.second

    @property
    def is_marked(self) -> bool:
        """Whether both share enough for marks to help."""
        return self.equal_share >= LEAST_SHARED


@dataclass(frozen=True, slots=True)
class PairScore:
    """One metric of both systems over all rows that have references, and the paired comparison."""

    first: Score
    second: Score
    comparison: Comparison
    higher_is_better: bool | None

    @property
    def mark(self) -> str:
        """What the difference allows to say of the second system; nothing below `ENOUGH_ROWS`."""
        if self.comparison.n < ENOUGH_ROWS:
            return "few rows"
        return mark_of(self.comparison, higher_is_better=self.higher_is_better)

    @property
    def cells(self) -> tuple[str, ...]:
        """Metric, both values, difference (each with its interval on a second line), p, n and mark."""
        first, second, change, unit = self.first, self.second, self.comparison, self.first.unit
        difference = format_difference(change.difference, unit=unit)
        return (
            metric_name(first.metric),
            _with_interval(first),
            _with_interval(second),
            f"{difference}\n{format_interval(change.low, change.high, unit=unit, signed=True)}",
            format_p(change.p_value),
            f"{change.n:,}",
            self.mark,
        )


@dataclass(frozen=True, slots=True)
class SideBySide:
    """Two systems compared.

    Attributes:
        systems: names of the first and the second.
        rows: in the order they are shown.
        equal_share: mean share of equal text in percent, every row weighing the same.
        mean_words: words in an answer of the first and of the second.
        scores: metrics against the references; empty where no row has any.
    """

    systems: tuple[str, str]
    rows: tuple[DiffRow, ...]
    equal_share: Score
    mean_words: tuple[float, float]
    scores: tuple[PairScore, ...]

    @property
    def identical(self) -> int:
        """Rows with the same answer twice."""
        return sum(row.is_identical for row in self.rows)

    def as_dict(self) -> dict[str, Any]:
        """JSON-ready form, complete."""
        first, second = self.systems
        return {
            "systems": list(self.systems),
            "rows": len(self.rows),
            "identical": self.identical,
            "equal_share": asdict(self.equal_share),
            "mean_words": dict(zip(self.systems, self.mean_words, strict=True)),
            "scores": [
                {
                    "metric": pair.first.metric,
                    first: asdict(pair.first),
                    second: asdict(pair.second),
                    "comparison": asdict(pair.comparison),
                    "mark": pair.mark,
                }
                for pair in self.scores
            ],
            "items": [_row_as_dict(row, self.systems) for row in self.rows],
        }


def choose_systems(outputs: Outputs, wanted: Sequence[str] | None) -> tuple[str, str]:
    """The two systems to compare.

    Without a wish: the only two there are; or of two sources the one each is about, which is the tuned model
    of a run.

    Raises:
        ConfigError: if `wanted` is no pair of systems that are there, or the choice is not plain.
    """
    known = outputs.systems
    if wanted:
        for name in wanted:
            if name not in known:
                close = nearest(name, known)
                raise ConfigError(
                    f"there is no system `{name}`; there are {listed(known)}",
                    hint=f"did you mean `{close}`?" if close else "name two of them after `--systems`",
                )
        if len(wanted) != 2 or wanted[0] == wanted[1]:
            raise ConfigError(
                f"`--systems` names {listed(wanted)}, not two different systems",
                hint="name two, as in `--systems base tuned`",
            )
        return wanted[0], wanted[1]
    if len(known) == 1:
        raise ConfigError(
            f"there is one system only, `{known[0]}`",
            hint="give a second file with answers to the same prompts",
        )
    mains = [_main_of(names) for names in outputs.by_source.values()]
    chosen = known if len(known) == 2 else [name for name in mains if name]
    if len(chosen) != 2 or (len(known) > 2 and len(mains) != 2):
        raise ConfigError(
            f"there are {len(known)} systems: {listed(known)}",
            hint=f"say which two: `--systems {_quoted(known[0])} {_quoted(known[1])}`",
        )
    return chosen[0], chosen[1]


def _quoted(name: str) -> str:
    return f"'{name}'" if " " in name else name


def _main_of(names: Sequence[str]) -> str | None:
    """The system a source is about: its only one, or the tuned one beside its base."""
    if len(names) == 1:
        return names[0]
    own = [name.rpartition("/")[2] for name in names]
    return names[1] if own == [BASE, TUNED] else None


def compare_items(
    items: Sequence[Item],
    systems: tuple[str, str],
    *,
    seed: int,
    resamples: int = 1000,
    confidence: float = 0.95,
    by_difference: bool = True,
    progress: Progress | None = None,
) -> SideBySide:
    """Both systems' answers to each item, and what they come to over all.

    Args:
        items: at least one, each with an answer of both.
        systems: first and second; differences are second minus first.
        seed: of resamples and test.
        resamples: behind each interval and test.
        confidence: coverage of the intervals.
        by_difference: put the rows that differ most first; ties and all else keep the items' order.
        progress: shows a bar.

    Raises:
        DataError: if there are no items.
    """
    progress = progress or Silent()
    first, second = ([item.answers[name] for item in items] for name in systems)
    metrics = _metrics(items)
    row_scores, scores = _scored(
        items, first, second, metrics, seed=seed, resamples=resamples, confidence=confidence
    )
    progress.begin("comparing", len(items))
    rows = []
    for number, (item, before, after) in enumerate(zip(items, first, second, strict=True), start=1):
        spans = tuple(text_diff(before, after))
        words = len(rouge_tokens(before)), len(rouge_tokens(after))
        row = DiffRow(
            number, item, before, after, spans, equal_share(spans), words, row_scores.get(number - 1, ())
        )
        rows.append(row)
        progress.advance()
    progress.end()
    shares = np.array([[row.equal_share, 1.0] for row in rows], dtype=np.float64)
    share = score(_share_metric(), shares, seed=seed, resamples=resamples, confidence=confidence)
    mean_words = tuple(float(np.mean([row.words[side] for row in rows])) for side in (0, 1))
    if by_difference:
        rows.sort(key=lambda row: (row.is_identical, row.equal_share))
    return SideBySide(systems, tuple(rows), share, (mean_words[0], mean_words[1]), scores)


def _metrics(items: Sequence[Item]) -> list[Metric]:
    references = [item.references for item in items if item.references]
    found = {metric.name: metric for metric in metrics_for(references)} if references else {}
    return [found[name] for name in ROW_METRICS if name in found]


def _share_metric() -> Metric:
    return Metric(
        name="equal_share",
        unit="percent",
        higher_is_better=None,
        signature="diff:tunesmith-words-and-lines|space:ignored|of:longer|average:rows",
        statistics=no_text_rows,
        from_sums=percent,
    )


def _scored(
    items: Sequence[Item],
    first: Sequence[str],
    second: Sequence[str],
    metrics: Sequence[Metric],
    *,
    seed: int,
    resamples: int,
    confidence: float,
) -> tuple[dict[int, tuple[RowScore, ...]], tuple[PairScore, ...]]:
    """By index of the item its row scores, and the scores over all items that have references."""
    places = [index for index, item in enumerate(items) if item.references]
    references = [items[index].references for index in places]
    by_row: dict[int, list[RowScore]] = {index: [] for index in places}
    scores = []
    for metric in metrics:
        before, after = (
            metric.statistics([texts[index] for index in places], references) for texts in (first, second)
        )
        values = metric.from_sums(before), metric.from_sums(after)
        for index, one, other in zip(places, *values, strict=True):
            by_row[index].append(RowScore(metric.name, metric.unit, float(one), float(other)))
        one_score, other_score = (
            score(metric, rows, seed=seed, resamples=resamples, confidence=confidence)
            for rows in (before, after)
        )
        comparison = compare(metric, before, after, seed=seed, resamples=resamples, confidence=confidence)
        scores.append(PairScore(one_score, other_score, comparison, metric.higher_is_better))
    return {index: tuple(found) for index, found in by_row.items()}, tuple(scores)


def summary_lines(side: SideBySide) -> list[str]:
    """What the comparison comes to, in plain sentences."""
    first, second = side.systems
    count = len(side.rows)
    if side.identical == count:
        return ["The only answer is identical." if count == 1 else f"All {count:,} answers are identical."]
    share = side.equal_share
    interval = f" {format_interval(share.low, share.high, unit=share.unit)}" if count > 1 else ""
    one, other = (f"{words:,.1f}" for words in side.mean_words)
    return [
        f"{side.identical:,} of {count:,} answers {'is' if side.identical == 1 else 'are'} identical; "
        f"on average {format_value(share.value, unit=share.unit)} %{interval} of the text is equal.",
        f"An answer of {first} has {one} words on average, one of {second} {other}.",
    ]


def row_facts(row: DiffRow) -> list[str]:
    """The figures beside a row, ready to print."""
    share = (
        "identical" if row.is_identical else f"{format_value(100 * row.equal_share, unit='percent')} % equal"
    )
    facts = [share, f"words {row.words[0]:,} → {row.words[1]:,}"]
    for found in row.scores:
        one, other = (format_value(value, unit=found.unit) for value in (found.first, found.second))
        facts.append(f"{metric_name(found.metric)} {one} → {other}")
    return facts


def _with_interval(found: Score) -> str:
    value = format_value(found.value, unit=found.unit)
    return f"{value}\n{format_interval(found.low, found.high, unit=found.unit)}"


def _row_as_dict(row: DiffRow, systems: tuple[str, str]) -> dict[str, Any]:
    return {
        "row": row.number,
        "id": row.item.id,
        "place": row.item.place,
        "prompt": row.item.prompt,
        "references": list(row.item.references),
        "slices": dict(row.item.slices),
        "answers": dict(zip(systems, (row.first, row.second), strict=True)),
        "identical": row.is_identical,
        "equal_share": row.equal_share,
        "words": dict(zip(systems, row.words, strict=True)),
        "scores": {
            found.metric: {
                "unit": found.unit,
                **dict(zip(systems, (finite(found.first), finite(found.second)), strict=True)),
            }
            for found in row.scores
        },
        "spans": [asdict(span) for span in row.spans],
    }
