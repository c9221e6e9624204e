"""What a launch is suited to: the processors that it may use."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

SHOW = "import os; from torchserve_guard.launching import take_turns; take_turns({}); print(os.sched_getscheduler(0))"


@pytest.mark.parametrize(
    ("processors", "policy"), [(1, os.SCHED_BATCH), (2, os.SCHED_BATCH), (3, os.SCHED_OTHER), (64, os.SCHED_OTHER)]
)
def test_turns_are_taken_on_small_machines_only(processors, policy):
    shown = subprocess.run([sys.executable, "-c", SHOW.format(processors)], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == policy


def test_children_take_turns_too():
    child = "import subprocess, sys; " + SHOW.format(2).replace(
        "print(os.sched_getscheduler(0))",
        "subprocess.run([sys.executable, '-c', 'import os; print(os.sched_getscheduler(0))'])",
    )
    shown = subprocess.run([sys.executable, "-c", child], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == os.SCHED_BATCH


def test_a_choice_made_by_the_operator_stays():
    chosen = "import os; os.sched_setscheduler(0, os.SCHED_IDLE, os.sched_param(0)); " + SHOW.format(1)
    shown = subprocess.run([sys.executable, "-c", chosen], capture_output=True, text=True, check=True)
    assert int(shown.stdout) == os.SCHED_IDLE
