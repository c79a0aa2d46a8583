"""Every command as a function, for notebooks and scripts; the command line calls nothing else.

A path may be text. Names of stages may be a list or comma-separated text. ``host`` holds the plugins to use, None for
the installed ones; ``reporter`` receives progress, None shows none.
"""

from zoo_core.api.catalog import doctor, fetch, list_broken_plugins, list_models, new_plugin, show, validate
from zoo_core.api.running import deploy, detect, evaluate, quantize, resume
from zoo_core.api.stored import check, compare, export, list_runs, reproduce, rescore, verify, write_report

__all__ = [
    "check",
    "compare",
    "deploy",
    "detect",
    "doctor",
    "evaluate",
    "export",
    "fetch",
    "list_broken_plugins",
    "list_models",
    "list_runs",
    "new_plugin",
    "quantize",
    "reproduce",
    "rescore",
    "resume",
    "show",
    "validate",
    "verify",
    "write_report",
]
