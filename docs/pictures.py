"""Screenshots of every page over made-up work, to be looked at: python docs/pictures.py FOLDER

Each page at a desk and on a phone, light and dark.
"""

import random
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).parents[1]
sys.path.insert(0, str(ROOT))
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
DESK, PHONE = (1280, 844), (390, 844)
PATIENCE_MS = 120_000
DAY_S = 86_400
PASSWORD = "correct horse battery"
PROMPT = "My sourdough never rises and comes out like a brick. What am I doing wrong?"
ANSWERS = (
    "Most likely the starter is too young. **Try this:** feed it twice a day for a week, and bake only once it doubles "
    "within six hours. A dough at 24 °C then needs about ten hours.",
    "There are three usual causes:\n\n1. a weak starter\n2. too little water\n3. an oven that is not hot enough\n\nWhich flour do you use?",
    "Bread rises because of carbon dioxide. You should buy yeast.",
    "Knead longer. `Flour : water : salt = 100 : 70 : 2` works for most flours, and a hot pot with a lid keeps the steam in.",
)
OTHERS = tuple(
    f"{what} in one sentence." for what in ("Explain tides", "Describe a lathe", "Say why bread smells good")
)


@dataclass(frozen=True)
class Shot:
    """A page: who looks at it, where it is, what is there once it can be looked at, and what is done then."""

    name: str
    who: str
    address: str
    ready: str
    act: Callable[[Any], None] = lambda page: None


def main() -> None:
    """Take every picture."""
    from playwright.sync_api import sync_playwright

    if len(sys.argv) != 2:
        sys.exit("error: say where the pictures go: python docs/pictures.py FOLDER")
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    with sync_playwright() as playwright, tempfile.TemporaryDirectory() as scratch:
        found = next(filter(None, map(shutil.which, CHROMIUM)))
        browser = playwright.chromium.launch(executable_path=found, args=["--no-sandbox", "--disable-gpu"])
        for serving, shots in ((labeling_app, LABELING), (own_page_app, OWN_PAGE), (chat_app, CHAT)):
            with serving(Path(scratch)) as (url, cookies):
                for shot in shots:
                    four_of(shot, browser, url, cookies, folder)
        browser.close()


def four_of(shot: Shot, browser: Any, url: str, cookies: dict[str, Any], folder: Path) -> None:
    """One page at a desk and on a phone, in the light and in the dark."""
    for light in ("light", "dark"):
        for kind, size in (("desk", DESK), ("phone", PHONE)):
            path = folder / f"{shot.name}-{kind}-{light}.png"
            taken(shot, browser, url, cookies.get(shot.who), size, light, path)
    print(shot.name, flush=True)


def taken(
    shot: Shot, browser: Any, url: str, cookie: Any, size: tuple[int, int], light: str, path: Path
) -> None:
    context = browser.new_context(viewport={"width": size[0], "height": size[1]}, color_scheme=light)
    context.set_default_timeout(PATIENCE_MS)
    if cookie:
        context.add_cookies([{**cookie, "url": url}])
    page = context.new_page()
    page.goto(url + shot.address)
    page.locator(shot.ready).first.wait_for()
    page.wait_for_load_state("networkidle")
    shot.act(page)
    page.wait_for_timeout(700)  # what moves has come to rest
    page.screenshot(path=path)
    context.close()


def past_guidelines(page: Any) -> None:
    if page.locator("dialog[open]").count():
        page.keyboard.press("Enter")


def asked(page: Any) -> None:
    """The lead's own field has its answer."""
    past_guidelines(page)
    page.get_by_label("prose").check()


def ranked(page: Any) -> None:
    """Three answers have their ranks, two of them tied."""
    past_guidelines(page)
    for key in ("1", "2", "2"):
        page.keyboard.press(key)
    page.locator(".saved:has-text('saved')").wait_for()


def compared(page: Any) -> None:
    page.keyboard.press("ArrowLeft")


def written(page: Any) -> None:
    page.locator("textarea:visible").first.fill(
        "Feed the starter twice a day until it doubles in six hours; then bake."
    )


LABELING = (
    Shot("log-in", "", "/login", "[name=name]"),
    Shot("tasks", "ann", "/label/tasks", ".batch"),
    Shot("rank", "ann", "/label/?batch=bread", ".foot", ranked),
    Shot("compare", "ann", "/label/?batch=two+models", ".foot", compared),
    Shot("write", "ann", "/label/?batch=model+answers", ".foot", written),
    Shot("history", "ann", "/label/history", ".history li"),
    Shot("batches", "lea", "/lead/", "#batches tbody tr"),
    Shot("dashboard", "lea", "/lead/dashboard?batch=tone", "#csv-strengths"),
    Shot("review", "lea", "/lead/review?batch=tone", ".given"),
    Shot("new-batch", "lea", "/lead/new", "#create"),
    Shot("settings", "lea", "/lead/settings?batch=bread", "#save"),
    Shot("export", "lea", "/lead/export", "#make-export"),
    Shot("people", "lea", "/lead/people", "#people td"),
)
OWN_PAGE = (Shot("own-page", "ann", "/label/?batch=bread", ".foot", asked),)
CHAT = (Shot("chat", "ann", "/chat/1", ".turn.assistant"),)


@contextmanager
def labeling_app(folder: Path, *options: str) -> Iterator[tuple[str, dict[str, Any]]]:
    """`rlhf label` over made-up work: its address, and a session cookie by name."""
    from annotate.labels import LabelStore
    from tests.browser.conftest import Server

    labels = folder / f"labels{len(options)}.db"
    with LabelStore(labels) as store:
        made_up(store)
        server = Server(labels, *options)
        try:
            yield server.url, cookies(store, f"rlhf_label_{server.port}")
        finally:
            server.kill()


@contextmanager
def own_page_app(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    with labeling_app(folder, "--page", "examples.labeling_page:my_page") as found:
        yield found


@contextmanager
def chat_app(folder: Path) -> Iterator[tuple[str, dict[str, Any]]]:
    """`rlhf chat --web` over untrained models, with a conversation that was written for the picture."""
    from annotate.chat.conversations import add_message, start_conversation
    from annotate.labels import LabelStore
    from annotate.store.accounts import add_account
    from tests.chat.tiny import serving, tiny_store

    with LabelStore(folder / "chat.db") as store:
        add_account(store.database, "ann", PASSWORD)
        settings = {"model_a": "ppo/0001-tiny"}
        number = start_conversation(store.database, "ann", settings, title="Sourdough like a brick")
        turns = (PROMPT, ANSWERS[1], "Rye, mostly.", "Rye holds less gas: *mix it half and half with wheat.*")
        parent = None
        for i, text in enumerate(turns):
            who = (
                {"role": "assistant", "checkpoint": "ppo/0001-tiny", "ended": True}
                if i % 2
                else {"role": "user"}
            )
            parent = add_message(
                store.database, "ann", number, client_id=f"picture-{i}", content=text, parent=parent, **who
            )
        with serving(tiny_store(folder / "store"), folder / "chat.db", "chat", "--web") as server:
            yield server.url, cookies(store, f"rlhf_label_{server.port}")


def cookies(store: Any, name: str) -> dict[str, Any]:
    from annotate.store.accounts import accounts, open_session

    people = [one.name for one in accounts(store.database) if one.origin == "person" and one.active]
    return {who: {"name": name, "value": open_session(store.database, who)} for who in people}


def made_up(store: Any) -> None:
    """Accounts, four batches, and ten days of answers to one of them by three people and a simulated labeler."""
    from annotate.store.accounts import add_account, set_active
    from annotate.work.asks import FLAGS, Asks
    from annotate.work.batches import NewTask

    for name, role in (
        ("ann", "labeler"),
        ("ben", "labeler"),
        ("dan", "labeler"),
        ("eve", "labeler"),
        ("lea", "lead"),
    ):
        add_account(store.database, name, PASSWORD, role)
    set_active(store.database, "eve", False)
    store.add_labeler("simulated-1", origin="simulated")
    asks = Asks(ratings=True, flags=FLAGS, none_acceptable=True)
    tone = [
        NewTask(
            prompt=f"{what} ({i})", completions=ANSWERS, checkpoints=("sft/1", "sft/1", "base/1", "ppo/1")
        )
        for i in range(20)
        for what in OTHERS
    ]
    gold = [
        NewTask(prompt="2 + 2?", completions=("4", "5", "22", "fish"), gold=(0, 1, 1, 2)) for _ in range(5)
    ]
    store.add_batch("tone", [*tone, *gold], overlap=4, asks=asks)
    bread = [NewTask(prompt=PROMPT, completions=ANSWERS), *tone[:30]]
    rules = "Facts first, then tone. A short answer that is right is better than a long one."
    store.add_batch("bread", bread, overlap=2, guidelines=rules, asks=asks, task_order="priority")
    two = [
        NewTask(prompt=PROMPT, completions=ANSWERS[:2]),
        *(NewTask(prompt=p, completions=ANSWERS[2:]) for p in OTHERS),
    ]
    store.add_batch("two models", two, kind="compare", asks=Asks(strength=True))
    store.add_batch(
        "model answers", [NewTask(prompt=PROMPT, completions=ANSWERS[:1])] * 3, kind="demonstrate"
    )
    answered(store)


def answered(store: Any) -> None:
    """Labelers see what is better, more or less; earlier days are written into the store, as no page can."""
    from sqlalchemy import func, select, update

    from annotate.labels import Submission
    from annotate.store.schema import Annotation

    rng = random.Random(0)
    for name, noise, most in (("ann", 0.7, 60), ("ben", 1.1, 50), ("dan", 0.9, 40), ("simulated-1", 0.4, 65)):
        for _ in range(most):
            task = store.lease(name, "tone")
            worth = [
                rng.gauss((2.0, 1.6, 0.2, 1.2)[ANSWERS.index(text)], noise)
                if text in ANSWERS
                else rng.random()
                for text in task.completions
            ]
            order = sorted(worth, reverse=True)
            store.submit(
                name,
                Submission(
                    task_id=task.id, client_id=f"{name}-{task.id}", shown_order=task.shown_order, time_s=rng.uniform(5, 40),
                    ranks=tuple(order.index(one) for one in worth),
                    ratings=tuple(max(1, min(7, round(3 + one))) for one in worth),
                    flags=tuple(("made_up",) if one < 0.3 and rng.random() < 0.5 else () for one in worth),
                ),
            )  # fmt: skip
    with store.database.write() as connection:
        last = connection.execute(select(func.max(Annotation.id))).scalar_one()
        for number in range(1, last + 1):
            earlier = (number * 7 % 10) * DAY_S
            chosen = update(Annotation).where(Annotation.id == number)
            connection.execute(chosen.values(created=Annotation.created - earlier))


if __name__ == "__main__":
    main()
