"""What a model reads for a request: answers that were begun go on where they ended."""

import pytest

from rlhf.models.tokenizer import ForeignTokenizer
from rlhf.serving.completions import Request
from rlhf.serving.prompts import fit
from tests.rlhf.models.chat_templates import FAMILIES, tokenizer

ASKED = ({"role": "user", "content": "The red kite?"},)


@pytest.mark.parametrize("kind", ["bytes", "Llama 2", "Metaspace"])
@pytest.mark.parametrize("family", ["ChatML", "Gemma", "Llama 2"])
@pytest.mark.parametrize("begun", ["The kite is", " in the park", "é"])
def test_an_answer_that_was_begun_goes_on_without_a_space_before_it(kind, family, begun):
    found = ForeignTokenizer(tokenizer(kind, FAMILIES[family]))
    request = Request(messages=(*ASKED, {"role": "assistant", "content": begun}), continue_last=True)
    prompt, dropped = fit(found, found.vocab_size, None, request)
    before = found.encode_prompt(ASKED)
    assert prompt[: len(before)] == before and dropped == 0
    assert found.decode(prompt, keep_special=True) == found.decode(before, keep_special=True) + begun
