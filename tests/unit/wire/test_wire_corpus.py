"""Every spelling trick that was ever thought of, and what it must be taken for."""

from pathlib import Path

import pytest
import yaml

from torchserve_guard.access import Action
from torchserve_guard.errors import BadRequest, MethodNotAllowed, NotFound
from torchserve_guard.wire import Listener, classify, render

CORPUS = Path(__file__).parents[2] / "corpus" / "targets.yaml"
ROWS = [row for rows in yaml.safe_load(CORPUS.read_text("utf-8")).values() for row in rows]
REFUSALS = {"bad-request": BadRequest, "not-found": NotFound, "method-not-allowed": MethodNotAllowed}

REFUSED = [row for row in ROWS if row[3] in REFUSALS]
ACCEPTED = [row for row in ROWS if row[3] not in REFUSALS]


def test_the_corpus_is_not_small_and_has_no_row_twice():
    assert len({tuple(row[:3]) for row in ROWS}) == len(ROWS) >= 200


@pytest.mark.parametrize(("listener", "method", "target", "refusal"), REFUSED)
def test_a_target_that_nobody_should_send_is_refused(listener, method, target, refusal):
    with pytest.raises(REFUSALS[refusal]) as caught:
        classify(Listener(listener), method, target.encode("latin-1"))
    assert caught.value.rule.startswith("wire.")
    assert caught.value.reason.isascii()
    assert caught.value.reason.isprintable()


@pytest.mark.parametrize(("listener", "method", "target", "action", "resource"), ACCEPTED)
def test_a_target_is_known_for_what_it_is(listener, method, target, action, resource):
    operation = classify(Listener(listener), method, target.encode("latin-1"))
    assert operation.action is Action(action)
    assert str(operation.resource) == resource
    assert classify(Listener(listener), *render(operation)) == operation
