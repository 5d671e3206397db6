"""Sources of `rlhf align` that are called the same: nothing of one is lost behind another."""

from dataclasses import asdict, replace

import pytest

from rlhf.data import read_rankings
from rlhf.errors import InputError
from stages.align.data import read_sources
from stages.settings import AlignDataSettings
from tests.rows import write

DATA = replace(AlignDataSettings(), test_rankings="", prompts="", texts="", tasks="")


@pytest.fixture
def folder(tmp_path):
    write(tmp_path / "sft" / "train.jsonl", {"prompt": "told", "completion": "a"})
    for name in ("rm", "test"):
        write(tmp_path / name / "train.jsonl", {"prompt": name, "chosen": "a", "rejected": "b", "margin": 2})
    write(tmp_path / "ppo" / "train.jsonl", {"prompt": "asked"})
    return tmp_path


def test_prompts_of_two_files_of_one_name_are_all_there(folder):
    settings = replace(
        DATA, demonstrations="sft/train.jsonl", rankings="rm/train.jsonl", prompts="ppo/train.jsonl"
    )
    found = read_sources(settings, folder, print)
    assert [*found.prompts.values()] == [["told"], ["rm"], ["asked"]]


def test_prompts_of_one_file_are_one_source(folder):
    write(folder / "all.jsonl", {"messages": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}],
                                 "rejected_response": "b"})  # fmt: skip
    found = read_sources(replace(DATA, demonstrations="all.jsonl", rankings="all.jsonl"), folder, print)
    assert len(found.prompts) == 1


def test_rankings_to_measure_on_are_not_put_over_others(folder):
    settings = replace(
        DATA, demonstrations="sft/train.jsonl", rankings="rm/train.jsonl", test_rankings="test/train.jsonl"
    )
    with pytest.raises(InputError, match="rankings and test_rankings would both be called train"):
        read_sources(settings, folder, print)


def test_a_margin_survives_the_file_that_is_written(folder):
    (before,) = read_rankings(folder / "rm" / "train.jsonl")
    write(folder / "again.jsonl", asdict(before))
    assert read_rankings(folder / "again.jsonl")[0] == before and before.margin == 2
