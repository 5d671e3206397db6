"""Gradio components of our own."""

from typing import Any

from gradio import component_meta

_write_stub = component_meta.create_or_modify_pyi


def _write_stub_of_others(component_class: type, class_name: str, events: list[Any]) -> None:
    """Gradio writes a stub beside each component's source, also into an installed package; ours need none."""
    if not component_class.__module__.startswith(f"{__name__}."):
        _write_stub(component_class, class_name, events)


component_meta.create_or_modify_pyi = _write_stub_of_others
