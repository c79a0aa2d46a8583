"""Decoding and the metric: where a wrong label map, box unit or colour order hides behind a plausible number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

import numpy as np
import torch

from zoo_core.conformance.answers import empty_prediction, empty_target, perfect_prediction, refuse_never_empty
from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError, NotApplicableError, NotCheckedError
from zoo_core.conformance.subject import CPU, size_of
from zoo_core.datatypes import ImageSize, TaskContext, measure
from zoo_core.inference import run_batch

if TYPE_CHECKING:
    from collections.abc import Iterator, Mapping, Sequence

    from zoo_core.conformance.subject import Subject
    from zoo_core.datatypes import Metric, Prediction, ProtocolScore, Target

_SPREADS = (1.0, 4.0, 16.0)
"""Of random outputs: scores differ little, much, and so that one class takes all."""
_ROUNDS = 12
_ENOUGH_PER_CLASS = 30
"""A label that is missing among so many random detections a class is not missing by chance: 1e-13."""
_PERFECT, _ENCODED = 0.99, 0.9
_CLEARLY_BETTER = 0.05
_SIZE = ImageSize(width_px=320, height_px=200)


def random_outputs(subject: Subject) -> Iterator[tuple[torch.Tensor, ...]]:
    """Outputs as a network might give them, in the shapes of the real one; many rounds.

    Every second one has the ends of its last axis raised, where classes mostly lie: chance alone would hardly ever make
    the last of 1000 classes the most probable one.
    """
    generator = torch.Generator().manual_seed(0)
    for _ in range(_ROUNDS):
        for spread in _SPREADS:
            made = tuple(torch.randn(output.shape, generator=generator) * spread for output in subject.outputs)
            yield made
            raised = tuple(output.clone() for output in made)
            for output in raised:
                output[..., 0] += 3 * spread
                output[..., -1] += 3 * spread
            yield raised


def check_decode(subject: Subject) -> str:
    """``decode`` gives finite predictions of the task's type, image by image, and leaves its arguments alone."""
    kind, scored = subject.task.prediction_type, subject.metric().prediction_type
    if scored is not kind:
        raise CheckFailedError(
            f"The metric takes {scored.__name__}; the task {subject.task.task_id!r} declares {kind.__name__}.",
            fix="let zoo_metric and zoo_task agree on one type of prediction, or name another task in the registry.",
        )
    sizes = [_SIZE] * len(subject.inputs)
    for outputs in (subject.outputs, next(random_outputs(subject))):
        kept = tuple(output.clone() for output in outputs)
        found = subject.decode(outputs, sizes)
        if not all(torch.equal(a, b) for a, b in zip(outputs, kept, strict=True)):
            raise CheckFailedError("decode changes the outputs that it is given.", fix="work on a copy.")
        for index, prediction in enumerate(found):
            _check_prediction(subject, prediction)
            (alone,) = subject.decode(tuple(output[index : index + 1] for output in kept), sizes[:1])
            if not _same(prediction, alone):
                raise CheckFailedError(
                    "decode says something else of an image when it is decoded alone.",
                    fix="keep the images of a batch apart.",
                )
    return f"{kind.__name__} for {len(sizes)} images"


def _check_prediction(subject: Subject, prediction: Prediction) -> None:
    kind = subject.task.prediction_type
    if not isinstance(prediction, kind):
        raise CheckFailedError(
            f"decode gives {type(prediction).__name__}; the metric takes {kind.__name__}.",
            fix="let decode and zoo_metric agree on one kind of prediction.",
        )
    for name, array in prediction.arrays().items():
        if not np.isfinite(array).all():
            raise CheckFailedError(f"decode gives {name} that are not finite.", fix="look for exp() of large values.")
    find_problems = subject.task.checks.problems
    problems = find_problems(prediction) if find_problems is not None else ()
    if problems:
        raise CheckFailedError(
            f"decode gives {kind.__name__} of which {'; '.join(problems)}.",
            fix=f"see the docstring of {kind.__name__}.",
        )


def _same(one: Prediction, other: Prediction) -> bool:
    ours, theirs = one.arrays(), other.arrays()
    return all(
        ours[name].shape == theirs[name].shape and np.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
        for name in ours
    )


def check_nothing_found(subject: Subject) -> str:
    """Outputs for an empty image decode to an empty prediction of the right shape."""
    refuse_never_empty(subject)
    for what, outputs in _outputs_of_nothing(subject):
        predictions = subject.decode(outputs, [_SIZE] * len(outputs[0]))
        shapes = {name: array.shape for name, array in predictions[0].arrays().items()}
        if all(not len(array) for prediction in predictions for array in prediction.arrays().values()):
            for prediction in predictions:
                _check_prediction(subject, prediction)
            return f"{what}: {', '.join(f'{name} {shape}' for name, shape in shapes.items())}"
        if subject.kit.encode is not None:
            raise CheckFailedError(
                f"decode finds {max(shape[0] for shape in shapes.values())} objects in the outputs that encode gives "
                "for an empty image.",
                fix="let encode give confident background, and decode drop it.",
            )
    raise NotCheckedError("no outputs are known in which nothing is found; the kit's encode would give them")


def _outputs_of_nothing(subject: Subject) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    if subject.kit.encode is not None:
        targets = [empty_target(subject, scene.target) for scene in subject.scenes[:2]]
        yield "encoded empty images", subject.kit.encode(targets, [_SIZE] * len(targets))
        return
    for value in (-100.0, 0.0):
        yield f"outputs of {value:g}", tuple(torch.full_like(output, value) for output in subject.outputs)


def check_labels(subject: Subject) -> str:
    """Random outputs give every label from 0 to the last, and no other: a shifted label map falls over an edge."""
    labels_of = subject.task.checks.labels
    if labels_of is None:
        raise NotApplicableError(f"the task {subject.task.task_id!r} declares no labels of a prediction")
    num_classes = len(subject.evaluated.class_names)
    sizes = [_SIZE] * len(subject.inputs)
    seen: set[int] = set()
    num_found = 0
    for outputs in random_outputs(subject):
        for prediction in subject.decode(outputs, sizes):
            labels = labels_of(prediction)
            seen.update(np.unique(labels).tolist())
            num_found += len(labels)
        outside = sorted(label for label in seen if not 0 <= label < num_classes)
        if outside:
            raise CheckFailedError(
                f"decode gives the label {outside[-1]}; {num_classes} classes have the labels 0 to {num_classes - 1}.",
                fix="count labels from 0 without background: subtract 1 where the network has background first.",
            )
        if {0, num_classes - 1} <= seen and num_found >= _ENOUGH_PER_CLASS:
            return f"{len(seen)} of {num_classes} labels in {num_found} random predictions, first and last among them"
    if num_found < _ENOUGH_PER_CLASS * num_classes:
        raise NotCheckedError(
            f"random outputs give {num_found} labels, none outside, but not both the first and the last"
        )
    missing = sorted({0, num_classes - 1} - seen)
    raise CheckFailedError(
        f"decode never gives the label {missing[0]} ({subject.class_names[missing[0]]!r}) among {num_found} random "
        "ones: the label map looks shifted by one.",
        fix="check whether the network has a background class, and which index it has.",
    )


def check_box_units(subject: Subject) -> str:
    """Boxes and other positions grow with the image, as pixels do; normalized ones stay."""
    positions_of = subject.task.checks.positions_px
    if positions_of is None:
        raise NotApplicableError(f"the task {subject.task.task_id!r} declares no positions in a prediction")
    num_images = len(subject.inputs)
    twice = ImageSize(width_px=2 * _SIZE.width_px, height_px=2 * _SIZE.height_px)
    for outputs in random_outputs(subject):
        small, large = (
            np.concatenate([positions_of(found).ravel() for found in subject.decode(outputs, [size] * num_images)])
            for size in (_SIZE, twice)
        )
        if not len(small) or not len(large):
            continue
        reach_small, reach_large = (float(np.quantile(np.abs(values), 0.9)) for values in (small, large))
        if 1.8 * reach_small <= reach_large <= 2.2 * reach_small:
            return f"boxes reach {reach_small:.0f} px in {_SIZE.width_px} px, {reach_large:.0f} px in twice the size"
        looks = "look normalized" if reach_small < 4.0 else "are not in pixels of the original image"
        raise CheckFailedError(
            f"Boxes reach {reach_small:.3g} in an image of {_SIZE.width_px} x {_SIZE.height_px} and {reach_large:.3g} "
            f"in one of twice the size: they {looks}.",
            fix="multiply boxes by the width and height of `sizes` in decode.",
        )
    raise NotCheckedError("decode finds nothing in random outputs")


def check_perfect_network(subject: Subject) -> str:
    """A network that is right scores as one, through ``decode`` and the metric: labels, units and order all fit."""
    encode = subject.kit.encode
    if encode is None:
        raise NotCheckedError("the kit of zoo_conformance has no encode")
    scenes = subject.scenes
    sizes = [size_of(scene.image) for scene in scenes]
    outputs = encode([scene.target for scene in scenes], sizes)
    shapes = [tuple(output.shape[1:]) for output in outputs]
    due = [tuple(output.shape[1:]) for output in subject.outputs]
    if shapes != due:
        raise CheckFailedError(
            f"encode gives outputs of {shapes} an image; the network's are {due}.",
            fix="let encode give what the network gives: the classes, with background where it has one.",
        )
    targets = [subject.evaluated.target(scene.image_id) for scene in scenes]
    score, metric = _score(subject, subject.decode(outputs, sizes), targets)
    return f"{subject.entry.headline} {_at_least(subject, score, _ENCODED, metric, 'A network that is right'):.3f}"


def check_perfect_predictions(subject: Subject) -> str:
    """Predictions that are the targets themselves score 1 under the headline protocol."""
    targets = [subject.evaluated.target(scene.image_id) for scene in subject.scenes]
    score, metric = _score(subject, [perfect_prediction(subject, target) for target in targets], targets)
    value = _at_least(subject, score, _PERFECT, metric, "A perfect prediction")
    return f"{subject.entry.headline} {value:.3f}"


def check_comparison(subject: Subject) -> str:
    """The task finds no change between equal predictions, counts its kinds of change per class, and draws."""
    task, scene = subject.task, subject.scenes[0]
    context = TaskContext(class_names=subject.evaluated.class_names)
    prediction = perfect_prediction(subject, scene.target)
    change = task.compare(prediction, prediction, scene.target, context)
    if change.magnitude != 0:
        raise CheckFailedError(
            f"compare gives a change of {change.magnitude:g} between equal predictions.", fix="return magnitude 0.0."
        )
    shapes = {kind: np.shape(counts) for kind, counts in change.counts.items()}
    expected = dict.fromkeys(task.change_kinds, (len(context.class_names),))
    if shapes != expected:
        raise CheckFailedError(
            f"compare counts changes as {shapes}; change_kinds and classes require {expected}.",
            fix="return one count per class for each of change_kinds, in their order.",
        )
    drawings = [task.draw(scene.image, prediction, baseline, context) for baseline in (None, prediction)]
    drawings += [task.draw_target(scene.image, scene.target, context)] if task.draw_target is not None else []
    for drawing in drawings:
        if drawing.pixels.dtype != np.uint8 or drawing.pixels.shape[2:] != (3,):
            raise CheckFailedError(
                f"A drawing has {drawing.pixels.dtype} pixels of shape {drawing.pixels.shape}.",
                fix="return (H, W, 3) uint8 RGB.",
            )
    return f"{', '.join(task.change_kinds)}; {drawings[0].caption or 'no caption'}"


def check_empty_predictions(subject: Subject) -> str:
    """Predictions that found nothing score 0, or are undefined with a reason, and never not-a-number."""
    targets = [subject.evaluated.target(scene.image_id) for scene in subject.scenes]
    nothing = [empty_prediction(subject, perfect_prediction(subject, target)) for target in targets]
    scores, _ = _score(subject, nothing, targets)
    headline = scores[subject.entry.headline].headline
    if headline is not None and headline > 1 - _PERFECT:
        raise CheckFailedError(
            f"{subject.entry.headline} is {headline:.3f} although nothing was found.",
            fix="count objects that were not found as missed.",
        )
    return f"{subject.entry.headline} {'undefined' if headline is None else f'{headline:.3f}'}"


def check_weights(subject: Subject) -> str:
    """Weights that the plugin carries find what is drawn, and not better with red and blue swapped."""
    least = subject.kit.least_headline
    if least is None:
        raise NotCheckedError("the kit of zoo_conformance brings no trained weights")
    targets = [subject.evaluated.target(scene.image_id) for scene in subject.scenes]
    images = [subject.evaluated.image(scene.image_id) for scene in subject.scenes]
    sizes = [size_of(image) for image in images]
    values: dict[str, float] = {}
    metrics = {}
    for order, step in (("as they are", 1), ("with red and blue swapped", -1)):
        inputs = [subject.bundle.preprocess(np.ascontiguousarray(image[..., ::step])) for image in images]
        found = subject.decode(run_batch(subject.bundle.network, inputs, CPU), sizes)
        scores, metrics[order] = _score(subject, found, targets)
        values[order] = scores[subject.entry.headline].headline or 0.0
    as_is, swapped = values.values()
    if swapped > as_is + _CLEARLY_BETTER:
        raise CheckFailedError(
            f"{subject.entry.headline} is {as_is:.3f}, and {swapped:.3f} with red and blue swapped: the network wants "
            "the other order of colours.",
            fix="swap the channels in preprocess, and declare it as ConformanceKit.channels.",
        )
    if as_is < least:
        hints = " ".join(metrics["as they are"].suspects())
        raise CheckFailedError(
            f"{subject.entry.headline} is {as_is:.3f} with the plugin's weights (required: {least:g}). {hints}",
            fix="check preprocessing, label order and box decoding, or correct least_headline.",
        )
    return f"{subject.entry.headline} {as_is:.3f} (required: {least:g}); red and blue swapped {swapped:.3f}"


# --------------------------------------------------------------------------- scoring


def _score(
    subject: Subject, preds: Sequence[Prediction], targets: Sequence[Target]
) -> tuple[Mapping[str, ProtocolScore], Metric]:
    metric = subject.metric()
    metric.update([scene.image_id for scene in subject.scenes], preds, targets)
    scores = metric.compute()
    for protocol, score in scores.items():
        for name, value in score.values.items():
            least, most = measure(subject.task, name).valid_range
            if value is not None and not (math.isfinite(value) and least <= value <= most):
                raise CheckFailedError(
                    f"{protocol} gives {name} = {value}.",
                    fix=f"return a value in [{least:g}, {most:g}], or None with a note where it is undefined.",
                )
    if subject.entry.headline not in scores:
        raise CheckFailedError(
            f"The metric gives {', '.join(scores)}, not the headline protocol {subject.entry.headline!r}.",
            fix="let compute() return every id of protocol_ids.",
        )
    return scores, metric


def _at_least(subject: Subject, scores: Mapping[str, ProtocolScore], least: float, metric: Metric, what: str) -> float:
    value = scores[subject.entry.headline].headline
    if value is None or value < least:
        text = "undefined" if value is None else f"{value:.3f}"
        hints = " ".join(metric.suspects())
        raise CheckFailedError(
            f"{what} has {subject.entry.headline} {text} (required: {least:g} or more). {hints}".rstrip(),
            fix="compare the labels and boxes of decode with the dataset's: order of classes, background, box units.",
        )
    return value


CHECKS = (
    Check(name="decode gives one sound prediction an image", make=check_decode),
    Check(name="decode of nothing is empty", make=check_nothing_found),
    Check(name="labels run from 0 to the last class", make=check_labels),
    Check(name="boxes are in pixels of the original image", make=check_box_units),
    Check(name="perfect predictions score 1", make=check_perfect_predictions),
    Check(name="empty predictions score 0", make=check_empty_predictions),
    Check(name="the task compares and draws predictions", make=check_comparison),
    Check(name="a perfect network scores as one", make=check_perfect_network),
    Check(name="the plugin's weights find what is drawn", make=check_weights),
)
