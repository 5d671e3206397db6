"""The sampler of a live batch: a process that answers prompts while people label, and waits for more."""

import time
from collections.abc import Callable
from typing import Any

from annotate import live
from annotate.labels import LabelStore
from rlhf.data import as_messages
from rlhf.errors import LabelError
from rlhf.tokenizer import AnyTokenizer
from stages.evaluate import sampled

PAUSE_S = 0.5  # between looks at the queue
PROMPTS_AT_ONCE = 4


def serve(
    labels: LabelStore,
    batch: str,
    policy: Any,
    tokenizer: AnyTokenizer,
    seed: int,
    say: Callable[[str], None],
) -> int:
    """Answer the batch's prompts as labelers come to want them, until none is left; returns how many tasks were made.

    Prompt i draws from (seed, i), so it gets the same answers whichever sampler takes it.
    """
    made = 0
    while any(live.queue(labels.database, batch)[state] for state in ("waiting", "wanted", "claimed")):
        wanted = live.claim(labels.database, PROMPTS_AT_ONCE, batch)
        for one in wanted:
            made += answer(labels, one, policy, tokenizer, seed, say)
        if not wanted:
            time.sleep(PAUSE_S)
    return made


def answer(
    labels: LabelStore,
    wanted: live.Wanted,
    policy: Any,
    tokenizer: AnyTokenizer,
    seed: int,
    say: Callable[[str], None],
) -> bool:
    """Sample one prompt's answers and make a task of those that differ; whether that made one."""
    from stages.sample import different

    row, made = tokenizer.encode_prompt(as_messages(wanted.prompt)), wanted.sampling
    samples = sampled(
        policy, tokenizer, [row] * wanted.k, made["temperature"], made["max_new_tokens"], seed + wanted.id
    )
    texts = different(tokenizer, samples)
    try:
        if len(texts) < 2:
            raise LabelError("every answer was the same; raise the temperature")
        return live.fulfil(labels.database, wanted.id, list(texts), list(texts.values())) is not None
    except LabelError as problem:
        live.fail(labels.database, wanted.id, str(problem))
        say(f"sample: request {wanted.id}: {problem}")
        return False
