"""Names by which data sets tell the rows to train on from others."""

import re

from rlhf.errors import InputError

# Words in the names of files and folders that tell splits apart, and the split that each means.
SPLITS = {
    "train": "train", "training": "train", "test": "test", "testing": "test", "validation": "validation",
    "valid": "valid", "val": "val", "dev": "dev", "eval": "eval", "evaluation": "eval", "heldout": "heldout", "holdout": "holdout",
}  # fmt: skip
DEFAULT_SPLIT = "train"
OF_A_SPLIT = re.compile(r"_?(?:set|split|data)$")  # what a split's word may end with: trainset, test_split


def split_called(word: str) -> str:
    """The split that a word means, such as "test" for Testset; "" for a word of none."""
    return SPLITS.get(OF_A_SPLIT.sub("", word.lower()), "")


def chosen_split(name: str, alone: str, there: list[str], split: str | None) -> str:
    """The split asked for, else the only one, else train. Raises InputError where it is not there.

    alone: the source's name without a split, behind which one is written.
    """
    wanted = split or (there[0] if len(there) == 1 else DEFAULT_SPLIT)
    if wanted not in there:
        raise InputError(
            f"{name}: it has no split {wanted}; name one of {', '.join(there) or 'none'}: {alone}:SPLIT"
        )
    return wanted
