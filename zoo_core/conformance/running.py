"""The checks in their order, and how they are run."""

from __future__ import annotations

import logging
import time
import traceback
import warnings
from collections.abc import Callable, Iterator, Sequence
from typing import TYPE_CHECKING

from zoo_core.conformance import data, declared, network, predictions, quantized, stored
from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckWarningError, NotApplicableError, NotCheckedError, Outcome, Status
from zoo_core.errors import ZooError

if TYPE_CHECKING:
    from zoo_core.conformance.subject import Subject

logger = logging.getLogger("zoo_eval.conformance")

CHECKS: tuple[Check, ...] = (
    *declared.CHECKS,
    *data.CHECKS,
    *network.CHECKS,
    *predictions.CHECKS,
    *stored.CHECKS,
    *quantized.CHECKS,
)
"""Every check. A later one may build on what an earlier one has made."""


def run_check(check: Check, subject: Subject) -> Outcome:
    """Make one check; nothing that the plugin does escapes but the user's interruption."""
    started = time.perf_counter()
    found, fix, details = "", "", ""
    status: Status
    try:
        with warnings.catch_warnings():  # of torch and AIMET, about their own workings
            warnings.simplefilter("ignore")
            found = check.make(subject)
        status = "passed"
    except NotCheckedError as reason:
        status = "not applicable" if isinstance(reason, NotApplicableError) else "not checked"
        found = str(reason)
    except CheckWarningError as warning:
        status, found, fix = "warning", warning.fact, warning.fix
    except Exception as error:
        status = "failed"
        found = error.fact if isinstance(error, ZooError) else f"{type(error).__name__}: {error}"
        fix = error.fix if isinstance(error, ZooError) else "look at the traceback; `--verbose` shows it."
        details = traceback.format_exc()
        logger.info("%s: %s", check.name, found)
    return Outcome(
        name=check.name,
        status=status,
        found=" ".join(found.split()),
        fix=fix,
        seconds=time.perf_counter() - started,
        details=details,
    )


def run_checks(
    subject: Subject, checks: Sequence[Check] = CHECKS, begin: Callable[[Check], None] | None = None
) -> Iterator[Outcome]:
    """Make the checks in their order.

    Args:
        subject: The model.
        checks: Which ones.
        begin: Told of each check before it is made.
    """
    for check in checks:
        if begin is not None:
            begin(check)
        yield run_check(check, subject)
