"""Entry point of the command line; it loads little, so that Ctrl-C is handled before the imports that take time."""

from __future__ import annotations

import sys
from collections.abc import Sequence

from zoo_core.cli.signals import INTERRUPTED, Interrupts, termination_interrupts


def main(arguments: Sequence[str] | None = None) -> None:
    """Run the command line and exit.

    0 done, 1 a metric missed its reference, 2 user error, 3 the run failed, 130 interrupted, 143 terminated.
    """
    interrupts = Interrupts()
    interrupts.install()
    try:
        from zoo_core.cli.commands import execute
        from zoo_core.cli.terminal import open_missing_descriptors

        open_missing_descriptors()
        code = execute(sys.argv[1:] if arguments is None else arguments, interrupts)
    except KeyboardInterrupt:  # during these imports; later ones are handled inside
        code = INTERRUPTED
    interrupts.ignore()  # for good: a Ctrl-C while Python exits would print a traceback
    sys.exit(code)


def run_command_line(arguments: Sequence[str]) -> int:
    """Run the command line and return its exit code; nothing but results goes to stdout."""
    from zoo_core.cli.commands import execute

    with termination_interrupts() as interrupts:
        return execute(arguments, interrupts)


if __name__ == "__main__":
    main()
