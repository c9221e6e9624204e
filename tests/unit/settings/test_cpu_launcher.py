"""The arguments of the CPU launcher: what tunes is taken, what names something to run is not."""

import pytest

from torchserve_guard.settings.cpu_launcher import parse


@pytest.mark.parametrize(
    "text",
    [
        "", "--use_logical_core", "--use-logical-core --disable-numactl", "--node_id 0",
        "--node-id=1 --enable_jemalloc", "--ninstances 4 --ncores-per-instance 2", "--core-list 0,1,4-7",
        "--latency_mode",
    ],
)  # fmt: skip
def test_what_tunes_is_taken(text):
    assert parse(text) == tuple(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "-m pdb", "--module x", "--mod", "--no-python", "--no_python", "evil.py", "--node-id", "--node-id evil.py",
        "--node-id 0 evil.py", "--node-id=evil.py", "--log-path /etc", "--log-file-prefix x", "--core-list evil",
        "--use-logical-core=1", "--", "--disable-numactl\u00a0evil.py", "--node-id 0\n-m", "--node-id --module",
        "--core-list 0,evil", "--node-id 1\x0b",
    ],
)  # fmt: skip
def test_what_could_name_something_to_run_is_refused(text):
    with pytest.raises(ValueError, match=r"remove it|no number|character"):
        parse(text)
