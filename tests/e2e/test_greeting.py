"""The greeting: stock's line comes once, on standard output, when the door is open and not before."""

import subprocess

import pytest
import servers

pytestmark = pytest.mark.e2e


def test_stocks_line_comes_once_and_means_that_the_door_is_open(guard, listed):
    server = guard(listed, {"load_models": "noop.mar"})
    command = server.command()
    with subprocess.Popen(
        command, cwd=server.folder, env=server.variables(), stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True
    ) as process:
        for line in process.stdout:
            if line == "Model server started.\n":
                break
        assert server.ask("POST", "/predictions/noop", b"x").body == b"x"
        process.terminate()
        rest = process.stdout.read()
        assert process.wait(servers.PATIENCE) == 0
    assert "Model server started." not in rest
