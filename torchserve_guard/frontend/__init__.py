"""THE PROCESS: TorchServe's generated configuration, its launch, its watch and its end.

`find_java`, `find_torchserve` and `build_environment` make the parts of a `Launch`; `Frontend` runs it. TorchServe
is the guard's own child in a private run directory, reads a file that the guard wrote, listens on unix sockets
there, and leaves with the guard, however that goes.
"""

from torchserve_guard.frontend import class_archive
from torchserve_guard.frontend.configuration import PASSED_ON, PINNED, Launch, render
from torchserve_guard.frontend.environment import build_environment, path_candidates
from torchserve_guard.frontend.headstart import HeadStart
from torchserve_guard.frontend.java import Java, find_java
from torchserve_guard.frontend.process import Frontend
from torchserve_guard.frontend.rundirectory import RunDirectory, Sockets, trusted
from torchserve_guard.frontend.states import ExpectedModel, ModelState
from torchserve_guard.frontend.tokens import UpstreamKeys
from torchserve_guard.frontend.torchserve import TorchServe, find_torchserve, installed, verify_workers

__all__ = [
    "PASSED_ON",
    "PINNED",
    "ExpectedModel",
    "Frontend",
    "HeadStart",
    "Java",
    "Launch",
    "ModelState",
    "RunDirectory",
    "Sockets",
    "TorchServe",
    "UpstreamKeys",
    "build_environment",
    "class_archive",
    "find_java",
    "find_torchserve",
    "installed",
    "path_candidates",
    "render",
    "trusted",
    "verify_workers",
]
