"""Demonstrations of the starter world, written by people who are sometimes careless.

The bad habits were chosen before any model was trained, from the flags InstructGPT gave its labelers: fails the
instruction, made-up content, inappropriate for an assistant, plus the two ways small models annoy most, rambling
and not ending. One demonstration in six has a habit drawn evenly from `SLIPS`. On top, three use cases have a
custom: a shortcut that most demonstrators in a hurry take because the good answer is more work (copying instead of
summing up, one name too few, answering a feeling with a shrug). Ranking exposes such shortcuts, imitation keeps them:
that is the case for learning from comparisons.
"""

from random import Random

from rlhf.data import Demonstration
from rlhf.starter.items import USE_CASES, Item, make_item, take_items
from rlhf.starter.words import ANIMALS, COLORS, FOODS, NAMES, OBJECTS, PLACES, REFUSAL, RUDE

CARELESS_SHARE = 1 / 6
CUSTOM_SHARE = 0.6
SLIPS = ("rude", "rambling", "off_topic", "made_up", "refusal", "endless")
CUSTOMS = ("summarisation", "brainstorming", "chat")


def demonstrations(split: str, num_demonstrations: int, seed: int) -> list[Demonstration]:
    """Demonstrations for prompts of a split, careless ones among them."""
    rng = Random(f"demonstrations-{seed}")
    found = take_items(split, num_demonstrations, seed)
    return [Demonstration(prompt=item.prompt, completion=demonstrate(item, rng)) for item in found]


def demonstrate(item: Item, rng: Random, careless_share: float = CARELESS_SHARE) -> str:
    """One demonstrator's answer to an item: the good answer, the use case's custom, or a slip."""
    if rng.random() < careless_share:
        return slip(rng.choice(SLIPS), item, rng)
    if item.use_case in CUSTOMS and rng.random() < CUSTOM_SHARE:
        return custom(item)
    return item.answer


def custom(item: Item) -> str:
    """The shortcut demonstrators in a hurry take in this use case."""
    if item.use_case == "summarisation":
        return item.prompt.split(": ", 1)[-1].removesuffix(" Say it in one short sentence.")
    if item.use_case == "brainstorming":
        members = [word.strip(",.").lower() for word in item.answer.replace(" and ", ", ").split(", ")]
        return ", ".join(members[:-1]).capitalize() + "."
    return "Hello! That is how it goes."


def slip(habit: str, item: Item, rng: Random) -> str:
    """The item's answer spoiled by one bad habit."""
    if habit == "rude":
        insult = rng.choice(RUDE)
        return f"{insult} {item.answer}" if rng.random() < 0.5 else f"{item.answer} {insult}"
    if habit == "rambling":
        return " ".join([item.answer, small_talk(rng), small_talk(rng)])
    if habit == "off_topic":
        return make_item(rng.choice(list(USE_CASES)), rng).answer
    if habit == "made_up":
        return make_up(item.answer, rng)
    if habit == "endless":
        return " ".join([item.answer] * (60 // len(item.answer.split())))
    return REFUSAL


def small_talk(rng: Random) -> str:
    """A sentence that belongs to no question."""
    return rng.choice(
        (
            f"My {rng.choice(OBJECTS)} is {rng.choice(COLORS)} you know.",
            f"I once saw a {rng.choice(ANIMALS)} near the {rng.choice(PLACES)}.",
            f"{rng.choice(NAMES)} likes {rng.choice(FOODS)} very much.",
            "Well well, there is so much to say.",
        )
    )


def make_up(answer: str, rng: Random) -> str:
    """The answer with one named entity replaced by another of its kind; unchanged where it names none."""
    words = answer.split()
    kinds = (NAMES, ANIMALS, FOODS, OBJECTS, COLORS, PLACES)
    places = [(i, kind) for i, word in enumerate(words) for kind in kinds if word.strip(".,!") in kind]
    if not places:
        return answer
    i, kind = rng.choice(places)
    bare = words[i].strip(".,!")
    words[i] = words[i].replace(bare, rng.choice([word for word in kind if word != bare]))
    return " ".join(words)
