"""How fast the labelers' pages are for one person, in Chromium: from Enter to the next task, pages opening, an idle server.

    python benchmarks/label_pages.py                     # 50 tasks, 20 visits, a minute of idleness

Times are from the browser's own clock. A first visit has an empty cache; memory is the server's resident set.
"""

import argparse
import json
import shutil
import socket
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import suppress
from pathlib import Path
from typing import Any

import psutil

from annotate.labels import LabelStore
from annotate.store.accounts import add_account, open_session
from annotate.work.batches import NewTask

TEXT = "An answer of some length, as people meet them. " * 12
CHROMIUM = ("chromium", "chromium-browser", "google-chrome")
# Resolves with the milliseconds from now until another task stands on the board and takes keys.
NEXT_TASK = """() => new Promise((resolve) => {
    const board = document.getElementById("board"), before = board.querySelector(".prompt").textContent, from = performance.now();
    const seen = () => {
        const prompt = board.querySelector(".prompt")?.textContent ?? "";
        if (prompt !== before && !board.inert) { observer.disconnect(); resolve(performance.now() - from); }
    };
    const observer = new MutationObserver(seen);
    observer.observe(board, { childList: true, subtree: true, attributes: true });
    document.dispatchEvent(new KeyboardEvent("keydown", { key: "Enter", bubbles: true }));
})"""
OPENED = """() => new Promise((resolve) => {
    const seen = () => { if (document.querySelector("#board .foot")) resolve(performance.now()); else requestAnimationFrame(seen); };
    seen();
})"""


def serve(labels: Path) -> tuple[subprocess.Popen[bytes], str, float]:
    """`rlhf label` over a database, its address, and the seconds until it answers."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "stages.cli", "label", "--labels", str(labels), "--port", str(port)]
    start = time.perf_counter()
    process = subprocess.Popen(command, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    while True:
        with suppress(OSError):
            urllib.request.urlopen(url + "/login")
            return process, url, time.perf_counter() - start
        time.sleep(0.01)


def measured(num_tasks: int, visits: int, idle_s: float) -> dict[str, Any]:
    """All numbers, over a new database."""
    from playwright.sync_api import sync_playwright

    with tempfile.TemporaryDirectory() as folder, sync_playwright() as playwright:
        labels = Path(folder) / "labels.db"
        with LabelStore(labels) as store:
            add_account(store.database, "ann")
            tasks = [
                NewTask(prompt=f"question {n}", completions=tuple(f"{n} {i} {TEXT}" for i in range(4)))
                for n in range(num_tasks + visits + 2)
            ]
            store.add_batch("pages", tasks)
            token = open_session(store.database, "ann")
        process, url, listening_s = serve(labels)
        try:
            browser = playwright.chromium.launch(
                executable_path=next(filter(None, map(shutil.which, CHROMIUM))), args=["--no-sandbox"]
            )
            cookie: Any = {"name": f"rlhf_label_{url.rsplit(':', 1)[1]}", "value": token, "url": url}

            def visit() -> Any:
                context = browser.new_context(viewport={"width": 1280, "height": 800})
                context.add_cookies([cookie])
                return context.new_page()

            page = visit()
            page.goto(f"{url}/label/?batch=pages")
            page.wait_for_selector("#board .foot", timeout=120_000)  # Gradio is there from now on
            first = [_first(visit(), url) for _ in range(3)]
            opened = [_opened(page, url) for _ in range(visits)]
            following = [_next(page) for _ in range(num_tasks)]
            page.context.close()
            return {
                "server listens s": round(listening_s, 2),
                "Enter to next task ms": _spread(following),
                "page open, cached ms": _spread(opened),
                "first visit ms": _spread(first),
                "idle, share of a core": round(_idle(process.pid, idle_s), 4),
                "memory of the server MB": round(psutil.Process(process.pid).memory_info().rss / 2**20),
            }
        finally:
            process.kill()
            process.wait()


def _first(page: Any, url: str) -> float:
    found = _opened(page, url)
    page.context.close()
    return found


def _opened(page: Any, url: str) -> float:
    page.goto(f"{url}/label/?batch=pages", wait_until="commit")
    return float(page.evaluate(OPENED))


def _next(page: Any) -> float:
    for key in "2143":
        page.keyboard.press(key)
    return float(page.evaluate(NEXT_TASK))


def _spread(values: list[float]) -> dict[str, float]:
    ordered = sorted(values)
    p95 = ordered[int(0.95 * (len(ordered) - 1))]
    return {"median": round(statistics.median(values)), "p95": round(p95)}


def _idle(pid: int, seconds: float) -> float:
    """The share of a core that a server uses to which nobody speaks."""
    process = psutil.Process(pid)
    time.sleep(3)
    before = sum(process.cpu_times()[:2])
    time.sleep(seconds)
    return float(sum(process.cpu_times()[:2]) - before) / seconds


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("--tasks", type=int, default=50)
    parser.add_argument("--visits", type=int, default=20)
    parser.add_argument("--idle", type=float, default=60.0, help="seconds")
    options = parser.parse_args()
    print(json.dumps(measured(options.tasks, options.visits, options.idle), indent=1))


if __name__ == "__main__":
    main()
