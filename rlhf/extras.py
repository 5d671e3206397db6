"""Packages that only some installations have, and the extra of rlhf-loop that brings each."""

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
