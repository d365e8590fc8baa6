"""From a decoded image to what a network sees: resize and crop as integers, normalise on the whole batch.

Decode workers run the integer half, so a quarter of the bytes travel between processes, and they need no
torch for it. The result equals the weights' own transforms, which resize and crop the same integers.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
from PIL import Image

if TYPE_CHECKING:
    from numpy.typing import NDArray
    from torch import Tensor

__all__ = [
    "IMAGENET_MEAN",
    "IMAGENET_STD",
    "Preprocess",
    "ResizeAndCrop",
    "WholeTransform",
    "from_timm",
    "from_torchvision",
    "imagenet",
]

IMAGENET_MEAN = (0.485, 0.456, 0.406)
IMAGENET_STD = (0.229, 0.224, 0.225)
_ELONGATED = 8  # sides' ratio from which only the part that the crop keeps is resized


class Preprocess(Protocol):
    """What every kind of preprocessing offers. Picklable: decode workers run it."""

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what the network sees."""

    def array(self, image: Image.Image) -> NDArray[Any]:
        """Return what a decode worker sends: (H, W, 3), uint8 pixels or float32 values already normalised."""

    def preview(self, image: Image.Image) -> Image.Image:
        """Return the RGB image that the network really sees."""

    def normalise(self, images: Tensor) -> Tensor:
        """Turn a batch of arrays as the workers send them, (B, 3, H, W), into the network's float32 input."""

    def describe(self) -> str:
        """Return every number of it in words, the same on every machine."""


@dataclass(frozen=True)
class ResizeAndCrop:
    """Resize with antialiasing, crop the centre, scale to 0..1, subtract a mean, divide by a deviation."""

    resize: int | tuple[int, int]  # pixels: the shorter side, or height and width
    crop: tuple[int, int]  # height and width in pixels
    interpolation: Image.Resampling = Image.Resampling.BILINEAR
    mean: tuple[float, ...] = IMAGENET_MEAN  # per channel, RGB in 0..1
    std: tuple[float, ...] = IMAGENET_STD

    def __post_init__(self) -> None:
        resized = self.resize if isinstance(self.resize, tuple) else (self.resize, self.resize)
        if min(self.crop) < 1 or any(side < kept for side, kept in zip(resized, self.crop, strict=True)):
            raise ValueError(f"A crop of {self.crop} pixels does not fit images resized to {self.resize}.")

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the image's pixels, an RGB image -> (3, H, W) uint8."""
        import torch

        return torch.from_numpy(self.array(image)).permute(2, 0, 1)

    @property
    def size(self) -> tuple[int, int]:
        """Height and width in pixels of what the network sees."""
        return self.crop

    def array(self, image: Image.Image) -> NDArray[Any]:
        """Return the image's pixels, an RGB image -> (H, W, 3) uint8."""
        return np.array(self.preview(image))

    def preview(self, image: Image.Image) -> Image.Image:
        """Return the RGB image that the network really sees."""
        width, height = self._resized(image)
        left, top = round((width - self.crop[1]) / 2), round((height - self.crop[0]) / 2)
        right, bottom = left + self.crop[1], top + self.crop[0]
        if max(image.size) < _ELONGATED * min(image.size):
            resized = (
                image if image.size == (width, height) else image.resize((width, height), self.interpolation)
            )
            return resized.crop((left, top, right, bottom))
        # A strip would be resized to hundreds of megapixels. The part that is kept differs by rounding only.
        across, down = image.width / width, image.height / height
        kept = (left * across, top * down, right * across, bottom * down)
        return image.resize(self.crop[::-1], self.interpolation, box=kept)

    def normalise(self, images: Tensor) -> Tensor:
        """Turn pixels into the network's input, (B, 3, H, W) uint8 -> float32."""
        count, channels, height, width = images.shape
        # One long row per line of pixels is five times faster than a number per channel, with the same bits.
        values = images.permute(0, 2, 3, 1).reshape(count, height, width * channels).float().div_(255)
        mean, std = (values.new_tensor(numbers).repeat(width) for numbers in (self.mean, self.std))
        values.sub_(mean).div_(std)
        return values.view(count, height, width, channels).permute(0, 3, 1, 2)

    def describe(self) -> str:
        """Return every number of it in words, the same on every machine."""
        side = f"{self.resize} pixels on the shorter side"
        if isinstance(self.resize, tuple):
            side = f"{self.resize[0]} × {self.resize[1]} pixels"
        return (
            f"resized to {side} ({self.interpolation.name.lower()}, antialiased), the centre "
            f"{self.crop[0]} × {self.crop[1]} kept, scaled to 0..1, mean {_listed(self.mean)}, "
            f"deviation {_listed(self.std)}"
        )

    def _resized(self, image: Image.Image) -> tuple[int, int]:
        """Return width and height after the resize; fractions of a pixel are cut off, as torchvision does."""
        if isinstance(self.resize, tuple):
            return self.resize[1], self.resize[0]
        shorter, longer = sorted(image.size)
        stretched = int(self.resize * longer / shorter)
        return (self.resize, stretched) if image.width <= image.height else (stretched, self.resize)


@dataclass(frozen=True)
class WholeTransform:
    """Transforms of another shape, run as they are: floats travel from the workers, four times the bytes."""

    transform: Callable[[Image.Image], Tensor]  # RGB image -> (3, H, W) float32, normalised
    size: tuple[int, int]  # height and width in pixels
    mean: tuple[float, ...]
    std: tuple[float, ...]

    def __call__(self, image: Image.Image) -> Tensor:
        """Return the network's input, an RGB image -> (3, H, W) float32."""
        return self.transform(image)

    def array(self, image: Image.Image) -> NDArray[Any]:
        """Return the network's input, an RGB image -> (H, W, 3) float32."""
        return np.ascontiguousarray(self.transform(image).permute(1, 2, 0).numpy())

    def preview(self, image: Image.Image) -> Image.Image:
        """Return the RGB image that the network really sees."""
        pixels = self.array(image) * np.asarray(self.std) + np.asarray(self.mean)
        return Image.fromarray((pixels * 255).round().clip(0, 255).astype(np.uint8))

    def normalise(self, images: Tensor) -> Tensor:
        """Return the images, (B, 3, H, W) float32: they are normalised already."""
        return images

    def describe(self) -> str:
        """Return the transforms in words."""
        return " ".join(str(self.transform).split())


def imagenet(side: int = 224) -> ResizeAndCrop:
    """Return the usual ImageNet preprocessing: 256 pixels on the shorter side, the centre 224 × 224."""
    return ResizeAndCrop(resize=round(side * 256 / 224), crop=(side, side))


def from_torchvision(preset: Any) -> ResizeAndCrop:
    """Return what torchvision's ImageClassification preset does, in two halves.

    Raises:
        ValueError: the preset is of another kind.
    """
    from torchvision.transforms._presets import ImageClassification

    if not isinstance(preset, ImageClassification):
        raise ValueError(f"Expected a preset for image classification, got {type(preset).__name__}.")
    return ResizeAndCrop(
        resize=_shape(preset.resize_size),
        crop=_height_and_width(preset.crop_size),
        interpolation=_resampling(preset.interpolation),
        mean=tuple(preset.mean),
        std=tuple(preset.std),
    )


def from_timm(transform: Any, config: dict[str, Any]) -> Preprocess:
    """Return timm's evaluation transforms in two halves, or as they are where they are of another shape.

    Args:
        transform: what timm.data.create_transform returned for config.
        config: what timm.data.resolve_model_data_config returned.
    """
    steps = list(getattr(transform, "transforms", []))
    mean, std = tuple(map(float, config["mean"])), tuple(map(float, config["std"]))
    names = [type(step).__name__ for step in steps]
    if names not in (["Resize", "CenterCrop", tensor, "Normalize"] for tensor in _TO_TENSOR):
        return WholeTransform(transform, tuple(config["input_size"][1:]), mean, std)
    resize, crop, _, _ = steps
    return ResizeAndCrop(
        _shape(resize.size), _height_and_width(crop.size), _resampling(resize.interpolation), mean, std
    )


_TO_TENSOR = ("MaybeToTensor", "ToTensor")


def _shape(size: int | Sequence[int]) -> int | tuple[int, int]:
    """Return a resize's size as torchvision reads it: a list of one number means the shorter side."""
    if isinstance(size, int):
        return size
    return int(size[0]) if len(size) == 1 else (int(size[0]), int(size[1]))


def _height_and_width(size: int | Sequence[int]) -> tuple[int, int]:
    shape = _shape(size)
    return shape if isinstance(shape, tuple) else (shape, shape)


def _resampling(mode: Any) -> Image.Resampling:
    """Return Pillow's name for torchvision's interpolation mode."""
    return Image.Resampling[mode.value.upper()]


def _listed(values: Sequence[float]) -> str:
    return ", ".join(f"{value:g}" for value in values)
