"""The file of votes: what was confirmed is there, once, whatever happened to the process."""

import os
import signal
import sqlite3
import subprocess
import sys
import tempfile
import threading
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from people_room import SYSTEMS, make_items, make_survey, open_votes, preference
from tunesmith.errors import DataError
from tunesmith.people.sessions import Act, standing
from tunesmith.people.store import Binding, Conflict, open_store

AB = make_survey("ab", 4)
TESTS = Path(__file__).parents[2]

# Answers and takes back for as long as it lives, and says each act that is on record.
WRITER = """
import sys
sys.path.insert(0, sys.argv[3])
from pathlib import Path
from people_room import make_survey, open_votes, preference
survey = make_survey("ab", 4)
store = open_votes(Path(sys.argv[1]), survey)
rater, number = sys.argv[2], 0
while number < int(sys.argv[4]):
    number += 1
    act = f"{rater}-{number:06d}"
    if number % 3:
        item = f"item{number % 3:04d}"
        store.answer(preference(survey, rater, item, "tie", act))
    else:
        store.undo(rater, act)
        store.undo(rater, act + "-again")
        print(act + "-again", flush=True)
    print(act, flush=True)
"""


def writer(path: Path, rater: str, acts: int) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, "-c", WRITER, str(path), rater, str(TESTS), str(acts)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def ids_on_disk(path: Path) -> list[str]:
    connection = sqlite3.connect(path)
    try:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)
        return [row[0] for row in connection.execute("SELECT act_id FROM acts ORDER BY number")]
    finally:
        connection.close()


# What a rater may try: answer item n, undo, or send an earlier act again.
STEPS = st.lists(
    st.tuples(
        st.sampled_from(["answer", "undo", "repeat"]), st.sampled_from(["Ada", "Bo"]), st.integers(0, 3)
    ),
    max_size=14,
)


@settings(max_examples=30)
@given(STEPS)
def test_the_file_is_what_its_acts_say_however_often_they_are_sent(steps: list) -> None:
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "votes.sqlite"
        store = open_votes(path, AB)
        expected: dict[str, list[str]] = {"Ada": [], "Bo": []}
        sent: list[Act] = []
        for number, (verb, rater, index) in enumerate(steps):
            name, item = f"act{number}", f"item{index:04d}"
            before = list(store.acts)
            if verb == "answer":
                act = preference(AB, rater, item, SYSTEMS[index % 2], name)
                if item in expected[rater]:
                    with pytest.raises(Conflict, match="has answered this already"):
                        store.answer(act)
                else:
                    assert store.answer(act)
                    expected[rater].append(item)
                    sent.append(act)
            elif verb == "undo" and expected[rater]:
                undone = store.undo(rater, name)
                assert undone.item == expected[rater].pop()
                sent.append(undone)
            elif verb == "undo":
                with pytest.raises(Conflict, match="has no answer to take back"):
                    store.undo(rater, name)
            elif sent:
                again = sent[index % len(sent)]
                if again.verb == "undo":
                    assert store.undo(again.rater, again.act_id).act_id == again.act_id
                else:
                    assert not store.answer(again)
                assert list(store.acts) == before
            kept = standing(store.acts)
            assert {r: [key[1] for key in kept if key[0] == r] for r in expected} == expected
        told = list(store.acts)
        store.close()
        # Replaying what is on disk gives the same state as was told all along.
        reopened = open_votes(path, AB)
        assert list(reopened.acts) == told
        assert [act.act_id for act in told] == [act.act_id for act in sent]
        reopened.close()


def test_one_id_is_one_act(tmp_path: Path) -> None:
    store = open_votes(tmp_path / "votes.sqlite", AB)
    first = preference(AB, "Ada", "item0000", SYSTEMS[0], "same")
    assert store.answer(first)
    for other in (
        preference(AB, "Ada", "item0001", SYSTEMS[0], "same"),
        preference(AB, "Bo", "item0000", SYSTEMS[0], "same"),
    ):
        with pytest.raises(Conflict, match="the act `same` is on record as another one"):
            store.answer(other)
    with pytest.raises(Conflict, match="the act `same` is on record as another one"):
        store.undo("Ada", "same")
    store.undo("Ada", "undo")
    # A late repeat of what was taken back does not bring it back.
    assert not store.answer(first)
    assert standing(store.acts) == {}
    store.close()


def test_acts_are_stored_with_their_time_and_never_changed(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    store = open_votes(path, AB)
    store.answer(replace(preference(AB, "Ada", "item0000", "tie", "a1"), note="很好 <b>"))
    (act,) = store.acts
    assert act.at.endswith("+00:00")
    assert act.note == "很好 <b>"
    store.close()
    connection = sqlite3.connect(path, isolation_level=None)
    for statement in ("UPDATE acts SET rater = 'Eve'", "DELETE FROM acts"):
        with pytest.raises(sqlite3.IntegrityError, match="acts are never"):
            connection.execute(statement)
    assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
    connection.close()


def test_settings_are_remembered_and_the_seed_stays(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    unseeded = Binding("ab", SYSTEMS, AB.items)
    store = open_store(path, replace(unseeded, seed=5))
    store.remember("port", "1")
    store.remember("port", "2")
    store.close()
    store = open_store(path, unseeded)
    assert (store.seed, store.setting("port"), store.setting("nothing")) == (5, "2", None)
    store.close()
    with pytest.raises(DataError, match="was begun with seed 5; 6 would change order and sides"):
        open_store(path, replace(unseeded, seed=6))
    other = open_store(tmp_path / "other.sqlite", unseeded)
    assert other.seed == 17
    other.close()


def test_a_file_takes_votes_on_its_own_items_only(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    open_votes(path, AB).close()
    items = make_items(4)
    edited = {**items, "item0002": replace(items["item0002"], answers={name: "?" for name in SYSTEMS})}
    for changed, message in (
        (Binding("rate", SYSTEMS, items), "it holds a blind A/B, and this is a rating"),
        (
            Binding("ab", ("x", "y"), items),
            "it is about `sys-quokka-9` and `sys-zebra-7`, and this is about `x`",
        ),
        (
            Binding("ab", SYSTEMS, make_items(5)),
            "1 of 5 were added, removed or changed .* first is rows.jsonl:5",
        ),
        (Binding("ab", SYSTEMS, make_items(3)), "1 of 4 were added, removed or changed since it was begun$"),
        (Binding("ab", SYSTEMS, edited), "1 of 4 were added, removed or changed .* first is rows.jsonl:3"),
    ):
        bound = changed
        if "x" in changed.systems:
            named = {k: replace(v, answers={"x": "1", "y": "2"}) for k, v in items.items()}
            bound = replace(changed, items=named)
        with pytest.raises(DataError, match=message) as refused:
            open_store(path, bound)
        assert "--votes" in refused.value.hint
    # The order in which the systems are named is no difference.
    open_store(path, Binding("ab", SYSTEMS[::-1], items)).close()


def test_files_of_others_are_left_alone(tmp_path: Path) -> None:
    text = tmp_path / "notes.txt"
    text.write_text("no database, " * 100)
    with pytest.raises(DataError, match="this is no file of votes: file is not a database"):
        open_votes(text, AB)
    assert text.read_text().startswith("no database")
    foreign = tmp_path / "foreign.sqlite"
    connection = sqlite3.connect(foreign)
    connection.execute("CREATE TABLE mine (x)")
    connection.close()
    content = foreign.read_bytes()
    with pytest.raises(DataError, match="was not made by `tunesmith ab` or `tunesmith rate`"):
        open_votes(foreign, AB)
    assert foreign.read_bytes() == content
    newer = tmp_path / "newer.sqlite"
    open_votes(newer, AB).close()
    connection = sqlite3.connect(newer)
    connection.execute("PRAGMA user_version = 9")
    connection.close()
    with pytest.raises(DataError, match="its format is version 9, and this program knows version 1"):
        open_votes(newer, AB)
    with pytest.raises(DataError, match="there is no folder"):
        open_votes(tmp_path / "none" / "votes.sqlite", AB)
    with pytest.raises(DataError, match="cannot be used: unable to open database file"):
        open_votes(tmp_path, AB)


def test_threads_of_one_server_share_the_file(tmp_path: Path) -> None:
    store = open_votes(tmp_path / "votes.sqlite", AB)

    def vote(rater: str) -> None:
        for index in range(4):
            store.answer(preference(AB, rater, f"item{index:04d}", "tie", f"{rater}-{index}"))

    threads = [threading.Thread(target=vote, args=(f"rater{n}",)) for n in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(store.acts) == len({act.act_id for act in store.acts}) == 16
    store.close()


def test_two_processes_that_begin_one_file_lose_nothing(tmp_path: Path) -> None:
    path = tmp_path / "votes.sqlite"
    writers = [writer(path, rater, 30) for rater in ("Ada", "Bo")]
    said = []
    for process in writers:
        out, error = process.communicate(timeout=120)
        assert process.returncode == 0, error
        said += out.split()
    on_disk = ids_on_disk(path)
    assert len(on_disk) == len(set(on_disk)) == 80
    assert sorted(on_disk) == sorted(said)


@pytest.mark.parametrize("confirmed", [1, 7, 20])
def test_a_killed_process_loses_nothing_that_it_confirmed(tmp_path: Path, confirmed: int) -> None:
    path = tmp_path / "votes.sqlite"
    process = writer(path, "Ada", 1_000_000)
    assert process.stdout is not None
    said = [process.stdout.readline().strip() for _ in range(confirmed)]
    os.kill(process.pid, signal.SIGKILL)
    said += process.stdout.read().split()
    process.wait()
    process.communicate()
    on_disk = ids_on_disk(path)
    assert len(on_disk) == len(set(on_disk))
    assert set(said) <= set(on_disk)
    # The file goes on as if nothing had been.
    store = open_votes(path, AB)
    assert store.answer(preference(AB, "Bo", "item0003", "tie", "later"))
    assert [act.act_id for act in store.acts] == [*on_disk, "later"]
    store.close()
