"""The demo's classifier: a small residual network for 32×32 photos, and how it wants its images.

Source: He et al., Deep Residual Learning for Image Recognition, CVPR 2016, made wider and shallower.
"""

from pathlib import Path

import torch
from torch import Tensor, nn

__all__ = ["CLASS_NAMES", "FEATURE_WIDTH", "IMAGE_SIDE", "MEAN", "STD", "WEIGHTS", "DemoResNet"]

CLASS_NAMES = ("airplane", "automobile", "bird", "cat", "dog", "frog", "horse", "ship")
IMAGE_SIDE = 32  # pixels; other sizes are resized to it, bilinear with antialiasing
MEAN = (0.4930, 0.4839, 0.4511)  # of RGB in 0..1 over the 40,000 training photos of these classes
STD = (0.2477, 0.2443, 0.2633)
FEATURE_WIDTH = 128
WEIGHTS = Path(__file__).parents[1] / "demo" / "model.safetensors"  # float16, computed with in float32
_STAGES = (64, 128, FEATURE_WIDTH)  # channels at 16×16, 8×8 and 4×4 pixels


class DemoResNet(nn.Module):
    """A residual network of 16 layers; one last linear layer on averaged, non-negative features."""

    def __init__(self, class_count: int = len(CLASS_NAMES)) -> None:
        super().__init__()
        layers: list[nn.Module] = [_convolution(3, 32), nn.ReLU()]
        width = 32
        for wider in _STAGES:
            layers += [_convolution(width, wider, stride=2), nn.ReLU(), _Residual(wider), _Residual(wider)]
            width = wider
        self.encoder = nn.Sequential(*layers, nn.AdaptiveAvgPool2d(1), nn.Flatten())
        self.head = nn.Linear(width, class_count)

    def forward(self, images: Tensor) -> Tensor:
        """Return logits, (N, 3, 32, 32) normalised by MEAN and STD -> (N, C)."""
        logits: Tensor = self.head(self.encoder(images))
        return logits


class _Residual(nn.Module):
    def __init__(self, width: int) -> None:
        super().__init__()
        self.change = nn.Sequential(_convolution(width, width), nn.ReLU(), _convolution(width, width))

    def forward(self, inputs: Tensor) -> Tensor:
        return torch.relu(inputs + self.change(inputs))


def _convolution(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    return nn.Sequential(
        nn.Conv2d(inputs, outputs, 3, stride=stride, padding=1, bias=False), nn.BatchNorm2d(outputs)
    )
