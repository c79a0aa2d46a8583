"""Living with a framework that prints, warns and knows only its own modules; the framework itself is not imported."""

from __future__ import annotations

import contextlib
import io
import logging
import warnings
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

if TYPE_CHECKING:
    from collections.abc import Iterator


class _LogWriter(io.TextIOBase):
    """A stream whose lines become log records."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def writable(self) -> bool:
        return True

    def write(self, text: str) -> int:
        for line in text.splitlines():
            if line.strip():
                self._logger.info("%s", line.rstrip())
        return len(text)


class ForwardingHandler(logging.Handler):
    """Hands a record of one of a foreign logger to ours."""

    def __init__(self, logger: logging.Logger) -> None:
        super().__init__()
        self._logger = logger

    def emit(self, record: logging.LogRecord) -> None:
        self._logger.log(record.levelno, "%s: %s", record.name, record.getMessage())


@contextlib.contextmanager
def quiet(logger: logging.Logger) -> Iterator[None]:
    """Send what is printed and warned to the logger; standard error stays, for the run's own progress bars."""

    def show(message: Warning | str, category: type[Warning], filename: str, lineno: int, *_: Any) -> None:
        logger.info("%s:%d: %s: %s", filename, lineno, category.__name__, message)

    with warnings.catch_warnings(), contextlib.redirect_stdout(_LogWriter(logger)):
        warnings.simplefilter("default")
        warnings.showwarning = show  # type: ignore[assignment]
        yield


def quantized_class(mixin: Any, kind: type[nn.Module]) -> Any:
    """A subclass of ``kind`` that quantizes its tensor inputs, parameters and outputs where a quantizer is set."""

    def forward(self: Any, *args: Any, **kwargs: Any) -> Any:
        inputs = iter(self.input_quantizers)
        args = tuple(quantize_tensors(arg, inputs) for arg in args)
        with self._patch_quantized_parameters():
            output = kind.forward(self, *args, **kwargs)
        return quantize_tensors(output, iter(self.output_quantizers))

    return type(mixin)(
        f"Quantized{kind.__name__}",
        (mixin, kind),
        {
            "forward": forward,
            "_supports_dynamic_input_count": classmethod(lambda _: True),
            "__doc__": kind.__doc__,
            "__module__": kind.__module__,
        },
    )


def quantize_tensors(value: Any, quantizers: Iterator[Any]) -> Any:
    """Apply one quantizer after the other to the tensors in a value; None leaves one, and integers stay."""
    if isinstance(value, torch.Tensor):
        quantizer = next(quantizers, None)
        return value if quantizer is None or not value.is_floating_point() else quantizer(value)
    if isinstance(value, list | tuple):
        return type(value)(quantize_tensors(item, quantizers) for item in value)
    return value
