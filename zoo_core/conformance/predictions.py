"""Decoding and the metric: where a wrong label map, box unit or colour order hides behind a plausible number."""

from __future__ import annotations

import math
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from zoo_core.conformance.answers import as_detections, empty_prediction, empty_target, perfect_prediction
from zoo_core.conformance.checks import Check
from zoo_core.conformance.outcomes import CheckFailedError, NotCheckedError
from zoo_core.conformance.subject import CPU, size_of
from zoo_core.datatypes import Classification, Detections, ImageSize
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
    """``decode`` gives finite predictions of the metric's kind, image by image, and leaves its arguments alone."""
    kind = subject.metric().prediction_type
    sizes = [_SIZE] * len(subject.inputs)
    for outputs in (subject.outputs, next(random_outputs(subject))):
        kept = tuple(output.clone() for output in outputs)
        found = subject.decode(outputs, sizes)
        if not all(torch.equal(a, b) for a, b in zip(outputs, kept, strict=True)):
            raise CheckFailedError("decode changes the outputs that it is given.", fix="work on a copy.")
        for index, prediction in enumerate(found):
            _check_prediction(prediction, kind)
            (alone,) = subject.decode(tuple(output[index : index + 1] for output in kept), sizes[:1])
            if not _same(prediction, alone):
                raise CheckFailedError(
                    "decode says something else of an image when it is decoded alone.",
                    fix="keep the images of a batch apart.",
                )
    return f"{kind.__name__} for {len(sizes)} images"


def _check_prediction(prediction: Prediction, kind: type[Prediction]) -> None:
    if not isinstance(prediction, kind):
        raise CheckFailedError(
            f"decode gives {type(prediction).__name__}; the metric takes {kind.__name__}.",
            fix="let decode and zoo_metric agree on one kind of prediction.",
        )
    for name, array in prediction.arrays().items():
        if not np.isfinite(array).all():
            raise CheckFailedError(f"decode gives {name} that are not finite.", fix="look for exp() of large values.")
    if not isinstance(prediction, Detections | Classification):
        return
    due = {"labels": np.int64, "scores": np.float64 if isinstance(prediction, Classification) else np.float32}
    if isinstance(prediction, Detections):
        due["boxes"] = np.float32
    problems = [
        f"{name} are {array.dtype}, not {np.dtype(due[name])}"
        for name, array in prediction.arrays().items()
        if array.dtype != due[name]
    ]
    if ((prediction.scores < 0) | (prediction.scores > 1)).any():
        problems.append("scores lie outside [0, 1]")
    if (np.diff(prediction.scores) > 0).any():
        problems.append("scores do not descend")
    if problems:
        raise CheckFailedError(
            f"decode gives {kind.__name__} of which {'; '.join(problems)}.",
            fix=f"see {kind.__name__} in zoo_core/datatypes.py.",
        )


def _same(one: Prediction, other: Prediction) -> bool:
    ours, theirs = one.arrays(), other.arrays()
    return all(
        ours[name].shape == theirs[name].shape and np.allclose(ours[name], theirs[name], rtol=1e-4, atol=1e-4)
        for name in ours
    )


def check_nothing_found(subject: Subject) -> str:
    """Outputs in which nothing is to be seen decode to an empty prediction of the right shape."""
    as_detections(subject.decode(subject.outputs, [_SIZE] * len(subject.inputs)))
    for what, outputs in _outputs_of_nothing(subject):
        found = as_detections(subject.decode(outputs, [_SIZE] * len(outputs[0])))
        if all(len(detections.scores) == 0 for detections in found):
            for detections in found:
                _check_prediction(detections, Detections)
            return f"{what}: boxes {found[0].boxes.shape}"
        if subject.kit.encode is not None:
            raise CheckFailedError(
                f"decode finds {len(found[0].scores)} objects in the outputs that encode gives for an empty image.",
                fix="let encode give confident background, and decode drop it.",
            )
    raise NotCheckedError("no outputs are known in which nothing is found; the kit's encode would give them")


def _outputs_of_nothing(subject: Subject) -> Iterator[tuple[str, tuple[torch.Tensor, ...]]]:
    if subject.kit.encode is not None:
        targets = [empty_target(scene.target) for scene in subject.scenes[:2]]
        yield "encoded empty images", subject.kit.encode(targets, [_SIZE] * len(targets))
        return
    for value in (-100.0, 0.0):
        yield f"outputs of {value:g}", tuple(torch.full_like(output, value) for output in subject.outputs)


def check_labels(subject: Subject) -> str:
    """Random outputs give every label from 0 to the last, and no other: a shifted label map falls over an edge."""
    num_classes = len(subject.evaluated.class_names)
    sizes = [_SIZE] * len(subject.inputs)
    seen: set[int] = set()
    num_found = 0
    for outputs in random_outputs(subject):
        for prediction in subject.decode(outputs, sizes):
            labels = prediction.arrays().get("labels")
            if labels is None:
                raise NotCheckedError(f"a {type(prediction).__name__} has no labels")
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
    """Boxes grow with the image, as pixels do; normalized boxes stay."""
    num_images = len(subject.inputs)
    twice = ImageSize(width_px=2 * _SIZE.width_px, height_px=2 * _SIZE.height_px)
    for outputs in random_outputs(subject):
        small, large = (
            np.concatenate([d.boxes for d in as_detections(subject.decode(outputs, [size] * num_images))])
            for size in (_SIZE, twice)
        )
        if not len(small) or not len(large):
            continue
        reach_small, reach_large = (float(np.quantile(np.abs(boxes), 0.9)) for boxes in (small, large))
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


def check_merge(subject: Subject) -> str:
    """Two halves merged score as the whole, in either order."""
    targets = [subject.evaluated.target(scene.image_id) for scene in subject.scenes]
    preds = [perfect_prediction(subject, target) for target in targets]
    whole, _ = _score(subject, preds, targets)
    ids = [scene.image_id for scene in subject.scenes]
    halves: list[Any] = [subject.metric(), subject.metric()]
    middle = len(ids) // 2
    halves[0].update(ids[:middle], preds[:middle], targets[:middle])
    halves[1].update(ids[middle:], preds[middle:], targets[middle:])
    halves[1].merge(halves[0])
    merged = halves[1].compute()
    for protocol, score in whole.items():
        seen, due = ((found.num_images, dict(found.values)) for found in (merged[protocol], score))
        if seen != due:
            raise CheckFailedError(
                f"{protocol} over {due[0]} images is {due[1]} in one pass; merged, over {seen[0]}, {seen[1]}.",
                fix="let merge add what the other accumulator has seen, whatever the order.",
            )
    return f"{len(whole)} protocols"


def check_empty_predictions(subject: Subject) -> str:
    """Predictions that found nothing score 0, or are undefined with a reason, and never not-a-number."""
    targets = [subject.evaluated.target(scene.image_id) for scene in subject.scenes]
    nothing = [empty_prediction(perfect_prediction(subject, target)) for target in targets]
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
            f"{subject.entry.headline} is {as_is:.3f} with the plugin's weights; due are {least:g}. {hints}",
            fix="check preprocessing, label order and box decoding, or correct least_headline.",
        )
    return f"{subject.entry.headline} {as_is:.3f}, {least:g} is due; red and blue swapped {swapped:.3f}"


# --------------------------------------------------------------------------- scoring


def _score(
    subject: Subject, preds: Sequence[Prediction], targets: Sequence[Target]
) -> tuple[Mapping[str, ProtocolScore], Metric]:
    metric = subject.metric()
    metric.update([scene.image_id for scene in subject.scenes], preds, targets)
    scores = metric.compute()
    for protocol, score in scores.items():
        for name, value in score.values.items():
            if value is not None and not (math.isfinite(value) and 0.0 <= value <= 1.0):
                raise CheckFailedError(
                    f"{protocol} gives {name} = {value}.",
                    fix="return a fraction in [0, 1], or None with a note where it is undefined.",
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
        seen = "undefined" if value is None else f"{value:.3f}"
        hints = " ".join(metric.suspects())
        raise CheckFailedError(
            f"{what} has {subject.entry.headline} {seen}; {least:g} or more is due. {hints}".rstrip(),
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
    Check(name="merging scores as one pass", make=check_merge),
    Check(name="a perfect network scores as one", make=check_perfect_network),
    Check(name="the plugin's weights find what is drawn", make=check_weights),
)
