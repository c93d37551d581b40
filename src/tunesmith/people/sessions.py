"""What a rater sees next: order, sides, progress and undo, as functions of what was answered so far.

Order and sides are decided by a hash of seed, rater and item, so that nothing of it is stored and a
reload changes nothing. Read next: `store.py` keeps the acts, `server.py` shows the view.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any, Literal

from tunesmith.errors import UserError
from tunesmith.evaluation.outputs import Item
from tunesmith.people.scales import SCALES

Kind = Literal["ab", "rate"]
Verb = Literal["answer", "undo"]
Key = tuple[str, str, str]

JUDGE_PREFIX = "judge: "
MOST_NAME_CHARACTERS = 40
_BETWEEN_REFERENCES = "\n\n— or —\n\n"


@dataclass(frozen=True, slots=True)
class Act:
    """One thing that one rater did.

    Attributes:
        act_id: made by whoever acts; the same id is the same act.
        at: when it was stored, UTC, ISO 8601.
        rater: who acted; a judge model's name begins with `JUDGE_PREFIX`.
        verb: "answer", or "undo" of an earlier answer.
        item: the id of the item it is about.
        system: whose answer was rated; empty for A/B.
        answer: for A/B {"choice", "left", "right"}, with the systems that stood there; for a rating
            {"scores"}, None for a skip; for an undo {"undoes"}, the act it takes back.
        note: what the rater wrote, may be empty.
    """

    act_id: str
    at: str
    rater: str
    verb: Verb
    item: str
    system: str
    answer: Mapping[str, Any]
    note: str = ""

    @property
    def key(self) -> Key:
        """Rater, item and system: what can be answered once."""
        return self.rater, self.item, self.system

    @property
    def is_skip(self) -> bool:
        """Whether the rater passed."""
        return self.answer.get("choice") == "skip" or ("scores" in self.answer and not self.answer["scores"])


@dataclass(frozen=True, slots=True)
class Survey:
    """What raters are asked.

    Attributes:
        kind: blind A/B of two systems, or rating of each answer.
        title: over the page; must not name a system.
        guidelines: for the raters, plain text.
        seed: decides order and sides.
        systems: names, two for A/B.
        items: by id.
    """

    kind: Kind
    title: str
    guidelines: str
    seed: int
    systems: tuple[str, ...]
    items: Mapping[str, Item]


@dataclass(frozen=True, slots=True)
class Task:
    """One thing that one rater is to answer.

    Attributes:
        id: what the page calls it; it tells nothing of item or system.
        item: what it is about.
        systems: for A/B who stands left and right; for a rating who answered.
    """

    id: str
    item: Item
    systems: tuple[str, ...]

    @property
    def system(self) -> str:
        """As in an act."""
        return self.systems[0] if len(self.systems) == 1 else ""


def tasks_of(survey: Survey, rater: str) -> dict[str, Task]:
    """Everything a rater is asked, by id, in this rater's own order."""
    tasks = []
    for item in survey.items.values():
        if survey.kind == "ab":
            digest = _digest(survey.seed, rater, item.id)
            first, second = survey.systems
            # The id is the digest's start, so the side must come from its end.
            sides = (first, second) if int(digest[-1], 16) % 2 else (second, first)
            tasks.append(Task(digest[:16], item, sides))
        else:
            tasks += [
                Task(_digest(survey.seed, rater, item.id, system)[:16], item, (system,))
                for system in survey.systems
            ]
    return {task.id: task for task in sorted(tasks, key=lambda task: task.id)}


def _digest(seed: int, *words: str) -> str:
    text = "\x1f".join((str(seed), *words))
    return sha256(text.encode("utf-8", "surrogatepass")).hexdigest()


def standing(acts: Iterable[Act]) -> dict[Key, Act]:
    """The answers that no undo took back, in the order they were given."""
    kept: dict[Key, Act] = {}
    for act in acts:
        if act.verb == "answer":
            kept[act.key] = act
        elif act.key in kept and kept[act.key].act_id == act.answer["undoes"]:
            del kept[act.key]
    return kept


def undo_target(acts: Iterable[Act], rater: str) -> Act | None:
    """The rater's last answer that stands: what an undo takes back."""
    own = [act for act in standing(acts).values() if act.rater == rater]
    return own[-1] if own else None


def next_task(survey: Survey, acts: Sequence[Act], rater: str) -> Task | None:
    """The first task in the rater's order without an answer; one just taken back comes before it."""
    tasks, answered = tasks_of(survey, rater), standing(acts)
    unanswered = [task for task in tasks.values() if (rater, task.item.id, task.system) not in answered]
    own = [act for act in acts if act.rater == rater]
    if own and own[-1].verb == "undo":
        taken_back = own[-1]
        unanswered.sort(key=lambda task: (task.item.id, task.system) != (taken_back.item, taken_back.system))
    return unanswered[0] if unanswered else None


def view(survey: Survey, acts: Sequence[Act], rater: str, *, stopped: str | None = None) -> dict[str, Any]:
    """What the page shows, as the state of the JSON interface; it never holds a system's name.

    Args:
        survey: what is asked.
        acts: all that was done so far, by anyone.
        rater: who looks.
        stopped: what the stop rule says, in words that do not tell who is ahead.
    """
    done = sum(key[0] == rater for key in standing(acts))
    task = next_task(survey, acts, rater)
    state = {
        "kind": survey.kind,
        "title": survey.title,
        "guidelines": survey.guidelines,
        "total": len(survey.items) * (1 if survey.kind == "ab" else len(survey.systems)),
        "done": done,
        "can_undo": done > 0,
        "item": task and _shown(survey, task),
        "stopped": stopped,
    }
    return state | {"scales": [asdict(scale) for scale in SCALES]} if survey.kind == "rate" else state


def _shown(survey: Survey, task: Task) -> dict[str, Any]:
    texts = [task.item.answers[system] for system in task.systems]
    names = ("left", "right") if survey.kind == "ab" else ("answer",)
    reference = _BETWEEN_REFERENCES.join(task.item.references) or None
    return {
        "id": task.id,
        "prompt": task.item.prompt,
        **dict(zip(names, texts, strict=True)),
        "reference": reference,
    }


def rater_name(text: str) -> str:
    """The name as it is stored: without white space around it.

    Raises:
        UserError: if it is empty, too long, not printable, or a judge model's.
    """
    name = text.strip()
    if not 1 <= len(name) <= MOST_NAME_CHARACTERS or not name.isprintable():
        raise UserError(
            f"a rater's name has 1 to {MOST_NAME_CHARACTERS} printable characters; this one has {len(name)}",
            hint="give a short name or a number, the same each time",
        )
    if name.lower().startswith(JUDGE_PREFIX.strip()):
        raise UserError(
            f"names that begin with `{JUDGE_PREFIX.strip()}` are for judge models",
            hint="give another name",
        )
    return name


def is_judge(rater: str) -> bool:
    """Whether a model acted, not a person."""
    return rater.startswith(JUDGE_PREFIX)
