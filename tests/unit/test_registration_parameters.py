"""What a registration may ask for: stock's own errors where stock refuses too, ours where it would not."""

import pytest

from torchserve_guard import registration
from torchserve_guard.errors import BadRequest, Forbidden
from torchserve_guard.wire import Listener, classify


def asked(query: str) -> str:
    operation = classify(Listener.MANAGEMENT, "POST", f"/models{query}".encode())
    return registration._item_of(operation).archive


@pytest.mark.parametrize("query", ["", "?model_name=a"])
def test_what_stock_refuses_is_refused_in_its_words(query):
    with pytest.raises(BadRequest) as caught:
        asked(query)
    assert caught.value.message == "Parameter url is required."


@pytest.mark.parametrize("runtime", ["python3", "LSP"])
def test_another_runtime_than_the_guards_own_is_not_chosen(runtime):
    with pytest.raises(Forbidden):
        asked(f"?url=a.mar&runtime={runtime}")


def test_a_bare_name_is_what_is_registered():
    assert asked("?url=a.mar&runtime=python") == "a.mar"
