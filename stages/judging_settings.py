"""The settings of what judges: `rlhf best-of-n`, `rlhf eval` and the end of `rlhf align`."""

from dataclasses import dataclass

from rlhf.settings import COLDEST, Settings
from stages.fields import GIVEN_TEMPLATE_KWARGS, ReadingSettings, seeding, setting


@dataclass(frozen=True, kw_only=True)
class BestOfNSettings(ReadingSettings):
    """The best of n completions per prompt, by a reward, as demonstrations."""

    policy: str = setting("sft", "store reference, folder or hub id to sample from")
    reward: str = setting("reward", "reward model, several with commas between, or module:function")
    prompts: str | None = setting(None, "prompts (default: the starter world's)")
    skip_long: bool = setting(False, "leave out prompts that leave no room for max_new_tokens", common=False)
    template_kwargs: str = setting("", GIVEN_TEMPLATE_KWARGS, common=False)
    num_prompts: int = setting(1000, "how many prompts", at_least=1)
    n: int = setting(16, "completions per prompt", at_least=1)
    missing_eos_penalty: float = setting(
        1.0, "taken from the score of a completion that does not end", at_least=0, flag=False
    )
    out: str | None = setting(None, "new .jsonl file for the demonstrations (default: only report)")
    temperature: float = setting(1.0, "sampling temperature", zero_or_at_least=COLDEST)
    max_new_tokens: int = setting(48, "longest completion in tokens", at_least=1)
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class JudgingSettings(Settings):
    """How much is sampled and measured of each policy that is judged."""

    best_of: int = setting(
        0,
        "also judge the best of n answers of --against by --reward; the frontier for n = 1, 2, 4 … (64: all)",
        at_least=0,
    )
    temperature: float = setting(1.0, "sampling temperature, 0 for greedy", zero_or_at_least=COLDEST)
    max_new_tokens: int = setting(48, "longest completion in tokens", at_least=1)
    missing_eos_penalty: float = setting(
        1.0,
        "taken from the reward of an answer that does not end, as best-of-n chooses",
        at_least=0,
        flag=False,
    )
    num_tasks: int = setting(100, "tasks with constraints", at_least=1, flag=False)
    max_task_tokens: int = setting(128, "longest answer to a task in tokens", at_least=1, flag=False)
    text_tokens: int = setting(20_000, "tokens of plain text to measure the loss on", at_least=2, flag=False)


@dataclass(frozen=True, kw_only=True)
class EvalSettings(JudgingSettings, ReadingSettings):
    """Checkpoints judged against each other, or a reward model on rankings."""

    policy: str = setting("ppo", "checkpoint to judge, or several with commas between")
    against: str | None = setting(None, "checkpoint to compare with; also the reference of the KL")
    prompts: str | None = setting(None, "prompts (default: the starter world's test prompts)")
    skip_long: bool = setting(False, "leave out prompts that leave no room for max_new_tokens", common=False)
    template_kwargs: str = setting("", GIVEN_TEMPLATE_KWARGS, common=False)
    num_prompts: int = setting(600, "how many prompts", at_least=1)
    split: str = setting("test", "starter prompts to use", choices=("validation", "test", "held-out"))
    judge: str | None = setting(
        None,
        "reward model, module:function, http://HOST/v1#MODEL or people (default: starter judge or --reward)",
    )
    reward: str | None = setting(
        None, "reward model that was climbed: shown beside the judge, and best-of-n chooses by it"
    )
    rankings: str | None = setting(None, "measure the reward model on these rankings too")
    demonstrations: str | None = setting(
        None,
        "people's own answers to some of the prompts: each policy is judged against them, too",
        common=False,
    )
    tasks: str | None = setting(
        None, "instructions to put constraints on that a program checks", common=False
    )
    texts: str | None = setting(None, "plain text to measure the loss on", common=False)
    name: str | None = setting(None, "keep a report of this name, for rlhf report (default: only print)")
    seed: int = seeding()


@dataclass(frozen=True, kw_only=True)
class AlignEvalSettings(JudgingSettings):
    """How `rlhf align` judges its models."""

    best_of: int = setting(
        4, "completions of which the reward model picks one, the baseline", at_least=0, flag=False
    )
    max_new_tokens: int = setting(64, "longest completion in tokens", at_least=1, flag=False)
    num_blind: int = setting(60, "prompts of the blind comparison for people", at_least=1, flag=False)
    peers: str = setting(
        "", "models to judge beside ours on the same prompts, with commas between", flag=False
    )
