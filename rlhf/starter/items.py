"""Prompts of the starter world over InstructGPT's ten use cases, each with what a good answer must hold.

The share of a use case follows no measurement: all ten are equally frequent. In each list of wordings the last
one is held out: it never occurs in training and measures generalisation.
"""

import hashlib
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from random import Random

from rlhf.starter.words import (
    ACTIONS,
    ANIMALS,
    BAD_EVENTS,
    CATEGORIES,
    COLORS,
    FOODS,
    GOOD_EVENTS,
    NAMES,
    NUMBERS,
    OBJECTS,
    OPPOSITES,
    PLACES,
    SOUNDS,
    THING_COLORS,
)


@dataclass(frozen=True, kw_only=True)
class Item:
    """One prompt and the facts a checker needs to score answers to it.

    required: each group of words must be represented by at least one of its members.
    allowed: entities an answer may name; any other named entity is made up.
    members, count: an answer must name exactly `count` different `members` (count 0: no such demand).
    max_words: longer answers ramble.
    """

    use_case: str
    wording: int
    held_out: bool
    prompt: str
    answer: str
    required: tuple[tuple[str, ...], ...]
    allowed: frozenset[str]
    max_words: int
    members: frozenset[str] = frozenset()
    count: int = 0


@dataclass(frozen=True)
class _Draft:
    fields: dict[str, str]
    answer: str
    required: tuple[tuple[str, ...], ...]
    allowed: tuple[str, ...] = ()
    max_words: int = 0
    members: tuple[str, ...] = ()
    count: int = 0


def _generation(rng: Random) -> _Draft:
    name, animal, place = rng.choice(NAMES), rng.choice(ANIMALS), rng.choice(PLACES)
    verb = rng.choice(("saw", "met", "found", "fed"))
    return _Draft(
        {"name": name, "animal": animal, "place": place},
        f"{name} {verb} a {animal} in the {place}.",
        ((name,), (animal,), (place,)),
    )


def _open_qa_color(rng: Random) -> _Draft:
    name, (thing, color) = rng.choice(NAMES), rng.choice(list(THING_COLORS.items()))
    return _Draft({"name": name, "thing": thing}, f"The {thing} is {color}.", ((color,),), (name,))


def _open_qa_sound(rng: Random) -> _Draft:
    name, (animal, sound) = rng.choice(NAMES), rng.choice(list(SOUNDS.items()))
    return _Draft({"name": name, "animal": animal}, f"The {animal} {sound}.", ((sound,),), (animal, name))


def _brainstorming(rng: Random) -> _Draft:
    name, category = rng.choice(NAMES), rng.choice(list(CATEGORIES))
    count = rng.choice(list(NUMBERS))
    picked = rng.sample(CATEGORIES[category], count)
    answer = ", ".join(picked[:-1]) + f" and {picked[-1]}."
    return _Draft(
        {"name": name, "number": NUMBERS[count], "category": category},
        answer[0].upper() + answer[1:],
        (),
        (*CATEGORIES[category], name),
        members=tuple(CATEGORIES[category]),
        count=count,
    )


def _event(rng: Random) -> tuple[bool, str]:
    good = rng.random() < 0.5
    event = rng.choice(GOOD_EVENTS if good else BAD_EVENTS)
    return good, event.format(thing=rng.choice(OBJECTS), place=rng.choice(PLACES))


def _chat(rng: Random) -> _Draft:
    name, (good, event) = rng.choice(NAMES), _event(rng)
    mood = "glad" if good else "sorry"
    event = event.replace("has a", "have a")
    answer = f"Hello {name}! I am {mood} to hear that."
    return _Draft({"name": name, "event": event}, answer, ((name,), (mood,)))


def _rewrite_past(rng: Random) -> _Draft:
    name, (now, then), place = rng.choice(NAMES), rng.choice(list(ACTIONS.items())), rng.choice(PLACES)
    return _Draft(
        {"sentence": f"{name} {now} to the {place}."},
        f"{name} {then} to the {place}.",
        ((name,), (then,), (place,)),
    )


def _rewrite_polite(rng: Random) -> _Draft:
    thing, color = rng.choice(OBJECTS), rng.choice(COLORS)
    return _Draft(
        {"sentence": f"Give me the {color} {thing}."},
        f"Please give me the {color} {thing}.",
        (("please",), (color,), (thing,)),
    )


def _summarisation(rng: Random) -> _Draft:
    name, thing, color, place = rng.choice(NAMES), rng.choice(OBJECTS), rng.choice(COLORS), rng.choice(PLACES)
    text = f"{name} has a {color} {thing}. It is very old. Every day {name} takes it to the {place}."
    return _Draft(
        {"text": text}, f"{name} takes a {thing} to the {place}.", ((name,), (thing,), (place,)), (color,)
    )


def _classification(rng: Random) -> _Draft:
    name, (good, event) = rng.choice(NAMES), _event(rng)
    answer = "Happy." if good else "Sad."
    return _Draft(
        {"sentence": f"{name} {event}."}, answer, ((("happy",) if good else ("sad",)),), (name,), max_words=4
    )


def _extraction(rng: Random) -> _Draft:
    group, others = (
        rng.choice((("animals", ANIMALS), ("foods", FOODS), ("colors", COLORS))),
        rng.choice(PLACES),
    )
    category, members = group
    first, second = rng.sample(members, 2)
    scene = {
        "animals": f"The {first} and the {second} sleep near the {others}.",
        "foods": f"We ate {first} and then {second} at the {others}.",
        "colors": f"The {others} was painted {first} and later {second}.",
    }[category]
    return _Draft(
        {"category": category, "sentence": scene},
        f"{first} and {second}.".capitalize(),
        ((first,), (second,)),
        max_words=6,
    )


def _closed_qa(rng: Random) -> _Draft:
    (one, two), (thing, other), (color, tint) = (
        rng.sample(NAMES, 2),
        rng.sample(OBJECTS, 2),
        rng.sample(COLORS, 2),
    )
    facts = [f"{one} has a {color} {thing}.", f"{two} has a {tint} {other}."]
    rng.shuffle(facts)
    return _Draft(
        {"facts": " ".join(facts), "name": one},
        f"{one} has a {color} {thing}.",
        ((color,), (thing,)),
        (one,),
    )


def _other_opposite(rng: Random) -> _Draft:
    name, (word, opposite) = rng.choice(NAMES), rng.choice(list(OPPOSITES.items()))
    if rng.random() < 0.5:
        word, opposite = opposite, word
    return _Draft(
        {"name": name, "word": word}, f"The opposite of {word} is {opposite}.", ((opposite,),), (name,)
    )


Maker = Callable[[Random], _Draft]
USE_CASES: dict[str, tuple[tuple[Maker, tuple[str, ...]], ...]] = {
    "generation": (
        (_generation, (
            "Write a sentence about {name} and a {animal} in the {place}.",
            "Tell a short story with {name}, a {animal} and the {place}.",
            "Use {name}, {animal} and {place} in one sentence.",
            "Make up a line about a {animal}, {name} and the {place}.",
        )),
    ),
    "open_qa": (
        (_open_qa_color, (
            "{name} wants to know: What color is the {thing}?", "Tell {name} the color of the {thing}.",
            "Which color does the {thing} have, asks {name}.", "Does {name} know what color the {thing} is?",
        )),
        (_open_qa_sound, (
            "{name} wants to know: What sound does a {animal} make?", "Tell {name} the sound of a {animal}.",
            "What does a {animal} do when it speaks, asks {name}.", "How does a {animal} sound to {name}?",
        )),
    ),
    "brainstorming": (
        (_brainstorming, (
            "Name {number} {category} for {name}.", "List {number} {category} that {name} likes.",
            "{name} wants {number} {category}.", "Think of {number} {category} with {name}.",
        )),
    ),
    "chat": (
        (_chat, (
            "Hello, I am {name} and I {event}.", "My name is {name}. Today I {event}.",
            "Good morning! {name} here. I {event}.", "This is {name}. Guess what, I {event}.",
        )),
    ),
    "rewrite": (
        (_rewrite_past, (
            "Put this in the past: {sentence}", "Say it as if it was yesterday: {sentence}",
            "Rewrite in the past: {sentence}", "Change to the past: {sentence}",
        )),
        (_rewrite_polite, (
            "Make this polite: {sentence}", "Say it in a polite way: {sentence}", "Be polite: {sentence}",
            "Rewrite politely: {sentence}",
        )),
    ),
    "summarisation": (
        (_summarisation, (
            "Sum up in one sentence: {text}", "Make this short: {text}", "{text} Say it in one short sentence.",
            "Give the main point: {text}",
        )),
    ),
    "classification": (
        (_classification, (
            "Is this happy or sad? {sentence}", "Happy or sad: {sentence}", "{sentence} Is that happy or sad?",
            "Say happy or sad for this: {sentence}",
        )),
    ),
    "extraction": (
        (_extraction, (
            "Find the {category}: {sentence}", "Which {category} are named? {sentence}",
            "{sentence} List the {category}.", "Pick out the {category} here: {sentence}",
        )),
    ),
    "closed_qa": (
        (_closed_qa, (
            "{facts} What does {name} have?", "{facts} Tell me what {name} has.", "What does {name} have? {facts}",
            "{facts} Which thing is with {name}?",
        )),
    ),
    "other": (
        (_other_opposite, (
            "{name} asks: What is the opposite of {word}?", "Tell {name} the opposite of {word}.",
            "What is the opposite of {word}, asks {name}.", "Which word means the opposite of {word} to {name}?",
        )),
    ),
}  # fmt: skip

SPLITS = {"train": range(0, 60), "validation": range(60, 75), "test": range(75, 100)}


def split_of(prompt: str) -> str:
    """The split a prompt belongs to, decided by a hash of its text so that splits stay disjoint."""
    bucket = int.from_bytes(hashlib.sha256(prompt.encode()).digest()[:4], "big") % 100
    return next(name for name, buckets in SPLITS.items() if bucket in buckets)


def make_item(use_case: str, rng: Random, held_out: bool = False) -> Item:
    """A random item of one use case, in a held-out wording or in one of the others."""
    maker, wordings = rng.choice(USE_CASES[use_case])
    wording = len(wordings) - 1 if held_out else rng.randrange(len(wordings) - 1)
    draft = maker(rng)
    required = {word for group in draft.required for word in group}
    return Item(
        use_case=use_case,
        wording=wording,
        held_out=held_out,
        prompt=wordings[wording].format(**draft.fields),
        answer=draft.answer,
        required=draft.required,
        allowed=frozenset(required | set(draft.allowed)),
        max_words=draft.max_words or round(1.4 * len(draft.answer.split())) + 2,
        members=frozenset(draft.members),
        count=draft.count,
    )


def items(split: str, seed: int, held_out: bool = False) -> Iterator[Item]:
    """An endless stream of items of one split, use cases in turn, prompts possibly repeating."""
    rng = Random(f"{split}-{seed}-{held_out}")
    while True:
        for use_case in USE_CASES:
            for _ in range(200):
                item = make_item(use_case, rng, held_out)
                if split_of(item.prompt) == split:
                    yield item
                    break


def take_items(split: str, num_items: int, seed: int, held_out: bool = False) -> list[Item]:
    """`num_items` items of a split; a prompt repeats only where its use case has no more of them."""
    found: list[Item] = []
    seen: set[str] = set()
    patience = 20 * num_items
    for item in items(split, seed, held_out):
        patience -= 1
        if item.prompt not in seen or patience < 0:
            seen.add(item.prompt)
            found.append(item)
        if len(found) == num_items:
            return found
    raise AssertionError("items() never ends")
