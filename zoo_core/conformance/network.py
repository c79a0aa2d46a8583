"""The network and its preprocessing."""

from __future__ import annotations

import copy
import io
import pickle
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError, NotApplicableError, NotCheckedError
from zoo_core.conformance.subject import CPU
from zoo_core.inference import run_batch

if TYPE_CHECKING:
    from numpy.typing import NDArray

    from zoo_core.conformance.subject import Subject

_BATCH_TOLERANCE = 1e-4
"""Of the largest output: rounding differs between batch sizes, as convolutions are computed in another order."""

_SIZES = ((200, 300), (300, 200), (97, 61))  # height, width


def check_preprocess(subject: Subject) -> str:
    """Preprocessing gives one shape for images of any size, always the same, and leaves the image alone."""
    example = subject.bundle.example_input
    if example.dim() < 2 or len(example) != 1 or example.dtype != torch.float32:
        raise CheckFailedError(
            f"example_input is {example.dtype} {tuple(example.shape)}.", fix="give (1, C, H, W) float32."
        )
    rng = np.random.default_rng(0)
    pictures = [rng.integers(0, 256, (*size, 3), dtype=np.uint8) for size in _SIZES]
    for picture in pictures:
        kept = picture.copy()
        made = subject.bundle.preprocess(picture)
        _check_input(made, tuple(example.shape[1:]), picture.shape)
        if not np.array_equal(picture, kept):
            raise CheckFailedError("preprocess changes the image that it is given.", fix="work on a copy.")
        if not np.array_equal(made, subject.bundle.preprocess(picture)):
            raise CheckFailedError(
                "preprocess gives another input for the same image.", fix="take random augmentation out."
            )
    return f"{tuple(example.shape[1:])} float32 from {len(pictures)} sizes"


def _check_input(made: NDArray[np.float32], due: tuple[int, ...], shape: tuple[int, ...]) -> None:
    if not isinstance(made, np.ndarray) or made.dtype != np.float32 or made.shape != due:
        seen = f"{made.dtype} {made.shape}" if isinstance(made, np.ndarray) else type(made).__name__
        raise CheckFailedError(
            f"preprocess gives {seen} for an image of {shape}; example_input wants float32 {due}.",
            fix="resize to the network's input and return (C, H, W) float32.",
        )
    if not np.isfinite(made).all():
        raise CheckFailedError("preprocess gives values that are not finite.", fix="check the division by std.")


def check_colours(subject: Subject) -> str:
    """The input's first channel follows red and the third blue, or as the kit declares."""
    shape = subject.bundle.example_input.shape
    if len(shape) != 4 or shape[1] != 3:
        raise NotApplicableError(f"the network's input {tuple(shape)} has no three colours")
    declared = subject.kit.channels
    black = np.zeros((200, 300, 3), np.uint8)
    red, blue = black.copy(), black.copy()
    red[..., 0], blue[..., 2] = 255, 255
    nothing, of_red, of_blue = (subject.bundle.preprocess(image).mean(axis=(1, 2)) for image in (black, red, blue))
    follows_red, follows_blue = np.abs(of_red - nothing), np.abs(of_blue - nothing)
    first, third = follows_red[0] - follows_blue[0], follows_red[2] - follows_blue[2]
    if first > 0 > third:
        seen = "rgb"
    elif third > 0 > first:
        seen = "bgr"
    else:
        raise NotCheckedError("neither channel follows one colour: preprocess mixes them")
    if seen != declared:
        first_colour = "blue" if seen == "bgr" else "red"
        raise CheckFailedError(
            f"The first channel of the input follows {first_colour}: preprocess gives {seen.upper()}, the kit declares "
            f"{declared.upper()}.",
            fix="images come in RGB: take the conversion out, or declare what the network was trained with as "
            "ConformanceKit.channels.",
        )
    return f"{seen.upper()}, as declared"


def check_eval_mode(subject: Subject) -> str:
    """No module is in training mode: dropout and batch statistics would make every number random."""
    network = subject.bundle.network
    training = [name or type(network).__name__ for name, module in network.named_modules() if module.training]
    if training:
        raise CheckFailedError(
            f"{len(training)} modules are in training mode, e.g. {training[-1]!r}.",
            fix="call network.eval() before the bundle is returned.",
        )
    return f"{sum(parameter.numel() for parameter in network.parameters()):,} parameters in eval mode"


def check_outputs(subject: Subject) -> str:
    """Outputs are finite float32 tensors with the batch as first axis."""
    with torch.inference_mode():
        raw = subject.bundle.network(subject.bundle.example_input)
    if not isinstance(raw, torch.Tensor) and not (
        isinstance(raw, tuple | list) and raw and all(isinstance(item, torch.Tensor) for item in raw)
    ):
        raise CheckFailedError(
            f"The network returns a {type(raw).__name__}.", fix="return one tensor, or a tuple of tensors."
        )
    num_images = len(subject.inputs)
    for index, output in enumerate(subject.outputs):
        if output.dtype != torch.float32 or output.dim() < 2 or len(output) != num_images:
            raise CheckFailedError(
                f"Output {index} is {output.dtype} {tuple(output.shape)} for {num_images} images.",
                fix="return float32 with the batch as first axis, before softmax and decoding.",
            )
        if not torch.isfinite(output).all():
            raise CheckFailedError(
                f"Output {index} is not finite.", fix="check the weights, and the scale of preprocess."
            )
    return ", ".join(str((*("B",), *output.shape[1:])).replace("'", "") for output in subject.outputs)


def check_deterministic(subject: Subject) -> str:
    """The same inputs give the same bits, also from a network that is loaded again."""
    again = run_batch(subject.bundle.network, subject.inputs, CPU)
    if not _equal(again, subject.outputs):
        raise CheckFailedError(
            "The network gives other outputs for the same inputs.", fix="look for dropout, noise or state in forward()."
        )
    fresh = run_batch(subject.load_bundle().network, subject.inputs, CPU)
    if not _equal(fresh, subject.outputs):
        raise CheckFailedError(
            "The network gives other outputs when it is loaded a second time.",
            fix="seed the untrained weights with a torch.Generator of your own.",
        )
    return "two passes and two loads agree to the bit"


def check_batch_invariant(subject: Subject) -> str:
    """In float a batch gives what its images give alone, to rounding."""
    worst = 0.0
    for index, one in enumerate(subject.inputs):
        alone = run_batch(subject.bundle.network, [one], CPU)
        for single, together in zip(alone, subject.outputs, strict=True):
            scale = max(float(together.abs().max()), 1e-6)
            worst = max(worst, float((single[0] - together[index]).abs().max()) / scale)
    if worst > _BATCH_TOLERANCE:
        raise CheckFailedError(
            f"An image's outputs change by {worst:.1%} of the largest with the images beside it in the batch.",
            fix="look for batch statistics, and for reshapes that mix the batch axis with another.",
        )
    return f"alone and in a batch of {len(subject.inputs)}: differ by {worst:.0e} of the largest output"


def check_copies(subject: Subject) -> str:
    """A deep copy and a pickled network compute the same: lanes and workers run on copies."""
    network = subject.bundle.network
    copies = {"A deep copy": copy.deepcopy(network)}
    buffer = io.BytesIO()
    try:
        pickle.dump(network, buffer)
    except Exception as error:
        raise CheckFailedError(
            f"The network does not pickle: {type(error).__name__}: {error}",
            fix="define its classes and functions at the top of a module, without lambdas.",
        ) from error
    buffer.seek(0)
    copies["A pickled network"] = pickle.load(buffer)  # noqa: S301  # written just above
    for what, other in copies.items():
        if not _equal(run_batch(other, subject.inputs, CPU), subject.outputs):
            raise CheckFailedError(
                f"{what} gives other outputs.", fix="keep everything that forward() uses in parameters and buffers."
            )
    return f"{len(buffer.getvalue()) / 1e6:.1f} MB pickled"


def check_traces(subject: Subject) -> str:
    """``torch.jit.trace`` sees the whole network, as AIMET needs: no branch on values."""
    bundle = subject.bundle
    trace: Any = torch.jit.trace  # typed in some versions of torch alone
    try:
        with torch.no_grad():
            traced = trace(bundle.network, bundle.example_input, check_trace=False)
    except Exception as error:
        raise CheckFailedError(
            f"The network cannot be traced: {str(error).strip().splitlines()[0]}",
            fix="let forward() take and return tensors alone, without branches on their values.",
        ) from error
    for one in subject.inputs:
        found, due = run_batch(traced, [one], CPU), run_batch(bundle.network, [one], CPU)
        if not all(torch.allclose(a, b, rtol=1e-3, atol=1e-4) for a, b in zip(found, due, strict=True)):
            raise CheckFailedError(
                "The traced network gives other outputs than the network itself.",
                fix="take branches on values out of forward(): a trace keeps the one that example_input took.",
            )
    return "the trace agrees with the network"


def _equal(some: tuple[torch.Tensor, ...], others: tuple[torch.Tensor, ...]) -> bool:
    return len(some) == len(others) and all(torch.equal(a, b) for a, b in zip(some, others, strict=True))


CHECKS = (
    Check(name="preprocessing is stable", make=check_preprocess),
    Check(name="the network is in eval mode", make=check_eval_mode),
    Check(name="outputs are float32 with the batch first", make=check_outputs),
    Check(name="colours arrive in the declared order", make=check_colours),
    Check(name="the network is deterministic", make=check_deterministic),
    Check(name="a batch gives what its images give alone", make=check_batch_invariant),
    Check(name="the network copies and pickles", make=check_copies),
    Check(name="the network traces for AIMET", make=check_traces),
)
