"""Untrained detectors of torchvision that find something."""

from __future__ import annotations

import torch
from torch import nn
from torchvision.models.detection.ssd import SSD

from zoo_torchvision_detection.model import build_detector

NUM_COLUMNS = 91


def strong_detector(builder: str, num_columns: int = NUM_COLUMNS, *, seed: int = 1) -> SSD:
    """Return a detector whose heads answer strongly: scores differ, boxes move, NMS has work.

    Its batch norms hold the statistics of a noise image or two, or the deep layers would all be near zero.
    """
    detector = build_detector(builder, num_columns, seed)
    norms = [module for module in detector.modules() if isinstance(module, nn.BatchNorm2d)]
    generator = torch.Generator().manual_seed(seed)
    momentum = [norm.momentum for norm in norms]
    with torch.no_grad():
        for norm in norms:
            norm.train()
            norm.momentum = 1.0
        if norms:
            noise = torch.rand(2, 3, *detector.transform.fixed_size, generator=generator) * 2 - 1
            detector.head(list(detector.backbone(noise).values()))
        for norm, value in zip(norms, momentum, strict=True):
            norm.eval()
            norm.momentum = value
        for name, module in detector.head.named_modules():
            if isinstance(module, nn.Conv2d) and module.groups == 1:
                module.weight *= 3 if "classification" in name else 2
    return detector
