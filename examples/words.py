"""Numbers and dates in English and Japanese words, as pairs of a source and its translation."""

import re

DIGITS = "〇一二三四五六七八九"
ONES = [
    "zero",
    "one",
    "two",
    "three",
    "four",
    "five",
    "six",
    "seven",
    "eight",
    "nine",
    "ten",
    "eleven",
    "twelve",
    "thirteen",
    "fourteen",
    "fifteen",
    "sixteen",
    "seventeen",
    "eighteen",
    "nineteen",
]
TENS = ["twenty", "thirty", "forty", "fifty", "sixty", "seventy", "eighty", "ninety"]
MONTHS = [
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
]


def number_in_english(n):
    """0 ≤ n < 100,000 in words."""
    if n < 20:
        return ONES[n]
    for size, name in ((1000, "thousand"), (100, "hundred")):
        if n >= size:
            rest = f" {number_in_english(n % size)}" if n % size else ""
            return f"{number_in_english(n // size)} {name}{rest}"
    return TENS[n // 10 - 2] + (f" {ONES[n % 10]}" if n % 10 else "")


def number_in_japanese(n):
    """0 ≤ n < 100,000 in kanji."""
    if n < 10:
        return DIGITS[n]
    for size, name in ((10_000, "万"), (1000, "千"), (100, "百"), (10, "十")):
        if n >= size:
            times = number_in_japanese(n // size) if n >= 2 * size or size == 10_000 else ""
            return times + name + (number_in_japanese(n % size) if n % size else "")
    raise ValueError(n)


def date_in_english(year, month, day):
    return f"{MONTHS[month - 1]} {day}, {year}"


def date_in_japanese(year, month, day):
    digits = "".join(DIGITS[int(digit)] for digit in str(year))
    return f"{digits}年{number_in_japanese(month)}月{number_in_japanese(day)}日"


def pairs():
    """All pairs of a source and its translation: numbers and dates, in both directions."""
    numbers = [(number_in_english(n), number_in_japanese(n)) for n in range(20_000)]
    dates = [
        (date_in_english(year, month, day), date_in_japanese(year, month, day))
        for year in range(1900, 2030) for month in range(1, 13) for day in range(1, 29)
    ]  # fmt: skip
    return [pair for each in (numbers, dates) for one, other in each for pair in ((one, other), (other, one))]


def split(text):
    """Words of letters, and every other character but spaces by itself."""
    return re.findall(r"[A-Za-z]+|\S", text)


def direction(source):
    """Which of the four translations a source asks for."""
    kind = "date" if "年" in source or "," in source else "number"
    return f"{kind}, {'English to Japanese' if source[0].isascii() else 'Japanese to English'}"
