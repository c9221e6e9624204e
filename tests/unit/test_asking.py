"""Who asks a start to stop is heard, wherever the start is just then, and breaks nothing off."""

import signal
import subprocess
import sys
import textwrap

import pytest

BEGIN = """
import os, signal, sys, time
sys.path.insert(0, {folder!r})
from torchserve_guard.asking import Asking, hold, listen
def ask(number=signal.SIGTERM):
    os.kill(os.getpid(), number)
hold()
"""


@pytest.fixture
def run(tmp_path):
    """Run a script in a process of its own, with a folder that it can import from."""

    def run(script: str, **more) -> subprocess.CompletedProcess[str]:
        text = BEGIN.format(folder=str(tmp_path)) + textwrap.dedent(script)
        return subprocess.run(
            [sys.executable, "-c", text], capture_output=True, text=True, timeout=20, check=False, **more
        )

    return run


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_what_was_asked_before_anybody_listened_is_heard_then(run, number):
    done = run(f"""
        ask({int(number)})
        try:
            with Asking():
                print("held back")
                listen()
                print("never")
        except KeyboardInterrupt:
            print("heard")
    """)
    assert (done.stdout.split("\n"), done.stderr) == (["held back", "heard", ""], "")


def test_an_import_is_finished_before_it_is_heard(run, tmp_path):
    (tmp_path / "slow.py").write_text(
        "import os, signal, time\nos.kill(os.getpid(), signal.SIGTERM)\ntime.sleep(0.05)\nDONE = True\n"
    )
    done = run("""
        try:
            with Asking():
                listen()
                import slow
                time.sleep(5)
        except KeyboardInterrupt:
            import slow
            print(slow.DONE)
    """)
    assert (done.stdout, done.stderr) == ("True\n", "")


def test_a_process_that_is_being_started_is_known_before_it_is_heard(run):
    done = run("""
        import subprocess
        os.kill = lambda *_: None
        made = []
        fork = subprocess._fork_exec
        def forked(*arguments):
            signal.raise_signal(signal.SIGTERM)
            made.append(fork(*arguments))
            return made[-1]
        subprocess._fork_exec = forked
        try:
            with Asking():
                listen()
                child = subprocess.Popen([sys.executable, "-c", ""], preexec_fn=lambda: None)
                time.sleep(5)
        except KeyboardInterrupt:
            print(child.pid == made[0], child.wait())
    """)
    assert (done.stdout, done.stderr) == ("True 0\n", "")


def test_what_was_swallowed_is_obeyed_all_the_same(run):
    done = run("""
        try:
            with Asking() as asking:
                listen()
                try:
                    ask()
                    time.sleep(5)
                except KeyboardInterrupt:
                    print("swallowed")
                asking.obey()
                print("never")
        except KeyboardInterrupt:
            print("obeyed")
    """)
    assert (done.stdout.split(), done.stderr) == (["swallowed", "obeyed"], "")


def test_whoever_asks_again_breaks_nothing_off(run):
    done = run("""
        try:
            try:
                with Asking():
                    listen()
                    ask()
                    time.sleep(5)
            finally:
                for number in (signal.SIGTERM, signal.SIGINT, signal.SIGHUP):
                    ask(number)
                time.sleep(0.05)
                print("tidied")
        except KeyboardInterrupt:
            ask()
            print("ended")
    """)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["tidied", "ended"], "")


def test_nor_does_it_where_what_was_asked_is_being_obeyed_already(run):
    done = run("""
        import threading
        try:
            with Asking():
                listen()
                try:
                    ask()
                    threading.Event().wait(5)
                finally:
                    ask()
                    ask(signal.SIGHUP)
                    threading.Event().wait(0.05)
                    print("tidied")
        except KeyboardInterrupt:
            print("ended")
    """)
    assert (done.returncode, done.stdout.split(), done.stderr) == (0, ["tidied", "ended"], "")


def test_what_is_ignored_stays_ignored(run):
    done = run(
        """
        with Asking() as asking:
            listen()
            ask(signal.SIGHUP)
            time.sleep(0.05)
            asking.obey()
        print("went on")
        """,
        preexec_fn=lambda: signal.signal(signal.SIGHUP, signal.SIG_IGN),
    )
    assert (done.stdout, done.stderr) == ("went on\n", "")
