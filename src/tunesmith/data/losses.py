"""What a conversion could not hold, by kind: how many rows, where the first are, what became of it.

Nothing is foreseen here: a row is compared with what comes back, and the difference gets a name.
"""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass

from tunesmith.data.records import MAX_SHOWN
from tunesmith.data.reshape import is_blank_system, turn_keys, turn_lists
from tunesmith.data.shapes import REQUIRED

Fields = Mapping[str, object]
Named = tuple[str, str]  # a kind, and the key it is about

# What each kind is, what was done, and whether something is gone or the same is said in another way.
_KINDS = {
    "key": ("the key {}, which the new shape would read as something else", "left out", "lost"),
    "turn_key": ("the key {} of a turn", "left out", "lost"),
    "parts": ("a turn as a list of parts", "joined to one text", "lost"),
    "blank_system": ("a system message of white space only", "left out, as in training", "lost"),
    "blank_instruction": ("an instruction of white space only", "written as empty text", "lost"),
    "as_text": ("{}, where its value is no text", "written as text", "lost"),
    "value": ("{}, where the file type has no such value", "written as the nearest it has", "lost"),
    "no_value": ("{}, where it or a key in it is missing or null", "null or an empty cell", "rewritten"),
    "system_place": ("the place of the system message", "as the new shape has it", "rewritten"),
    "spelling": ("other names of roles, or of the keys of a turn", "the usual names", "rewritten"),
    "lists": ("prompt and completion as lists of turns", "one turn as text, one answer last", "rewritten"),
    "form": ("the form of {}", "as the new shape has it", "rewritten"),
}


@dataclass(frozen=True, slots=True)
class Loss:
    """One kind of difference, about one key.

    `effect` is `lost` where something is gone, `rewritten` where the same is said in another way.
    """

    kind: str
    key: str
    rows: int
    places: tuple[str, ...]
    effect: str
    what: str
    done: str

    def as_dict(self) -> dict[str, object]:
        """For `--json`."""
        return asdict(self) | {"places": list(self.places)}


class Tally:
    """Counts differences; keeps the first five places of each."""

    def __init__(self) -> None:
        self._rows: dict[Named, int] = {}
        self._places: dict[Named, list[str]] = {}

    def add(self, found: Iterable[Named], place: str) -> None:
        """Count one row's differences, each once."""
        for named in set(found):
            self._rows[named] = self._rows.get(named, 0) + 1
            places = self._places.setdefault(named, [])
            if len(places) < MAX_SHOWN:
                places.append(place)

    def losses(self) -> tuple[Loss, ...]:
        """All kinds found: what is lost before what is rewritten, then by number of rows."""
        found = [self._loss(named) for named in self._rows]
        return tuple(sorted(found, key=lambda loss: (loss.effect, -loss.rows, loss.kind, loss.key)))

    def _loss(self, named: Named) -> Loss:
        kind, key = named
        what, done, effect = _KINDS[kind]
        places = tuple(self._places[named])
        return Loss(kind, key, self._rows[named], places, effect, what.format(f"`{key}`"), done)


def shape_losses(before: Fields, back: Fields, *, shape: str) -> set[Named]:
    """How a row differs from itself after the way to another shape and back; empty if it does not.

    The order of keys says nothing, nor does a key with null.

    Args:
        before: the record under our field names.
        back: what the conversion back to `shape` made of it.
        shape: the row's own shape.
    """
    if before == back:
        return set()
    before, back = _without_nulls(before), _without_nulls(back)
    differing = {name for name in before.keys() | back.keys() if before.get(name) != back.get(name)}
    turns = differing & set(REQUIRED[shape]) if shape != "instruction" else set()
    found = {_key_loss(name, before, back) for name in differing - turns}
    if turns:
        found |= _turns_losses(before, back, shape)
    return found or {("form", name) for name in differing}


def container_losses(before: Fields, after: Fields) -> set[Named]:
    """How a record differs from what the written file gives back; empty if it does not."""
    return {
        (kind, name)
        for name in before.keys() | after.keys()
        if (kind := _value_loss(before.get(name), after.get(name), is_there=name in before))
    }


def _value_loss(before: object, after: object, *, is_there: bool) -> str | None:
    # NaN is not equal to itself, but reads the same.
    if type(before) is type(after) and (before == after or repr(before) == repr(after)):
        return None if is_there else "no_value"
    if before is None and after == "":
        return "no_value"
    if isinstance(after, str):
        return "as_text"
    # Types count here: 1, 1.0 and true are equal in Python.
    is_nested = isinstance(before, dict | list) and type(before) is type(after)
    return "no_value" if is_nested and _dropped_nulls(before) == _dropped_nulls(after) else "value"


def _key_loss(name: str, before: Fields, back: Fields) -> Named:
    if name == "system" and str(before.get(name) or back.get(name)).strip():
        return "system_place", ""
    if name == "instruction" and not str(before[name]).strip():
        return "blank_instruction", ""
    return ("form" if name in back else "key"), name


def _turns_losses(before: Fields, back: Fields, shape: str) -> set[Named]:
    said, again = turn_lists(before, shape), turn_lists(back, shape)
    found: set[Named] = {("blank_system", "") for turn in said if turn and is_blank_system(turn)}
    said, again = (
        [turn for turn in turns if not (turn and is_blank_system(turn))] for turns in (said, again)
    )
    # A system message may have gone to, or come from, a key of its own.
    if len(again) < len(said):
        again = [None, *again]
    for turn, other in zip(said, again[len(again) - len(said) :], strict=True):
        found |= _turn_losses(turn, other) if turn else set()
    if shape == "prompt_completion" and any(_extent(before[name]) != _extent(back[name]) for name in _PAIR):
        found.add(("lists", ""))
    return found


_PAIR = REQUIRED["prompt_completion"]


def _extent(value: object) -> int | None:
    return len(value) if isinstance(value, list) else None


def _turn_losses(before: Fields, after: Fields | None) -> set[Named]:
    """How one turn differs; None stands for a turn that has become a plain text."""
    own = turn_keys(before)
    kept = after or {}
    found = {("turn_key", name) for name in before if name not in own and kept.get(name) != before[name]}
    new = turn_keys(kept)
    if isinstance(before[own[1]], list) and not isinstance(kept.get(new[1]), list):
        found.add(("parts", ""))
    if after is not None and (own != new or before[own[0]] != after[new[0]]):
        found.add(("spelling", ""))
    return found


def _without_nulls(fields: Fields) -> dict[str, object]:
    return {name: _dropped_nulls(value) for name, value in fields.items() if value is not None}


def _dropped_nulls(value: object) -> object:
    if isinstance(value, dict):
        return _without_nulls(value)
    return [_dropped_nulls(inner) for inner in value] if isinstance(value, list) else value
