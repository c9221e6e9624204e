"""THE WINDOW: what a running guard tells, and the few things it can be told."""

from torchserve_guard.admin.instance import Instance, running
from torchserve_guard.admin.socket import ControlSocket
from torchserve_guard.admin.status import Status

__all__ = ["ControlSocket", "Instance", "Status", "running"]
