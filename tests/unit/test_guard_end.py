"""What a running guard ends by."""

from __future__ import annotations

import asyncio

import pytest

from torchserve_guard.errors import GuardError
from torchserve_guard.serving import _first


async def never() -> int:
    return await asyncio.get_running_loop().create_future()


async def test_a_guard_ends_when_no_process_at_its_door_can_be_kept():
    watching = asyncio.create_task(asyncio.sleep(60))
    lost = asyncio.get_running_loop().create_future()
    ending = asyncio.create_task(_first(never(), watching, lost))
    await asyncio.sleep(0)
    assert not ending.done()
    lost.set_result("no process at the door can be kept")
    with pytest.raises(GuardError, match="no process at the door can be kept") as told:
        await ending
    assert told.value.exit_code == 1
    watching.cancel()


async def test_a_guard_ends_when_torchserve_dies_and_one_process_needs_no_other():
    watching = asyncio.create_task(asyncio.sleep(60))
    await _first(asyncio.sleep(0, 143), watching, None)
    assert not watching.done()
    watching.cancel()
