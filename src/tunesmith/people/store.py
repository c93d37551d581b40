"""The file of votes: SQLite, one row for each act, added and never changed.

An act is on disk when `answer` or `undo` returns (WAL with synchronous=FULL), so a killed process loses
nothing that was confirmed. An act sent twice is stored once, by its id. Several processes may work on one
file. Read next: `sessions.py` says what the acts mean.
"""

import json
import sqlite3
import threading
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from hashlib import sha256
from pathlib import Path

from tunesmith.errors import DataError, UserError
from tunesmith.evaluation.outputs import Item
from tunesmith.people.sessions import Act, Kind, standing, undo_target

DEFAULT_SEED = 17
SCHEMA_VERSION = 1
# "tune" in ASCII: tells our files from other programs' databases.
_APPLICATION_ID = 0x74756E65
_PATIENCE_SECONDS = 10.0
_RETRY_SECONDS = 0.05
_OTHER_FILE = "name another file with `--votes`, or give the outputs that this one was begun with"
_SCHEMA = """
CREATE TABLE settings (name TEXT PRIMARY KEY, value TEXT NOT NULL) STRICT;
CREATE TABLE items (id TEXT PRIMARY KEY, digest TEXT NOT NULL, place TEXT NOT NULL) STRICT;
CREATE TABLE acts (
    number INTEGER PRIMARY KEY,
    act_id TEXT NOT NULL UNIQUE,
    at TEXT NOT NULL,
    rater TEXT NOT NULL,
    verb TEXT NOT NULL CHECK (verb IN ('answer', 'undo')),
    item TEXT NOT NULL REFERENCES items (id),
    system TEXT NOT NULL,
    answer TEXT NOT NULL CHECK (json_valid(answer)),
    note TEXT NOT NULL
) STRICT;
CREATE TRIGGER acts_are_not_changed BEFORE UPDATE ON acts
    BEGIN SELECT RAISE(ABORT, 'acts are never changed'); END;
CREATE TRIGGER acts_are_not_removed BEFORE DELETE ON acts
    BEGIN SELECT RAISE(ABORT, 'acts are never removed'); END;
"""
_COLUMNS = "act_id, at, rater, verb, item, system, answer, note"


class Conflict(UserError):
    """An act contradicts what is on record; nothing was stored."""


@dataclass(frozen=True, slots=True)
class Binding:
    """What a file of votes is about; it takes no votes on anything else.

    Attributes:
        kind: A/B or rating.
        systems: names, in any order.
        items: by id.
        seed: of order and sides; None takes the file's own, or `DEFAULT_SEED` in a new file.
    """

    kind: Kind
    systems: tuple[str, ...]
    items: Mapping[str, Item]
    seed: int | None = None


class VoteStore:
    """An open file of votes. Safe to use from several threads."""

    def __init__(self, path: Path, connection: sqlite3.Connection) -> None:
        self.path = path
        self._connection = connection
        self._lock = threading.RLock()
        self._acts: list[Act] = []
        self._last_number = 0

    @property
    def seed(self) -> int:
        """Of order and sides; the same for as long as the file exists."""
        return int(self.setting("seed") or DEFAULT_SEED)

    @property
    def acts(self) -> Sequence[Act]:
        """All acts on record, in the order they were stored, other processes' too."""
        with self._lock, _named_refusals(self.path):
            return self._caught_up()

    def answer(self, act: Act) -> bool:
        """Store an answer; the time is set here.

        Returns:
            True where it was stored now, False where it was on record already.

        Raises:
            Conflict: if the id is another act's, or this rater has answered this already.
            DataError: if the file cannot be written.
        """
        with self._writing():
            acts = self._caught_up()
            if known := _known(acts, act.act_id):
                if known.key != act.key or known.verb != "answer":
                    raise _id_taken(act.act_id)
                return False
            if act.key in standing(acts):
                raise Conflict(
                    f"`{act.rater}` has answered this already",
                    hint="load the page again; to change an answer, undo it first",
                )
            self._insert(act)
            return True

    def undo(self, rater: str, act_id: str) -> Act:
        """Take back the rater's last answer that stands, by an act of its own.

        Args:
            rater: whose.
            act_id: of the undo, not of what is taken back.

        Returns:
            The undo on record.

        Raises:
            Conflict: if there is nothing to take back, or the id is another act's.
            DataError: if the file cannot be written.
        """
        with self._writing():
            acts = self._caught_up()
            if known := _known(acts, act_id):
                if known.rater != rater or known.verb != "undo":
                    raise _id_taken(act_id)
                return known
            target = undo_target(acts, rater)
            if target is None:
                raise Conflict(f"`{rater}` has no answer to take back", hint="answer something first")
            act = Act(act_id, "", rater, "undo", target.item, target.system, {"undoes": target.act_id})
            return self._insert(act)

    def setting(self, name: str) -> str | None:
        """A remembered value, or None."""
        with self._lock, _named_refusals(self.path):
            row = self._connection.execute("SELECT value FROM settings WHERE name = ?", (name,)).fetchone()
        return str(row[0]) if row else None

    def remember(self, name: str, value: str) -> None:
        """Keep a value that is no act, such as the last port."""
        with self._writing():
            self._connection.execute("INSERT OR REPLACE INTO settings VALUES (?, ?)", (name, value))

    def close(self) -> None:
        """Let go of the file."""
        with self._lock:
            self._connection.close()

    def _caught_up(self) -> list[Act]:
        """Acts read so far and those added since: rows never change, so none is read twice."""
        found = self._connection.execute(
            # The names are this file's own constant.
            f"SELECT number, {_COLUMNS} FROM acts WHERE number > ? ORDER BY number",  # noqa: S608
            (self._last_number,),
        )
        for number, act_id, at, rater, verb, item, system, answer, note in found:
            self._acts.append(Act(act_id, at, rater, verb, item, system, json.loads(answer), note))
            self._last_number = number
        return list(self._acts)

    def _insert(self, act: Act) -> Act:
        stored = replace(act, at=datetime.now(UTC).isoformat(timespec="milliseconds"))
        self._connection.execute(
            f"INSERT INTO acts ({_COLUMNS}) VALUES (?, ?, ?, ?, ?, ?, ?, ?)",  # noqa: S608
            (
                stored.act_id,
                stored.at,
                stored.rater,
                stored.verb,
                stored.item,
                stored.system,
                json.dumps(stored.answer),
                stored.note,
            ),
        )
        return stored

    @contextmanager
    def _writing(self) -> Iterator[None]:
        """One transaction that sees the newest state and that others wait for."""
        with self._lock, _named_refusals(self.path), _transaction(self._connection):
            yield


def open_store(path: Path, binding: Binding) -> VoteStore:
    """Open a file of votes, or begin one.

    Raises:
        DataError: if it is no file of votes, is about something else, or cannot be written.
    """
    if not path.parent.is_dir():
        raise DataError(f"{path}: there is no folder `{path.parent}`", hint=f"`mkdir -p {path.parent}`")
    with _named_refusals(path):
        connection = sqlite3.connect(
            path, timeout=_PATIENCE_SECONDS, isolation_level=None, check_same_thread=False
        )
        try:
            _refuse_foreign(connection, path)
            _use_wal(connection)
            connection.execute("PRAGMA synchronous = FULL")
            connection.execute("PRAGMA foreign_keys = ON")
            with _transaction(connection):
                _refuse_foreign(connection, path)
                if connection.execute("PRAGMA user_version").fetchone()[0] == 0:
                    _begin(connection, binding)
                else:
                    _check(connection, path, binding)
        except BaseException:
            connection.close()
            raise
    return VoteStore(path, connection)


def item_digest(item: Item, systems: Sequence[str]) -> str:
    """What was shown to raters, in one number: prompt, references and the systems' answers."""
    answers = [[system, item.answers[system]] for system in sorted(systems)]
    return sha256(json.dumps([item.prompt, item.references, answers]).encode()).hexdigest()


def _refuse_foreign(connection: sqlite3.Connection, path: Path) -> None:
    is_empty = connection.execute("SELECT count(*) FROM sqlite_master").fetchone()[0] == 0
    if is_empty:
        return
    if connection.execute("PRAGMA application_id").fetchone()[0] != _APPLICATION_ID:
        raise DataError(
            f"{path}: this database was not made by `tunesmith ab` or `tunesmith rate`", hint=_OTHER_FILE
        )
    version = connection.execute("PRAGMA user_version").fetchone()[0]
    if version != SCHEMA_VERSION:
        raise DataError(
            f"{path}: its format is version {version}, and this program knows version {SCHEMA_VERSION}",
            hint="use the version of tunesmith that made it, or name another file with `--votes`",
        )


def _use_wal(connection: sqlite3.Connection) -> None:
    """Switch to the write-ahead log; SQLite does not wait by itself for a process that does the same."""
    deadline = time.monotonic() + _PATIENCE_SECONDS
    while True:
        try:
            connection.execute("PRAGMA journal_mode = WAL")
            return
        except sqlite3.OperationalError as error:
            if "locked" not in str(error) or time.monotonic() > deadline:
                raise
            time.sleep(_RETRY_SECONDS)


def _begin(connection: sqlite3.Connection, binding: Binding) -> None:
    for statement in _SCHEMA.strip().split("\nCREATE "):
        connection.execute(statement if statement.startswith("CREATE") else f"CREATE {statement}")
    seed = DEFAULT_SEED if binding.seed is None else binding.seed
    settings = {
        "kind": binding.kind,
        "systems": json.dumps(sorted(binding.systems)),
        "seed": str(seed),
    }
    connection.executemany("INSERT INTO settings VALUES (?, ?)", settings.items())
    connection.executemany(
        "INSERT INTO items VALUES (?, ?, ?)",
        [(item.id, item_digest(item, binding.systems), item.place) for item in binding.items.values()],
    )
    connection.execute(f"PRAGMA application_id = {_APPLICATION_ID}")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")


def _check(connection: sqlite3.Connection, path: Path, binding: Binding) -> None:
    """Refuse a file that is about something else, and say what."""
    known = dict(connection.execute("SELECT name, value FROM settings"))
    names = {"ab": "a blind A/B", "rate": "a rating"}
    if known["kind"] != binding.kind:
        raise DataError(
            f"{path}: it holds {names[known['kind']]}, and this is {names[binding.kind]}", hint=_OTHER_FILE
        )
    systems = json.loads(known["systems"])
    if systems != sorted(binding.systems):
        raise DataError(
            f"{path}: it is about {_listed(systems)}, and this is about {_listed(sorted(binding.systems))}",
            hint=_OTHER_FILE,
        )
    digests = dict(connection.execute("SELECT id, digest FROM items"))
    given = {item.id: item_digest(item, binding.systems) for item in binding.items.values()}
    others = [name for name in {**given, **digests} if given.get(name) != digests.get(name)]
    if others:
        changed = [binding.items[name].place for name in others if name in given]
        where = f"; the first is {changed[0]}" if changed else ""
        raise DataError(
            f"{path}: it is about other items: {len(others)} of {len({**given, **digests})} were added, "
            f"removed or changed since it was begun{where}",
            hint=_OTHER_FILE,
        )
    if binding.seed is not None and str(binding.seed) != known["seed"]:
        raise DataError(
            f"{path}: it was begun with seed {known['seed']}; {binding.seed} would change order and sides",
            hint="leave `--seed` out, or name another file with `--votes`",
        )


def _known(acts: Sequence[Act], act_id: str) -> Act | None:
    return next((act for act in reversed(acts) if act.act_id == act_id), None)


def _id_taken(act_id: str) -> Conflict:
    return Conflict(f"the act `{act_id}` is on record as another one", hint="make a new id for each act")


def _listed(names: Sequence[str]) -> str:
    return " and ".join(f"`{name}`" for name in names)


@contextmanager
def _transaction(connection: sqlite3.Connection) -> Iterator[None]:
    connection.execute("BEGIN IMMEDIATE")
    try:
        yield
        connection.execute("COMMIT")
    except BaseException:
        # A full disk may have ended the transaction already.
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise


@contextmanager
def _named_refusals(path: Path) -> Iterator[None]:
    try:
        yield
    except sqlite3.OperationalError as error:
        raise DataError(
            f"{path}: cannot be used: {error}",
            hint="check the disk's space, the folder's permissions, and that it is on no network drive",
        ) from error
    except sqlite3.DatabaseError as error:
        raise DataError(f"{path}: this is no file of votes: {error}", hint=_OTHER_FILE) from error
