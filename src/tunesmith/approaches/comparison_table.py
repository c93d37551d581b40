"""A comparison in cells for people: the same words on the terminal and on the page."""

from collections.abc import Mapping, Sequence

from tunesmith.approaches.costs import TRAINED_PER_READ, BreakEven
from tunesmith.approaches.requests import HeldOut
from tunesmith.approaches.results import ApproachResult, Findings
from tunesmith.approaches.settings import ZERO_SHOT, Prices
from tunesmith.approaches.verdict import REQUESTS_PRICED, Verdict, dimensions, format_money
from tunesmith.evaluation.comparison_page import ComparedSample, ComparisonPage, Grid, sample_places
from tunesmith.evaluation.marks import format_difference, format_interval, format_p, format_value, metric_name
from tunesmith.evaluation.pareto import Point, draw_pareto
from tunesmith.evaluation.scores import Comparison, Score

# Beside the task's score the first of these is shown, as a second opinion.
SECOND_SCORES = ("rougeL", "chrf")


def overview(findings: Findings, prices: Prices) -> Grid:
    """One line an approach: scores with intervals, and what a request costs."""
    scores, costs = score_grid(findings), cost_grid(findings, prices)
    rows = tuple((*left, *right[1:]) for left, right in zip(scores.rows, costs.rows, strict=True))
    return Grid((*scores.columns, *costs.columns[1:]), rows, _overview_lead(findings, prices))


def score_grid(findings: Findings) -> Grid:
    """One line an approach: scores with intervals, and the difference to zero-shot."""
    metrics = _shown_scores(findings)
    has_base = ZERO_SHOT in findings.names and len(findings.names) > 1
    columns = ("approach", *map(metric_name, metrics), *(["against\nzero-shot"] if has_base else []))
    rows = []
    for result in findings.results:
        cells = [result.name, *(shown_score(result.score(name)) for name in metrics)]
        cells += [_to_zero_shot(result, findings.task_score)] if has_base else []
        rows.append(tuple(cells))
    return Grid(columns, tuple(rows))


def cost_grid(findings: Findings, prices: Prices) -> Grid:
    """One line an approach: tokens, time, memory, training and money."""
    columns = ["approach", "prompt\ntokens", "answer\ntokens", "s a\nrequest", "memory", "tokens\ntrained"]
    columns += [f"{REQUESTS_PRICED:,}\nrequests"] if prices.are_known else []
    rows = []
    for result in findings.results:
        cells = [result.name, *_cost_cells(result)]
        cells += [format_money(result.price * REQUESTS_PRICED, prices)] if result.price is not None else []
        rows.append(tuple(cells))
    return Grid(tuple(columns), tuple(rows))


def shown_score(score: Score) -> str:
    """Value, and its interval below."""
    interval = format_interval(score.low, score.high, unit=score.unit)
    return f"{format_value(score.value, unit=score.unit)}\n{interval}"


def page_of(
    findings: Findings,
    verdict: Verdict,
    prices: Prices,
    *,
    title: str,
    facts: Sequence[tuple[str, str]],
    inputs: Sequence[HeldOut],
    answers: Mapping[str, Sequence[str]],
) -> ComparisonPage:
    """The whole page, ready to render.

    Args:
        findings: all numbers.
        verdict: what they allow to say.
        prices: of tokens and hours.
        title: name of the comparison.
        facts: name and value of what was compared.
        inputs: held-out inputs.
        answers: by approach, one text for each input.
    """
    score = findings.results[0].score(findings.task_score)
    unit = f" ({score.unit})" if score.unit else ""
    cost = "tokens a request"
    if prices.are_known:
        cost = f"cost of {REQUESTS_PRICED:,} requests" + (f" in {prices.currency}" if prices.currency else "")
    points = [_point(result, findings.task_score) for result in findings.results]
    return ComparisonPage(
        title=title,
        facts=tuple(facts),
        verdict=verdict.sentences,
        overview=overview(findings, prices),
        picture=draw_pareto(points, cost=cost, score=metric_name(findings.task_score) + unit),
        scores=_all_scores(findings),
        slices=_slices(findings),
        differences=_differences(findings),
        break_evens=_break_evens(findings, prices),
        dimensions=Grid(
            ("dimension", *findings.names), tuple((name, *cells) for name, cells in dimensions(findings))
        ),
        samples=tuple(
            ComparedSample(
                held.row.place,
                held.prompt,
                held.references,
                tuple((name, texts[place]) for name, texts in answers.items()),
            )
            for place in sample_places(len(inputs))
            for held in [inputs[place]]
        ),
        signatures=tuple((metric_name(each.metric), each.signature) for each in findings.results[0].scores),
    )


def _shown_scores(findings: Findings) -> list[str]:
    known = [score.metric for score in findings.results[0].scores]
    second = [name for name in SECOND_SCORES if name in known and name != findings.task_score]
    return [findings.task_score, *second[:1]]


def _overview_lead(findings: Findings, prices: Prices) -> str:
    costs = [result.costs for result in findings.results]
    shared = sum(each.shared_tokens for each in costs) / max(1, sum(each.prompt_tokens for each in costs))
    sentences = [
        f"The same {findings.inputs} held-out inputs for all, answered greedily; brackets hold bootstrap "
        "intervals.",
        f"What all prompts of an approach begin with is computed once (shared); that saved "
        f"{100 * shared:.0f} % of all prompt tokens.",
        "Seconds are wall time by requests, answered in batches, one approach at a time.",
        "Memory is the peak while answering, Python and libraries included.",
    ]
    if not all(each.is_peak_own for each in costs):
        sentences.append("Where it is marked *, the system counts the peak of the whole process only.")
    if prices.has_tokens:
        sentences.append("Requests are priced by their tokens.")
    elif prices.are_known:
        sentences.append("Requests are priced by machine time.")
    return " ".join(sentences)


def _cost_cells(result: ApproachResult) -> list[str]:
    costs = result.costs
    saved = f"\n{100 * costs.shared_share:.0f} % shared" if costs.shared_tokens else ""
    training = costs.training
    trained = f"{training.tokens:,}\n{training.seconds / 60:,.1f} min" if training else ""
    return [
        f"{costs.prompt_tokens_per_request:,.0f}{saved}",
        f"{costs.answer_tokens_per_request:,.0f}",
        f"{costs.seconds_per_request:,.3g}",
        f"{costs.peak_memory_bytes / 1e9:.2f} GB{'' if costs.is_peak_own else ' *'}",
        trained,
    ]


def _to_zero_shot(result: ApproachResult, metric: str) -> str:
    found = result.difference(metric)
    return "" if found is None else _shown_difference(found, result.score(metric).unit)


def _shown_difference(found: Comparison, unit: str) -> str:
    interval = format_interval(found.low, found.high, unit=unit, signed=True)
    return f"{format_difference(found.difference, unit=unit)}\n{interval}"


def _point(result: ApproachResult, metric: str) -> Point:
    score = result.score(metric)
    cost = result.cost * (1 if result.price is None else REQUESTS_PRICED)
    return Point(result.name, cost, score.value, score.low, score.high)


def _all_scores(findings: Findings) -> Grid:
    rows = []
    for score in findings.results[0].scores:
        cells = [shown_score(result.score(score.metric)) for result in findings.results]
        rows.append((f"{metric_name(score.metric)}\n{score.unit}".rstrip(), *cells))
    return Grid(("metric", *findings.names), tuple(rows))


def _slices(findings: Findings) -> Grid:
    rows = tuple(
        (f"{each.kind}: {each.name}\n{each.scores[0].n} inputs", *map(shown_score, each.scores))
        for each in findings.slices
    )
    lead = f"{metric_name(findings.task_score)} on parts of the inputs: small parts, so wide intervals."
    return Grid(("inputs", *findings.names), rows, lead)


def _differences(findings: Findings) -> Grid:
    """Each approach (line) minus each other one (column) in the task's score."""
    unit = findings.results[0].score(findings.task_score).unit
    rows = []
    for better in findings.names:
        cells = []
        for other in findings.names:
            found = None if better == other else findings.difference(better, other)
            cells.append(f"{_shown_difference(found, unit)}\np {format_p(found.p_value)}" if found else "")
        rows.append((better, *cells))
    lead = (
        f"{metric_name(findings.task_score)} of the line's approach minus that of the column's, on the same "
        "inputs, with paired intervals. Many differences are read here at once, so one p-value near 0.05 "
        "says little."
    )
    return Grid(("", *findings.names), tuple(rows) if len(findings.names) > 1 else (), lead)


def _break_evens(findings: Findings, prices: Prices) -> Grid:
    rows = [
        (
            f"{each.approach}\nagainst {each.against}",
            (prices.currency or "money") if each.is_money else "prompt tokens",
            _amount(each.training, each, prices),
            _amount(each.saving * REQUESTS_PRICED, each, prices),
            "never" if each.requests is None else f"{each.requests:,}",
        )
        for each in findings.break_evens
    ]
    lead = (
        "From how many requests on the saving of each has paid for training, by cost alone: training divided "
        f"by saving. In tokens, a trained one counts as {TRAINED_PER_READ} that are read, and prompts count "
        "as they are sent, without what the shared prefix saves."
    )
    return Grid(
        ("instead of", "counted in", "training", f"saved by {REQUESTS_PRICED:,} requests", "pays from"),
        tuple(rows),
        lead,
    )


def _amount(value: float, each: BreakEven, prices: Prices) -> str:
    return format_money(value, prices) if each.is_money else f"{value:,.0f}".replace("-", "−")
