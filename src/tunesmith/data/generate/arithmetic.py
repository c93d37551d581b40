"""Word problems of primary school, each with its steps and the final answer after `####`.

A story draws its numbers so that every step comes out whole, and computes each step as it writes it:
an equation in an answer cannot be wrong.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from tunesmith.data.generate.draw import Example, distinct

WHAT = "Word problems with their steps and, after `####`, the final number."


@dataclass(frozen=True, slots=True)
class Problem:
    """One problem: the question in several wordings, the steps, and the number asked for."""

    wordings: tuple[str, ...]
    steps: tuple[str, ...]
    answer: int


def rows(seed: int, count: int) -> Iterator[Example]:
    """Rows with `prompt` and `completion`: one step a line, then `#### ` and the answer.

    Args:
        seed: decides every row.
        count: number of rows, 0 or more.

    Raises:
        DataError: when there are no more different problems.
    """
    return distinct(draw, task="arithmetic", seed=seed, count=count)


def draw(random: Random) -> Example:
    """One problem of any story."""
    problem = random.choice(STORIES)(random)
    completion = "\n".join((*problem.steps, f"#### {problem.answer}"))
    return {"prompt": random.choice(problem.wordings), "completion": completion}


NAMES = (
    "Amina", "Ben", "Carla", "Dmitri", "Elif", "Farah", "Gabriel", "Hana", "Ivan", "Jade", "Kofi", "Lucia",
    "Mateo", "Nadia", "Omar", "Priya", "Quinn", "Rosa", "Sam", "Tara", "Uma", "Victor", "Wen", "Yusuf", "Zoe",
)  # fmt: skip
GOODS = (
    "notebooks", "candles", "mugs", "lamps", "scarves", "puzzles", "posters", "plants", "pillows", "caps",
    "backpacks", "paint sets", "board games", "water bottles",
)  # fmt: skip
SMALL_THINGS = (
    "pencils", "marbles", "buttons", "shells", "stickers", "beads", "coins", "stamps", "batteries", "screws",
)  # fmt: skip
SWEETS = ("cookies", "muffins", "grapes", "strawberries", "pretzels", "chocolates", "dumplings", "plums")
VEHICLES = ("a van", "a bus", "a motorcycle", "a delivery truck", "a small car")
SHOPS = ("market", "corner shop", "flea market", "museum shop", "school fair")
NOTES_DOLLARS = (20, 50, 100, 200, 500, 1000, 2000)


def _two(random: Random, pool: tuple[str, ...]) -> tuple[str, str]:
    first, second = random.sample(pool, 2)
    return first, second


def _shopping(random: Random) -> Problem:
    name, (one, other) = random.choice(NAMES), _two(random, GOODS)
    n, m, p, q = random.randint(2, 12), random.randint(2, 12), random.randint(3, 30), random.randint(3, 30)
    shop = random.choice(SHOPS)
    wordings = (
        f"{name} buys {n} {one} at ${p} each and {m} {other} at ${q} each. How many dollars is that in all?",
        f"At the {shop}, {one} cost ${p} apiece and {other} cost ${q} apiece. "
        f"What does {name} pay in dollars for {n} {one} and {m} {other}?",
        f"{name} is filling a basket at the {shop}: {n} {one} for ${p} each, then {m} {other} for ${q} each. "
        f"What will the bill be, in dollars?",
    )
    steps = (
        f"The {one} cost {n} * {p} = {n * p} dollars.",
        f"The {other} cost {m} * {q} = {m * q} dollars.",
        f"Together that is {n * p} + {m * q} = {n * p + m * q} dollars.",
    )
    return Problem(wordings, steps, n * p + m * q)


def _change(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(GOODS)
    n, p = random.randint(2, 15), random.randint(2, 40)
    cost = n * p
    note = next(value for value in NOTES_DOLLARS if value > cost + 1)
    wordings = (
        f"{name} buys {n} {thing} for ${p} each and pays with ${note}. How many dollars of change come back?",
        f"{thing.capitalize()} are ${p} each. {name} takes {n} of them and hands over ${note}. "
        f"How much change is due, in dollars?",
        f"With ${note} in hand, {name} pays for {n} {thing} that cost ${p} apiece. "
        f"How many dollars are left over?",
    )
    steps = (
        f"The {thing} cost {n} * {p} = {cost} dollars.",
        f"The change is {note} - {cost} = {note - cost} dollars.",
    )
    return Problem(wordings, steps, note - cost)


def _boxes(random: Random) -> Problem:
    (name, friend), thing = _two(random, NAMES), random.choice(SMALL_THINGS)
    boxes, each = random.randint(3, 20), random.randint(4, 48)
    total = boxes * each
    given = random.randint(2, total - 2)
    wordings = (
        f"{name} has {boxes} boxes with {each} {thing} in each and gives {given} {thing} to {friend}. "
        f"How many {thing} does {name} still have?",
        f"There are {each} {thing} in a box. {name} opens {boxes} boxes and lets {friend} take {given}. "
        f"How many {thing} remain?",
        f"After giving away {given} {thing} out of {boxes} full boxes of {each}, "
        f"how many {thing} are left for {name}?",
    )
    steps = (
        f"The boxes hold {boxes} * {each} = {total} {thing}.",
        f"That leaves {total} - {given} = {total - given} {thing}.",
    )
    return Problem(wordings, steps, total - given)


def _journey(random: Random) -> Problem:
    name, vehicle = random.choice(NAMES), random.choice(VEHICLES)
    h1, h2 = random.randint(2, 6), random.randint(2, 6)
    v1, v2 = random.sample(range(25, 71), 2)
    wordings = (
        f"{name} drives {vehicle} for {h1} hours at {v1} miles per hour and then for {h2} hours at {v2} "
        f"miles per hour. How many miles is the whole trip?",
        f"On the way to the coast, {name} spends {h1} hours in {vehicle} going {v1} miles per hour, then "
        f"{h2} hours going {v2} miles per hour. How far does {name} travel, in miles?",
    )
    steps = (
        f"The first part is {h1} * {v1} = {h1 * v1} miles.",
        f"The second part is {h2} * {v2} = {h2 * v2} miles.",
        f"The whole trip is {h1 * v1} + {h2 * v2} = {h1 * v1 + h2 * v2} miles.",
    )
    return Problem(wordings, steps, h1 * v1 + h2 * v2)


def _savings(random: Random) -> Problem:
    name, goal = random.choice(NAMES), random.choice(("bicycle", "guitar", "tent", "camera", "phone", "desk"))
    spent, left, weeks = random.randint(5, 40), random.randint(5, 60), random.randint(3, 30)
    earned, price = spent + left, left * weeks
    wordings = (
        f"{name} earns ${earned} a week, spends ${spent} of it and saves the rest for a {goal} that costs "
        f"${price}. How many weeks does it take?",
        f"A {goal} costs ${price}. Each week {name} gets ${earned} and spends ${spent}. "
        f"After how many weeks of saving the rest can {name} buy it?",
        f"{name} wants a {goal} for ${price}. Of a weekly pay of ${earned}, ${spent} goes on food and fares "
        f"and the rest is put aside. How many weeks of saving are needed?",
    )
    steps = (
        f"Each week {earned} - {spent} = {left} dollars are saved.",
        f"It takes {price} / {left} = {weeks} weeks.",
    )
    return Problem(wordings, steps, weeks)


def _sharing(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(SWEETS)
    friends, each, kept = random.randint(2, 12), random.randint(3, 25), random.randint(2, 15)
    total = friends * each + kept
    wordings = (
        f"{name} has {total} {thing}, keeps {kept} and shares the others equally among {friends} friends. "
        f"How many {thing} does each friend get?",
        f"Out of {total} {thing}, {name} sets {kept} aside. The remaining ones are divided evenly between "
        f"{friends} friends. What is one friend's share?",
    )
    steps = (
        f"There are {total} - {kept} = {total - kept} {thing} to share.",
        f"Each friend gets {total - kept} / {friends} = {each} {thing}.",
    )
    return Problem(wordings, steps, each)


def _recipe(random: Random) -> Problem:
    name, dish = (
        random.choice(NAMES),
        random.choice(("soup", "curry", "stew", "pilaf", "bake", "chili")),
    )
    item = random.choice(("carrots", "tomatoes", "onions", "potatoes", "peppers", "cups of rice"))
    base, times, amount = random.randint(2, 8), random.randint(2, 12), random.randint(2, 11)
    guests = base * times
    wordings = (
        f"A {dish} for {base} people needs {amount} {item}. {name} is cooking it for {guests} people. "
        f"How many {item} are needed?",
        f"{name}'s recipe uses {amount} {item} and serves {base}. "
        f"How many {item} does it take to serve {guests} guests the same {dish}?",
    )
    steps = (
        f"The recipe has to be made {guests} / {base} = {times} times.",
        f"That takes {times} * {amount} = {times * amount} {item}.",
    )
    return Problem(wordings, steps, times * amount)


def _ages(random: Random) -> Problem:
    old, young = _two(random, NAMES)
    years, now, apart = random.randint(2, 15), random.randint(3, 40), random.randint(2, 30)
    wordings = (
        f"{old} is {apart} years older than {young}. In {years} years {young} will be {now + years}. "
        f"How old is {old} now?",
        f"{young} will turn {now + years} in {years} years. {old} was born {apart} years before {young}. "
        f"What is {old}'s age today?",
    )
    steps = (
        f"{young} is now {now + years} - {years} = {now} years old.",
        f"{old} is {now} + {apart} = {now + apart} years old.",
    )
    return Problem(wordings, steps, now + apart)


def _discount(random: Random) -> Problem:
    name, thing = random.choice(NAMES), random.choice(("coat", "tent", "drill", "chair", "printer", "radio"))
    price, percent = random.randint(2, 45) * 20, random.randint(1, 15) * 5
    off = price * percent // 100
    wordings = (
        f"A {thing} costs ${price}. In the sale it is {percent}% cheaper. "
        f"How many dollars does {name} pay for it?",
        f"{name} has a voucher for {percent}% off and uses it on a {thing} priced at ${price}. "
        f"What is the final price in dollars?",
        f"The {thing} that {name} wants is marked ${price}, with {percent}% taken off at the till. "
        f"How many dollars will it cost?",
    )
    steps = (
        f"The reduction is {price} * {percent} / 100 = {off} dollars.",
        f"The price is {price} - {off} = {price - off} dollars.",
    )
    return Problem(wordings, steps, price - off)


def _reading(random: Random) -> Problem:
    name, days, each = random.choice(NAMES), random.randint(3, 21), random.randint(6, 45)
    read = days * each
    pages = read + random.randint(5, 250)
    wordings = (
        f"{name}'s book has {pages} pages. After {days} days of reading {each} pages a day, "
        f"how many pages are still unread?",
        f"{name} reads {each} pages every evening of a novel with {pages} pages. "
        f"How many pages are left after {days} evenings?",
    )
    steps = (
        f"{name} has read {days} * {each} = {read} pages.",
        f"That leaves {pages} - {read} = {pages - read} pages.",
    )
    return Problem(wordings, steps, pages - read)


def _comparison(random: Random) -> Problem:
    first, second, third = random.sample(NAMES, 3)
    thing, n, times = random.choice(SMALL_THINGS), random.randint(5, 60), random.randint(2, 6)
    more = n * times
    fewer = random.randint(2, more - 2)
    wordings = (
        f"{first} has {n} {thing}. {second} has {times} times as many as {first}, and {third} has {fewer} "
        f"fewer than {second}. How many {thing} do they have in all?",
        f"{second} owns {times} times as many {thing} as {first}, who owns {n}. {third} owns {fewer} fewer "
        f"than {second}. How many {thing} do the three of them own together?",
    )
    steps = (
        f"{second} has {n} * {times} = {more} {thing}.",
        f"{third} has {more} - {fewer} = {more - fewer} {thing}.",
        f"Together they have {n} + {more} + {more - fewer} = {n + more + more - fewer} {thing}.",
    )
    return Problem(wordings, steps, n + more + more - fewer)


FRACTIONS = {"half": 2, "a third": 3, "a quarter": 4, "a fifth": 5, "a tenth": 10}


def _garden(random: Random) -> Problem:
    name, plant = random.choice(NAMES), random.choice(("tulips", "cabbages", "beans", "leeks", "roses"))
    words, part = random.choice(tuple(FRACTIONS.items()))
    in_row, lines = part * random.randint(2, 9), random.randint(3, 24)
    total = in_row * lines
    gone = total // part
    wordings = (
        f"{name} plants {lines} rows of {in_row} {plant}. Frost kills {words} of them. How many survive?",
        f"A bed has {lines} rows with {in_row} {plant} each. {name} sells {words} of all the {plant}. "
        f"How many are left in the bed?",
    )
    steps = (
        f"There are {lines} * {in_row} = {total} {plant} at first.",
        f"Of these, {words} is {total} / {part} = {gone}.",
        f"That leaves {total} - {gone} = {total - gone} {plant}.",
    )
    return Problem(wordings, steps, total - gone)


def _overtime(random: Random) -> Problem:
    name, job = random.choice(NAMES), random.choice(("warehouse", "bakery", "garage", "library", "hotel"))
    wage, extra = random.randint(12, 30), random.randint(2, 12)
    hours, over = random.randint(20, 40), random.randint(2, 12)
    high = wage + extra
    wordings = (
        f"At the {job}, {name} is paid ${wage} an hour, and ${extra} more for each hour of overtime. "
        f"What is the pay in dollars for {hours} normal hours and {over} hours of overtime?",
        f"{name} works {hours} regular hours at ${wage} an hour in a {job}, plus {over} overtime hours, each "
        f"paid ${extra} better than a regular one. How many dollars does {name} earn?",
    )
    steps = (
        f"The normal hours bring {hours} * {wage} = {hours * wage} dollars.",
        f"An hour of overtime brings {wage} + {extra} = {high} dollars.",
        f"The overtime brings {over} * {high} = {over * high} dollars.",
        f"In all that is {hours * wage} + {over * high} = {hours * wage + over * high} dollars.",
    )
    return Problem(wordings, steps, hours * wage + over * high)


def _tank(random: Random) -> Problem:
    out, net, minutes = random.randint(2, 15), random.randint(3, 30), random.randint(5, 60)
    start, into = random.randint(10, 200), out + net
    vessel = random.choice(("tank", "pool", "cistern", "rain barrel", "trough"))
    wordings = (
        f"A {vessel} holds {start} liters. Each minute {into} liters run in and {out} liters leak out. "
        f"How many liters does it hold after {minutes} minutes?",
        f"Water flows into a {vessel} at {into} liters a minute while {out} liters a minute drain away. "
        f"It starts with {start} liters. How many liters are in it {minutes} minutes later?",
    )
    steps = (
        f"Each minute the water grows by {into} - {out} = {net} liters.",
        f"In {minutes} minutes that is {net} * {minutes} = {net * minutes} liters.",
        f"The {vessel} then holds {start} + {net * minutes} = {start + net * minutes} liters.",
    )
    return Problem(wordings, steps, start + net * minutes)


def _average(random: Random) -> Problem:
    name, a, b = random.choice(NAMES), random.randint(40, 99), random.randint(40, 99)
    mean = random.randint((a + b) // 3 + 5, (a + b) // 3 + 30)
    c = 3 * mean - a - b
    total = a + b + c
    wordings = (
        f"{name} scores {a}, {b} and {c} points in three rounds. What is the average score?",
        f"Three parcels that {name} carries weigh {a}, {b} and {c} ounces. "
        f"What is their mean weight in ounces?",
    )
    steps = (f"The sum is {a} + {b} + {c} = {total}.", f"The average is {total} / 3 = {mean}.")
    return Problem(wordings, steps, mean)


def _fundraiser(random: Random) -> Problem:
    name, event = random.choice(NAMES), random.choice(("concert", "play", "film night", "quiz evening"))
    adults, children = random.randint(15, 150), random.randint(10, 120)
    full, reduced = random.randint(8, 25), random.randint(2, 7)
    taken = adults * full + children * reduced
    rent = random.randint(20, taken // 2)
    wordings = (
        f"For a {event}, {name} sells {adults} adult tickets at ${full} and {children} child tickets at "
        f"${reduced}. The hall costs ${rent}. How many dollars are left after paying for the hall?",
        f"{name} organizes a {event}. Adults pay ${full}, children pay ${reduced}, and the hall costs "
        f"${rent}. With {adults} adults and {children} children, what is the profit in dollars?",
    )
    steps = (
        f"The adults pay {adults} * {full} = {adults * full} dollars.",
        f"The children pay {children} * {reduced} = {children * reduced} dollars.",
        f"The tickets bring {adults * full} + {children * reduced} = {taken} dollars.",
        f"After the hall, {taken} - {rent} = {taken - rent} dollars are left.",
    )
    return Problem(wordings, steps, taken - rent)


STORIES: tuple[Callable[[Random], Problem], ...] = (
    _shopping, _change, _boxes, _journey, _savings, _sharing, _recipe, _ages, _discount, _reading,
    _comparison, _garden, _overtime, _tank, _average, _fundraiser,
)  # fmt: skip
