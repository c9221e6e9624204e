"""The descriptors: the door never takes more connections than it can hold."""

import json
import subprocess
import sys

import pytest

CODE = """
import json, resource, sys
from torchserve_guard.proxy.descriptors import fitting
from torchserve_guard.proxy.limits import Limits
soft, hard, connections, ports = map(int, sys.argv[1:])
resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
found = fitting(Limits(connections=connections), ports).connections
print(json.dumps([found, resource.getrlimit(resource.RLIMIT_NOFILE)[0]]))
"""


@pytest.mark.parametrize(
    ("soft", "hard", "connections", "ports", "found", "raised"),
    [
        (256, 4096, 100, 3, 100, 728),  # what is needed is taken
        (1000, 4096, 100, 3, 100, 1000),  # and no less than there was
        (256, 4096, 10_000, 3, 1984, 4096),  # no more connections than there are descriptors for
        (256, 256, 10_000, 1, 64, 256),
    ],
)
def test_connections_and_descriptors_fit(soft, hard, connections, ports, found, raised):
    arguments = [str(one) for one in (soft, hard, connections, ports)]
    done = subprocess.run([sys.executable, "-c", CODE, *arguments], capture_output=True, text=True, check=True)
    assert json.loads(done.stdout) == [found, raised]
