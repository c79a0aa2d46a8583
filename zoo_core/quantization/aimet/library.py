"""Imports aimet_torch; the only module of the core that does.

Checked with aimet-torch 2.42. Importing it takes seconds, and it prints, logs to stdout and warns; all of its output
goes to the logger ``zoo_eval.aimet``.
"""

from __future__ import annotations

import contextlib
import functools
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any
from unittest import mock

if TYPE_CHECKING:
    from collections.abc import Iterator
    from types import ModuleType

logger = logging.getLogger("zoo_eval.aimet")


@functools.cache
def load() -> ModuleType:
    """Import aimet_torch once, quietly, and redirect its loggers."""
    root = logging.getLogger()
    handlers = list(root.handlers)
    # AIMET configures logging, which closes the handlers of all other libraries; absl's closes stderr with it.
    with quiet(), mock.patch("logging.shutdown"):
        import aimet_torch
        import aimet_torch.adaround.adaround_weight
        import aimet_torch.batch_norm_fold
        import aimet_torch.common.defs
        import aimet_torch.common.quantsim_config.json_config_importer
        import aimet_torch.common.utils
        import aimet_torch.cross_layer_equalization
        import aimet_torch.meta.connectedgraph_utils
        import aimet_torch.model_preparer
        import aimet_torch.nn
        import aimet_torch.onnx_utils
        import aimet_torch.quantization.affine
        import aimet_torch.quantization.encoding_analyzer
        import aimet_torch.quantsim
    # AIMET logs its version through the root logger, which gives an unconfigured root a handler on stderr.
    root.handlers[:] = handlers
    for area in aimet_torch.common.utils.AimetLogger.LogAreas:
        area_logger = logging.getLogger(area.value)
        area_logger.handlers[:] = [_ForwardingHandler()]
        area_logger.propagate = False
    module: ModuleType = aimet_torch
    return module


@contextlib.contextmanager
def quiet() -> Iterator[None]:
    """Redirect printed text and warnings to the logger; standard error is left to the run's own progress bars."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        logger.info("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    with warnings.catch_warnings(), contextlib.redirect_stdout(_LogWriter()):
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


class _LogWriter(io.TextIOBase):
    """Stream whose lines become log records."""

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                logger.info("%s", line.rstrip())
        return len(text)


class _ForwardingHandler(logging.Handler):
    """Forwards the records of AIMET's loggers to ours."""

    def emit(self, record: logging.LogRecord) -> None:
        logger.log(record.levelno, "%s: %s", record.name, record.getMessage())
