"""The wheel in a new environment, away from the checkout, run by somebody who may not write into the package."""

import os
import pwd
import shutil
import socket
import subprocess
import sys
import tarfile
import tempfile
import time
import urllib.request
import venv
import zipfile
from pathlib import Path

import pytest

pytestmark = pytest.mark.wheel
ROOT = Path(__file__).parents[2]
PIP = ("-m", "pip", "install", "--quiet", "--disable-pip-version-check", "-c", str(ROOT / "constraints.txt"))
DATA_FILES = (
    "stages/recipes/quickstart.toml",
    "rlhf/machine/kernels.cpp",
    "rlhf/py.typed",
    "annotate/store/migrations/script.py.mako",
)


def run(*command, **more):
    done = subprocess.run([str(part) for part in command], capture_output=True, text=True, **more)
    assert done.returncode == 0, done.stdout[-3000:] + done.stderr[-3000:]
    return done


@pytest.fixture(scope="module")
def home():
    """A folder that everybody may read."""
    folder = Path(tempfile.mkdtemp(prefix="rlhf-wheel-"))
    folder.chmod(0o755)
    yield folder
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="module")
def built(home):
    """The folder with sdist and wheel, made of what git tracks and what is new, not of what lies about."""
    tree = home / "checkout"
    listed = run(
        "git", "ls-files", "--cached", "--others", "--exclude-standard", cwd=ROOT
    ).stdout.splitlines()
    for name in listed:
        if (ROOT / name).exists():
            (tree / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, tree / name, follow_symlinks=False)
    run(sys.executable, "-m", "build", "--outdir", home / "dist", tree)
    return home / "dist"


@pytest.fixture(scope="module")
def installed(home, built):
    """The new environment's folder of programs."""
    environment = home / "environment"
    venv.create(environment, with_pip=True)
    wheel = next(built.glob("*.whl"))
    run(environment / "bin/python", *PIP, "torch")
    run(environment / "bin/python", *PIP, f"{wheel}[label]")
    return environment / "bin"


@pytest.fixture(scope="module")
def user(home):
    """What a process of somebody else needs: his name, his environment and a folder to work in."""
    folder = home / "user"
    folder.mkdir()
    more = {}
    if os.getuid() == 0:
        shutil.chown(folder, "nobody", pwd.getpwnam("nobody").pw_gid)
        more = {"user": "nobody", "group": pwd.getpwnam("nobody").pw_gid, "extra_groups": []}
    return {
        "cwd": folder,
        "env": {"PATH": "/usr/bin:/bin", "HOME": str(folder), "OMP_NUM_THREADS": "2"},
        **more,
    }


def test_wheel_and_sdist_hold_the_data_files_and_nothing_at_the_top_but_three_packages(built):
    wheel, sdist = next(built.glob("rlhf_loop-*.whl")), next(built.glob("rlhf_loop-*.tar.gz"))
    names = zipfile.ZipFile(wheel).namelist()
    assert set(DATA_FILES) <= set(names)
    assert {name.split("/")[0] for name in names if ".dist-info" not in name} == {
        "rlhf",
        "annotate",
        "stages",
    }
    with tarfile.open(sdist) as archive:
        held = {member.name.partition("/")[2] for member in archive if member.isfile()}
    assert set(DATA_FILES) <= held


def test_quickstart_runs_to_its_report_then_chat_answers(installed, user):
    done = run(installed / "rlhf", "quickstart", "--recipe", "smoke", **user)
    assert "report.html" in done.stdout + done.stderr
    answer = run(installed / "rlhf", "chat", "--max-new-tokens", "8", input="Hello\n", **user)
    assert answer.stdout.strip()


def test_without_a_writable_cache_quickstart_runs_as_well(installed, user):
    there = {**user, "env": user["env"] | {"XDG_CACHE_HOME": "/proc/nothing"}}
    run(installed / "rlhf", "quickstart", "--recipe", "smoke", "--store", "other", **there)


def test_the_labeling_app_listens_and_its_pages_have_their_files(installed, user):
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [installed / "rlhf", "label", "--port", str(port)], stderr=subprocess.PIPE, **user
    )
    try:
        page = opened(server, f"http://127.0.0.1:{port}/")
        assert "<html" in page and "stylesheet" in page
    finally:
        server.terminate()
        server.wait(30)


def opened(server, url):
    """What a browser gets there; the log-in of somebody on this machine hands out a cookie."""
    browser = urllib.request.build_opener(urllib.request.HTTPCookieProcessor())
    deadline = time.time() + 120
    while time.time() < deadline:
        assert server.poll() is None, server.stderr.read()
        try:
            return browser.open(url, timeout=20).read().decode()
        except OSError:
            time.sleep(0.1)
    raise AssertionError("the app did not listen within two minutes")


def test_the_version_is_said_once_and_the_same_everywhere(installed, built, user):
    import rlhf

    said = run(installed / "rlhf", "--version", **user).stdout
    assert said == f"rlhf {rlhf.__version__}\n" and f"-{rlhf.__version__}-" in next(built.glob("*.whl")).name
