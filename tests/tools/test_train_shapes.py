from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file

from ssd_mobilenetv2_lite.decode import decode_boxes
from ssd_mobilenetv2_lite.encode import match_priors
from ssd_mobilenetv2_lite.network import build_network
from ssd_mobilenetv2_lite.priors import make_priors
from tools.ssd_loss import TrainBatch, detection_loss
from tools.train_shapes import (
    TrainConfig,
    Trainer,
    draw_batch,
    main,
    mean_average_precision,
    shrink_normalized_weights,
    train,
    write_checkpoint,
)

PRIORS = np.asarray(make_priors(), np.float32)


@pytest.fixture
def config() -> TrainConfig:
    return TrainConfig(steps=2, batch_size=2, seed=5, state_every=1)


def _silent(line: str) -> None:
    pass


def test_a_box_equal_to_a_prior_matches_it_with_location_zero() -> None:
    prior = PRIORS[1000]
    box = np.concatenate([prior[:2] - prior[2:] / 2, prior[:2] + prior[2:] / 2])[None]
    labels, locations = match_priors(box, np.array([4]), PRIORS)
    assert labels[1000] == 5
    np.testing.assert_allclose(locations[1000], 0, atol=1e-4)


def test_matched_locations_decode_to_the_box() -> None:
    boxes = np.array([[0.1, 0.2, 0.5, 0.7], [0.6, 0.05, 0.95, 0.3]], np.float32)
    labels, locations = match_priors(boxes, np.array([0, 19]), PRIORS)
    decoded = decode_boxes(torch.from_numpy(locations)).numpy()
    for label, box in ((1, boxes[0]), (20, boxes[1])):
        assert (labels == label).sum() >= 1
        np.testing.assert_allclose(
            decoded[labels == label], np.broadcast_to(box, ((labels == label).sum(), 4)), atol=1e-5
        )


def test_a_prior_matches_above_an_iou_of_one_half() -> None:
    # Two priors beside a box that covers the unit square: one of half its area (IoU exactly 0.5) and one of 0.64.
    priors = np.array([[0.5, 0.5, 1.0, 0.5], [0.5, 0.5, 0.8, 0.8], [0.5, 0.5, 1.0, 1.0]], np.float32)
    labels, _ = match_priors(np.array([[0, 0, 1, 1]], np.float32), np.array([2]), priors)
    assert labels.tolist() == [0, 3, 3]


def test_a_tiny_object_takes_its_best_prior() -> None:
    labels, locations = match_priors(np.array([[0.5, 0.5, 0.52, 0.52]], np.float32), np.array([7]), PRIORS)
    assert (labels > 0).sum() == 1
    assert labels.max() == 8
    assert np.isfinite(locations).all()


def test_a_box_one_pixel_wide_has_finite_locations() -> None:
    _, locations = match_priors(np.array([[0.5, 0.2, 0.5, 0.6]], np.float32), np.array([7]), PRIORS)
    assert np.isfinite(locations).all()


def test_a_picture_without_objects_is_all_background() -> None:
    labels, locations = match_priors(np.zeros((0, 4), np.float32), np.zeros(0, np.int64), PRIORS)
    assert labels.shape == (3000,)
    assert not labels.any()
    assert locations.shape == (3000, 4)


def test_the_loss_takes_the_three_hardest_negatives_of_a_positive() -> None:
    # One positive and five negatives with cross-entropies -log p of the right class; worked out by hand.
    right = torch.tensor([0.5, 0.9, 0.2, 0.8, 0.6, 0.99])
    scores = torch.stack([right, 1 - right], dim=1)
    scores[0] = scores[0].flip(0)  # the positive's right class is 1
    batch = TrainBatch(
        images=torch.empty(0), labels=torch.tensor([[1, 0, 0, 0, 0, 0]]), locations=torch.full((1, 6, 4), 2.0)
    )
    classification, localization = detection_loss(scores.log()[None], torch.zeros(1, 6, 4), batch)
    expected = -np.log([0.5, 0.2, 0.6, 0.8]).sum()
    assert classification.item() == pytest.approx(expected, rel=1e-5)
    assert localization.item() == pytest.approx(4 * (2 - 0.5))  # Smooth-L1 of 2 in four coordinates


def test_negatives_are_chosen_in_each_picture_by_its_own_positives() -> None:
    batch = TrainBatch(
        images=torch.empty(0), labels=torch.tensor([[1, 0, 0, 0, 0], [0, 0, 0, 0, 0]]), locations=torch.zeros(2, 5, 4)
    )
    scores = torch.zeros(2, 5, 2)
    scores[1, :, 1] = 100.0  # a picture without objects adds nothing, however wrong
    classification, _ = detection_loss(scores, torch.zeros(2, 5, 4), batch)
    assert classification.item() == pytest.approx(4 * np.log(2), rel=1e-5)


def test_a_batch_is_drawn_from_its_index_alone(config: TrainConfig) -> None:
    first, second = draw_batch("train", 6, config, PRIORS), draw_batch("train", 6, config, PRIORS)
    other = draw_batch("train", 8, config, PRIORS)
    assert torch.equal(first.images, second.images)
    assert torch.equal(first.labels, second.labels)
    assert not torch.equal(first.images, other.images)
    assert first.images.shape == (2, 3, 300, 300)
    assert first.images.abs().max() <= 1


def test_a_resumed_run_writes_the_same_checkpoint_as_an_uninterrupted_one(tmp_path: Path, config: TrainConfig) -> None:
    whole = train(config, tmp_path / "whole.state", resume=False, report=_silent)
    interrupted = Trainer(config)
    interrupted.train_step()
    interrupted.save_state(tmp_path / "half.state")
    del interrupted
    lines: list[str] = []
    resumed = train(config, tmp_path / "half.state", resume=True, report=lines.append)
    assert lines[0] == "continuing after step 1"
    for name, trainer in (("whole", whole), ("half", resumed)):
        write_checkpoint(trainer.finished_network(), tmp_path / f"{name}.safetensors", {"steps": config.steps})
    assert (tmp_path / "whole.safetensors").read_bytes() == (tmp_path / "half.safetensors").read_bytes()


def test_training_moves_weights_and_its_average_lags_behind(config: TrainConfig) -> None:
    trainer = Trainer(config)
    name = "base_net.18.0.weight"
    before = trainer.network.get_parameter(name).detach().clone()
    losses = trainer.train_step()
    after = trainer.network.get_parameter(name)
    average = trainer.average.get_parameter(name)
    assert all(np.isfinite(losses))
    moved = (after - before).abs().sum()
    assert moved > 0
    assert (average - before).abs().sum() > 0
    assert (average - after).abs().sum() > 0


def test_a_state_of_other_options_is_refused(tmp_path: Path, config: TrainConfig) -> None:
    Trainer(config).save_state(tmp_path / "a.state")
    other = TrainConfig(steps=3, batch_size=2, seed=5)
    with pytest.raises(SystemExit, match=r"a.state: trained with .*2, 2, 5.*not \(3, 2, 5"):
        train(other, tmp_path / "a.state", resume=True, report=_silent)


def test_the_command_line_writes_a_half_precision_checkpoint_with_its_facts(tmp_path: Path) -> None:
    out = tmp_path / "out" / "tiny.safetensors"
    options = ["--steps", "1", "--batch-size", "2", "--seed", "3", "--out", str(out), "--val-images", "1"]
    main(options)
    with safe_open(out, "pt") as file:
        facts = json.loads(file.metadata()["training"])
    assert (facts["steps"], facts["batch_size"], facts["seed"], facts["val_images"]) == (1, 2, 3, 1)
    assert facts["classes"].split(",")[0] == "solid_disk"
    tensors = load_file(out)
    assert {str(value.dtype) for value in tensors.values()} == {"torch.float16", "torch.int64"}
    assert set(tensors) == set(build_network(21).state_dict())
    with pytest.raises(SystemExit, match="exists"):
        main(options)
    written = out.read_bytes()
    main([*options, "--resume"])  # nothing left to train: finishes again
    assert out.read_bytes() == written


def test_a_finished_network_loses_nothing_in_half_precision(tmp_path: Path, config: TrainConfig) -> None:
    network = train(config, tmp_path / "a.state", resume=False, report=_silent).finished_network()
    assert not network.training
    write_checkpoint(network, tmp_path / "a.safetensors", {})
    for key, value in load_file(tmp_path / "a.safetensors").items():
        assert torch.equal(value.to(network.state_dict()[key].dtype), network.state_dict()[key]), key


def test_an_untrained_network_finds_next_to_nothing(config: TrainConfig) -> None:
    assert 0.0 <= mean_average_precision(build_network(21), "trainval", 2, config) < 0.2


def test_shrinking_weights_before_a_batch_norm_leaves_the_function_alone() -> None:
    network = build_network(21, seed=1)
    x = torch.rand(2, 3, 300, 300, generator=torch.Generator().manual_seed(0)) * 2 - 1
    with torch.no_grad():
        network.train()(x)  # statistics as after some training
        network.eval()
        before = network(x)
        weight = network.get_parameter("base_net.3.conv.3.weight").clone()
        shrink_normalized_weights(network)
        after = network(x)
    torch.testing.assert_close(network.get_parameter("base_net.3.conv.3.weight"), 0.15 * weight)
    for old, new in zip(before, after, strict=True):
        torch.testing.assert_close(new, old, rtol=1e-2, atol=1e-2 * float(old.abs().max()))


def test_a_run_can_begin_with_the_weights_of_another(tmp_path: Path, config: TrainConfig) -> None:
    first = Trainer(config)
    first.train_step()
    first.save_state(tmp_path / "first.state")
    second = Trainer(TrainConfig(steps=2, batch_size=2, seed=6, init=tmp_path / "first.state"))
    assert second.step == 0
    name = "classification_headers.5.weight"  # no batch norm follows: taken as it was
    assert torch.equal(second.network.get_parameter(name), first.network.get_parameter(name))
