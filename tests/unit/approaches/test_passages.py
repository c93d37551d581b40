"""Documents become passages with their place; odd files are named, and nothing outside the folder is read."""

import gzip
import os

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tunesmith.approaches import passages
from tunesmith.approaches.passages import PASSAGE_WORDS, Passage, document_passages, row_passages
from tunesmith.data.conversation import Message, Row
from tunesmith.errors import DataError
from tunesmith.evaluation.scripts import rouge_tokens

HANDBOOK = """# Handbook
Welcome to the shop.

## Returns

Goods may come back within 30 days.
Keep the receipt.

```
# not a heading
```

## Shipping
### Abroad

Parcels abroad take a week.

## Appendix
"""


class Notes:
    """Keeps what it is told."""

    def __init__(self) -> None:
        self.said: list[str] = []
        self.bars: list[tuple[str, int]] = []
        self.done = 0

    def say(self, text: str) -> None:
        self.said.append(text)

    def begin(self, label: str, total: int) -> None:
        self.bars.append((label, total))

    def advance(self, amount: int = 1, figures: str = "") -> None:
        self.done += amount

    def end(self) -> None:
        pass


def row(question: str, answer: str, line: int = 1, system: str | None = None) -> Row:
    messages = [Message("system", system)] if system else []
    return Row(
        (*messages, Message("user", question), Message("assistant", answer)), "r.jsonl", line, "messages"
    )


def test_rows_are_found_by_their_question_and_equal_questions_are_one() -> None:
    first, again, other = (
        row("Who?", "Me.", 1, "Be kind."),
        row("who? ", "You.", 2),
        row("Where?", "Here.", 3),
    )
    assert row_passages([first, again, other]) == [
        Passage("Who?", "r.jsonl:1", first),
        Passage("Where?", "r.jsonl:3", other),
    ]
    assert row_passages([]) == []


def test_markdown_gives_paragraphs_under_their_headings(tmp_path) -> None:
    (tmp_path / "handbook.md").write_text(HANDBOOK, encoding="utf-8")
    assert [(one.source, one.text) for one in document_passages(tmp_path)] == [
        ("handbook.md:2", "Handbook\nWelcome to the shop."),
        (
            "handbook.md:6",
            "Handbook > Returns\nGoods may come back within 30 days.\nKeep the receipt.",
        ),
        ("handbook.md:9", "Handbook > Returns\n```\n# not a heading\n```"),
        ("handbook.md:16", "Handbook > Shipping > Abroad\nParcels abroad take a week."),
        ("handbook.md:18", "Handbook > Appendix"),
    ]


def test_plain_text_has_no_headings_and_files_come_by_name(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "b.txt").write_bytes(b"\xef\xbb\xbf# first\r\nline\r\n\r\n\r\nsecond\r\n")
    (tmp_path / "a.txt").write_text("早上好。", encoding="utf-8")
    (tmp_path / "c.md.gz").write_bytes(gzip.compress(b"# T\nzipped"))
    assert [(one.source, one.text) for one in document_passages(tmp_path)] == [
        ("a.txt:1", "早上好。"),
        ("c.md.gz:2", "T\nzipped"),
        ("sub/b.txt:1", "# first\nline"),
        ("sub/b.txt:5", "second"),
    ]


def test_one_file_will_do(tmp_path) -> None:
    (tmp_path / "notes.txt").write_text("a note", encoding="utf-8")
    assert document_passages(tmp_path / "notes.txt") == [Passage("a note", "notes.txt:1")]


def test_a_long_paragraph_is_cut_at_sentences_each_with_its_line(tmp_path) -> None:
    sentences = [f"Sentence {n} says that 3.5 times {n} is what it is." for n in range(60)]
    (tmp_path / "long.txt").write_text("\n".join(sentences), encoding="utf-8")
    found = document_passages(tmp_path)
    assert len(found) > 3
    assert [int(one.source.split(":")[1]) for one in found] == [
        1 + sentences.index(one.text.split("\n")[0]) for one in found
    ]
    assert "\n".join(one.text for one in found) == "\n".join(sentences)


@pytest.mark.parametrize(
    "text",
    ["这是一个很长的句子。" * 100, "字" * 1000, "x" * 5000, "word " * 900, "a.b" * 2000, "= " * 3000],
    ids=["chinese", "no-stop", "one-word", "words", "dots", "signs"],
)
def test_no_passage_is_long_and_no_character_is_lost(tmp_path, text: str) -> None:
    (tmp_path / "long.txt").write_text(text, encoding="utf-8")
    found = [one.text for one in document_passages(tmp_path)]
    assert max(len(rouge_tokens(one)) for one in found) <= PASSAGE_WORDS
    assert max(map(len, found)) <= PASSAGE_WORDS * passages.CHARS_A_WORD
    assert "".join("".join(found).split()) == "".join(text.split())


@given(text=st.text(st.sampled_from("ab. #\n`中。!"), max_size=300).filter(str.strip))
def test_every_word_of_a_text_is_in_some_passage(tmp_path_factory, text: str) -> None:
    folder = tmp_path_factory.mktemp("documents")
    (folder / "one.txt").write_text(text, encoding="utf-8")
    found = document_passages(folder)
    assert "".join("".join(one.text for one in found).split()) == "".join(text.split())
    lines = text.split("\n")
    for one in found:
        line = lines[int(one.source.rpartition(":")[2]) - 1]
        assert one.text.split("\n")[0].strip() in line


def test_data_files_give_a_passage_a_row(tmp_path) -> None:
    (tmp_path / "faq.jsonl").write_text(
        '{"instruction": "Open on Sunday?", "output": "No."}\n\n'
        '{"title": "Prices", "euro": 5, "tags": ["a"]}\n',
        encoding="utf-8",
    )
    (tmp_path / "table.csv").write_text("city,zip\nBonn,00123\n", encoding="utf-8")
    faq, record, table = document_passages(tmp_path)
    assert (faq.source, faq.text) == ("faq.jsonl:1", "Open on Sunday?\nNo.")
    assert faq.row is not None
    assert faq.row.reference == "No."
    assert record == Passage('title: Prices\neuro: 5\ntags: ["a"]', "faq.jsonl:3")
    assert table == Passage("city: Bonn\nzip: 00123", "table.csv:2")


def test_other_and_empty_files_are_named_and_hidden_ones_are_not_read(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "empty.md").write_text(" \n\n", encoding="utf-8")
    (tmp_path / "photo.png").write_bytes(b"\x89PNG\0")
    os.mkfifo(tmp_path / "pipe.txt")
    (tmp_path / ".git").mkdir()
    (tmp_path / ".git" / "note.txt").write_text("hidden", encoding="utf-8")
    (tmp_path / ".hidden.txt").write_bytes(b"\0")
    notes = Notes()
    assert document_passages(tmp_path, progress=notes) == [Passage("text", "a.txt:1")]
    assert notes.said == [
        "neither text nor rows, left out: `photo.png`, `pipe.txt`",
        "without any text: `empty.md`",
    ]
    assert notes.bars == [("reading documents", 2)]
    assert notes.done == 2


def test_of_many_other_files_a_few_are_named(tmp_path) -> None:
    (tmp_path / "a.txt").write_text("text", encoding="utf-8")
    for number in range(9):
        (tmp_path / f"{number}.png").write_bytes(b"")
    notes = Notes()
    document_passages(tmp_path, progress=notes)
    assert notes.said[0].endswith("`4.png` and 4 more")


@pytest.mark.parametrize("is_folder", [False, True])
def test_a_link_out_of_the_folder_is_refused(tmp_path, is_folder: bool) -> None:
    outside = tmp_path / "outside"
    outside.mkdir()
    (outside / "secret.txt").write_text("secret", encoding="utf-8")
    folder = tmp_path / "documents"
    folder.mkdir()
    (folder / "a.txt").write_text("text", encoding="utf-8")
    target = outside if is_folder else outside / "secret.txt"
    (folder / "link.txt").symlink_to(target)
    with pytest.raises(DataError, match=r"link\.txt: is a link out of the folder, to `.*outside") as caught:
        document_passages(folder)
    assert "copy what it leads to" in caught.value.hint


@pytest.mark.parametrize("target", ["nowhere.txt", "loop.txt"])
def test_a_link_to_nothing_is_refused(tmp_path, target: str) -> None:
    (tmp_path / "loop.txt").symlink_to(tmp_path / target)
    with pytest.raises(DataError, match=r"loop\.txt: is a link to nothing"):
        document_passages(tmp_path)


def test_a_link_inside_the_folder_reads_nothing_twice(tmp_path) -> None:
    (tmp_path / "sub").mkdir()
    (tmp_path / "sub" / "a.txt").write_text("text", encoding="utf-8")
    (tmp_path / "again.txt").symlink_to(tmp_path / "sub" / "a.txt")
    (tmp_path / "around").symlink_to(tmp_path)
    assert document_passages(tmp_path) == [Passage("text", "sub/a.txt:1")]


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"line\nsome\0thing", r"a\.txt:2: is no UTF-8 text: byte 0x00"),
        (b"one\ntwo\nGr\xfc\xdfe", r"a\.txt:3: is no UTF-8 text: byte 0xfc"),
        ("text".encode("utf-16"), r"a\.txt:1: is no UTF-8 text: byte 0xff"),
        (gzip.compress(b"text" * 1000)[:-9], r"a\.txt: cannot be read: "),
    ],
    ids=["binary", "latin-1", "utf-16", "broken-gzip"],
)
def test_a_file_that_is_no_text_is_named_with_its_line(tmp_path, content: bytes, says: str) -> None:
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(DataError, match=says):
        document_passages(tmp_path)


def test_a_huge_text_is_refused_even_when_it_is_packed(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr(passages, "MAX_TEXT_BYTES", 10_000)
    (tmp_path / "bomb.txt").write_bytes(gzip.compress(b"a" * 10_001))
    with pytest.raises(DataError, match=r"bomb\.txt: is larger than 10,000 bytes"):
        document_passages(tmp_path)
    (tmp_path / "bomb.txt").write_bytes(gzip.compress(b"a" * 10_000))
    assert sum(len(one.text) for one in document_passages(tmp_path)) == 10_000


def test_a_bad_data_file_is_named_with_its_line(tmp_path) -> None:
    (tmp_path / "rows.jsonl").write_text('{"a": "b"}\n{"a": \n', encoding="utf-8")
    with pytest.raises(DataError, match=r"rows\.jsonl:2: "):
        document_passages(tmp_path)


def test_nothing_to_look_up_is_said(tmp_path) -> None:
    with pytest.raises(DataError, match="holds nothing to look up") as caught:
        document_passages(tmp_path)
    assert "`.txt`, `.md`, `.json`" in caught.value.hint
    with pytest.raises(DataError, match="there is no such folder"):
        document_passages(tmp_path / "none")


def test_a_folder_that_cannot_be_read_is_named(tmp_path, monkeypatch) -> None:
    # Deeper than a path may be long; permissions would not stop root.
    monkeypatch.chdir(tmp_path)
    for _ in range(20):
        os.mkdir("d" * 250)
        os.chdir("d" * 250)
    with pytest.raises(DataError, match="d: cannot be read: File name too long"):
        document_passages(tmp_path)
