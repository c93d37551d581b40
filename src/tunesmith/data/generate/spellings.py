"""How English writes a date: in figures, in words, by weekday, by week, and seen from another day.

No spelling here can be read as two dates: `04/03/2025` is left out, `31/03/2025` is not.
"""

from calendar import isleap, monthrange
from collections.abc import Callable
from datetime import date, timedelta
from random import Random

MONTHS = (
    "January", "February", "March", "April", "May", "June", "July", "August", "September", "October",
    "November", "December",
)  # fmt: skip
WEEKDAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_ONES = (
    "zero", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine", "ten", "eleven", "twelve",
    "thirteen", "fourteen", "fifteen", "sixteen", "seventeen", "eighteen", "nineteen",
)  # fmt: skip
_TENS = ("", "", "twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety")
_ODD_ORDINALS = {
    "one": "first", "two": "second", "three": "third", "five": "fifth", "eight": "eighth", "nine": "ninth",
    "twelve": "twelfth", "twenty": "twentieth", "thirty": "thirtieth",
}  # fmt: skip
HOLIDAYS = {
    (1, 1): "New Year's Day", (2, 14): "Valentine's Day", (2, 29): "Leap Day", (10, 31): "Halloween",
    (12, 24): "Christmas Eve", (12, 25): "Christmas Day", (12, 31): "New Year's Eve",
}  # fmt: skip
_UNAMBIGUOUS_FROM_DAY = 13
_SHORT_YEARS_FROM = 2000
_LAST_DAY_OF_EVERY_MONTH = 28

Seen = tuple[str, date]


def number_words(number: int) -> str:
    """A number from 0 to 99 in words, such as `twenty-four`."""
    if number < len(_ONES):
        return _ONES[number]
    tens, ones = divmod(number, 10)
    return f"{_TENS[tens]}-{_ONES[ones]}" if ones else _TENS[tens]


def ordinal_words(number: int) -> str:
    """A number from 1 to 39 as an ordinal in words, such as `twenty-first`."""
    head, dash, last = number_words(number).rpartition("-")
    return head + dash + _ODD_ORDINALS.get(last, f"{last}th")


def ordinal(number: int) -> str:
    """A whole number with its ending, such as `21st` or `112th`."""
    teen = number // 10 % 10 == 1
    return f"{number}{'th' if teen else {1: 'st', 2: 'nd', 3: 'rd'}.get(number % 10, 'th')}"


def year_words(year: int) -> str:
    """A year from 1900 to 2099 as it is spoken, such as `nineteen oh five` or `twenty twenty-six`."""
    century, rest = divmod(year, 100)
    if century == 20 and rest < 10:
        return f"two thousand and {number_words(rest)}" if rest else "two thousand"
    if rest == 0:
        return f"{number_words(century)} hundred"
    return f"{number_words(century)} {'oh ' if rest < 10 else ''}{number_words(rest)}"


def figures(day: date) -> list[str]:
    """Spellings of a day in figures and month names. None needs an article, all can follow `on`."""
    d, y, month, weekday = day.day, day.year, MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    short = month[:3]
    texts = [
        f"{d} {month} {y}",
        f"{month} {d}, {y}",
        f"{ordinal(d)} {month} {y}",
        f"{month} {ordinal(d)}, {y}",
        f"{d} {short} {y}",
        f"{short} {d}, {y}",
        f"{d:02}-{short}-{y}",
        f"{d:02} {month.upper()} {y}",
        f"{weekday}, {d} {month} {y}",
        f"{weekday}, {month} {d}, {y}",
        f"{weekday[:3]} {d} {short} {y}",
        f"{weekday[:3]}, {short} {ordinal(d)}, {y}",
        f"{y}-{day.month:02}-{d:02}",
        f"{y}/{day.month:02}/{d:02}",
        f"{y}.{day.month:02}.{d:02}",
        f"{y} {month} {d}",
    ]
    if y >= _SHORT_YEARS_FROM:
        texts.append(f"{d} {short} '{y % 100:02}")
    if d >= _UNAMBIGUOUS_FROM_DAY:
        texts += [f"{d}/{day.month:02}/{y}", f"{day.month}/{d}/{y}", f"{d}.{day.month}.{y}"]
    return texts


def words(day: date) -> list[str]:
    """Spellings of a day in words, or by its place in month, week and year. All can follow `on`."""
    d, y, month, weekday = day.day, day.year, MONTHS[day.month - 1], WEEKDAYS[day.weekday()]
    iso_year, iso_week, _ = day.isocalendar()
    of_year, last = day.timetuple().tm_yday, monthrange(y, day.month)[1]
    texts = [
        f"the {ordinal(d)} of {month} {y}",
        f"the {ordinal(d)} of {month}, {y}",
        f"the {ordinal_words(d)} of {month}, {y}",
        f"the {ordinal_words(d)} of {month}, {year_words(y)}",
        f"{month} the {ordinal_words(d)}, {year_words(y)}",
        f"{weekday} the {ordinal(d)} of {month} {y}",
        f"{weekday}, the {ordinal_words(d)} of {month}, {year_words(y)}",
        f"the {ordinal_words((d - 1) // 7 + 1)} {weekday} of {month} {y}",
        f"{weekday} of ISO week {iso_week}, {iso_year}",
        f"day {of_year} of the year {y}",
        f"the {ordinal(of_year)} day of {y}",
    ]
    if d + 7 > last:
        texts.append(f"the last {weekday} of {month} {y}")
    if d == last:
        texts.append(f"the last day of {month} {y}")
    if holiday := HOLIDAYS.get((day.month, d)):
        texts.append(f"{holiday} {y}")
    return texts


def after_a_day(random: Random, start: date) -> Seen:
    """So many days or weeks before or after a day that is given, such as `30 days after 3 March 2024`."""
    count, days, unit = _span(random)
    sign, word = random.choice(((1, "after"), (-1, "before")))
    text = f"{_count(random, count)} {unit} {word} {random.choice(figures(start))}"
    return text, start + timedelta(days=sign * count * days)


def ahead(random: Random, today: date) -> Seen:
    """A day later than today, said from today."""
    return random.choice(_AHEAD)(random, today)


def back(random: Random, today: date) -> Seen:
    """A day earlier than today, said from today."""
    return random.choice(_BACK)(random, today)


def _count(random: Random, count: int) -> str:
    return random.choice((str(count), number_words(count)))


def _span(random: Random) -> tuple[int, int, str]:
    """How many, of how many days each, and the unit."""
    return random.choice(((random.randint(2, 90), 1, "days"), (random.randint(2, 12), 7, "weeks")))


def _in_days(random: Random, today: date) -> Seen:
    count = random.randint(2, 60)
    said = _count(random, count)
    text = random.choice(
        (f"in {said} days", f"{said} days from now", f"{said} days from today", f"in {said} days' time")
    )
    return text, today + timedelta(days=count)


def _in_weeks(random: Random, today: date) -> Seen:
    count = random.randint(2, 12)
    said = _count(random, count)
    text = random.choice((f"in {said} weeks", f"{said} weeks from today", f"in exactly {said} weeks"))
    return text, today + timedelta(weeks=count)


def _soon(random: Random, today: date) -> Seen:
    days = {
        "tomorrow": 1,
        "the day after tomorrow": 2,
        "a week from today": 7,
        "a week from tomorrow": 8,
        "two weeks from tomorrow": 15,
        "a fortnight from today": 14,
    }
    text = random.choice(list(days))
    return text, today + timedelta(days=days[text])


def _coming(random: Random, today: date) -> Seen:
    day = today + timedelta(days=random.randint(1, 7))
    weekday = WEEKDAYS[day.weekday()]
    text, later = random.choice(
        (
            (f"this coming {weekday}", 0),
            (f"on the first {weekday} after today", 0),
            (f"a week after this coming {weekday}", 7),
        )
    )
    return text, day + timedelta(days=later)


def _in_month(random: Random, year: int, month: int, said: str) -> Seen:
    """A day of a month that is named from today, such as `on the second Friday of next month`."""
    last = monthrange(year, month)[1]
    day = date(year, month, random.randint(1, _LAST_DAY_OF_EVERY_MONTH))
    weekday, place = WEEKDAYS[day.weekday()], (day.day - 1) // 7 + 1
    choices = (
        (f"on the {ordinal(day.day)} of {said}", day),
        (f"on the {ordinal_words(day.day)} of {said}", day),
        (f"on the {ordinal_words(place)} {weekday} of {said}", day),
        (f"on the last day of {said}", day.replace(day=last)),
    )
    return random.choice(choices)


def _next_month(random: Random, today: date) -> Seen:
    year, month = (today.year, today.month + 1) if today.month < len(MONTHS) else (today.year + 1, 1)
    return _in_month(random, year, month, "next month")


def _last_month(random: Random, today: date) -> Seen:
    year, month = (today.year, today.month - 1) if today.month > 1 else (today.year - 1, len(MONTHS))
    return _in_month(random, year, month, "last month")


def _next_year(random: Random, today: date) -> Seen:
    return _in_year(random, today.year + 1, "next year")


def _last_year(random: Random, today: date) -> Seen:
    return _in_year(random, today.year - 1, "last year")


def _in_year(random: Random, year: int, said: str) -> Seen:
    month, day = random.choice([key for key in HOLIDAYS if key != (2, 29) or isleap(year)])
    holiday = date(year, month, day)
    other = date(year, random.randint(1, 12), random.randint(1, _LAST_DAY_OF_EVERY_MONTH))
    spelled = f"on {MONTHS[other.month - 1]} {ordinal(other.day)} {said}"
    return random.choice(((f"on {HOLIDAYS[month, day]} {said}", holiday), (spelled, other)))


def _lately(random: Random, today: date) -> Seen:
    days = {
        "yesterday": 1,
        "the day before yesterday": 2,
        "a week ago": 7,
        "a week ago yesterday": 8,
        "a fortnight ago": 14,
    }
    text = random.choice(list(days))
    return text, today - timedelta(days=days[text])


def _ago(random: Random, today: date) -> Seen:
    count, days, unit = _span(random)
    text = f"{random.choice(('', 'exactly '))}{_count(random, count)} {unit} ago"
    return text, today - timedelta(days=count * days)


def _past(random: Random, today: date) -> Seen:
    day = today - timedelta(days=random.randint(1, 7))
    return f"this past {WEEKDAYS[day.weekday()]}", day


_AHEAD: tuple[Callable[[Random, date], Seen], ...] = (
    _soon, _in_days, _in_weeks, _coming, _next_month, _next_year,
)  # fmt: skip
_BACK: tuple[Callable[[Random, date], Seen], ...] = (_lately, _ago, _past, _last_month, _last_year)
