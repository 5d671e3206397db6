"""Data that people have, read right or refused by name. Imports no torch and nothing heavy."""

from rlhf.data.account import Account
from rlhf.data.parser import ReadOptions, read_options
from rlhf.data.reading import (
    prompt_rows_in,
    read_answers,
    read_demonstrations,
    read_prompt_rows,
    read_prompts,
    read_rankings,
    read_texts,
    rows_in,
)
from rlhf.data.rows import (
    ROLES,
    BadRow,
    Demonstration,
    Message,
    Prompt,
    PromptRow,
    Ranking,
    as_messages,
    fingerprint,
)
from rlhf.data.spool import Rows

__all__ = [
    "ROLES", "Account", "BadRow", "Demonstration", "Message", "Prompt", "PromptRow", "Ranking", "ReadOptions", "Rows",
    "as_messages", "fingerprint", "prompt_rows_in", "read_answers", "read_demonstrations", "read_options", "read_prompt_rows",
    "read_prompts", "read_rankings", "read_texts", "rows_in",
]  # fmt: skip
