"""A reward model whose head is fitted before anything learns."""

import torch

from rlhf.learning.linear_probe import ranking_probe
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from stages.reward.data import RankedPrompt
from stages.reward.stage import trainer_of
from stages.reward.tokens import tokenize_rankings
from stages.settings import RewardSettings

L2 = 0.05


def test_the_head_is_the_probe_of_the_states_at_the_ends_of_the_completions(foreign_model, tmp_path):
    texts = ("a red kite", "Tom", "The dog barks in the park.", "no", "a blue boat", "Hello Hello Hello")
    groups = [  # more than one batch
        RankedPrompt(f"Say {n}.", (texts[n % 6], texts[(n - 1) % 6]), ((n % 2, 1 - n % 2),))
        for n in range(20)
    ]
    groups.append(RankedPrompt("Say three.", texts[:3], ((0, 1, 1), (2, 1, 0))))
    tokenizer = load_tokenizer(foreign_model)
    settings = RewardSettings(data="unused", probe_l2=L2, max_length=64)
    head = trainer_of(settings, str(foreign_model), tokenizer, groups, tmp_path).model.score.weight[0]

    trunk = load_policy(foreign_model).base_model
    states = [
        [trunk(input_ids=torch.tensor([row])).last_hidden_state[0, -1].detach() for row in example["rows"]]
        for example in tokenize_rankings(groups, tokenizer, 64, tmp_path)[0]
    ]
    pad = lambda row: [*row, *[0] * (3 - len(row))]  # noqa: E731
    features = torch.stack(
        [torch.stack([*row, *[torch.zeros_like(row[0])] * (3 - len(row))]) for row in states]
    )
    ranks = torch.tensor([[pad(r) for r in g.ranks] + [[0] * 3] * (2 - len(g.ranks)) for g in groups])
    present = torch.tensor([[[1] * len(g.completions) + [0] * (3 - len(g.completions))] * len(g.ranks)
                            + [[0] * 3] * (2 - len(g.ranks)) for g in groups]).bool()  # fmt: skip
    wanted = ranking_probe(features, ranks, present, L2)
    assert (
        torch.cosine_similarity(head.detach().cpu(), wanted, dim=0) > 0.99
    )  # bfloat16 where the machine has it
