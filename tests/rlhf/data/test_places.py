"""Files as they are and where they are: compressed, in shards, as globs, weighted, saved by datasets."""

import csv
import json

import pyarrow
import pytest
from datasets import Dataset, DatasetDict

from rlhf.data import read_demonstrations, read_prompts, read_texts
from rlhf.errors import InputError


def rows(*answers):
    return [{"prompt": f"q{answer}", "completion": f"{answer}"} for answer in answers]


def lines(path, *answers):
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows(*answers)))
    return path


def answers(source):
    return [row.completion for row in read_demonstrations(source)]


@pytest.mark.parametrize(
    "name",
    ["a.ndjson", "a.json", "a.jsonl.zst", "a.jsonl.bz2", "a.jsonl.xz", "a.tsv", "semicolon.csv", "utf16.csv"],
)
def test_files_of_any_ending_give_their_rows(tmp_path, name):
    import bz2
    import lzma

    path, plain = tmp_path / name, lines(tmp_path / "plain", "x", "y").read_bytes()
    if name.endswith(".zst"):
        with pyarrow.CompressedOutputStream(str(path), "zstd") as file:
            file.write(plain)
    elif path.suffix in (".bz2", ".xz"):
        path.write_bytes((bz2 if path.suffix == ".bz2" else lzma).compress(plain))
    elif path.suffix in (".csv", ".tsv"):
        sign = "\t" if path.suffix == ".tsv" else ";" if "semi" in name else ","
        with path.open("w", newline="", encoding="utf-16" if "utf16" in name else "utf-8") as file:
            csv.writer(file, delimiter=sign).writerows([("prompt", "completion"), ("qx", "x"), ("qy", "y")])
    else:
        path.write_bytes(plain)
    assert answers(path) == ["x", "y"]


def test_a_json_object_that_holds_the_rows_is_opened(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps({"version": 1, "data": rows("x", "y")}, indent=1))
    assert answers(tmp_path / "a.json") == ["x", "y"]


def test_a_long_json_array_is_read_in_parts(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf.data.json_text.CHUNK", 64)
    many = [f"{number} " + "é" * (number % 90) for number in range(300)]
    (tmp_path / "a.json").write_text(json.dumps(rows(*many), indent=2, ensure_ascii=False))
    assert answers(tmp_path / "a.json") == [one for one in many]
    whole = (tmp_path / "a.json").read_text()
    (tmp_path / "a.json").write_text(whole[: len(whole) // 2])
    with pytest.raises(InputError, match=r"a\.json:\d+: not JSON"):
        answers(tmp_path / "a.json")


def test_long_cells_and_cells_of_json_are_read_and_python_lists_refused(tmp_path):
    def table(name, cell):
        with (tmp_path / name).open("w", newline="") as file:
            csv.writer(file).writerows([("prompt", "completion"), (cell, "x")])
        return tmp_path / name

    (found,) = read_demonstrations(table("long.csv", "word " * 60_000))
    assert len(found.prompt) == 300_000
    messages = [{"role": "user", "content": "q"}]
    (found,) = read_demonstrations(table("json.csv", json.dumps(messages)))
    assert found.prompt == messages
    with pytest.raises(InputError, match=r'python\.csv:2: "prompt" .*not JSON'):
        read_demonstrations(table("python.csv", f"{messages}"))
    with pytest.raises(InputError, match=r"list\.csv:2"):
        read_demonstrations(table("list.csv", '["a", "b"]'))


HEADER = "prompt,completion\nqx,x\n"


@pytest.mark.parametrize(
    "name, content, where, why",
    [
        ("cut.csv", HEADER + 'qy,"y\n' + HEADER * 50, 3, "begins with a quote"),
        ("closed.csv", HEADER + 'qy,"y\nqz,"z"\n', 3, "begins with a quote"),
        ("behind.tsv", 'prompt\tcompletion\nqx\t"Yes" she said\n', 2, "begins with a quote"),
        ("few.csv", HEADER + "\nqy\n", 4, "1 cells under 2 column names"),
        ("two.json", '[{"prompt": "x", "completion": "x"}]\n[{"prompt": "y"}]\n', 1, "more follows"),
        ("rest.json", '[\n{"prompt": "x", "completion": "x"}\n]\n' + " " * 99 + "{}", 3, "more follows"),
        ("lines.json", '{"prompt": "x", "completion": "x"}\n' * 2 + "\n\n{}", 5, "columns found"),
        ("comma.json", '[{"prompt": "x",\n"completion": "x"}\n\n{}]', 4, "comma"),
    ],
)
def test_a_broken_table_or_list_swallows_no_row(tmp_path, monkeypatch, name, content, where, why):
    monkeypatch.setattr("rlhf.data.json_text.CHUNK", 64)
    (tmp_path / name).write_text(content)
    with pytest.raises(InputError, match=rf"{name}:{where}: .*{why}"):
        read_demonstrations(tmp_path / name)


def test_white_space_and_empty_columns_without_a_name_may_end_a_file(tmp_path):
    (tmp_path / "a.json").write_text(json.dumps(rows("x", "y")) + " \n" * 99)
    (tmp_path / "a.csv").write_text("prompt,completion,,\nqx,x\nqy,y,,\n\n")
    assert answers(tmp_path / "a.json") == answers(tmp_path / "a.csv") == ["x", "y"]


def test_only_our_own_tables_lose_the_apostrophe_that_they_were_given(tmp_path):
    (tmp_path / "a.csv").write_text("prompt,completion\nq,'-5' is negative\n")
    (tmp_path / "b.csv").write_text("prompt,completion,labeler,origin\nq,'-5 is negative,ann,person\n")
    assert answers(tmp_path / "a.csv") == ["'-5' is negative"]
    assert answers(tmp_path / "b.csv") == ["-5 is negative"]


def test_deep_nesting_is_refused_by_its_line(tmp_path):
    (tmp_path / "a.jsonl").write_text('{"prompt": ' + "[" * 100_000 + "]" * 100_000 + "}\n")
    with pytest.raises(InputError, match=r"a\.jsonl:1: nested too deep"):
        read_prompts(tmp_path / "a.jsonl")


def test_paragraphs_are_found_whatever_the_line_ends(tmp_path):
    (tmp_path / "a.txt").write_bytes(b"one\r\ntwo\r\n\r\nthree\r\n")
    assert list(read_texts(tmp_path / "a.txt")) == ["one\ntwo", "three"]


def test_shards_globs_splits_and_weighted_lists(tmp_path):
    lines(tmp_path / "set/data/train-0.jsonl", "a")
    lines(tmp_path / "set/data/train-1.jsonl", "b")
    lines(tmp_path / "set/data/test-0.jsonl", "c")
    lines(tmp_path / "more.jsonl", *"defg")
    assert answers(tmp_path / "set") == ["a", "b"]
    assert answers(f"{tmp_path}/set:test") == ["c"]
    assert answers(f"{tmp_path}/set/data/*.jsonl") == ["c", "a", "b"]
    mixed = answers(f"{tmp_path}/more.jsonl=.5,{tmp_path}/set=2.")
    assert mixed == answers(f"{tmp_path}/more.jsonl=0.5,{tmp_path}/set=2")
    assert len(mixed) == 6 and mixed[2:] == ["a", "b", "a", "b"]
    with pytest.raises(InputError, match="no split validation; name one of test, train"):
        answers(f"{tmp_path}/set:validation")


@pytest.mark.parametrize(
    "files, read, split",
    [
        ("data.jsonl test.jsonl", "data", None),
        ("data.jsonl eval.jsonl val.jsonl", "data", None),
        ("train.jsonl extra.jsonl test.jsonl", "extra train", None),
        ("training-0.jsonl evaluation-0.jsonl", "training-0", None),
        ("trainset.jsonl testset.jsonl", "trainset", None),
        ("TrainSet.jsonl DevSplit.jsonl", "TrainSet", None),
        ("trainset.jsonl testdata.jsonl", "testdata", "test"),
        ("train_and_test/test.jsonl train_and_test/train.jsonl", "train_and_test/train", None),
        ("test.jsonl", "test", None),
        ("data.jsonl test.jsonl", "test", "test"),
        ("part-0.jsonl LICENSE.txt ReadMe.txt dataset_infos.json notes.txt", "notes part-0", None),
    ],
)
def test_what_no_split_names_is_trained_on_and_never_another_split(tmp_path, files, read, split):
    folder = tmp_path / "set"
    for name in files.split():
        lines(folder / name, name.split(".")[0])
        if name.endswith(".txt"):
            (folder / name).write_text(f"q{name.split('.')[0]}\n")
    found = read_prompts(f"{folder}:{split}" if split else folder)
    assert sorted(found) == [f"q{name}" for name in read.split()]
    others = sorted(name for name in files.split() if name.split(".")[0] not in read.split())
    assert sorted(found.account.not_read) == others == sorted(found.account.manifest()["files_not_read"])
    assert all(name in found.account.line() for name in others)


@pytest.mark.parametrize("saved", ["{", "{}", "[]", '{"splits": 3}'])
def test_a_damaged_list_of_splits_is_one_line(tmp_path, saved):
    (tmp_path / "dataset_dict.json").write_text(saved)
    with pytest.raises(InputError, match=r"dataset_dict\.json: does not say|no split train"):
        read_prompts(tmp_path)


def test_a_share_that_takes_no_row_does_not_say_that_the_file_was_empty(tmp_path):
    with pytest.raises(InputError, match="of 2 that were read none remained"):
        read_prompts(f"{lines(tmp_path / 'a.jsonl', 'a', 'b')}=0.1")


def test_a_folder_of_splits_saved_by_datasets_gives_the_one_asked_for(tmp_path):
    DatasetDict(train=Dataset.from_list(rows("a")), test=Dataset.from_list(rows("b"))).save_to_disk(
        tmp_path / "saved"
    )
    assert answers(tmp_path / "saved") == ["a"] and answers(f"{tmp_path}/saved:test") == ["b"]


def test_a_table_saved_by_datasets_is_no_split_that_it_does_not_have(tmp_path):
    Dataset.from_list(rows("a")).save_to_disk(tmp_path / "saved")
    assert answers(tmp_path / "saved") == answers(f"{tmp_path}/saved:train") == ["a"]
    with pytest.raises(InputError, match=r"saved:test: holds one table and no split test; write \S+/saved$"):
        answers(f"{tmp_path}/saved:test")


def test_what_stands_behind_links_of_a_folder_is_read_once(tmp_path):
    lines(tmp_path / "elsewhere/b.jsonl", "b")
    lines(tmp_path / "set/a.jsonl", "a")
    for name, target in (("more", "elsewhere"), ("again", "elsewhere"), ("round", "set")):
        (tmp_path / "set" / name).symlink_to(tmp_path / target)
    (tmp_path / "elsewhere" / "round").symlink_to(tmp_path / "set")
    assert answers(tmp_path / "set") == ["a", "b"]


@pytest.mark.parametrize("source", ["set", "set/*.jsonl"])
def test_a_link_to_no_file_is_refused_by_its_name(tmp_path, source):
    lines(tmp_path / "set/a.jsonl", "a")
    (tmp_path / "set/b.jsonl").symlink_to(tmp_path / "gone.jsonl")
    with pytest.raises(InputError, match=r"set/b\.jsonl: is a link that leads to no file"):
        answers(f"{tmp_path}/{source}")


def test_a_folder_that_may_not_be_looked_into_is_refused_by_its_name(tmp_path, monkeypatch):
    import os

    lines(tmp_path / "set/a.jsonl", "a")
    lines(tmp_path / "set/inner/b.jsonl", "b")
    look = os.scandir

    def forbidden(path):
        if f"{path}".endswith("inner"):
            raise PermissionError(13, "Permission denied", f"{path}")
        return look(path)

    monkeypatch.setattr("os.scandir", forbidden)
    with pytest.raises(InputError, match=r"set: cannot be read \(.*Permission denied.*inner"):
        answers(tmp_path / "set")


CARD = """---
configs:
- config_name: default
  data_files:
  - split: train
    path: parts/one.jsonl
  - split: test
    path: "parts/tw*.jsonl"
---
A set.
"""


def test_the_card_of_a_set_of_the_hub_tells_which_files_are_of_a_split(tmp_path, monkeypatch):
    for name in ("one", "two", "three"):
        lines(tmp_path / f"set/parts/{name}.jsonl", name)
    (tmp_path / "set/README.md").write_text("# A set\n")
    assert answers(tmp_path / "set") == ["one", "three", "two"]
    (tmp_path / "set/README.md").write_text(CARD)
    monkeypatch.chdir(tmp_path)
    assert answers("set") == answers(tmp_path / "set") == ["one"] and answers("set:test") == ["two"]
    assert read_prompts("set").account.not_read == ["parts/three.jsonl", "parts/two.jsonl"]
    (tmp_path / "set/README.md").write_text(CARD.replace("two", "four").replace("tw*", "fo*"))
    with pytest.raises(InputError, match=r"README\.md: the files that it lists are not there"):
        answers("set")


def test_configurations_of_a_card_are_not_read_as_one_set(tmp_path):
    configs = "".join(f"- config_name: {name}\n  data_files: {name}.jsonl\n" for name in ("de", "en"))
    for name in ("de", "en"):
        lines(tmp_path / f"set/{name}.jsonl", name)
    (tmp_path / "set/README.md").write_text(f"---\nlicense: mit\nconfigs:\n{configs}---\n")
    with pytest.raises(InputError, match=r"README\.md tells configurations apart \(de, en\); name the files"):
        answers(tmp_path / "set")
    assert answers(tmp_path / "set/en.jsonl") == ["en"]


def test_some_prompts_at_random_are_the_same_from_lines_and_from_a_table(tmp_path, monkeypatch):
    monkeypatch.setattr("rlhf.data.sampling.CHUNK", 100)
    path = lines(tmp_path / "a.jsonl", *range(200))
    Dataset.from_list(rows(*range(200))).to_parquet(str(tmp_path / "a.parquet"))
    some = list(read_prompts(path, num_prompts=5, seed=3))
    assert some == list(read_prompts(tmp_path / "a.parquet", num_prompts=5, seed=3))
    assert some != list(read_prompts(path, num_prompts=5, seed=4)) and len(set(some)) == 5


def test_what_was_read_stays_when_its_file_changes(tmp_path):
    path = lines(tmp_path / "a.jsonl", "a", "b")
    found = read_demonstrations(path)
    path.unlink()
    assert [row.completion for row in found] == ["a", "b"] and len(found.account.sha256) == 64
