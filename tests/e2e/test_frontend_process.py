"""The real TorchServe as the guard's child: how it starts, what it is given, and how it leaves.

Run as a program, this file is a guard reduced to its frontend, to be killed by the tests.
"""

from __future__ import annotations

import asyncio
import json
import os
import signal
import subprocess
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest

from torchserve_guard.errors import FrontendError
from torchserve_guard.frontend import (
    ExpectedModel,
    Frontend,
    Launch,
    RunDirectory,
    build_environment,
    find_java,
    find_torchserve,
    installed,
    path_candidates,
    trusted,
)
from torchserve_guard.unix_http import Response, request

pytestmark = pytest.mark.e2e

BUILD = Path(__file__).resolve().parents[1] / "models" / "build.py"
GONE_WITHIN = 10.0
READY_WITHIN = 90.0


def launch_of(store: Path, run: RunDirectory, *files: str, **changes: Any) -> Launch:
    java, torchserve, interpreter = find_java(os.environ), find_torchserve(installed()), Path(sys.executable)
    logs = run.root / "logs"
    logs.mkdir(parents=True, exist_ok=True, mode=0o700)
    environment = build_environment(
        os.environ,
        path=trusted(path_candidates(interpreter, java.path)),
        temporary=run.temporary,
        log_location=logs,
        metrics_location=logs,
    )
    launch = Launch(
        java=java.path,
        home=torchserve.home,
        jars=torchserve.jars,
        interpreter=interpreter,
        run=run,
        model_store=store,
        environment=environment,
        models=tuple((None, file) for file in files),
        passed_on={"default_workers_per_model": "1"},
    )
    return replace(launch, **changes)


def quiet(sink: int) -> dict[str, Any]:
    # No grace: TorchServe takes two seconds over its end, which only some tests are about.
    return {"stdout": sink, "stderr": sink, "grace": 0.0}


def expected(*names: str) -> tuple[ExpectedModel, ...]:
    return tuple(ExpectedModel(name, "1.0") for name in names)


def ask(frontend: Frontend, target: str, body: bytes = b"{}", method: str = "POST") -> Response:
    headers = {"Authorization": f"Bearer {frontend.keys.inference}", "Content-Type": "application/octet-stream"}
    return request(frontend.sockets.inference, method, target, headers, 30.0, body=body)


def manage(frontend: Frontend, method: str, target: str, *, key: str | None = None) -> Response:
    headers = {"Authorization": f"Bearer {key or frontend.keys.management}"}
    return request(frontend.sockets.management, method, target, headers, 60.0)


def living(run: RunDirectory) -> list[psutil.Process]:
    """The processes of a TorchServe and its warden, found by their command line or environment."""
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.Error):
            named = any(str(run.root) in argument for argument in process.cmdline())
            inside = str(run.root) in process.environ().get("TMPDIR", "")
            if (named or inside) and process.status() != psutil.STATUS_ZOMBIE and process.pid != os.getpid():
                found.append(process)
    return found


def until(condition: Callable[[], Any], within: float, what: str) -> float:
    begun = time.monotonic()
    while not condition():
        assert time.monotonic() - begun < within, f"{what} did not come about within {within} s"
        time.sleep(0.02)
    return time.monotonic() - begun


@pytest.fixture(scope="session")
def store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    built, store = tmp_path_factory.mktemp("archives"), tmp_path_factory.mktemp("store")
    subprocess.run([sys.executable, BUILD, built], check=True, stdout=subprocess.DEVNULL)
    for archive in built.iterdir():
        with zipfile.ZipFile(archive) as content:
            content.extractall(store / archive.name)
    return store


@pytest.fixture
def run() -> Iterator[RunDirectory]:
    # Not tmp_path: its name leaves little of the 107 bytes.
    with tempfile.TemporaryDirectory(prefix="tsg", dir="/tmp") as directory:
        yield RunDirectory(Path(directory))
        for process in living(RunDirectory(Path(directory))):
            process.kill()


@pytest.fixture
def sink() -> Iterator[int]:
    handle = os.open(os.devnull, os.O_WRONLY)
    yield handle
    os.close(handle)


async def test_a_model_answers_once_ready_and_nothing_is_left_after_the_stop(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
        states = await frontend.ready(expected("noop"), READY_WITHIN)
        assert [(state.version, len(state.workers)) for state in states["noop"]] == [("1.0", 1)]
        assert await asyncio.to_thread(ask, frontend, "/predictions/noop", b"hello") == Response(200, b"hello")
        assert len(living(run)) >= 3  # the JVM, a worker, the warden
        assert await frontend.stop(30) == 143
    assert living(run) == []
    assert sorted(path.name for path in run.root.iterdir()) == ["logs"]


async def test_versions_and_a_torchscript_model_are_waited_for_together(store, run, sink):
    launch = launch_of(store, run, "noop.mar", "noop_v2.mar", "pair.mar", "doubled.mar")
    async with Frontend(launch, **quiet(sink)) as frontend:
        wanted = (*expected("noop", "pair", "doubled"), ExpectedModel("noop", "2.0"))
        states = await frontend.ready(wanted, READY_WITHIN)
        assert {(state.version, len(state.workers)) for state in states["noop"]} == {("1.0", 1), ("2.0", 1)}
        assert len(states["pair"][0].workers) == 2
        answer = await asyncio.to_thread(ask, frontend, "/predictions/doubled", b"[1, 2, 3, 4]")
        assert json.loads(answer.body) == [3, 5, 7, 9]


async def test_workers_get_the_built_environment_and_nothing_of_ours(store, run, sink, monkeypatch):
    monkeypatch.setenv("A_SECRET_OF_THE_GUARD", "s3cret")
    monkeypatch.setenv("PYTHONPATH", "/nowhere")
    ours = os.open("/etc/hostname", os.O_RDONLY)
    os.set_inheritable(ours, True)  # noqa: FBT003
    try:
        async with Frontend(launch_of(store, run, "mirror.mar"), **quiet(sink)) as frontend:
            await frontend.ready(expected("mirror"), READY_WITHIN)
            told = json.loads((await asyncio.to_thread(ask, frontend, "/predictions/mirror")).body)
            jvm = psutil.Process(frontend.pid)
            for process in (jvm, *jvm.children(recursive=True)):
                assert not {"A_SECRET_OF_THE_GUARD"} & process.environ().keys()
            assert told["group"] == frontend.pid
    finally:
        os.close(ours)
    assert told["umask"] == 0o077
    assert "/nowhere" not in told["path"]
    assert "/etc/hostname" not in told["open"].values()
    assert told["environment"]["TMPDIR"] == str(run.temporary)
    assert told["executable"] == sys.executable


async def test_everything_that_torchserve_leaves_on_disk_is_ours_alone(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
        await frontend.ready(expected("noop"), READY_WITHIN)
        open_to_others = [path for path in run.root.rglob("*") if not path.is_symlink() and path.stat().st_mode & 0o077]
        assert open_to_others == []


async def test_the_keys_are_taken_away_and_not_needed_again(store, run, sink):
    launch = launch_of(store, run, "noop.mar", enable_model_api=True)
    async with Frontend(launch, **quiet(sink)) as frontend:
        await frontend.ready(expected("noop"), READY_WITHIN)
        assert not run.key_file.exists()
        assert manage(frontend, "POST", "/models?url=noop_v2.mar&initial_workers=1&synchronous=true").status == 200
        assert manage(frontend, "PUT", "/models/noop/2.0?min_worker=2&synchronous=true").status == 200
        assert manage(frontend, "DELETE", "/models/noop/2.0").status == 200
        assert manage(frontend, "GET", "/models/noop").status == 200
        assert manage(frontend, "GET", "/models", key="wrong").status == 400
        assert ask(frontend, "/predictions/noop", b"still").body == b"still"
        keys = (frontend.keys.inference, frontend.keys.management, frontend.keys.api)
        said = repr(frontend.keys) + "".join(frontend.tail())
        assert not any(key in said for key in keys)
        assert not any(key in (run.root / "logs" / "ts_log.log").read_text() for key in keys)


async def test_in_mode_none_nothing_is_registered_even_with_the_key(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
        await frontend.ready(expected("noop"), READY_WITHIN)
        assert manage(frontend, "POST", "/models?url=slow.mar").status == 405
        assert manage(frontend, "POST", "/workflows?url=http://127.0.0.1:9/x.war").status in range(400, 500)


@pytest.mark.parametrize(
    ("model", "why"),
    [
        ("broken", "RuntimeError: the weights do not fit the code"),
        ("unparsable", "SyntaxError: '(' was never closed"),
        ("unimportable", "ModuleNotFoundError: No module named 'a_module_that_nobody_has'"),
    ],
)
async def test_a_model_that_does_not_load_fails_the_start_and_says_why(store, run, sink, model, why):
    async with Frontend(launch_of(store, run, "noop.mar", f"{model}.mar"), **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match="died 2 times") as caught:
            await frontend.ready(expected("noop", model), READY_WITHIN)
    assert f"model `{model}` 1.0" in str(caught.value)
    assert why in str(caught.value)
    assert living(run) == []


async def test_a_model_that_does_not_load_is_noticed_without_torchserves_log(store, run, sink, tmp_path):
    silent = tmp_path / "silent.xml"
    silent.write_text('<Configuration><Loggers><Root level="off"/></Loggers></Configuration>')
    launch = launch_of(store, run, "broken.mar", frontend_log=str(silent))
    async with Frontend(launch, **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match=r"`broken` 1\.0 does not load"):
            await frontend.ready(expected("broken"), READY_WITHIN)


async def test_an_archive_that_is_not_there_fails_the_start(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar", "nosuch.mar"), **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match=r"Model not found at: nosuch\.mar"):
            await frontend.ready(expected("noop", "nosuch"), READY_WITHIN)


async def test_a_model_that_nobody_asked_for_fails_the_start(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar", "mirror.mar"), **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match="loaded `mirror`, which nobody asked for"):
            await frontend.ready(expected("noop"), READY_WITHIN)


async def test_a_jvm_that_ends_at_once_fails_the_start_with_its_words(store, run, sink):
    launch = launch_of(store, run, "noop.mar", passed_on={"default_workers_per_model": "many"})
    async with Frontend(launch, **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match=r'(?s)ended with status 1 .*For input string: "many"') as caught:
            await frontend.ready(expected("noop"), READY_WITHIN)
    assert caught.value.exit_code == 5


async def test_a_deadline_is_kept_and_names_who_was_waited_for(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
        with pytest.raises(FrontendError, match=r"not ready after 0\.3 s; models still waited for: `noop`"):
            await frontend.ready(expected("noop"), 0.3)
    assert living(run) == []


async def test_the_death_of_the_jvm_is_noticed_at_once(store, run, sink):
    async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
        await frontend.ready(expected("noop"), READY_WITHIN)
        os.kill(frontend.pid, signal.SIGKILL)
        assert await asyncio.wait_for(frontend.died(), 2) == 137


async def test_a_stop_ends_workers_that_are_stuck_or_deaf(store, run, sink):
    launch = launch_of(store, run, "slow.mar", "stubborn.mar")
    async with Frontend(launch, **quiet(sink)) as frontend:
        await frontend.ready(expected("slow", "stubborn"), READY_WITHIN)
        waiting = [asyncio.create_task(asyncio.to_thread(_asked, frontend, name)) for name in ("slow", "stubborn")]
        await asyncio.sleep(1)
        begun = time.monotonic()
        await frontend.stop(3)
        assert time.monotonic() - begun < GONE_WITHIN
        assert living(run) == []
        await asyncio.gather(*waiting)


def _asked(frontend: Frontend, name: str) -> None:
    with suppress(OSError):
        ask(frontend, f"/predictions/{name}", b"60")


async def test_a_stop_ends_what_left_the_session(store, run, sink):
    async with Frontend(launch_of(store, run, "runaway.mar"), **quiet(sink)) as frontend:
        await frontend.ready(expected("runaway"), READY_WITHIN)
        sleeper = psutil.Process(int((await asyncio.to_thread(ask, frontend, "/predictions/runaway")).body))
        assert os.getsid(sleeper.pid) != os.getsid(frontend.pid)
    assert not sleeper.is_running() or sleeper.status() == psutil.STATUS_ZOMBIE


async def test_two_guards_cannot_share_a_run_directory_and_one_after_another_can(store, run, sink, monkeypatch):
    monkeypatch.setattr("torchserve_guard.frontend.process.UNLOCKED_WITHIN", 0.2)
    for _ in range(2):
        async with Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)) as frontend:
            await frontend.ready(expected("noop"), READY_WITHIN)
            with pytest.raises(FrontendError, match="another guard runs there"):
                await Frontend(launch_of(store, run, "noop.mar"), **quiet(sink)).start()


async def test_a_warden_that_is_killed_is_replaced_and_the_new_one_does_its_work(store, run):
    with guard(store, run, "noop.mar") as (process, told):
        os.kill(told["warden"], signal.SIGKILL)
        until(lambda: set(wardens(run)) - {told["warden"]}, 5, "a new warden")
        assert process.poll() is None
        process.kill()
        until(lambda: not living(run), GONE_WITHIN, "the end of TorchServe")


def wardens(run: RunDirectory) -> list[int]:
    return [process.pid for process in living(run) if any("warden.py" in argument for argument in process.cmdline())]


@pytest.mark.parametrize("model", ["noop", "slow", "stubborn", "runaway"])
def test_kill_9_of_the_guard_leaves_nothing_behind(store, run, model):
    with guard(store, run, f"{model}.mar", "--busy") as (process, _):
        time.sleep(1)
        assert len(living(run)) >= 3
        process.kill()
        process.wait()
        until(lambda: not living(run), GONE_WITHIN, "the end of TorchServe")


@pytest.mark.parametrize("after", [0.0, 0.2, 0.6, 1.0, 1.4])
def test_kill_9_of_the_guard_while_torchserve_boots_leaves_nothing_behind(store, run, after):
    with guard(store, run, "noop.mar", "--booting") as (process, _):
        time.sleep(after)
        process.kill()
        process.wait()
        until(lambda: not living(run), GONE_WITHIN, "the end of TorchServe")


def test_a_guard_that_was_killed_is_followed_by_one_in_the_same_run_directory(store, run):
    with guard(store, run, "slow.mar", "--busy") as (process, _):
        time.sleep(0.5)
        process.kill()
        process.wait()
    with guard(store, run, "noop.mar") as (process, told):
        assert psutil.Process(told["pid"]).is_running()
        process.send_signal(signal.SIGTERM)
        assert process.wait(30) == 0
    assert living(run) == []


@contextmanager
def guard(store: Path, run: RunDirectory, *arguments: str) -> Iterator[tuple[subprocess.Popen[bytes], dict[str, int]]]:
    command = [sys.executable, __file__, str(store), str(run.root), *arguments]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        try:
            assert process.stdout is not None
            yield process, json.loads(process.stdout.readline())
        finally:
            process.kill()


async def be_a_guard(store: Path, run: RunDirectory, file: str, how: str = "") -> None:
    handle = os.open(os.devnull, os.O_WRONLY)
    frontend = Frontend(launch_of(store, run, file), stdout=handle, stderr=handle)
    stopping = asyncio.Event()
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, stopping.set)
    async with frontend:
        if how != "--booting":
            await frontend.ready(expected(file.removesuffix(".mar")), READY_WITHIN)
        if how == "--busy":
            busy = asyncio.create_task(asyncio.to_thread(_asked, frontend, file.removesuffix(".mar")))
        sys.stdout.write(json.dumps({"pid": frontend.pid, "warden": frontend.warden_pid}) + "\n")
        sys.stdout.flush()
        await stopping.wait()
        if how == "--busy":
            await busy


if __name__ == "__main__":
    import uvloop

    uvloop.run(be_a_guard(Path(sys.argv[1]), RunDirectory(Path(sys.argv[2])), *sys.argv[3:]))
