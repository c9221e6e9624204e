"""The remembered interpreter: it answers as a fresh one does, and is started only for what is new."""

import os

import pytest

from torchserve_guard.workers import Code, Interpreter, Remembered


@pytest.fixture
def codes(tmp_path):
    """Two archives' code: one imports what is there, one what is not."""
    for name, source in (("good", "import json\n"), ("bad", "import nowhere_to_be_found\n")):
        (tmp_path / name).mkdir()
        (tmp_path / name / "handler.py").write_text(source)
    return tuple(Code(tmp_path / name, "MAR-INF/MANIFEST.json", "handler.py", None) for name in ("good", "bad"))


@pytest.fixture
def started(monkeypatch):
    """What the interpreter was started for."""
    asked = []
    ask = Interpreter.ask
    monkeypatch.setattr(Interpreter, "ask", lambda self, codes: asked.append(codes) or ask(self, codes))
    return asked


def fresh(codes):
    with Interpreter(os.environ) as interpreter:
        return interpreter.ask(codes)


def test_it_answers_as_a_fresh_one_does(codes):
    remembered = Remembered(os.environ)
    for asked in ((), codes, codes[::-1], codes[:1], (codes[1], codes[1])):
        with remembered as interpreter:
            assert interpreter.ask(asked) == fresh(asked)


def test_it_is_started_only_for_what_is_new(codes, started):
    good, bad = codes
    remembered = Remembered(os.environ)
    for asked in ((good,), (good,), (good, bad), (bad,), ()):
        with remembered as interpreter:
            assert interpreter.ask(asked) is not None
    assert started == [(good,), (bad,)]


def test_one_that_does_not_answer_is_not_asked_the_same_again(codes, tmp_path, started):
    remembered = Remembered(os.environ)
    remembered._path = str(tmp_path / "nothing")
    for _ in range(2):
        with remembered as interpreter:
            assert interpreter.ask(codes) is None
    assert started == [codes]
    remembered._path = Interpreter({})._path
    with remembered as interpreter:
        assert interpreter.ask(codes[:1]) is not None
