"""Whatever file is uploaded as a batch: a batch, or a refusal that says why, and then no batch."""

import bz2
import gzip
import io
import json
import lzma

import pyarrow
import pyarrow.parquet
import pytest
from fastapi.testclient import TestClient
from hypothesis import given
from hypothesis import strategies as st

from annotate.app.server import create_app
from annotate.app.settings import AppSettings
from annotate.labels import LabelStore
from annotate.store.accounts import add_account, add_token
from tests.browser.conftest import PASSWORD
from tests.fuzz.examples import changed, examples

ROW = {
    "prompt": "Where is the dog?",
    "completions": ["Here.", "There."],
    "ranks": [0, 1],
    "labeler": "ann",
    "flags": [[], ["rude"]],
    "ratings": [7, None],
    "scores": [0.5, -1],
}
SETTINGS = {"name": "new", "kind": "rank", "overlap": 1, "keep_ranks": True}


@pytest.fixture(scope="module")
def client(tmp_path_factory):
    with LabelStore(tmp_path_factory.mktemp("fuzz") / "labels.db") as store:
        add_account(store.database, "ada", PASSWORD, "admin")
        client = TestClient(create_app(store, AppSettings()), base_url="http://localhost")
        client.headers["Authorization"] = f"Bearer {add_token(store.database, 'ada', 'fuzz')}"
        yield client


def lines(rows):
    return "".join(json.dumps(row) + "\n" for row in rows).encode("utf-8", "surrogatepass")


def parquet(rows):
    file = io.BytesIO()
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist([ROW] * len(rows)), file)
    return file.getvalue()


def cells(rows):
    names = list(dict.fromkeys(str(name) for row in rows if isinstance(row, dict) for name in row))
    given = [",".join(names)] + [
        ",".join(json.dumps(row.get(name, "")) for name in names) for row in rows if isinstance(row, dict)
    ]
    return "\r\n".join(given).encode("utf-8", "surrogatepass")


KINDS = {
    ".jsonl": lines, ".json": lambda rows: json.dumps(rows).encode(), ".csv": cells, ".tsv": cells, ".parquet": parquet,
    ".txt": lines, ".jsonl.gz": lambda rows: gzip.compress(lines(rows)), ".jsonl.bz2": lambda rows: bz2.compress(lines(rows)),
    ".jsonl.xz": lambda rows: lzma.compress(lines(rows)), ".exe": lines, "": lines, ".arrow": parquet, ".jsonl.zst": lines,
}  # fmt: skip


@st.composite
def uploads(draw):
    """Name and bytes of a file that is nearly right."""
    ending = draw(st.sampled_from(sorted(KINDS)))
    rows = [draw(changed(ROW)) if draw(st.booleans()) else ROW for _ in range(draw(st.integers(0, 3)))]
    content = KINDS[ending](rows)
    for _ in range(draw(st.integers(0, 2))):
        place = draw(st.integers(0, len(content)))
        how = draw(st.sampled_from(["cut", "put in", "left out", "over it"]))
        new = draw(st.binary(max_size=6))
        content = {
            "cut": content[:place], "put in": content[:place] + new + content[place:],
            "left out": content[:place] + content[place + 5 :], "over it": content[:place] + new + content[place + len(new) :],
        }[how]  # fmt: skip
    return draw(st.sampled_from(["file", "a b", "ü", ".", "x.y"])) + ending, content


def batches(client):
    return {row["name"] for row in client.get("/api/lead/batches").json()["batches"]}


@examples(200)
@given(uploads(), st.data())
def test_any_file_becomes_a_batch_or_is_refused_whole(client, upload, data):
    name, content = upload
    before = batches(client)
    wanted = SETTINGS | {"name": f"b{len(before)}"}
    settings = data.draw(changed(wanted)) if data.draw(st.integers(0, 4)) == 0 else wanted
    form = {"settings": json.dumps(settings).encode("ascii", "replace").decode()}
    reply = client.post("/api/lead/upload", data=form, files={"file": (name, content)})
    assert reply.status_code in (201, 409, 422), (reply.status_code, reply.text)
    made = batches(client) - before
    if reply.status_code == 201:
        assert made == {reply.json()["batch"]}
    else:
        assert not made and reply.json()["detail"] and "Traceback" not in reply.text


def test_half_a_surrogate_pair_in_a_column_is_refused(client):
    """Found by `make fuzz WHAT=uploads`: the refusal named the column as it was, which is no UTF-8."""
    file = ("file.json", rb'[{"\ud800": false}]')
    reply = client.post("/api/lead/upload", data={"settings": json.dumps(SETTINGS)}, files={"file": file})
    assert reply.status_code == 409 and "columns found: \ufffd" in reply.json()["detail"]
