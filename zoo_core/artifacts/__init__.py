"""Downloads, verifies, caches, unpacks and loads files from elsewhere without running anything in them.

Importing this package loads neither torch nor the network stack; ``load_state_dict`` and ``fetch`` load them when
called.
"""

from zoo_core.artifacts.archives import unpack
from zoo_core.artifacts.cache import cache_dir, sha256_of
from zoo_core.artifacts.checkpoints import (
    cast_state_dict,
    load_metadata,
    load_state_dict,
    local_checkpoint,
    save_state_dict,
)
from zoo_core.artifacts.fetching import fetch, package_path
from zoo_core.artifacts.networks import load_classifier

__all__ = [
    "cache_dir",
    "cast_state_dict",
    "fetch",
    "load_classifier",
    "load_metadata",
    "load_state_dict",
    "local_checkpoint",
    "package_path",
    "save_state_dict",
    "sha256_of",
    "unpack",
]
