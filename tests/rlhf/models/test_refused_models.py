"""Models that transformers knows and that are no policy: refused in one line before a weight is read."""

import importlib.util

import pytest

from tests.slow.architectures import refusal

REASONS = {
    "musicgen": "is no language model of plain text: MusicgenForCausalLM is its decoder alone",
    "musicgen_melody": "is no language model of plain text: MusicgenMelodyForCausalLM is its decoder alone",
    "gemma4_assistant": "drafts for another model",
    "gemma4_unified_assistant": "drafts for another model",
    "gemma3n": "pip install timm",
}


@pytest.mark.parametrize("name", REASONS)
def test_what_is_no_policy_is_refused_with_its_reason(name):
    if name == "gemma3n" and importlib.util.find_spec("timm"):
        pytest.skip("timm is here")
    said = refusal(name)
    assert said.startswith("refused: ") and REASONS[name] in said and "\n" not in said
