"""Packages: the extra of rlhf-loop that brings one which is missing, and the versions that an entry was made with."""

import subprocess
from importlib import metadata
from pathlib import Path

PACKAGES = ("torch", "transformers", "trl", "datasets", "tiktoken", "tokenizers")  # a result depends on them
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


def versions() -> dict[str, str | None]:
    """The versions of the packages that a result depends on; None for one that is not here."""
    return {package: version_of(package) for package in PACKAGES}


def version_of(package: str) -> str | None:
    """The version of a package, by its name on the index; None where it is not installed."""
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
