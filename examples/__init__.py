"""The experiments of docs/talk, each run by `python -m examples.NAME` from the root of the repository."""
