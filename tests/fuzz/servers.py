"""The real servers, asked by schemathesis whatever their schema allows and forbids: no error of theirs, and no wait without an end.

Schemathesis is a program of its own environment, so that its packages do not decide which are ours.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import httpx

from annotate.chat.api.bodies import ChatBody, DetokenizeBody, TextBody, TokenizeBody
from annotate.labels import LabelStore, NewTask, Submission
from annotate.store.accounts import add_account, add_token
from rlhf.store import Store
from tests.browser.conftest import PASSWORD
from tests.chat.tiny import serving, tiny_store

PATIENCE_S = 120  # which no answer of a few tokens takes
MODELS = ["ppo", "sft", "base", "reward", "none"]
BODIES = {
    "/v1/chat/completions": ChatBody, "/v1/completions": TextBody, "/tokenize": TokenizeBody, "/detokenize": DetokenizeBody,
}  # fmt: skip
NONE_HERE = (
    "schemathesis is not here: put it into an environment of its own (python -m venv X; X/bin/pip install schemathesis) "
    "and say where it is: SCHEMATHESIS=X/bin/schemathesis make fuzz …"
)


def program():
    """Schemathesis, by $SCHEMATHESIS or on the path; ends the program where there is none."""
    found = shutil.which(os.environ.get("SCHEMATHESIS", "schemathesis"))
    return found or sys.exit(NONE_HERE)


def serve_schema():
    """What `rlhf serve` takes, made of the classes by which it reads bodies: it shows no schema itself."""
    parts, paths = {}, {}
    answer = {"responses": {"default": {"description": "an answer or a refusal"}}}
    for path, body in BODIES.items():
        schema = body.model_json_schema(ref_template="#/components/schemas/{model}")
        parts |= schema.pop("$defs", {})
        schema["properties"]["model"] = {"enum": MODELS}
        parts[body.__name__] = schema
        content = {"application/json": {"schema": {"$ref": f"#/components/schemas/{body.__name__}"}}}
        paths[path] = {"post": answer | {"requestBody": {"required": True, "content": content}}}
    name = {"name": "name", "in": "path", "required": True, "schema": {"type": "string"}}
    paths["/v1/models/{name}"] = {"get": answer | {"parameters": [name]}}
    paths |= {path: {"get": answer} for path in ("/v1/models", "/health", "/metrics")}
    about = {"title": "rlhf serve", "version": "1"}
    return {"openapi": "3.1.0", "info": about, "paths": paths, "components": {"schemas": parts}}


def label_schema(url, token):
    """What `rlhf label` says of itself."""
    return httpx.get(f"{url}/api/openapi.json", headers={"Authorization": f"Bearer {token}"}).json()


def some_labels(path):
    """A label store with an administrator, tasks and an answer; the administrator's token."""
    with LabelStore(path) as store:
        add_account(store.database, "ada", PASSWORD, "admin")
        store.add_batch("round", [NewTask(prompt=f"q{i}", completions=("a", "b")) for i in range(9)])
        task = store.lease("ada", "round")
        store.submit("ada", Submission(task_id=task.id, client_id="1", ranks=(0, 1)))
        return add_token(store.database, "ada", "fuzz")


def fuzz(what, minutes):
    """Ask `rlhf label` or `rlhf serve` for as long as that; ends the program with what was found."""
    asking = program()
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        token = some_labels(folder / "labels.db")
        store = tiny_store(folder / "store") if what == "serve" else Store(folder / "store")
        with serving(store, folder / "labels.db", what, start=subprocess.Popen) as server:
            schema = serve_schema() if what == "serve" else label_schema(server.url, token)
            (folder / "schema.json").write_text(json.dumps(schema))
            command = [
                asking, "run", str(folder / "schema.json"), "--url", server.url, "-H", f"Authorization: Bearer {token}",
                "--checks", "not_a_server_error", "--request-timeout", str(PATIENCE_S), "--max-time", str(round(60 * minutes)),
                "--continue-on-failure", "--seed", str(time.time_ns() % 2**32), "--warnings", "off", "--suppress-health-check", "all",
            ]  # fmt: skip
            done = subprocess.run(command, cwd=folder)
            lives = server.process.poll() is None and httpx.get(f"{server.url}/login", timeout=PATIENCE_S)
        if done.returncode or not lives:
            sys.exit(f"{what}: found, see above" if lives else f"{what}: the server has ended")
