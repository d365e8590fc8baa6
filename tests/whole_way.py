"""What the whole way needs: a small network of each family with a checkpoint of its own, and photos to judge.

The pictures are files as people have them: JPEG and PNG, grey, partly transparent, of several sizes. The
networks have random weights and lie on disk as a training script leaves them. Only one is the demo's.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import timm
import torch
import torchvision
from PIL import Image
from torch import nn

CLASSES = ("cat", "dog", "frog")  # the demo's network knows them too


@dataclass(frozen=True)
class Family:
    """A kind of network: how the command line calls it, and how somebody else builds and trains it."""

    model: str
    build: Callable[[], nn.Module] | None  # None: the network that the project ships
    per_class: int = 10  # bank images


FAMILIES = {
    "resnet": Family("resnet18", lambda: torchvision.models.resnet18(num_classes=3)),
    "mobilenet": Family("mobilenet_v3_small", lambda: torchvision.models.mobilenet_v3_small(num_classes=3)),
    "vit": Family("timm:test_vit", lambda: timm.create_model("test_vit", num_classes=3), 30),
    "convnext": Family("timm:test_convnext", lambda: timm.create_model("test_convnext", num_classes=3)),
    "demo": Family("demo", None, 60),
}


def checkpoint(family: Family, folder: Path) -> Path | None:
    """Write the network's weights as a training script does; None where the network is shipped."""
    if family.build is None:
        return None
    with torch.random.fork_rng():
        torch.manual_seed(5)
        network = family.build()
    path = folder / "own.pth"
    torch.save(network.state_dict(), path)
    return path


def write_photos(folder: Path, per_class: int) -> None:
    """Write train/ and asked/val/ with a folder per class, and two OOD sets beside val; one has ID images."""
    rng = np.random.default_rng(17)
    for split, count in (("train", per_class), ("asked/val", 5)):
        for label, name in enumerate(CLASSES):
            for row in range(count):
                _write(folder / split / name / f"{row:03}", _pattern(rng, label), row)
    asked = folder / "asked"
    for row in range(8):
        _write(asked / "strange" / f"{row:03}", rng.integers(0, 255, (40, 52, 3), dtype=np.uint8), row)
    for row in range(3):
        _write(asked / "mixed" / f"{row:03}", rng.integers(0, 99, (33, 47, 3), dtype=np.uint8), row)
    for name in CLASSES:
        original = next((asked / "val" / name).glob("000.*"))
        (asked / "mixed" / f"copy of a {name}{original.suffix}").write_bytes(original.read_bytes())


def _pattern(rng: np.random.Generator, label: int) -> np.ndarray:
    """Return a picture of stripes, rings or a slope, (height, width, 3) uint8, in a colour of its own."""
    height, width = rng.integers(36, 64, 2)
    y, x = np.mgrid[0:height, 0:width] / 12.0
    phase = rng.uniform(0, 6)
    shape = (np.sin(3 * x + phase), np.sin(2 * np.hypot(x - 2, y - 2) + phase), (x - y + phase) / 6)[label]
    colour = np.roll([0.9, 0.6, 0.3], label) + rng.uniform(-0.1, 0.1, 3)
    noisy = 127 + 110 * shape[..., None] * colour + rng.normal(0, 9, (height, width, 3))
    return noisy.clip(0, 255).astype(np.uint8)


def _write(path: Path, pixels: np.ndarray, row: int) -> None:
    """Write a picture: most as JPEG, every third as PNG, some of these grey or partly transparent."""
    path.parent.mkdir(parents=True, exist_ok=True)
    image = Image.fromarray(pixels)
    if row % 3:
        image.save(path.with_suffix(".jpg"), quality=90)
    else:
        image.convert(("RGB", "L", "RGBA")[row // 3 % 3]).save(path.with_suffix(".png"))
