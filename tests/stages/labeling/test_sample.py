"""Sampling for people: two policies against each other, and what labelers get first."""

import itertools
import math
from dataclasses import replace

import pytest
import torch
from sqlalchemy import text

from annotate.answers.choice import Choice
from annotate.figures.strengths import strengths
from annotate.labels import LabelStore, Submission
from rlhf.errors import InputError
from rlhf.learning.rewards import score_completions
from rlhf.models.checkpoints import load_policy, load_scalar, scalar_from_policy
from rlhf.models.tokenizer import load_tokenizer
from stages.labeling import prioritize, sample
from stages.settings import SampleSettings

SMALL = {"policy": "base", "num_prompts": 6, "max_new_tokens": 6}


def quiet(line):
    pass


@pytest.fixture
def url(tmp_path):
    return str(tmp_path / "labels.db")


@pytest.fixture
def other(base_store):
    """The same model under another name: a folder."""
    return str(base_store.resolve("base").path)


def test_two_policies_are_compared_blindly(base_store, other, url):
    settings = SampleSettings(**SMALL, k=2, against=other, batch="blind", temperature=1.5)
    sample.run(settings, base_store, url, quiet)
    with LabelStore(url) as labels:
        labels.add_labeler("ann")
        sides = set()
        for verdict in ("a", "b", "tie", "both_bad"):
            task = labels.lease("ann", "blind")
            assert task.kind == "compare" and len(task.completions) == 2
            sides.add(task.shown_order)
            labels.submit(
                "ann", Submission(task_id=task.id, client_id=verdict, kind="compare", verdict=verdict)
            )
        table = strengths(labels.database, Choice())
        assert {row.checkpoint for row in table.rows} == {base_store.resolve("base").ref, other}
        assert table.comparisons == 4 and len(sides) == 2


def test_more_answers_of_two_policies_are_ranked_together(base_store, other, url):
    sample.run(
        SampleSettings(**SMALL, k=4, against=other, batch="mixed", temperature=1.5), base_store, url, quiet
    )
    with LabelStore(url) as labels, labels.database.read() as connection:
        counts = connection.execute(
            text("SELECT checkpoint, count(*) FROM completion GROUP BY checkpoint")
        ).all()
        assert labels.progress("mixed").kind == "rank" and len(counts) == 2


@pytest.mark.parametrize(
    ("more", "reason"),
    [
        ({"against": "base", "k": 3}, "even"),
        ({"against": "base", "k": 2, "simulate": True}, "do not compare"),
    ],
)
def test_what_cannot_be_done_is_refused(base_store, url, more, reason):
    with pytest.raises(InputError, match=reason):
        sample.run(SampleSettings(**SMALL | more), base_store, url, quiet)


def test_a_batch_of_other_inputs_keeps_its_name_and_the_new_one_gets_its_own(
    base_store, other, url, tmp_path
):
    prompts = tmp_path / "p.jsonl"
    prompts.write_text("".join(f'{{"prompt": "say {n}"}}\n' for n in range(4)))
    settings = SampleSettings(**SMALL, prompts=str(prompts), batch="b", temperature=1.5)
    warmer = replace(settings, temperature=2.0)
    assert sample.run(settings, base_store, url, quiet, renames=True) == "b"
    with pytest.raises(InputError, match="other inputs"):
        sample.run(warmer, base_store, url, quiet)
    name = sample.run(warmer, base_store, url, quiet, renames=True)
    assert name.startswith("b-") and sample.run(warmer, base_store, url, quiet, renames=True) == name
    moved = str(prompts.rename(tmp_path / "q.jsonl"))
    assert sample.run(replace(settings, prompts=moved), base_store, url, quiet) == "b"


def test_labelers_get_first_what_the_reward_model_is_least_sure_of(base_store, url, tmp_path):
    reward = tmp_path / "reward"
    model = scalar_from_policy(load_policy(base_store.resolve("base").path))
    torch.nn.init.normal_(model.score.weight, std=5.0, generator=torch.Generator().manual_seed(1))
    model.save_pretrained(reward)
    load_tokenizer(base_store.resolve("base").path).save(reward)
    sample.run(SampleSettings(**SMALL, k=3, batch="round", temperature=1.5), base_store, url, quiet)
    assert prioritize.run(str(reward), "round", base_store, url, quiet) == 6
    with LabelStore(url) as labels:
        labels.add_labeler("ann")
        order = []
        while task := labels.lease("ann", "round"):
            order.append(task)
            labels.submit("ann", Submission(task_id=task.id, client_id=str(task.id), kind="skip"))
    tokenizer, scalar = load_tokenizer(str(reward)), load_scalar(str(reward))
    spreads = []
    for task in order:
        scores = score_completions(scalar, tokenizer, [(task.prompt, text) for text in task.completions])
        odds = [1 / (1 + math.exp(b - a)) for a, b in itertools.combinations(scores, 2)]
        spreads.append(-sum(p * math.log(p) + (1 - p) * math.log(1 - p) for p in odds) / len(odds))
    assert spreads == sorted(spreads, reverse=True) and len(set(spreads)) > 1
