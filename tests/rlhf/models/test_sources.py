"""A name means one model wherever it lies: the hub's is what its folder would be, and a folder here is not the hub's."""

import shutil

import httpx
import pytest
import torch
from huggingface_hub import constants

from rlhf.errors import InputError
from rlhf.learning.linear_probe import Heads, load_heads, save_heads
from rlhf.models import sources
from rlhf.models.adapters import reward_model_over, save_adapters, trunk_hash, with_adapters
from rlhf.models.checkpoints import load_policy, scalar_from_policy
from rlhf.models.sources import content_hash, find_source
from rlhf.models.tokenizer import Tokenizer, load_tokenizer
from rlhf.store import Store
from stages.import_model import import_model
from tests.rlhf.models.chat_templates import QWEN_3, tokenizer
from tests.tiny_ppo import TOKENIZER, policy

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """cached(folder, name): the folder as the hub's model of that name, fetched earlier; there is no network now."""
    monkeypatch.setattr(constants, "HF_HUB_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    sources._file_of_hub.cache_clear()

    def cached(folder, name):
        there = tmp_path / "cache" / f"models--{name.replace('/', '--')}"
        (there / "refs").mkdir(parents=True)
        (there / "refs/main").write_text(SHA)
        shutil.copytree(folder, there / "snapshots" / SHA)

    yield cached
    sources._file_of_hub.cache_clear()


def test_a_hub_model_has_the_template_arguments_of_its_folder(cached, tmp_path):
    policy().save_pretrained(tmp_path / "thinker")
    tokenizer("bytes", QWEN_3).save_pretrained(tmp_path / "thinker")
    (tmp_path / "thinker/template_kwargs.json").write_text('{"enable_thinking": false}')
    cached(tmp_path / "thinker", "ann/thinker")
    here, there = load_tokenizer(tmp_path / "thinker"), load_tokenizer("ann/thinker")
    assert there.template_kwargs == {"enable_thinking": False}
    assert there.encode_prompt("Hm?") == here.encode_prompt("Hm?")


def test_a_hub_model_of_this_project_has_its_tokenizer_heads_and_adapters(cached, tmp_path):
    folder, base = tmp_path / "mine", policy()
    torch.manual_seed(0)
    reward = with_adapters(scalar_from_policy(base), 2, head="score")
    save_adapters(reward, trunk_hash(base), 0.25, folder)
    save_heads(Heads(torch.ones(2, 4), torch.ones(2)), folder)
    TOKENIZER.save(folder)
    cached(folder, "ann/mine")
    assert isinstance(load_tokenizer("ann/mine"), Tokenizer)
    assert torch.equal(load_heads("ann/mine").weight, torch.ones(2, 4))
    tokens = torch.arange(3, 11).view(2, 4)
    here, there = (reward_model_over(name, base)(tokens).logits for name in (folder, "ann/mine"))
    assert torch.equal(here, there)
    assert load_heads("ann/other") is reward_model_over("ann/other", base) is None


def test_a_hub_id_that_is_a_folder_here_too_is_not_taken_for_it(tmp_path, monkeypatch):
    policy().save_pretrained(tmp_path / "ann/tiny")
    monkeypatch.chdir(tmp_path)
    assert find_source("ann/tiny").path.is_dir()
    for ask in (find_source, content_hash, load_policy, load_tokenizer):
        with pytest.raises(InputError, match=r"hf://ann/tiny: there is a folder ann/tiny here, too"):
            ask("hf://ann/tiny")


def test_a_connection_that_is_lost_is_one_line(tmp_path, monkeypatch):
    def lost(*_, **__):
        raise httpx.ReadError("peer closed the connection")

    monkeypatch.setattr("huggingface_hub.hf_hub_download", lost)
    monkeypatch.setattr("huggingface_hub.snapshot_download", lost)
    sources.fetch_weights.cache_clear()
    for ask in (load_policy, content_hash, lambda name: import_model(Store(tmp_path), name, "x")):
        with pytest.raises(InputError, match=r"ann/lost: .*peer closed the connection") as refused:
            ask("ann/lost")
        assert "\n" not in str(refused.value)
