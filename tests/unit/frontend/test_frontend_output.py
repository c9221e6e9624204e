"""What TorchServe prints: passed on, remembered, and read for signs."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.frontend.output import KEPT, LONGEST_LINE, Output, _WithoutGreeting, explain, last_words

RETRY = (
    "2026-01-01T00:00:00,000 [INFO ] W-9000-bad_1.0 o.pytorch.serve.wlm.WorkerThread - Retry worker: 9000 in 1 seconds."
)
FAILED = "2026-01-01T00:00:00,000 [WARN ] main org.pytorch.serve.ModelServer - Failed to load model: x.mar"
LOADED = (
    "2026-01-01T00:00:00,000 [DEBUG] W-9000-a_1 o.WorkerThread - State change WORKER_STARTED -> WORKER_MODEL_LOADED"
)


class Printed:
    """What Output made of some text that went through real pipes."""

    def __init__(self, text: bytes, *, sink: int | None = None) -> None:
        self.signs = 0
        source, target = os.pipe()
        self.output = Output(self._sign)
        out, into = os.pipe()
        self.output.forward(os.fdopen(source, "rb"), into if sink is None else sink)
        os.write(target, text)
        os.close(target)
        assert self.output.finished(5)
        os.close(into)
        with os.fdopen(out, "rb") as stream:
            self.forwarded = stream.read()

    def _sign(self) -> None:
        self.signs += 1


def test_what_is_printed_is_passed_on_byte_for_byte_and_kept_by_line():
    printed = Printed(b"one\r\ntwo\x1b[31m\xff\nthree")
    assert printed.forwarded == b"one\r\ntwo\x1b[31m\xff\nthree"
    assert printed.output.tail() == ("one�", "two�[31m�", "three")


def test_only_the_end_is_kept():
    printed = Printed(b"".join(b"%d\n" % number for number in range(KEPT + 5)))
    assert (len(printed.output.tail()), printed.output.tail()[0]) == (KEPT, "5")


def test_a_line_without_an_end_does_not_grow_without_one():
    printed = Printed(b"x" * (3 * LONGEST_LINE))
    assert max(len(line) for line in printed.output.tail()) <= LONGEST_LINE


def test_a_reader_that_is_gone_is_done_without(tmp_path):
    source, gone = os.pipe()
    os.close(source)
    assert Printed(b"still\nkept\n", sink=gone).output.tail() == ("still", "kept")
    os.close(gone)


def test_deaths_failures_and_loads_are_signs():
    printed = Printed(f"{RETRY}\n{RETRY}\n{FAILED}\n{LOADED}\nchatter about a model\n".encode())
    assert printed.output.deaths == {"W-9000-bad_1.0": 2}
    assert list(printed.output.failed) == ["x.mar"]
    assert printed.signs == 4


@pytest.mark.parametrize(
    "said", ["Failed to load model: y.mar", "W-1-a_1 o.WorkerThread - Retry worker: 1 in 1 seconds."]
)
def test_a_model_cannot_give_signs_by_printing_them(said):
    printed = Printed(f"2026-01-01T00:00:00,000 [INFO ] W-9000-a_1-stdout MODEL_LOG - ModelServer - {said}\n".encode())
    assert (printed.signs, printed.output.deaths, list(printed.output.failed)) == (0, {}, [])


def worker(text: str, level: str = "INFO ") -> str:
    return f"2026-01-01T00:00:00,000 [{level}] W-9000-bad_1.0-stdout MODEL_LOG - {text}"


def test_an_explanation_is_the_models_own_words_without_foreign_frames():
    lines = (
        worker("Torch worker started."),
        worker("Traceback (most recent call last):"),
        worker('  File "/venv/lib/python3.11/site-packages/ts/model_loader.py", line 143, in load'),
        "2026-01-01T00:00:00,000 [DEBUG] W-9000-bad_1.0 org.pytorch.serve.wlm.WorkerThread - System state is : X",
        worker("    initialize_fn(service.context)"),
        worker('  File "/store/bad.mar/bad.py", line 13, in initialize'),
        worker('    raise RuntimeError("why")'),
        worker("RuntimeError: why"),
        "2026-01-01T00:00:00,000 [INFO ] W-9001-good_1.0-stdout MODEL_LOG - not me",
    )
    assert explain(lines, "-bad_1.0") == (
        "Traceback (most recent call last):",
        '  File "/store/bad.mar/bad.py", line 13, in initialize',
        '    raise RuntimeError("why")',
        "RuntimeError: why",
    )


def test_an_exception_of_javas_is_quoted_without_its_frames():
    lines = (
        FAILED,
        "org.x.ModelNotFoundException: Model not found at: x.mar",
        "\tat org.x.A.b(A.java:1) [x.jar:?]",
        "other",
    )
    assert explain(lines, "Failed to load model: x.mar") == lines[:2]


def test_last_words_are_the_last_lines_that_say_something():
    assert last_words(["a", "", "b", "\tat x.Y.z(Y.java:1)", "c"], 2) == ("b", "c")


def test_the_lean_configuration_is_shipped_with_the_package():
    text = (Path(__file__).parents[3] / "torchserve_guard" / "frontend" / "lean.xml").read_text(encoding="ascii")
    assert "model_log.log" in text


@given(st.lists(st.integers(1, 40)))
def test_the_greeting_of_torchserve_is_withheld_however_it_comes_in_pieces(cuts):
    text = b"first\nModel ...\nit said: Model server started.\nModel server started.\nlast\nModel"
    passage, passed = _WithoutGreeting(), b""
    for length in cuts:
        passed += passage.passed(text[:length])
        text = text[length:]
    passed += passage.passed(text) + passage.held
    assert passed == b"first\nModel ...\nit said: Model server started.\nlast\nModel"
