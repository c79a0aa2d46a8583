"""Single-shot detectors of torchvision; ``registry.yaml`` lists them."""
