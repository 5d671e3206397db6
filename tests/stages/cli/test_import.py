"""Models come in from folders and GGUF files as they are: weights, tokenizer, licence, hash."""

import hashlib
import json
import sys

import gguf
import pytest
import torch
import transformers
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, LlamaConfig, LlamaForCausalLM

from rlhf.errors import InputError
from rlhf.models.checkpoints import load_policy, load_scalar
from rlhf.models.sources import GGUF_FROM, Source, find_source, reads_gguf
from rlhf.models.tokenizer import load_tokenizer, train_tokenizer
from rlhf.serving.completions import Done, Failed, Request
from rlhf.serving.engine import Engine
from rlhf.store import Store
from stages import sft
from stages.cli.main import main
from stages.import_model import import_model, licence_of
from stages.ppo.trainer import PPOTrainer
from stages.settings import PPOConfig, SFTSettings
from tests.stages.conftest import TEXTS

TOKENIZER = train_tokenizer(TEXTS, 400)


def quiet(line):
    pass


def tiny_llama(tied):
    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=TOKENIZER.vocab_size, hidden_size=32, intermediate_size=48, num_hidden_layers=2, rope_theta=20_000.0,
        num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=128, rms_norm_eps=1e-5,
        tie_word_embeddings=tied, initializer_range=0.2,
    )  # fmt: skip
    return LlamaForCausalLM(config).eval()


def write_gguf(path, model):
    """As llama.cpp's converter writes a Llama: query and key rows in its rotary order, tokens with types and merges."""
    config, fast = model.config, TOKENIZER.fast()
    out = gguf.GGUFWriter(path, "llama")
    out.add_name("Tiny")
    out.add_license("apache-2.0")
    out.add_context_length(config.max_position_embeddings)
    out.add_embedding_length(config.hidden_size)
    out.add_block_count(config.num_hidden_layers)
    out.add_feed_forward_length(config.intermediate_size)
    out.add_head_count(config.num_attention_heads)
    out.add_head_count_kv(config.num_key_value_heads)
    out.add_layer_norm_rms_eps(config.rms_norm_eps)
    out.add_rope_dimension_count(8)
    out.add_rope_freq_base(20_000.0)
    out.add_vocab_size(config.vocab_size)
    vocabulary = sorted(fast.get_vocab(), key=fast.get_vocab().get)
    out.add_tokenizer_model("gpt2")
    out.add_tokenizer_pre("default")
    out.add_token_list(vocabulary)
    out.add_token_types([3 if token in TOKENIZER.specials else 1 for token in vocabulary])
    out.add_token_merges(
        [" ".join(pair) for pair in json.loads(fast.backend_tokenizer.to_str())["model"]["merges"]]
    )
    out.add_bos_token_id(fast.bos_token_id)
    out.add_eos_token_id(fast.eos_token_id)
    out.add_pad_token_id(fast.pad_token_id)
    out.add_chat_template(fast.chat_template)
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    for name, weight in model.state_dict().items():
        if name == "lm_head.weight" and config.tie_word_embeddings:
            continue
        for part, heads in (("q_proj", config.num_attention_heads), ("k_proj", config.num_key_value_heads)):
            if part in name:
                weight = weight.view(heads, 2, -1, config.hidden_size).transpose(1, 2).reshape(weight.shape)
        out.add_tensor(names.get_name(name, try_suffixes=(".weight",)), weight.contiguous().numpy())
    out.write_header_to_file()
    out.write_kv_data_to_file()
    out.write_tensors_to_file()
    out.close()
    return path


@torch.no_grad()
def logits(model):
    return model(torch.arange(40)[None] * 7 % TOKENIZER.vocab_size).logits


reads_gguf_here = pytest.mark.skipif(
    not reads_gguf(transformers.__version__), reason="this transformers reads other tokens"
)


@reads_gguf_here
@pytest.mark.parametrize("tied", [True, False])
def test_a_gguf_file_becomes_a_base_with_the_same_logits_tokens_and_its_origin(tied, tmp_path):
    model = tiny_llama(tied)
    path = write_gguf(tmp_path / "tiny.gguf", model)
    store = Store(tmp_path / "store")
    entry = import_model(store, str(path), "tiny", say=quiet)
    opened = AutoModelForCausalLM.from_pretrained(entry.path)
    torch.testing.assert_close(logits(opened), logits(model))
    assert torch.equal(logits(opened), logits(load_policy(path)))
    assert (opened.get_output_embeddings().weight is opened.get_input_embeddings().weight) == tied
    found = load_tokenizer(entry.path)
    turns = [
        {"role": "system", "content": "Say <|end|>"},
        {"role": "user", "content": "The red kite, 12 boats"},
    ]
    assert found.encode_prompt(turns) == TOKENIZER.encode_prompt(turns)
    assert (found.eos_id, found.pad_id) == (TOKENIZER.eos_id, TOKENIZER.pad_id)
    settings = entry.manifest["settings"]
    assert (settings["source"], settings["licence"]) == (str(path), "apache-2.0")
    assert entry.manifest["data"] == {str(path): hashlib.sha256(path.read_bytes()).hexdigest()}
    assert import_model(store, str(path), "tiny", say=quiet).ref == entry.ref and len(store.entries()) == 1
    assert store.verify() == []


@reads_gguf_here
def test_a_stage_trains_from_a_gguf_file_itself(tmp_path):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    rows = tmp_path / "rows.jsonl"
    rows.write_text(
        "".join(json.dumps({"prompt": f"Say {n}", "completion": "The boat"}) + "\n" for n in range(8))
    )
    tuned = sft.run(SFTSettings(base=str(path), data=str(rows), epochs=1.0), Store(tmp_path / "s"), quiet)
    assert not torch.equal(logits(load_policy(tuned.path)), logits(load_policy(path)))
    with pytest.raises(InputError, match="a language model, not a reward model"):
        load_scalar(path)


def test_a_folder_is_imported_in_its_own_precision_with_the_licence_of_its_card(foreign_model, tmp_path):
    folder = tmp_path / "model"
    AutoModelForCausalLM.from_pretrained(foreign_model, dtype=torch.bfloat16).save_pretrained(folder)
    AutoTokenizer.from_pretrained(foreign_model).save_pretrained(folder)
    (folder / "README.md").write_text("---\nlicense: mit\n---\n# A model\n")
    store = Store(tmp_path / "store")
    entry = import_model(store, str(folder), "mine", say=quiet)
    one, other = (AutoModelForCausalLM.from_pretrained(place) for place in (entry.path, folder))
    assert one.dtype == torch.bfloat16 and type(one) is type(other)
    assert all(torch.equal(weight, other.state_dict()[name]) for name, weight in one.state_dict().items())
    assert load_tokenizer(entry.path).stop_ids == load_tokenizer(folder).stop_ids
    assert entry.manifest["settings"]["licence"] == "mit"
    (folder / "README.md").write_text("# A model\n")
    said = []
    assert import_model(store, str(folder), "mine", say=said.append).manifest["settings"]["licence"] is None
    assert "states no licence" in said[0]
    again = import_model(store, str(folder), "mine", licence="cc0-1.0", say=quiet)
    assert again.manifest["settings"]["licence"] == "cc0-1.0"


CHATML = (
    "{% for m in messages %}<|im_start|>{{ m.role }}: {{ m.content }}<|im_end|>{% endfor %}"
    "{% if add_generation_prompt %}<|im_start|>assistant: {% endif %}"
)
TOKENIZER_OF_MORE = TOKENIZER.fast()
TOKENIZER_OF_MORE.add_special_tokens({"additional_special_tokens": ["<|im_start|>", "<|im_end|>"]})
TOKENIZER_OF_MORE.chat_template = CHATML
SIZE = TOKENIZER.vocab_size
TOO_MANY = f"its tokenizer has {SIZE + 2} tokens, the model's embedding {SIZE}; resize it"


def changed(file, **values):
    file.write_text(json.dumps(json.loads(file.read_text()) | values))


def cut_in_half(file):
    file.write_bytes(file.read_bytes()[: file.stat().st_size // 2])


def without(folder, part):
    weights = folder / "model.safetensors"
    save_file({n: w for n, w in load_file(weights).items() if part not in n}, weights, {"format": "pt"})


def indexed(folder, weight_map):
    """The weights in a file of another name, and an index that says where each is."""
    (folder / "model.safetensors").rename(folder / "part.safetensors")
    (folder / "model.safetensors.index.json").write_text(
        json.dumps({"metadata": {}, "weight_map": weight_map})
    )


def moved_out(folder, named):
    """An index of weights that lie beside the folder, where its hash does not count them."""
    names = load_file(folder / "model.safetensors")
    indexed(folder, dict.fromkeys(names, named))
    (folder / "part.safetensors").rename(folder.parent / "part.safetensors")


DAMAGES = {  # what is done to a folder, and what is said of it
    "of another kind": (lambda f: without(f, "lm_head"), "not a whole language model, lm_head.weight is not in it"),
    "a layer too few": (lambda f: without(f, "layers.1."), "model.layers.1.input_layernorm.weight is not in it"),
    "of two models": (lambda f: changed(f / "config.json", intermediate_size=64), "is (32, 48) in it, and (32, 64)"),
    "cut weights": (lambda f: cut_in_half(f / "model.safetensors"), "no model could be loaded"),
    "a pointer": (lambda f: (f / "model.safetensors").write_text("version https://git-lfs"), "no model could be loaded"),
    "an empty index": (lambda f: indexed(f, {}), "no index of weights: its weight_map does not give the file of each"),
    "a listed index": (lambda f: indexed(f, ["part.safetensors"]), "no index of weights: its weight_map does not"),
    "a numbered part": (lambda f: indexed(f, {"lm_head.weight": 3}), "no index of weights: its weight_map does not"),
    "a part beside": (lambda f: moved_out(f, "../part.safetensors"), "it names ../part.safetensors, which is not in"),
    "a part by path": (lambda f: moved_out(f, f"{f.parent}/part.safetensors"), "part.safetensors, which is not in this"),
    "no such config": (lambda f: changed(f / "config.json", num_hidden_layers="two"), "expected int, got str"),
    "no generation": (lambda f: cut_in_half(f / "generation_config.json"), "its generation_config.json cannot be read"),
    "a list": (lambda f: (f / "generation_config.json").write_text("[]"), "its generation_config.json cannot be read"),
    "a named end": (lambda f: changed(f / "generation_config.json", eos_token_id="x"), "eos_token_id is 'x'"),
    "a true end": (lambda f: changed(f / "generation_config.json", eos_token_id=True), "eos_token_id is True"),
    "cut arguments": (lambda f: (f / "template_kwargs.json").write_text("{br"), "no arguments of a chat template"),
    "listed arguments": (lambda f: (f / "template_kwargs.json").write_text("[1]"), "no arguments of a chat template"),
    "no such tokens": (lambda f: changed(f / "tokenizer.json", model={"type": "Nope"}), "no tokenizer there"),
    "more tokens than rows": (lambda f: TOKENIZER_OF_MORE.save_pretrained(f), TOO_MANY),
    "no end": (lambda f: changed(f / "tokenizer_config.json", eos_token=None), "no end token"),
}  # fmt: skip


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_folder_that_is_damaged_or_of_two_models_is_refused_in_one_line(damage, tmp_path, capsys):
    folder, store = tmp_path / "model", tmp_path / "store"
    tiny_llama(False).save_pretrained(folder)
    TOKENIZER.fast().save_pretrained(folder)
    damaging, said = DAMAGES[damage]
    damaging(folder)
    assert main(["import", str(folder), "--name", "x", "--store", str(store)]) == 2
    lines = capsys.readouterr().err.strip().splitlines()
    assert len(lines) == 1 and lines[0].startswith(f"rlhf: error: {folder}") and said in lines[0], lines
    assert not list(store.glob("base/*")) and not list(store.glob(".tmp*"))


@pytest.mark.parametrize(
    "card, licence",
    [
        (b"---\nlicense: mit\n---\n# M\xfcller\n", None),
        (b"---\nlicense: [mit\n: x\n---\n# M\n", None),
        (b"---\nmit\n---\n# M\n", None),
        (b"---\nlicense: [mit, 3]\n---\n", "mit, 3"),
        (b"---\nlicense: 2.0\n---\n", "2.0"),
    ],
)
def test_a_card_that_cannot_be_read_keeps_no_model_out(card, licence, tmp_path):
    (tmp_path / "README.md").write_bytes(card)
    assert licence_of(tmp_path) == licence


def test_every_stage_refuses_a_tokenizer_of_more_tokens_than_the_model(tmp_path, capsys):
    folder, store = tmp_path / "model", ["--store", str(tmp_path / "store")]
    tiny_llama(False).save_pretrained(folder)
    TOKENIZER_OF_MORE.save_pretrained(folder)
    rows = [
        {"prompt": f"Say {n}", "completion": "Hm", "chosen": "The boat", "rejected": "No"} for n in range(40)
    ]
    for name, columns in (("sft", ("prompt", "completion")), ("reward", ("prompt", "chosen", "rejected"))):
        lines = [json.dumps({column: row[column] for column in columns}) for row in rows]
        (tmp_path / f"{name}.jsonl").write_text("\n".join(lines))
        model = ["--base" if name == "sft" else "--init", str(folder)]
        assert main([*store, name, *model, "--data", str(tmp_path / f"{name}.jsonl")]) == 2
        assert f"{folder}: {TOO_MANY}" in capsys.readouterr().err
    with pytest.raises(InputError, match=TOO_MANY):
        Engine(load_policy(folder), load_tokenizer(folder))
    with pytest.raises(InputError, match=f"model: {TOO_MANY}"):
        PPOTrainer(
            PPOConfig(episodes=4, batch_size=4), processing_class=TOKENIZER_OF_MORE, model=load_policy(folder),
            reward_model=lambda prompts, completions: [0.0] * len(prompts), train_dataset=["Say 1"] * 4, say=quiet,
        )  # fmt: skip


def test_special_tokens_that_no_text_becomes_need_no_embedding(tmp_path):
    """Gemma 3's tokenizer has one for images, those of its models that read text alone have none."""
    fast = TOKENIZER.fast()
    fast.add_special_tokens({"additional_special_tokens": ["<image_soft_token>"]})
    fast.save_pretrained(tmp_path / "model")
    tiny_llama(False).save_pretrained(tmp_path / "model")
    entry = import_model(Store(tmp_path / "store"), str(tmp_path / "model"), "gemma", say=quiet)
    engine = Engine(load_policy(entry.path), load_tokenizer(entry.path))
    *_, refused = engine.stream(Request(prompt="a<image_soft_token>", max_new_tokens=3))
    assert refused == Failed(
        f"prompt has token {SIZE}; the model has tokens 0 to {SIZE - 1}", "input", "prompt"
    )
    *_, end = engine.stream(Request(prompt="a", max_new_tokens=3, presence_penalty=0.5, alternatives=2))
    assert isinstance(end, Done)


def test_sources_that_cannot_be_used_are_refused_in_one_line(tmp_path, capsys, monkeypatch):
    whole = write_gguf(tmp_path / "whole.gguf", tiny_llama(True)).read_bytes()
    files = {
        "text.gguf": b"hello",
        "short.gguf": whole[:2000],
        "cut.gguf": whole[:-20_000],
        "magic.gguf": b"GGUF",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    (tmp_path / "empty").mkdir()
    for name in (*files, "absent.gguf", "absent/deep/folder", "empty"):
        store = tmp_path / "store"
        assert main(["import", str(tmp_path / name), "--name", "x", "--store", str(store)]) == 2, name
        lines = capsys.readouterr().err.strip().splitlines()
        assert len(lines) == 1 and lines[0].startswith("rlhf: error:") and name in lines[0], lines
        assert not list(store.glob("base/*")) and not list(store.glob(".tmp*"))
    monkeypatch.setitem(sys.modules, "gguf", None)
    assert main(["import", str(tmp_path / "whole.gguf"), "--name", "x", "--store", str(tmp_path / "s")]) == 2
    assert "rlhf-loop[gguf]" in capsys.readouterr().err


@pytest.mark.parametrize(("version", "reads"), [("5.17.0", False), ("5.22.2", False), ("5.23.0", True), ("5.100.0", True), ("6.0.0.dev0", True)])  # fmt: skip
def test_a_gguf_file_is_not_read_by_versions_that_give_other_tokens(version, reads, tmp_path, monkeypatch):
    path = write_gguf(tmp_path / "tiny.gguf", tiny_llama(True))
    monkeypatch.setattr("rlhf.models.sources.version_of", lambda package: version)
    if reads:
        assert Source(str(tmp_path), "tiny.gguf") == find_source(path)
    else:
        with pytest.raises(
            InputError, match=rf"transformers {version} .* pip install 'transformers>={GGUF_FROM}'"
        ):
            find_source(path)


@pytest.mark.parametrize("value", [float("nan"), float("inf")])
def test_weights_that_are_no_finite_numbers_are_named(tmp_path, value):
    model = tiny_llama(tied=False)
    model.model.layers[1].mlp.up_proj.weight.data[3, 4] = value
    model.save_pretrained(tmp_path / "diverged")
    TOKENIZER.save(tmp_path / "diverged")
    store = Store(tmp_path / "store")
    with pytest.raises(InputError, match=r"1 of its tensors hold.*layers\.1\.mlp\.up_proj"):
        import_model(store, str(tmp_path / "diverged"), "diverged", say=quiet)
    assert store.entries() == []
