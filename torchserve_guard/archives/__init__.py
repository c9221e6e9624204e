"""What may be loaded: the manifest, the container grammar, and the store of staged trees.

An archive is read once, strictly, by one descriptor: hashed as a whole and member by member, held against the
manifest, and unpacked into a private read-only tree that is all TorchServe ever sees of it.
"""

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
from torchserve_guard.archives.signing.authority import Authorized, authorize
from torchserve_guard.archives.signing.demand import Demand, Identity, Signer
from torchserve_guard.archives.store import Staged, Store, code_of, model_of
from torchserve_guard.archives.texts import collect as collect_texts

__all__ = [
    "Authorized",
    "Demand",
    "Identity",
    "Limits",
    "Manifest",
    "MemberEntry",
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
