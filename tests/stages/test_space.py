"""The folders of `rlhf space`, run by `python app.py` as a Space runs them."""

import os
import re
import subprocess
import sys
import time

import httpx
import pytest
from gradio_client import Client

from annotate.labels import LabelStore
from annotate.store.accounts import account_named
from tests.browser.nginx import free_port
from tests.chat.tiny import tiny_store
from tests.command_line import rlhf

ADMIN = {"ADMIN_NAME": "lea", "ADMIN_PASSWORD": "correct horse battery"}


@pytest.fixture
def run():
    """run(folder, **environment): the app's process and its address, once it answers."""
    started = []

    def runs(folder, **environment):
        port = free_port()
        environment = {**os.environ, "GRADIO_SERVER_PORT": str(port), **environment}
        process = subprocess.Popen(
            [sys.executable, "app.py"], cwd=folder, env=environment, stderr=subprocess.PIPE, text=True
        )
        started.append(process)
        url, deadline = f"http://127.0.0.1:{port}", time.time() + 200
        while time.time() < deadline and process.poll() is None:
            try:
                httpx.get(url, timeout=60)
                return process, url
            except httpx.TransportError:
                time.sleep(0.2)
        return process, url

    yield runs
    for process in started:
        process.kill()
        process.wait()


def header(folder):
    return dict(
        re.findall(r"^(\w+): (.+)$", (folder / "README.md").read_text().split("---")[1], re.MULTILINE)
    )


def test_the_labeling_space_lets_its_first_account_in_and_nobody_else(tmp_path, run):
    folder = tmp_path / "space"
    assert rlhf("space", "label", folder).returncode == 0
    assert header(folder)["sdk"] == "gradio" and header(folder)["app_file"] == "app.py"
    assert (folder / "requirements.txt").read_text().startswith("rlhf-loop[label,postgres]==")
    process, _ = run(folder)
    assert process.wait(60) == 1
    assert (
        process.stderr.read()
        == "error: set the secrets ADMIN_NAME and ADMIN_PASSWORD: they make the first account\n"
    )
    process, url = run(folder, **ADMIN)
    through_proxy = {"X-Forwarded-Proto": "https", "X-Forwarded-For": "203.0.113.5"}
    client = httpx.Client(base_url=url, headers=through_proxy, timeout=60)
    page = client.get("/login")
    csrf = re.search(r'name="csrf" value="(\w+)"', page.text)[1]
    cookie = page.headers["set-cookie"]
    assert "Secure" in cookie
    form = {"name": ADMIN["ADMIN_NAME"], "password": ADMIN["ADMIN_PASSWORD"], "csrf": csrf}
    signed_in = httpx.post(
        f"{url}/login", data=form, headers={**through_proxy, "Cookie": cookie.split(";")[0]}
    )
    assert signed_in.status_code == 303 and "rlhf_label=" in signed_in.headers["set-cookie"]
    assert client.get("/api/me").status_code == 401
    with LabelStore(folder / "labels.db") as store:
        assert account_named(store.database, "lea").role == "admin"


def test_the_labeling_space_keeps_labels_in_postgresql_by_a_secret(tmp_path, run, postgres):
    folder, labels = tmp_path / "space", postgres.create()
    assert rlhf("space", "label", folder).returncode == 0
    process, url = run(folder, RLHF_LABELS=labels, **ADMIN)
    assert httpx.get(f"{url}/login").status_code == 200, process.stderr.read()
    with LabelStore(labels) as store:
        assert account_named(store.database, "lea").role == "admin"
    assert not (folder / "labels.db").exists()


def test_a_chat_space_whose_model_could_not_be_copied_can_be_made_again(tmp_path):
    store = tiny_store(tmp_path)
    weights, kept = store.resolve("ppo").path / "model.safetensors", tmp_path / "kept"
    weights.rename(kept)
    weights.symlink_to(tmp_path / "gone")
    command = ("space", "chat", "ppo", tmp_path / "space", "--store", store.root)
    assert "model.safetensors" in rlhf(*command).stderr and not list((tmp_path / "space").iterdir())
    weights.unlink()
    kept.rename(weights)
    assert rlhf(*command).returncode == 0


def test_the_chat_space_answers(tmp_path, run):
    tiny_store(tmp_path / "store")
    folder = tmp_path / "space"
    done = rlhf("--store", tmp_path / "store", "space", "chat", "ppo", folder)
    assert done.returncode == 0, done.stderr
    assert header(folder)["title"] == "'ppo/0001-tiny'" and (folder / "model" / "config.json").exists()
    process, url = run(folder)
    assert process.poll() is None, process.stderr.read()
    client = Client(url, verbose=False, httpx_kwargs={"timeout": 200})
    said = client.predict("Where is the dog?", "", 0.7, 8, api_name="/chat")
    assert isinstance(said, str) and said
    again = rlhf("--store", tmp_path / "store", "space", "chat", "ppo", folder)
    assert again.returncode == 2 and "is there already" in again.stderr
