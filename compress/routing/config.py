"""How a router is trained."""

from dataclasses import dataclass


@dataclass(frozen=True)
class RouterConfig:
    """The settings of one training.

    Attributes:
        folders: Photographs to train on; "embedded" stands for those that come with scikit-image.
        metric: "lpips", which needs `lpips_weights`, or "psnr", by which a diffusion model seldom
            wins.
        lpips_weights: A file with pyiqa's names.
        lpips_net: The network of LPIPS: squeeze, alex or vgg.
        degradation: How the photographs become small, a name of PRESETS.
        tiles: How many tiles are measured.
        crop: Side of the HR crops in pixels. The networks are convolutional, so tiles of other
            sizes are routed as well.
        cnn_steps: Optimiser steps of the CNN, which learns what the model makes.
        steps: Optimiser steps of the regressor.
        batch: Images or tiles a step.
        tolerance: Loss of the metric, in LPIPS or dB, that the default threshold may cost on
            held-out tiles.
        seed: Makes the training repeatable.
    """

    folders: tuple[str, ...]
    metric: str = "lpips"
    lpips_weights: str | None = None
    lpips_net: str = "squeeze"
    degradation: str = "mild"
    tiles: int = 600
    crop: int = 256
    cnn_steps: int = 1500
    steps: int = 1500
    batch: int = 16
    tolerance: float = 0.005
    seed: int = 0
