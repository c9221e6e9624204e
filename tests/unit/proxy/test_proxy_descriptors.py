"""The descriptors: the door never takes more connections than it can hold."""

import json
import resource
import subprocess
import sys

import pytest

from torchserve_guard.proxy.descriptors import shortage

CODE = """
import json, resource, sys
from torchserve_guard.proxy.descriptors import fitting
from torchserve_guard.proxy.limits import Limits
soft, hard, connections, ports, pools, from_one = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
found = fitting(Limits(connections=connections, source_connections=from_one or None), ports, pools)
told = [found.connections, found.source_connections, found.turned_away, found.idle_upstream]
print(json.dumps([*told, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


def fitted(soft, hard, connections, ports, pools=0, from_one=0):
    """What a process with these limits would hold: connections, of one address, turned away, idle; its new limit."""
    arguments = [str(one) for one in (soft, hard, connections, ports, pools, from_one)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    return json.loads(done.stdout)


# Three for each connection: itself, its upstream, and that once more while a body streams (`Upstream.ask`). All ports
# have them from one limit: 1984 of each of three, as this once said, are 5952 connections alone in a process of 4096.
@pytest.mark.parametrize(
    ("soft", "hard", "connections", "ports", "found", "raised"),
    [
        (256, 4096, 100, 3, 100, 1328),  # what is needed is taken
        (2000, 4096, 100, 3, 100, 2000),  # and no less than there was
        (256, 4096, 10_000, 3, 440, 4096),  # no more connections than there are descriptors for
        (256, 4096, 10_000, 5, 264, 4096),  # gRPC's ports have theirs of the same
        (256, 256, 10_000, 1, 42, 256),
        (64, 64, 10_000, 5, 1, 64),
    ],
)
def test_connections_and_descriptors_fit(soft, hard, connections, ports, found, raised):
    held, *_, limit = fitted(soft, hard, connections, ports)
    assert [held, limit] == [found, raised]


@pytest.mark.parametrize("ports", [1, 3, 5])
@pytest.mark.parametrize("pools", [0, 2])
@pytest.mark.parametrize("hard", [256, 320, 1000, 4096, 16_384])
def test_all_ports_full_at_once_leave_what_files_need(hard, ports, pools):
    held, _, turned_away, idle, limit = fitted(256, hard, 10_000, ports, pools)
    assert limit == hard
    assert ports * (3 * held + turned_away) + pools * idle <= hard - 64


def test_where_there_is_room_as_many_as_are_held_may_be_turned_away_at_a_time():
    assert fitted(256, 20_000, 1000, 3)[:3] == [1000, None, 1021]


@pytest.mark.parametrize(
    ("asked", "found"),
    [(7500, 330), (100, 100), (10_000, 440), (20_000, 440)],  # 440 may connect: not all from one address, unless so set
)
def test_where_fewer_may_connect_one_address_still_cannot_have_all_of_them(asked, found):
    assert fitted(256, 4096, 10_000, 3, 0, asked)[:2] == [440, found]


def test_the_user_is_told_of_fewer_connections_than_asked_for_and_of_what_is_the_reason():
    assert shortage(10_000, 10_000) is None
    assert shortage(100, 104) is None  # shares of several processes are rounded up
    told = shortage(10_000, 440)
    assert told is not None
    assert told.startswith("each listener takes 440 connections at a time, not 10000 (`guard.max_connections`)")
    assert str(resource.getrlimit(resource.RLIMIT_NOFILE)[1]) in told
