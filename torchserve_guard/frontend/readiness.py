"""Readiness: what TorchServe says of its models, held against what was expected.

TorchServe opens its listeners after it has tried to register every model, and starts whatever became of them;
`/ping` is Healthy while workers die and are started anew. So each expected model is asked for by name.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections import defaultdict
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import quote

from torchserve_guard.errors import FrontendError
from torchserve_guard.escape import past_tokens
from torchserve_guard.frontend.output import Output, explain, last_words
from torchserve_guard.frontend.states import ExpectedModel, ModelState, parse_states
from torchserve_guard.unix_http import Response, request

# A worker that dies once may have been unlucky; twice is a model that does not load.
DEATHS = 2
ANSWER_WITHIN = 10.0
FIRST_PAUSE = 0.02
LONGEST_PAUSE = 0.25
EXPLAINED_AFTER = 0.1
PAGE = 1000


@dataclass(slots=True)
class Readiness:
    """The expected models against the answers so far. `observe` takes an answer, and returns or raises."""

    expected: tuple[ExpectedModel, ...]
    output: Output
    states: dict[str, tuple[ModelState, ...]] = field(default_factory=dict)
    processes: defaultdict[str, set[int]] = field(default_factory=lambda: defaultdict(set))

    @property
    def waiting(self) -> tuple[str, ...]:
        """The names of the models that are not ready yet, each once."""
        names = dict.fromkeys(model.name for model in self.expected)
        return tuple(name for name in names if not all(state.ready for state in self.states.get(name, _UNKNOWN)))

    def observe(self, name: str, response: Response) -> None:
        """Take TorchServe's answer about a model; raise FrontendError if it will not become ready."""
        versions = {model.version for model in self.expected if model.name == name}
        if response.status != 200:  # noqa: PLR2004 - HTTP's own number
            raise self._absent(ExpectedModel(name, min(versions)))
        states = parse_states(response.body)
        found = {state.version for state in states}
        if found - versions:
            raise FrontendError(
                f"torchserve: model `{name}` runs in version `{min(found - versions)}`, which nobody asked for"
            )
        if versions - found:
            raise self._absent(ExpectedModel(name, min(versions - found)))
        self.states[name] = states
        for state in states:
            self._count(state)

    @property
    def troubled(self) -> bool:
        """Whether TorchServe's log tells of something that `verify_output` may raise."""
        return bool(self.output.failed) or any(deaths >= DEATHS for deaths in tuple(self.output.deaths.values()))

    def verify_output(self) -> None:
        """Raise FrontendError if TorchServe's log tells of a model that failed, or of workers that keep dying."""
        if self.output.failed:
            file = self.output.failed[0]
            raise self._failed(f"model `{file}` was not loaded", f"Failed to load model: {file}")
        for thread, deaths in tuple(self.output.deaths.items()):
            if deaths >= DEATHS:
                self._verify_thread(thread, deaths)

    def _verify_thread(self, thread: str, deaths: int) -> None:
        for model in self.expected:
            if thread.endswith(model.thread):
                raise self._dying(model, deaths)

    def _count(self, state: ModelState) -> None:
        for worker in state.workers:
            seen = self.processes[worker.identifier]
            seen.update({worker.process} - {-1, 0})
            if not worker.ready and len(seen) > DEATHS:
                raise self._dying(ExpectedModel(state.name, state.version), len(seen) - 1)

    def _absent(self, model: ExpectedModel) -> FrontendError:
        what = f"model `{model.name}` {model.version} is not there after TorchServe's start"
        return self._failed(what, f"Failed to load model: {model.name}")

    def _dying(self, model: ExpectedModel, deaths: int) -> FrontendError:
        what = f"model `{model.name}` {model.version} does not load: its worker died {deaths} times"
        return self._failed(what, model.thread)

    def late(self, seconds: float) -> FrontendError:
        """Return the error for a deadline that passed."""
        names = ", ".join(f"`{name}`" for name in self.waiting) or "none"
        about = next((model.thread for model in self.expected if model.name in self.waiting), "ModelServer")
        return self._failed(f"not ready after {seconds:g} s; models still waited for: {names}", about)

    def _failed(self, what: str, about: str) -> FrontendError:
        lines = self.output.tail()
        said = explain(lines, about) or last_words(lines)
        return FrontendError("\n  ".join((f"torchserve: {what}; its log says:", *(said or ("(nothing)",)))))


_UNKNOWN = (ModelState("", "", 1, ()),)


@dataclass(frozen=True, slots=True)
class Inquirer:
    """Asks TorchServe's management listener, with its key."""

    socket: Path
    key: str | None = field(repr=False)

    def ask(self, target: str) -> Response | None:
        """Return the answer, or None as long as nobody listens."""
        headers = {} if self.key is None else {"Authorization": f"Bearer {self.key}"}
        try:
            return request(self.socket, "GET", target, headers, ANSWER_WITHIN)
        except OSError:
            return None

    def ask_all(self, names: tuple[str, ...]) -> dict[str, Response | None]:
        """Return the answers about several models."""
        return {name: self.ask(past_tokens(f"/models/{quote(name, safe='')}/all")) for name in names}


async def wait_ready(
    readiness: Readiness,
    inquirer: Inquirer,
    sign: asyncio.Event,
    deadline: float,
    now: Callable[[], float] = time.monotonic,
) -> None:
    """Return when every expected model is ready, and no other is there; `deadline` is in seconds from now.

    TorchServe's log wakes us when a worker says something; without such signs (a log configuration of the
    user's own) the answers alone decide, a little later.
    """
    begun = now()
    while not await _is_ready(readiness, inquirer):
        elapsed = now() - begun
        if elapsed >= deadline:
            raise readiness.late(deadline)
        await _pause(sign, min(FIRST_PAUSE + elapsed / 50, LONGEST_PAUSE))


async def _is_ready(readiness: Readiness, inquirer: Inquirer) -> bool:
    if readiness.troubled:
        # The sign is the first line of several: the exception that explains it is still being printed.
        await asyncio.sleep(EXPLAINED_AFTER)
        readiness.verify_output()
    if readiness.waiting:
        answers = await asyncio.to_thread(inquirer.ask_all, readiness.waiting)
        for name, response in answers.items():
            if response is not None:
                readiness.observe(name, response)
    return not readiness.waiting and await _is_complete(readiness, inquirer)


async def _is_complete(readiness: Readiness, inquirer: Inquirer) -> bool:
    """Whether TorchServe lists no model that was not expected; raises FrontendError if it does."""
    response = await asyncio.to_thread(inquirer.ask, f"/models?limit={PAGE}")
    if response is None:
        return False
    try:
        listed = {str(row["modelName"]) for row in json.loads(response.body)["models"]}
    except (ValueError, KeyError, TypeError) as error:
        raise FrontendError(f"torchserve: its list of models does not read as one: {error!r}") from error
    others = listed - {model.name for model in readiness.expected}
    if others:
        raise FrontendError(f"torchserve: it loaded `{min(others)}`, which nobody asked for; look into its model store")
    return True


async def _pause(sign: asyncio.Event, seconds: float) -> None:
    try:
        async with asyncio.timeout(seconds):
            await sign.wait()
    except TimeoutError:
        return
    finally:
        sign.clear()
