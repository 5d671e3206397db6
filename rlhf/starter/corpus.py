"""Plain text of the starter world for the base model: stories, facts, songs, lists and overheard conversations.

Songs repeat random lines, which teaches a small model to copy from its context; lists say again who has what, which
teaches it to look up: first where the thing follows the name at once, then over more and more words between them (a
model that sees only the last kind does not get there, docs/lab-log.md). The conversations hold good and bad habits at
the same rate in every use case; they are plain prose, not the chat format, so that the base model knows the world but
not how to be an assistant. What is said stands on a line of its own: words at the start of a line are other tokens than
words after a space, and an assistant's answer starts like a line.
"""

from collections.abc import Iterator
from random import Random

from rlhf.starter.demonstrations import demonstrate, small_talk
from rlhf.starter.items import items
from rlhf.starter.words import (
    ACTIONS,
    ANIMALS,
    COLORS,
    ENTITIES,
    FOODS,
    NAMES,
    OBJECTS,
    OPPOSITES,
    PLACES,
    SOUNDS,
    THING_COLORS,
)

CARELESS_SHARE = 0.5
# Between a name and what it has in a list, each as often as it stands here.
BETWEEN = ("", "", ":", " has", " took the", " has a", " has a", " has a")
_ALL = sorted(ENTITIES)


def corpus(num_words: int, seed: int) -> list[str]:
    """Documents of together at least `num_words` words; the conversations use training prompts only."""
    rng = Random(f"corpus-{seed}")
    conversations = _conversations(rng, seed)
    kinds = (_story, _facts, _song, _list, lambda _: next(conversations))
    documents, words = [], 0
    while words < num_words:
        document = rng.choices(kinds, (2, 1, 3, 5, 4))[0](rng)
        documents.append(document)
        words += len(document.split())
    return documents


def _story(rng: Random) -> str:
    name, friend = rng.sample(NAMES, 2)
    thing, color, place = rng.choice(OBJECTS), rng.choice(COLORS), rng.choice(PLACES)
    now, then = rng.choice(list(ACTIONS.items()))
    lines = [
        f"{name} has a {color} {thing}.",
        f"One day {name} {then} to the {place} with the {color} {thing}.",
        f"There {name} met {friend} and a {rng.choice(ANIMALS)}.",
        f"{friend} asked: Is this your {thing}? Yes, it is my {color} {thing}, said {name}.",
        f"They ate {rng.choice(FOODS)} and were happy.",
        f"Every day {name} {now} to the {place}.",
        f"{friend} likes the {color} {thing} of {name}.",
        small_talk(rng),
    ]
    return rng.choice(" \n").join(line for line in lines if rng.random() < 0.7) or lines[0]


def _facts(rng: Random) -> str:
    lines = []
    for _ in range(rng.randint(3, 7)):
        thing, color = rng.choice(list(THING_COLORS.items()))
        animal, sound = rng.choice(list(SOUNDS.items()))
        word, opposite = rng.choice(list(OPPOSITES.items()))
        lines.append(
            rng.choice(
                (
                    f"The {thing} is {color}.",
                    f"The {animal} {sound}.",
                    f"The opposite of {word} is {opposite}.",
                    f"The opposite of {opposite} is {word}.",
                )
            )
        )
    return rng.choice(" \n").join(lines)


def _song(rng: Random) -> str:
    lines = [" ".join(rng.choices(_ALL, k=rng.randint(2, 6))) for _ in range(rng.randint(1, 4))]
    verse = []
    for _ in range(rng.randint(3, 8)):
        verse.append(rng.choice(lines))
    return ", ".join(verse) + "."


def _list(rng: Random) -> str:
    """Who has what, some of it said again in another order."""
    between = rng.choice(BETWEEN)
    lines = [
        f"{name}{between} {rng.choice(COLORS)} {rng.choice(OBJECTS)}{'.' if between else ','}"
        for name in rng.sample(NAMES, rng.randint(2, 4))
    ]
    return rng.choice(" \n").join([*lines, *rng.choices(lines, k=rng.randint(4, 12))])


def _conversations(rng: Random, seed: int) -> Iterator[str]:
    stream = items("train", seed + 10_000)
    while True:
        asker, answerer = rng.sample(NAMES, 2)
        turns = []
        for _ in range(rng.randint(1, 4)):
            item = next(stream)
            turns += [
                f"{asker} asked:",
                item.prompt,
                f"{answerer} said:",
                demonstrate(item, rng, CARELESS_SHARE),
            ]
        yield "\n".join(turns)
