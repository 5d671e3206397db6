"""A text that is nothing here: a name on the hub, or a path at which there is no such file. One rule for all that is named."""

import pytest

from rlhf.data import read_demonstrations, read_prompts
from rlhf.errors import InputError, RLHFError
from rlhf.hub_names import hub_name
from rlhf.inputs import load_prompts, locate_model
from rlhf.learning.reward_sources import load_rewards
from rlhf.model_card import model_card
from rlhf.models.checkpoints import context_of, load_policy, load_scalar
from rlhf.models.sources import content_hash, find_source
from rlhf.models.tokenizer import load_tokenizer
from rlhf.store import Store
from stages.align.data import located
from stages.align.steps import _peers
from stages.cli import main
from stages.import_model import import_model
from stages.judging.judges import named_scorer
from stages.talk import serve
from stages.talk.space import write_chat_space
from stages.talking_settings import ChatSettings, ServeSettings

PATHS = ["docs/x.md", "some/dir.bin", "data/none", "./a/b", "~/a", "/no/such", "a/b/c/d", "a\\b", "none/"]
NAMES = ["gpt2", "ann/plain", "Qwen/Qwen2.5-0.5B", "HuggingFaceTB/SmolLM2-1.7B", "ann/small-v0.1", "ann/small.v2", "ann/a.b-c"]  # fmt: skip


@pytest.fixture
def here(tmp_path, monkeypatch):
    (tmp_path / "data").mkdir()
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    return Store(tmp_path / "store")


READERS = {
    "demonstrations": lambda store, name: read_demonstrations(name),
    "several": lambda store, name: read_demonstrations(f"{name}=0.5,{name}"),
    "a split": lambda store, name: read_prompts(f"{name}:test"),
    "prompts": lambda store, name: load_prompts(name, "test", 4, 0),
    "a source": lambda store, name: find_source(name),
    "a model": locate_model,
    "a policy": lambda store, name: load_policy(name),
    "a reward model": lambda store, name: load_scalar(name),
    "rewards": load_rewards,
    "a judge": lambda store, name: named_scorer(store, name, None),
    "peers": lambda store, name: _peers({"judge": {"peers": name}}, store),
    "a tokenizer": lambda store, name: load_tokenizer(name),
    "a context": lambda store, name: context_of(name),
    "a hash": lambda store, name: content_hash(name),
    "an import": lambda store, name: import_model(store, name, "mine"),
    "a Space": lambda store, name: write_chat_space(store, name, store.root / "space", print),
    "the API": lambda store, name: serve.run(ServeSettings(policy=name), store, "labels.db", print),
    "the page": lambda store, name: serve.run_page(ChatSettings(policy=name), store, "labels.db", print),
}


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", ["docs/x.md", "some/dir.bin", "data/none"])
def test_a_missing_file_is_no_name_on_the_hub(here, what, name):
    with pytest.raises(InputError, match=r"no such (folder or )?file.*hf://") as refused:
        READERS[what](here, name)
    assert name in str(refused.value) and "\n" not in str(refused.value)


@pytest.mark.parametrize("what", READERS)
@pytest.mark.parametrize("name", ["n" * 300, "ann/" + "n" * 300, "ann/Write a poem.\n" + "word " * 99])
def test_a_text_that_can_be_no_name_is_refused_in_one_short_line(here, what, name):
    with pytest.raises(RLHFError, match=r"no such (folder or )?file|neither a folder") as refused:
        READERS[what](here, name)
    assert "\n" not in str(refused.value) and len(str(refused.value)) < 400


@pytest.mark.parametrize("name", ["", ",", "~nosuchuser/a.jsonl", "a\0b", "a\nb", "~nosuchuser/*.jsonl"])
def test_data_that_can_have_no_such_name_are_refused_in_one_line(here, name):
    with pytest.raises(InputError, match=r"names no data|no such file|no file") as refused:
        read_prompts(name)
    assert "\n" not in str(refused.value)


@pytest.mark.parametrize("name", PATHS)
def test_what_looks_like_a_path_is_one(here, name):
    for read in (find_source, read_prompts):
        with pytest.raises(InputError, match="no such"):
            read(name)


@pytest.mark.parametrize("name", NAMES)
def test_what_can_be_a_name_on_the_hub_is_one(here, name):
    assert find_source(name).place == hub_name(name) == name
    if "/" in name:
        with pytest.raises(InputError, match="HF_HUB_OFFLINE"):
            read_prompts(f"{name}/config:test@refs/convert/parquet")


@pytest.mark.parametrize("name", ["docs/x.md", "data/none", "gpt2"])
def test_hf_makes_a_name_of_the_hub_of_anything(here, name):
    assert find_source(f"hf://{name}").place == name
    assert locate_model(here, f"hf://{name}") == (f"hf://{name}", None)


def test_a_data_set_by_hf_has_its_own_name_in_a_recipe(here):
    assert located("hf://ann/plain", None) == (located("ann/plain", None)[0], "hf://ann/plain")


@pytest.mark.parametrize("arguments", [
    ["sft", "--data", "docs/x.md"], ["sft", "--base", "some/dir.bin"], ["ppo", "--policy", "docs/x.md"], ["import", "docs/x.md", "--name", "mine"],
    ["data", "show", "docs/x.md"], ["data", "fetch", "docs/x.md"], ["serve", "--policy", "docs/x.md"],
    ["chat", "--policy", "docs/x.md"], ["doctor", "--base", "docs/x.md"], ["labels", "import", "docs/x.md", "--batch", "b"],
    ["eval", "--policy", "docs/x.md"], ["best-of-n", "--policy", "docs/x.md", "--out", "o.jsonl"],
])  # fmt: skip
def test_every_command_says_that_there_is_no_such_file(here, capsys, arguments):
    assert main(["--store", str(here.root), *arguments]) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert error.startswith("rlhf: error:") and "no such" in error and "hub cannot be reached" not in error


def test_a_card_names_no_file_as_a_data_set(here):
    manifest = {
        "stage": "sft", "name": "mine", "parents": {}, "metrics": {}, "data": {}, "seed": 0,
        "settings": {"base": "hf://ann/small", "data": "docs/x.md, ann/plain:test"},
    }  # fmt: skip
    card = model_card(manifest)
    assert '"ann/plain"' in card and '"ann/small"' in card and "docs/x.md" not in card
