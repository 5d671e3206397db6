"""Packages: the extra of rlhf-loop that brings one which is missing, and the versions that an entry was made with."""

import subprocess
from importlib import metadata
from pathlib import Path

EXTRAS = {
    "label": (
        "gradio",
        "fastapi",
        "uvicorn",
        "python_multipart",
        "jinja2",
        "markdown_it",
        "argon2",
        "prometheus_client",
        "starlette",
    ),
    "json": ("llguidance",),
    "postgres": ("psycopg",),
    "gguf": ("gguf",),
}  # by the names that are imported; starlette comes with fastapi


def how_to_install(module: str) -> str | None:
    """The command that brings a module of an extra, such as "fastapi.routing"; None for a module of no extra."""
    package = module.partition(".")[0]
    for extra, packages in EXTRAS.items():
        if package in packages:
            return f"pip install 'rlhf-loop[{extra}]'"
    return None


PACKAGES = ("torch", "transformers", "trl", "datasets", "tiktoken", "tokenizers")


def versions() -> dict[str, str | None]:
    """The versions of the packages that a result depends on; None for one that is not here."""
    return {package: _version(package) for package in PACKAGES}


def _version(package: str) -> str | None:
    try:
        return metadata.version(package)
    except metadata.PackageNotFoundError:
        return None


def commit() -> str | None:
    """The commit of this package, where it runs from a checkout."""
    try:
        here = Path(__file__).parent
        return subprocess.run(
            ["git", "rev-parse", "HEAD"], cwd=here, capture_output=True, text=True, check=True
        ).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return None
