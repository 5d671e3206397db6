"""Imports that make way for requests."""

import gc
import importlib
import sys
import threading

import pytest

from annotate.app.site import courtesy
from annotate.app.site.courtesy import STEP_S, Courtesy


@pytest.fixture
def modules(tmp_path, monkeypatch):
    """Names of modules that were never imported."""
    monkeypatch.syspath_prepend(tmp_path)
    names = [f"module_of_courtesy_{number}" for number in range(4)]
    for name in names:
        (tmp_path / f"{name}.py").write_text("")
    yield names
    for name in names:
        sys.modules.pop(name, None)


def test_an_import_waits_for_a_request_and_goes_on_with_its_end(modules, monkeypatch):
    monkeypatch.setattr(courtesy, "STEP_S", 60.0)
    polite, imported = Courtesy(), threading.Event()

    def load():
        with polite.polite():
            importlib.import_module(modules[0])
        imported.set()

    with polite.request(), polite.request():
        thread = threading.Thread(target=load)
        thread.start()
        assert not imported.wait(0.2)
    assert imported.wait(30)
    thread.join()
    assert modules[0] in sys.modules


def test_a_request_without_an_end_holds_imports_up_for_a_limited_time(modules, monkeypatch):
    monkeypatch.setattr(courtesy, "LIMIT_S", STEP_S)
    polite = Courtesy()
    with polite.request(), polite.polite():
        for name in modules:
            importlib.import_module(name)
    assert polite.left_s <= 0 and set(modules) <= set(sys.modules)


def test_nothing_stays_changed(modules):
    before = (sys.getswitchinterval(), list(sys.meta_path), gc.isenabled())
    polite = Courtesy()
    with pytest.raises(ModuleNotFoundError), polite.polite():
        importlib.import_module("no_module_of_this_name")
    assert (sys.getswitchinterval(), list(sys.meta_path), gc.isenabled()) == before
