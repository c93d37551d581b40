"""A spelling stands for one day only, and a phrase told from today is counted out again here."""

import re
from collections import defaultdict
from datetime import date, datetime, timedelta
from random import Random

import pytest

from tunesmith.data.generate import spellings
from tunesmith.data.generate.dates import AHEAD, BACK, LABELS, SYSTEM, rows

ROWS = list(rows(5, 20_000))
DAYS = [date(2023, 12, 1) + timedelta(days=n) for n in range(500)]
FORMATS = (
    *("%d %B %Y", "%B %d, %Y", "%B %d %Y", "%d %b %Y", "%b %d, %Y", "%d-%b-%Y", "%A, %d %B %Y"),
    *("%A, %B %d, %Y", "%a %d %b %Y", "%a, %b %d, %Y", "%d %b '%y", "%Y-%m-%d", "%Y/%m/%d", "%Y.%m.%d"),
    *("%Y %B %d", "%d/%m/%Y", "%m/%d/%Y", "%d.%m.%Y", "%m.%d.%Y"),
)


def readings(text: str) -> set[date]:
    """Every day that any usual format finds in the text."""
    plain, found = re.sub(r"(?<=\d)(st|nd|rd|th)\b", "", text), set()
    for form in FORMATS:
        try:
            found.add(datetime.strptime(plain, form).date())
        except ValueError:
            continue
    return found


def test_figures_have_one_reading_and_it_is_the_day() -> None:
    for day in DAYS:
        for text in spellings.figures(day):
            assert readings(text) == {day}, text


def test_no_spelling_stands_for_two_days() -> None:
    meant = defaultdict(set)
    for day in DAYS:
        for text in spellings.figures(day) + spellings.words(day):
            meant[text.casefold()].add(day)
    assert [text for text, days in meant.items() if len(days) > 1] == []


@pytest.mark.parametrize(
    ("text", "day"),
    [
        ("the twenty-first of June, nineteen ninety-nine", date(1999, 6, 21)),
        ("March the third, two thousand and eight", date(2008, 3, 3)),
        ("the thirtieth of September, two thousand", date(2000, 9, 30)),
        ("Tuesday of ISO week 1, 2025", date(2024, 12, 31)),
        ("day 60 of the year 2024", date(2024, 2, 29)),
        ("the last day of February 2024", date(2024, 2, 29)),
        ("the 112th day of 2023", date(2023, 4, 22)),
        ("the last Friday of May 2024", date(2024, 5, 31)),
        ("the fifth Friday of May 2024", date(2024, 5, 31)),
        ("Christmas Eve 2031", date(2031, 12, 24)),
    ],
)
def test_words_written_by_hand(text: str, day: date) -> None:
    assert text in spellings.words(day)


def test_years_as_they_are_spoken() -> None:
    spoken = {
        1900: "nineteen hundred",
        1905: "nineteen oh five",
        2010: "twenty ten",
        2026: "twenty twenty-six",
    }
    assert {year: spellings.year_words(year) for year in spoken} == spoken


WORDS = {spellings.number_words(n): n for n in range(100)}


def counted(text: str, today: date) -> date | None:
    """The day a phrase names, found in another way than it was made; None for phrases not known here."""
    fixed = {
        "tomorrow": 1, "the day after tomorrow": 2, "a week from today": 7, "a week from tomorrow": 8,
        "two weeks from tomorrow": 15, "a fortnight from today": 14, "yesterday": -1, "a week ago": -7,
        "the day before yesterday": -2, "a week ago yesterday": -8, "a fortnight ago": -14,
    }  # fmt: skip
    if text in fixed:
        return date.fromordinal(today.toordinal() + fixed[text])
    if found := re.search(r"([a-z-]+|\d+) (day|week)s", text):
        count = WORDS.get(found[1]) or int(found[1])
        sign = -1 if text.endswith("ago") else 1
        return date.fromordinal(today.toordinal() + sign * count * (7 if found[2] == "week" else 1))
    if found := re.search(r"(this coming|this past|first) (\w+day)(?! of)", text):
        step = -1 if found[1] == "this past" else 1
        day = date.fromordinal(today.toordinal() + step)
        while f"{day:%A}" != found[2]:
            day = date.fromordinal(day.toordinal() + step)
        return date.fromordinal(day.toordinal() + 7) if text.startswith("a week after") else day
    if found := re.fullmatch(r"on the (\w+|\w+-\w+) of (next|last) month", text):
        month = today.year * 12 + today.month - 1 + (1 if found[2] == "next" else -1)
        ordinals = {spellings.ordinal(n): n for n in range(1, 32)}
        ordinals |= {spellings.ordinal_words(n): n for n in range(1, 32)}
        return date(month // 12, month % 12 + 1, ordinals[found[1]])
    return None


@pytest.mark.parametrize("look", [spellings.ahead, spellings.back])
def test_phrases_told_from_today_are_right(look) -> None:
    random, known = Random(9), 0  # noqa: S311
    for _ in range(6_000):
        today = date(2023, 1, 1) + timedelta(days=random.randrange(1_200))
        text, day = look(random, today)
        assert (day > today) == (look is spellings.ahead), (text, today)
        if (other := counted(text, today)) is not None:
            known += 1
            assert day == other, (text, today)
    assert known > 3_000


def test_a_month_or_a_year_from_today_by_hand() -> None:
    random, seen = Random(2), {}  # noqa: S311
    for _ in range(20_000):
        for look in (spellings.ahead, spellings.back):
            text, day = look(random, date(2023, 12, 15))
            assert seen.setdefault(text, day) == day
    assert seen["on the last day of next month"] == date(2024, 1, 31)
    assert seen["on the last day of last month"] == date(2023, 11, 30)
    assert seen["on the second Tuesday of next month"] == date(2024, 1, 9)
    assert seen["on Leap Day next year"] == date(2024, 2, 29)
    assert seen["on Halloween last year"] == date(2022, 10, 31)
    assert seen["on March 3rd next year"] == date(2024, 3, 3)


def test_days_before_and_after_another_day() -> None:
    random = Random(4)  # noqa: S311
    for _ in range(2_000):
        start = date(2024, 2, 29)
        text, day = spellings.after_a_day(random, start)
        count, unit, word, rest = re.fullmatch(
            r"([a-z-]+|\d+) (day|week)s (after|before) (.+)", text
        ).groups()
        days = (WORDS.get(count) or int(count)) * (7 if unit == "week" else 1)
        assert (day - start).days == (days if word == "after" else -days)
        assert readings(rest) == {start}


def test_answers_are_iso_and_a_date_told_from_today_shows_today() -> None:
    for row in ROWS:
        assert row["system"] == SYSTEM
        assert date.fromisoformat(row["completion"]).isoformat() == row["completion"]
        assert "{" not in row["prompt"]
        if re.search(r"\b(ago|from now|tomorrow|yesterday|next month|last year|this past)\b", row["prompt"]):
            assert "\n" in row["prompt"], row


def test_templates_name_the_date_once() -> None:
    assert all(template.count("{when}") == 1 for template in AHEAD + BACK)
    assert all(template.count("{date}") == 1 for template in LABELS)
    assert len({*AHEAD, *BACK, *LABELS}) == len(AHEAD) + len(BACK) + len(LABELS)
