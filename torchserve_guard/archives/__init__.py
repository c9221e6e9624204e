"""What may be loaded: the manifest, the container grammar, and the store of staged trees.

An archive is read once, strictly, by one descriptor: hashed as a whole and member by member, held against the
manifest, and unpacked into a private read-only tree that is all TorchServe ever sees of it.
"""

from importlib import import_module
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from torchserve_guard.archives.comparison import changed, compare_subjects, is_text
    from torchserve_guard.archives.comparison import compare as compare_manifests
    from torchserve_guard.archives.exposure import expose
    from torchserve_guard.archives.inventory import create as create_manifest
    from torchserve_guard.archives.inventory import describe
    from torchserve_guard.archives.inventory import found as found_subjects
    from torchserve_guard.archives.inventory import verify as verify_store
    from torchserve_guard.archives.limits import Limits
    from torchserve_guard.archives.manifest import Manifest, MemberEntry, SubjectEntry, next_version
    from torchserve_guard.archives.manifest import load as load_manifest
    from torchserve_guard.archives.manifest import parse as parse_manifest
    from torchserve_guard.archives.manifest import read as read_manifest
    from torchserve_guard.archives.manifest import render as render_manifest
    from torchserve_guard.archives.model_config import check as check_model_config
    from torchserve_guard.archives.sighting import Proof
    from torchserve_guard.archives.signing.authority import Authorized, authorize
    from torchserve_guard.archives.signing.demand import Demand, Identity, Signer
    from torchserve_guard.archives.store import Staged, Store, code_of, model_of
    from torchserve_guard.archives.texts import collect as collect_texts

_HOMES = {
    "Authorized": "signing.authority.Authorized",
    "Demand": "signing.demand.Demand",
    "Identity": "signing.demand.Identity",
    "Limits": "limits.Limits",
    "Manifest": "manifest.Manifest",
    "MemberEntry": "manifest.MemberEntry",
    "Proof": "sighting.Proof",
    "Signer": "signing.demand.Signer",
    "Staged": "store.Staged",
    "Store": "store.Store",
    "SubjectEntry": "manifest.SubjectEntry",
    "authorize": "signing.authority.authorize",
    "changed": "comparison.changed",
    "check_model_config": "model_config.check",
    "code_of": "store.code_of",
    "collect_texts": "texts.collect",
    "compare_manifests": "comparison.compare",
    "compare_subjects": "comparison.compare_subjects",
    "create_manifest": "inventory.create",
    "describe": "inventory.describe",
    "expose": "exposure.expose",
    "found_subjects": "inventory.found",
    "is_text": "comparison.is_text",
    "load_manifest": "manifest.load",
    "model_of": "store.model_of",
    "next_version": "manifest.next_version",
    "parse_manifest": "manifest.parse",
    "read_manifest": "manifest.read",
    "render_manifest": "manifest.render",
    "verify_store": "inventory.verify",
}
"""Where each name is from. A module is imported when its name is first asked for: a command pays for what it uses."""

__all__ = [
    "Authorized",
    "Demand",
    "Identity",
    "Limits",
    "Manifest",
    "MemberEntry",
    "Proof",
    "Signer",
    "Staged",
    "Store",
    "SubjectEntry",
    "authorize",
    "changed",
    "check_model_config",
    "code_of",
    "collect_texts",
    "compare_manifests",
    "compare_subjects",
    "create_manifest",
    "describe",
    "expose",
    "found_subjects",
    "is_text",
    "load_manifest",
    "model_of",
    "next_version",
    "parse_manifest",
    "read_manifest",
    "render_manifest",
    "verify_store",
]


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    module, _, original = _HOMES[name].rpartition(".")
    found = getattr(import_module(f"{__name__}.{module}"), original)
    globals()[name] = found
    return found
