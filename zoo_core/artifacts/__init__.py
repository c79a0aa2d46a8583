"""Files from elsewhere: downloaded, verified before use, cached, unpacked and loaded without running what they hold.

Importing this package loads neither torch nor the network stack; ``load_state_dict`` and ``fetch`` load them when
called.
"""

from zoo_core.artifacts.archives import unpack
from zoo_core.artifacts.cache import cache_dir, sha256_of
from zoo_core.artifacts.checkpoints import load_metadata, load_state_dict, local_checkpoint, save_state_dict
from zoo_core.artifacts.fetching import fetch, package_path

__all__ = [
    "cache_dir",
    "fetch",
    "load_metadata",
    "load_state_dict",
    "local_checkpoint",
    "package_path",
    "save_state_dict",
    "sha256_of",
    "unpack",
]
