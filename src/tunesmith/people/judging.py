"""A judge model votes as one more rater, kept apart from people in every result."""

from uuid import uuid4

from tunesmith.evaluation.judge import Choice, Judge, Judgement, Pair, judgements
from tunesmith.people.sessions import JUDGE_PREFIX, Act, Survey, standing
from tunesmith.people.store import VoteStore
from tunesmith.progress import Progress

_CHOICES: dict[Choice, str] = {"A": "left", "B": "right", "tie": "tie"}


def ask_judge(survey: Survey, store: VoteStore, judge: Judge, *, progress: Progress) -> int:
    """Let the judge vote on every item it has not voted on, and store each vote as it comes.

    Args:
        survey: a blind A/B.
        store: where the votes go, under the rater `judge: MODEL`.
        judge: where and which.
        progress: shows a bar over the items.

    Returns:
        How many votes were added.

    Raises:
        UserError: if the judge cannot be asked.
        RunFailed: if it does not reply; the votes until then are kept.
    """
    rater = JUDGE_PREFIX + judge.model
    answered = standing(store.acts)
    items = [item for item in survey.items.values() if (rater, item.id, "") not in answered]
    first, second = survey.systems
    pairs = [
        Pair(item.prompt, item.answers[first], item.answers[second], next(iter(item.references), None))
        for item in items
    ]
    for item, judgement in zip(items, judgements(judge, pairs, progress=progress), strict=True):
        answer = {"choice": _CHOICES[judgement.choice], "left": first, "right": second}
        store.answer(Act(str(uuid4()), "", rater, "answer", item.id, "", answer, _note(judgement)))
    return len(items)


def _note(judgement: Judgement) -> str:
    return f"{judgement.failures} of 2 replies were no verdict" if judgement.failures else ""
