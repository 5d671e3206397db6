"""A chat template for a tokenizer that has none, as base models' have: what SFT teaches the model to follow."""

from typing import Any

# Where a vocabulary holds a family's own turn tokens, its format: tools that know the family will know the model.
GEMMA = (
    "{% if messages[0]['role'] == 'system' %}{% set before = messages[0]['content'] + '\n\n' %}"
    "{% set turns = messages[1:] %}{% else %}{% set before = '' %}{% set turns = messages %}{% endif %}"
    "{% for turn in turns %}<start_of_turn>{{ 'model' if turn['role'] == 'assistant' else turn['role'] }}\n"
    "{{ before if loop.first else '' }}{{ turn['content'] }}<end_of_turn>\n{% endfor %}"
    "{% if add_generation_prompt %}<start_of_turn>model\n{% endif %}"
)
CHATML = (
    "{% for turn in messages %}<|im_start|>{{ turn['role'] }}\n{{ turn['content'] }}<|im_end|>\n{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"
)
LINES = (
    "{% for turn in messages %}{{ turn['role'] | capitalize }}: {{ turn['content'] }}"
    "{{ eos_token if turn['role'] == 'assistant' else '' }}\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
BY_TURN_TOKENS = {("<start_of_turn>", "<end_of_turn>"): GEMMA, ("<|im_start|>", "<|im_end|>"): CHATML}


def template_for(tokenizer: Any) -> str:
    """The template for a Hugging Face tokenizer: its family's, else lines of `User: …` that its end token closes.

    It begins with the first token that the tokenizer itself puts in front of a text, if any.
    """
    special = set(tokenizer.get_added_vocab())
    known = (text for tokens, text in BY_TURN_TOKENS.items() if set(tokens) <= special)
    begins = tokenizer("")["input_ids"][:1] == [tokenizer.bos_token_id]
    return ("{{ bos_token }}" if begins else "") + next(known, LINES)
