"""The turns: never more at once than may be, in the order of asking, and none lost."""

import asyncio

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchserve_guard.errors import TooMany, Unavailable
from torchserve_guard.proxy.limits import Limits
from torchserve_guard.proxy.turns import Turns


class Waiter:
    def __init__(self, come: list["Waiter"]) -> None:
        self.come = come

    def turn_comes(self) -> None:
        self.come.append(self)


@given(st.integers(1, 3), st.integers(0, 3), st.lists(st.integers(0, 5), max_size=60))
def test_turns_come_in_order_and_never_too_many_at_once(most, queue, steps):
    turns, come, having, waiting = Turns(most, queue, 1.0), [], [], []
    for step in steps:
        if step < 3:
            waiter = Waiter(come)
            try:
                (having if turns.take("m", waiter) else waiting).append(waiter)
            except TooMany:
                assert len(having) == most
                assert len(waiting) == queue
        elif step == 3 and waiting:
            turns.leave("m", waiting.pop())
        elif having:
            having.pop()
            turns.give("m")
            having += come
            assert come == waiting[: len(come)]
            del waiting[: len(come)]
            come.clear()
        assert turns.counts() == (len(having), len(waiting))
        assert len(having) <= most
        assert not waiting or len(having) == most
    for _ in range(len(having) + len(waiting)):
        turns.give("m")
    assert turns.counts() == (0, 0)
    assert not turns._models


def test_one_model_waits_for_no_other():
    turns = Turns(1, 0, 1.0)
    assert turns.take("a", Waiter([]))
    assert turns.take("b", Waiter([]))
    with pytest.raises(TooMany) as caught:
        turns.take("a", Waiter([]))
    assert (caught.value.status, caught.value.rule) == (429, "proxy.model-queue")


async def test_a_coroutine_has_its_turn_waits_for_it_or_is_told_that_it_took_too_long():
    turns = Turns(1, 1, 0.05)
    async with turns.turn("m"):
        with pytest.raises(Unavailable):
            async with turns.turn("m"):
                pass
        waiting = asyncio.create_task(_once(turns))
        await asyncio.sleep(0)
        with pytest.raises(TooMany):
            async with turns.turn("m"):
                pass
    assert await waiting == "had it"
    assert turns.counts() == (0, 0)


async def test_a_turn_that_comes_to_one_who_was_cancelled_is_given_on():
    turns = Turns(1, 2, 5.0)
    async with turns.turn("m"):
        first, second = asyncio.create_task(_once(turns)), asyncio.create_task(_once(turns))
        await asyncio.sleep(0)
        turns.give("m")  # the first one's now
        first.cancel()
        assert await second == "had it"
        assert turns.take("m", Waiter([]))
    assert turns.counts() == (0, 0)


async def _once(turns: Turns) -> str:
    async with turns.turn("m"):
        return "had it"


def test_several_processes_hold_about_the_whole_together():
    shared = Limits(connections=10, source_connections=7, model_concurrency=1, model_queue=0).shared(4)
    assert (shared.connections, shared.source_connections) == (3, 2)
    assert (shared.model_concurrency, shared.model_queue) == (1, 0)
    assert Limits().shared(4).model_concurrency is None
