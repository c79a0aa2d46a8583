"""Image classifiers of torchvision, with its own weights and preprocessing."""
