"""A folder that is a Hugging Face Space: the labeling app, or a checkpoint to talk to. It runs anywhere by `python app.py`."""

from collections.abc import Callable
from pathlib import Path

from rlhf import __version__
from rlhf.durable import copy_files, new_folder
from rlhf.errors import InputError
from rlhf.hub_names import SCHEME
from rlhf.inputs import locate_model
from rlhf.model_card import NOT_PUBLISHED
from rlhf.packages import how_to_install, version_of
from rlhf.store import Store

LABEL_APP = '''"""The labeling app as a Space: people sign in, labels are kept in the persistent folder or in PostgreSQL."""

import os
import sys
from pathlib import Path

from annotate.app import labeling
from annotate.labels import LabelStore
from annotate.store.accounts import add_account, has_accounts
from rlhf.errors import LabelError

# Secrets of the Space: RLHF_LABELS, a postgresql:// URL, for labels in a database instead of a file; ADMIN_NAME and
# ADMIN_PASSWORD, the account that is made when there is none yet.
FOLDER = Path("/data") if Path("/data").is_dir() else Path(__file__).parent
LABELS = os.environ.get("RLHF_LABELS") or str(FOLDER / "labels.db")
# Nobody but the host's own proxy reaches a Space.
PROXIES = ("127.0.0.0/8", "10.0.0.0/8", "172.16.0.0/12", "192.168.0.0/16", "fc00::/7", "::1")


def main() -> None:
    with LabelStore(LABELS) as store:
        if not has_accounts(store.database):
            name, password = os.environ.get("ADMIN_NAME"), os.environ.get("ADMIN_PASSWORD")
            if not name or not password:
                raise LabelError("set the secrets ADMIN_NAME and ADMIN_PASSWORD: they make the first account")
            add_account(store.database, name, password, "admin")
    port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
    labeling(LABELS, host="0.0.0.0", port=port, behind_proxy=PROXIES).launch()


if __name__ == "__main__":
    try:
        main()
    except LabelError as error:
        sys.exit(f"error: {error}")
'''
CHAT_APP = '''"""A checkpoint to talk to, as a Space."""

import os
import secrets
from collections.abc import Iterator
from pathlib import Path

import gradio as gr

from rlhf.errors import InputError
from rlhf.serving.completions import Failed, Piece, Request
from rlhf.serving.engine_process import EngineProcess

MODEL = {model}
EXAMPLES = {examples}
if MODEL == "model":
    MODEL = str(Path(__file__).parent / MODEL)


def text_of(content) -> str:
    """The text of a turn, which Gradio gives as one or as a list of blocks."""
    return content if isinstance(content, str) else "".join(block.get("text", "") for block in content)


def main() -> None:
    with EngineProcess() as engine:

        def answer(message: str, history: list, system: str, temperature: float, longest: int) -> Iterator[str]:
            turns = [{{"role": turn["role"], "content": text_of(turn["content"])}} for turn in history]
            first = [{{"role": "system", "content": system}}] if system.strip() else []
            messages = (*first, *turns, {{"role": "user", "content": message}})
            said = ""
            try:
                request = Request(
                    messages=messages, temperature=temperature, max_new_tokens=int(longest), drop_oldest=True,
                    seed=secrets.randbits(32),
                )
            except InputError as error:
                raise gr.Error(str(error)) from None
            for event in engine.stream(MODEL, request):
                if isinstance(event, Piece):
                    said += event.text
                    yield said
                elif isinstance(event, Failed):
                    raise gr.Error(event.error)

        settings = [
            gr.Textbox("", label="System"),
            gr.Slider(0, 2, 0.7, label="Temperature"),
            gr.Slider(1, 1024, 128, step=1, label="Longest answer, in tokens"),
        ]
        chat = gr.ChatInterface(
            answer, api_name="chat", title={title}, additional_inputs=settings, concurrency_limit=16, save_history=True,
            examples=[[text] for text in EXAMPLES] or None, cache_examples=False, flagging_mode="never", analytics_enabled=False,
        )
        port = int(os.environ.get("GRADIO_SERVER_PORT", "7860"))
        chat.launch(server_name="0.0.0.0", server_port=port)


if __name__ == "__main__":
    main()
'''
README = """---
title: {title}
emoji: {emoji}
colorFrom: blue
colorTo: gray
sdk: gradio
sdk_version: {gradio}
python_version: "3.11"
app_file: app.py
pinned: false
{more}---

{text}
"""
LABEL_TEXT = """Made by `rlhf space label`. Before the first start, in the Space's settings:

- secrets `ADMIN_NAME` and `ADMIN_PASSWORD` (8 characters or more) make the first account, an administrator's;
- persistent storage, in which `/data/labels.db` is kept, or a secret `RLHF_LABELS` with a `postgresql://` URL. Without
  either the labels are gone when the Space restarts.

Open it at its own address (*Embed this Space*, *Direct URL*): within another site's frame nobody can sign in.
The page *People* makes tokens for programs, which make batches and accounts; see the documentation of rlhf."""
CHAT_TEXT = """Made by `rlhf space chat` from {name}. The model lies in `model/`, or comes from the hub where app.py names it."""


def write_label_space(folder: Path, say: Callable[[str], None]) -> None:
    """Write the labeling app's Space. Raises InputError for a folder that holds something."""
    _check_free(folder)
    text = README.format(title="Labels", emoji="🗂️", gradio=_gradio(), more="", text=LABEL_TEXT)
    _write(
        folder, {"app.py": LABEL_APP, "README.md": text, "requirements.txt": _requirements("label,postgres")}
    )
    say(f"{folder}: app.py, README.md, requirements.txt; set the secrets that README.md names")


def write_chat_space(store: Store, checkpoint: str, folder: Path, say: Callable[[str], None]) -> None:
    """Write the Space of a checkpoint, a folder or a hub id to talk to. Raises InputError for a folder that holds something."""
    source, entry = locate_model(store, checkpoint)
    is_local, on_hub = Path(source).exists(), source.removeprefix(SCHEME)
    examples: list[str] = []
    if entry is not None and any(name.startswith("starter") for name in entry.manifest["data"]):
        from rlhf.starter.items import take_items

        examples = [item.prompt for item in take_items("test", 4, 0)]
    title = entry.ref if entry else Path(checkpoint).name
    app = CHAT_APP.format(
        model=repr("model" if is_local else on_hub), examples=repr(examples), title=repr(title)
    )
    more = "" if is_local else f"models:\n- {on_hub}\n"
    text = README.format(
        title=repr(title), emoji="💬", gradio=_gradio(), more=more, text=CHAT_TEXT.format(name=title)
    )
    if is_local and not Path(source).is_dir():
        raise InputError(
            f"{source}: a Space takes a folder or a hub id; make one of it: rlhf import {source}"
        )
    _check_free(folder)
    if is_local:
        with new_folder(folder / "model") as model:
            copy_files(Path(source), model, (*NOT_PUBLISHED, "value", "ema", "history.json"))
    _write(folder, {"app.py": app, "README.md": text, "requirements.txt": _requirements("label")})
    say(f"{folder}: app.py, README.md, requirements.txt" + (", model" if is_local else ""))


def _check_free(folder: Path) -> None:
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise InputError(f"{folder}: is there already; name a folder that is not, or an empty one")


def _write(folder: Path, files: dict[str, str]) -> None:
    try:
        folder.mkdir(parents=True, exist_ok=True)
        for name, text in files.items():
            (folder / name).write_text(text, encoding="utf-8")
    except OSError as error:
        raise InputError(f"{folder}: cannot be written: {error.strerror}") from None


def _requirements(extras: str) -> str:
    return f"rlhf-loop[{extras}]=={__version__}\n"


def _gradio() -> str:
    """The version this was tried with."""
    if (version := version_of("gradio")) is None:
        raise InputError(f"a Space needs gradio: {how_to_install('gradio')}")
    return version
