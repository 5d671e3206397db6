"""What a chat template is given, for models that are used as they come: by sample, eval, best-of-n, chat and serve."""

import asyncio
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from annotate.chat.checkpoints import Checkpoints
from annotate.labels import LabelStore
from annotate.store.database import storable
from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy
from rlhf.models.tokenizer import load_tokenizer
from rlhf.serving.engine_process import EngineProcess
from rlhf.store import Store
from stages.judging import best_of_n, evaluate
from stages.judging.sampled import sample_answers
from stages.judging_settings import BestOfNSettings, EvalSettings
from stages.labeling import sample
from stages.settings import SampleSettings
from stages.talk.conversation import Conversation, Models
from stages.talk.serve import _template_kwargs
from stages.talking_settings import ChatSettings, ServeSettings
from tests.rlhf.models.chat_templates import QWEN_3, tokenizer
from tests.tiny_ppo import quiet

QUIETLY = "enable_thinking=false"
ASKED = [{"role": "user", "content": "The red kite?"}]


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A model as a hub has it: its template thinks unless it is told not to."""
    made = str(tmp_path_factory.mktemp("thinker"))
    words = tokenizer("bytes", QWEN_3)
    torch.manual_seed(0)
    sizes = {"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 2}
    ends = {"bos_token_id": words.bos_token_id, "eos_token_id": words.eos_token_id, "initializer_range": 0.3}
    LlamaForCausalLM(
        LlamaConfig(vocab_size=len(words), max_position_embeddings=256, **sizes, **ends)
    ).save_pretrained(made)
    words.save_pretrained(made)
    return made


@pytest.fixture
def prompts(tmp_path):
    (tmp_path / "prompts.jsonl").write_text('{"prompt": "The red kite?"}\n{"prompt": "Tom says?"}\n')
    return str(tmp_path / "prompts.jsonl")


def answers(folder, template_kwargs, settings):
    """What the model says to the prompts, sampled by hand as `rlhf sample` does."""
    found = load_tokenizer(folder, template_kwargs)
    rows = [
        found.encode_prompt(prompt) for prompt in ("The red kite?", "Tom says?") for _ in range(settings.k)
    ]
    given = sample_answers(
        load_policy(folder), found, rows, settings.temperature, settings.max_new_tokens, settings.seed + 77
    )
    return {storable(found.decode(each.tokens).strip()) for each in given}


@pytest.mark.parametrize("given", ["", QUIETLY])
def test_sample_asks_with_them(folder, prompts, tmp_path, given):
    settings = SampleSettings(
        policy=folder, prompts=prompts, template_kwargs=given, k=2, max_new_tokens=6, batch="r"
    )
    sample.run(settings, Store(tmp_path / "store"), str(tmp_path / "l.db"), quiet)
    with LabelStore(str(tmp_path / "l.db")) as labels:
        labels.add_labeler("ann")
        labels.add_labeler("bob")
        tasks = [labels.lease("ann", "r"), labels.lease("bob", "r")]
    said = {text for task in tasks for text in task.completions}
    assert said <= answers(folder, given, settings)
    assert not said <= answers(folder, "" if given else QUIETLY, settings)


def test_eval_asks_with_them_and_measures_anew_for_others(folder, prompts, tmp_path):
    def run(given):
        lines = []
        settings = EvalSettings(
            policy=folder, prompts=prompts, judge="tests.tiny_ppo:count_e", template_kwargs=given, name="r", max_new_tokens=6,
        )  # fmt: skip
        found = evaluate.run(settings, Store(tmp_path), None, lines.append)
        return found["examples"], any("answers of" in line for line in lines)

    (thinking, _), (quietly, measured) = run(""), run(QUIETLY)
    assert measured and thinking != quietly
    assert run(QUIETLY) == (quietly, False)


def test_best_of_n_asks_with_them(folder, prompts, tmp_path):
    def run(given):
        settings = BestOfNSettings(
            policy=folder, prompts=prompts, reward="tests.tiny_ppo:count_e", template_kwargs=given, n=4, max_new_tokens=6,
        )  # fmt: skip
        return best_of_n.run(settings, Store(tmp_path), quiet)

    assert run("") != run(QUIETLY)


def test_a_chat_asks_with_them(folder, tmp_path):
    models = Models(Store(tmp_path), "float32", False, {folder: QUIETLY})
    engine = Conversation(ChatSettings(policy=folder), models).engine
    assert engine.tokenizer.encode_prompt(ASKED) == load_tokenizer(folder, QUIETLY).encode_prompt(ASKED)


@pytest.mark.parametrize("settings", [ServeSettings, ChatSettings])
def test_a_server_asks_with_them(folder, tmp_path, settings):
    checkpoints = Checkpoints(Store(tmp_path), [folder])
    given = _template_kwargs(settings(policy=folder, template_kwargs=QUIETLY), checkpoints)
    with EngineProcess(template_kwargs=given) as engine:
        asked = engine.call("tokenize", checkpoints.named(folder).folder, ASKED)
        with ThreadPoolExecutor() as aside:  # a browser's test leaves a loop in this thread
            tokens, _, _ = aside.submit(asyncio.run, asked).result()
    assert tokens == load_tokenizer(folder, QUIETLY).encode_prompt(ASKED)


def test_a_server_refuses_them_for_nobody_and_those_that_are_none(folder, tmp_path):
    checkpoints = Checkpoints(Store(tmp_path), [folder])
    with pytest.raises(InputError, match="--policy"):
        _template_kwargs(ServeSettings(template_kwargs=QUIETLY), checkpoints)
    with pytest.raises(InputError, match="not NAME=VALUE"):
        _template_kwargs(ServeSettings(policy=folder, template_kwargs="quietly"), checkpoints)


def test_a_changed_folder_is_another_model_to_sample_from(folder, prompts, tmp_path):
    settings = SampleSettings(policy=folder, prompts=prompts, k=2, max_new_tokens=6, batch="r")
    sample.run(settings, Store(tmp_path / "store"), str(tmp_path / "l.db"), quiet)
    sample.run(settings, Store(tmp_path / "store"), str(tmp_path / "l.db"), quiet)
    model = load_policy(folder)
    with torch.no_grad():
        model.model.norm.weight.add_(0.5)
    model.save_pretrained(folder)
    with pytest.raises(InputError, match="made from other inputs"):
        sample.run(settings, Store(tmp_path / "store"), str(tmp_path / "l.db"), quiet)
