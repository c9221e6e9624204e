"""WHETHER IT STAYS TRUE: what is served, held against what was verified, at an interval and on demand.

A model that is no longer what was verified has its door closed; nothing here opens it again but a new registration.
"""

from torchserve_guard.vigil.links import Links, Strayed
from torchserve_guard.vigil.sight import Round, Sight, Sighted, Watched
from torchserve_guard.vigil.vigil import Counts, Scene, Vigil

__all__ = ["Counts", "Links", "Round", "Scene", "Sight", "Sighted", "Strayed", "Vigil", "Watched"]
