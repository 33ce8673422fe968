"""Questions for `PythonTool`: nine families, each with an answer computed here and code that finds it another way."""

from __future__ import annotations

import datetime
import random
from collections import Counter
from collections.abc import Callable, Mapping
from typing import NamedTuple

RESIDUES = {"train": (0, 1, 2), "validation": (3,), "test": (4,)}
"""Numbers in questions of a split leave these remainders after division by 5: no question is in two splits."""
_SYLLABLES = {
    "train": ("ba", "de", "ki", "lo", "mu", "na"),
    "validation": ("fe", "gi", "po", "ru", "sa"),
    "test": ("ce", "hi", "jo", "vu", "wa"),
}
_DAYS = ("Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday")
_PEOPLE = ("Ada", "Ben", "Cem", "Dua", "Eli", "Fay")


class Question(NamedTuple):
    """What is asked, with what beside it, and how it comes out."""

    text: str
    answer: str
    code: str
    """Prints the answer; the expert's. Not how `answer` was computed."""
    files: Mapping[str, str]


class Draw:
    """Draws for one question of one split."""

    def __init__(self, split: str, seed: int) -> None:
        self.split, self.rng = split, random.Random(f"python {split} {seed}")

    def number(self, low: int, high: int) -> int:
        """A number of this split between `low` and `high`."""
        fit = [n for n in range(low, high + 1) if n % 5 in RESIDUES[self.split]]
        return self.rng.choice(fit)

    def word(self) -> str:
        return "".join(self.rng.choices(_SYLLABLES[self.split], k=2))

    def say(self, kind: str, **values: object) -> str:
        """The question in one of the split's wordings."""
        return self.rng.choice(WORDINGS[kind][self.split]).format(**values)


def _divisors(draw: Draw) -> Question:
    n, d = draw.number(2000, 9000), draw.rng.choice((4, 6, 8, 10, 12, 16))
    counts = [0] * (n + 1)
    for step in range(1, n + 1):
        for multiple in range(step, n + 1, step):
            counts[multiple] += 1
    code = f"""
def divisors(n):
    count, p = 1, 2
    while p * p <= n:
        power = 1
        while n % p == 0:
            n, power = n // p, power + 1
        count, p = count * power, p + 1
    return count * (2 if n > 1 else 1)

print(sum(divisors(k) == {d} for k in range(1, {n + 1})))
"""
    return Question(draw.say("divisors", n=n, d=d), str(counts[1:].count(d)), code, {})


def _palindromes(draw: Draw) -> Question:
    n, base = draw.number(3000, 20000), draw.rng.randint(3, 9)
    total = 0
    for k in range(1, n + 1):
        turned, rest = 0, k
        while rest:
            turned, rest = turned * base + rest % base, rest // base
        total += k * (turned == k)
    code = f"""
def digits(k):
    found = []
    while k:
        k, digit = divmod(k, {base})
        found.append(digit)
    return found

print(sum(k for k in range(1, {n + 1}) if digits(k) == digits(k)[::-1]))
"""
    return Question(draw.say("palindromes", n=n, base=base), str(total), code, {})


def _words(draw: Draw) -> Question:
    size, times = draw.number(150, 400), draw.rng.randint(2, 5)
    words = [draw.word() for _ in range(size)]
    lines = "\n".join(" ".join(words[i : i + 12]) for i in range(0, size, 12)) + "\n"
    seen: dict[str, int] = {}
    for word in words:
        seen[word] = seen.get(word, 0) + 1
    answer = sum(count >= times for count in seen.values())
    code = f"""
from collections import Counter
words = Counter(open("notes.txt").read().split())
print(len([word for word in words if words[word] >= {times}]))
"""
    return Question(draw.say("words", times=times), str(answer), code, {"notes.txt": lines})


def _mirror(draw: Draw) -> Question:
    size = draw.number(60, 160)
    text = "".join(draw.rng.choices("abc", k=size))
    best = 0
    for centre in range(2 * size - 1):
        left, right = centre // 2, (centre + 1) // 2
        while left >= 0 and right < size and text[left] == text[right]:
            left, right = left - 1, right + 1
        best = max(best, right - left - 1)
    code = """
text = open("message.txt").read().strip()
n = len(text)
print(max(b - a for a in range(n) for b in range(a + 1, n + 1) if text[a:b] == text[a:b][::-1]))
"""
    return Question(draw.say("mirror"), str(best), code, {"message.txt": text + "\n"})


def _table(draw: Draw) -> Question:
    rows, least = draw.number(40, 120), draw.rng.randint(3, 8)
    products = sorted({draw.word() for _ in range(4)})
    sales = [
        (draw.rng.choice(_PEOPLE), draw.rng.choice(products), draw.rng.randint(1, 12), draw.number(100, 2000))
        for _ in range(rows)
    ]
    product = draw.rng.choice(products)
    total: Counter[str] = Counter()
    for person, sold, units, cents in sales:
        if sold == product and units >= least:
            total[person] += units * cents
    lines = ["seller,product,units,cents", *(",".join(map(str, row)) for row in sales)]
    code = f"""
import csv
total = {{}}
for row in csv.DictReader(open("sales.csv")):
    if row["product"] == {product!r} and int(row["units"]) >= {least}:
        total[row["seller"]] = total.get(row["seller"], 0) + int(row["units"]) * int(row["cents"])
print(max(total.values(), default=0))
"""
    answer = str(max(total.values(), default=0))
    text = draw.say("table", product=product, least=least)
    return Question(text, answer, code, {"sales.csv": "\n".join(lines) + "\n"})


def _walk(draw: Draw) -> Question:
    steps, size = draw.number(500, 3000), draw.number(20, 60)
    a, c, m = draw.number(1000, 9000), draw.number(10, 900), draw.number(50_000, 90_000)
    place, seen, x = 0j, {0j}, 1
    for _ in range(steps):
        x = (a * x + c) % m
        place += 1j ** (x // 16 % 4)
        place = complex(place.real % size, place.imag % size)
        seen.add(place)
    code = f"""
x, row, column = 1, 0, 0
seen = {{(0, 0)}}
for _ in range({steps}):
    x = ({a} * x + {c}) % {m}
    east, north = [(1, 0), (0, 1), (-1, 0), (0, -1)][x // 16 % 4]
    column, row = (column + east) % {size}, (row + north) % {size}
    seen.add((column, row))
print(len(seen))
"""
    return Question(draw.say("walk", steps=steps, size=size, a=a, c=c, m=m), str(len(seen)), code, {})


def _dates(draw: Draw) -> Question:
    first, years = draw.number(1800, 2050), draw.number(8, 60)
    day, weekday = draw.rng.randint(1, 28), draw.rng.randrange(7)
    count = 0
    for index in range(12 * years):
        year, month = first + index // 12, index % 12 + 1
        shifted, moved = (year, month) if month > 2 else (year - 1, month + 12)  # Zeller's congruence; 0 is Saturday
        zeller = (day + 13 * (moved + 1) // 5 + shifted + shifted // 4 - shifted // 100 + shifted // 400) % 7
        count += (zeller + 5) % 7 == weekday
    code = f"""
import datetime
print(sum(datetime.date(year, month, {day}).weekday() == {weekday}
          for year in range({first}, {first + years}) for month in range(1, 13)))
"""
    values = {"first": first, "last": first + years - 1, "day": day, "weekday": _DAYS[weekday]}
    return Question(draw.say("dates", **values), str(count), code, {})


def _deadline(draw: Draw) -> Question:
    start = datetime.date(draw.number(1950, 2090), draw.rng.randint(1, 12), draw.rng.randint(1, 28))
    days = draw.number(60, 900)
    weeks, rest = divmod(days, 5)  # five working days are a week, whatever the day; the rest is walked
    end = start + datetime.timedelta(weeks=weeks)
    while rest or end.weekday() > 4:
        if end.weekday() > 4:  # a start on a weekend counts from the Friday before
            end -= datetime.timedelta(days=end.weekday() - 4)
            continue
        end += datetime.timedelta(days=3 if end.weekday() == 4 else 1)
        rest -= 1
    code = f"""
import datetime
day, left = datetime.date({start.year}, {start.month}, {start.day}), {days}
while left:
    day += datetime.timedelta(days=1)
    left -= day.weekday() < 5
print(day)
"""
    return Question(draw.say("deadline", start=start, days=days), end.isoformat(), code, {})


def _paths(draw: Draw) -> Question:
    height, width = draw.rng.randint(6, 12), draw.number(6, 14)
    grid = [["#" if draw.rng.random() < 0.12 else "." for _ in range(width)] for _ in range(height)]
    grid[0][0] = grid[-1][-1] = "."
    row_of = [0] * width
    row_of[0] = 1
    for line in grid:
        for column, cell in enumerate(line):
            before = row_of[column - 1] if column else 0
            row_of[column] = 0 if cell == "#" else row_of[column] + before
    code = """
from functools import cache
grid = open("grid.txt").read().split()

@cache
def ways(row, column):
    if row < 0 or column < 0 or grid[row][column] == "#":
        return 0
    return 1 if (row, column) == (0, 0) else ways(row - 1, column) + ways(row, column - 1)

print(ways(len(grid) - 1, len(grid[0]) - 1))
"""
    text = "\n".join(map("".join, grid)) + "\n"
    return Question(draw.say("paths"), str(row_of[-1]), code, {"grid.txt": text})


def _coins(draw: Draw) -> Question:
    total, coins = draw.number(150, 500), sorted({draw.number(2, 40) for _ in range(5)})
    ways = [1] + [0] * total
    for coin in coins:
        for amount in range(coin, total + 1):
            ways[amount] += ways[amount - coin]
    code = f"""
from functools import cache
coins = {coins}

@cache
def ways(amount, kinds):
    if kinds == 0:
        return int(amount == 0)
    return sum(ways(amount - used, kinds - 1) for used in range(0, amount + 1, coins[kinds - 1]))

print(ways({total}, len(coins)))
"""
    listed = ", ".join(map(str, coins))
    return Question(draw.say("coins", total=total, coins=listed), str(ways[total]), code, {})


FAMILIES: dict[str, Callable[[Draw], Question]] = {
    "divisors": _divisors,
    "palindromes": _palindromes,
    "words": _words,
    "mirror": _mirror,
    "table": _table,
    "walk": _walk,
    "dates": _dates,
    "deadline": _deadline,
    "paths": _paths,
    "coins": _coins,
}
WORDINGS: dict[str, dict[str, tuple[str, ...]]] = {
    "divisors": {
        "train": (
            "How many integers from 1 to {n} have exactly {d} positive divisors?",
            "Count the whole numbers k with 1 <= k <= {n} that are divisible by exactly {d} positive integers.",
        ),
        "validation": ("Among 1, 2, …, {n}, how many numbers have {d} divisors, 1 and themselves included?",),
        "test": ("Some of the first {n} positive integers have {d} divisors, no more and no fewer. How many do?",),
    },
    "palindromes": {
        "train": (
            "What is the sum of all integers from 1 to {n} that read the same backwards in base {base}?",
            "Add up every k with 1 <= k <= {n} whose base-{base} digits form a palindrome. What is the sum?",
        ),
        "validation": ("Written in base {base}, some numbers up to {n} are palindromes. What do they sum to?",),
        "test": ("Sum the positive integers not above {n} whose base {base} notation is its own mirror image.",),
    },
    "words": {
        "train": (
            "The file notes.txt holds words. How many different words occur at least {times} times in it?",
            "Count the distinct words of notes.txt that appear {times} or more times.",
        ),
        "validation": ("Of the different words in notes.txt, how many are there {times} times or more often?",),
        "test": ("How large is the set of words that notes.txt uses no fewer than {times} times?",),
    },
    "mirror": {
        "train": (
            "How long is the longest palindromic substring of the line in message.txt?",
            "Find the longest stretch of the line in message.txt that reads the same in both directions. Its length?",
        ),
        "validation": ("message.txt has one line. What is the length of its longest contiguous palindrome?",),
        "test": ("Give the number of letters in the longest part of message.txt's line equal to its own reversal.",),
    },
    "table": {
        "train": (
            "sales.csv lists sales. Revenue is units times cents. Counting only sales of {product} with at least "
            "{least} units, how much did the seller with the largest revenue take, in cents? (0 if there is none)",
            "In sales.csv, keep the rows with product {product} and {least} or more units. Sum units * cents per "
            "seller. What is the largest sum? (0 if no row is left)",
        ),
        "validation": (
            "By sales.csv, who sold {product} for the most money, looking only at rows of {least} units or more? "
            "Answer with the money in cents (units times cents), 0 if there was none.",
        ),
        "test": (
            "Take the sales of {product} in sales.csv that moved no fewer than {least} units. Group them by seller and "
            "add up units times cents. Report the maximum over sellers, or 0.",
        ),
    },
    "walk": {
        "train": (
            "A robot starts on a cell of a {size} by {size} torus. Let x = 1. In each of {steps} steps x becomes "
            "({a}·x + {c}) mod {m}, and the robot moves by floor(x / 16) mod 4: 0 east, 1 north, 2 west, 3 south. On "
            "how many different cells was it, the first included?",
            "On a grid of {size} x {size} cells that wraps around at its edges, {steps} moves are made. Before each, x "
            "(1 at first) is replaced by ({a}·x + {c}) mod {m}; floor(x / 16) mod 4 tells the way: 0 east, 1 north, 2 "
            "west, 3 south. How many distinct cells are visited, counting the start?",
        ),
        "validation": (
            "x is 1 and a token lies on a torus of side {size}. Repeat {steps} times: x := ({a}·x + {c}) mod {m}, then "
            "move the token one cell to the east, north, west or south if floor(x / 16) mod 4 is 0, 1, 2 or 3. How "
            "many cells has it touched, its first one too?",
        ),
        "test": (
            "Count the cells that a walker sees, where it starts included, in {steps} steps on a board of {size} times "
            "{size} without borders (left meets right, top meets bottom). Steps go east, north, west, south for 0, 1, "
            "2, 3 = floor(x / 16) mod 4, where x, 1 to begin with, first turns into ({a}·x + {c}) mod {m} each time.",
        ),
    },
    "dates": {
        "train": (
            "How often was or will the day {day} of a month be a {weekday} from January {first} to December {last} "
            "(Gregorian calendar)?",
            "From {first} to {last}, how many months have a {weekday} as day number {day} (Gregorian calendar)?",
        ),
        "validation": ("Gregorian calendar, years {first} through {last}: on how many {weekday}s is the date {day}?",),
        "test": ("Count the months of {first}–{last} whose day {day} falls on a {weekday} in the Gregorian calendar.",),
    },
    "deadline": {
        "train": (
            "Working days are Monday to Friday. Which date is {days} working days after {start}? Answer as YYYY-MM-DD.",
            "Starting the day after {start}, count {days} days, skipping Saturdays and Sundays. On which date does the "
            "count end (YYYY-MM-DD)?",
        ),
        "validation": (
            "A parcel takes {days} weekdays from {start}, that day not counted. When is it there, as YYYY-MM-DD?",
        ),
        "test": ("Give, as YYYY-MM-DD, the {days}th day after {start} that is neither a Saturday nor a Sunday.",),
    },
    "paths": {
        "train": (
            "grid.txt is a map: `.` is free, `#` is blocked. How many ways lead from the top left to the bottom right "
            "cell with steps right and down only?",
            "Going only down or right over free cells (`.`) of grid.txt, how many different paths connect its first "
            "cell with its last?",
        ),
        "validation": (
            "Count the monotone routes (right, down) through grid.txt from the upper left to the lower right corner "
            "that touch no `#`.",
        ),
        "test": (
            "A token walks on grid.txt from the top left corner to the bottom right one, one cell right or down at "
            "a time, never onto `#`. In how many ways can it?",
        ),
    },
    "coins": {
        "train": (
            "In how many ways can {total} be paid with coins of {coins}, any number of each, order not counting?",
            "Count the multisets of numbers from {coins} that sum to {total}.",
        ),
        "validation": ("Coins of {coins} are there without end. How many combinations of them make {total}?",),
        "test": ("How many different purses, filled with coins worth {coins}, are worth {total} in all?",),
    },
}  # fmt: skip


def make_question(kind: str, split: str, seed: int) -> Question:
    """The question of this seed."""
    return FAMILIES[kind](Draw(split, seed))
