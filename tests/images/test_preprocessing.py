"""Preprocessing in two halves gives what the weights' own transforms give."""

import pickle
import subprocess
import sys

import numpy as np
import pytest
import timm.data
import torch
import torchvision
from hypothesis import assume, given, settings
from hypothesis import strategies as st
from PIL import Image
from torchvision.models import get_model_weights, list_models
from torchvision.transforms import CenterCrop, Compose, InterpolationMode, Normalize, PILToTensor, Resize
from torchvision.transforms._presets import ImageClassification, ObjectDetection

from nnguide_core.images.preprocessing import (
    ResizeAndCrop,
    WholeTransform,
    from_timm,
    from_torchvision,
    imagenet,
)


def _image(width, height, seed=0):
    pixels = np.random.default_rng(seed).integers(0, 256, size=(height, width, 3), dtype=np.uint8)
    return Image.fromarray(pixels)


def _input(preprocess, image):
    """What the network gets of one image, the way that extraction makes it."""
    sent = torch.from_numpy(np.stack([preprocess.array(image)]))
    return preprocess.normalise(sent.permute(0, 3, 1, 2))[0]


def _all_presets():
    names = list_models(module=torchvision.models)
    presets = [weights.transforms() for name in names for weights in get_model_weights(name)]
    return {from_torchvision(preset): preset for preset in presets}


def test_every_preset_of_torchvision_gives_the_same_bits_in_two_halves():
    presets = _all_presets()
    assert len(presets) > 20
    for seed, (preprocess, preset) in enumerate(presets.items()):
        image = _image(90 + 7 * seed, 300 - 5 * seed, seed)
        assert torch.equal(_input(preprocess, image), preset(image)), preprocess.describe()


@settings(max_examples=40, deadline=None)
@given(
    width=st.integers(1, 200),
    height=st.integers(1, 200),
    crop=st.integers(1, 40),
    margin=st.integers(0, 20),
    mode=st.sampled_from([InterpolationMode.BILINEAR, InterpolationMode.BICUBIC, InterpolationMode.NEAREST]),
)
def test_any_size_gives_the_same_bits_as_torchvision(width, height, crop, margin, mode):
    assume(max(width, height) < 8 * min(width, height))
    preset = ImageClassification(crop_size=crop, resize_size=crop + margin, interpolation=mode)
    image = _image(width, height, seed=width * 1000 + height)
    assert torch.equal(_input(from_torchvision(preset), image), preset(image))


@pytest.mark.parametrize(("width", "height"), [(1, 8), (900, 20), (3, 700), (33, 264)])
def test_a_strip_gives_the_same_pixels_up_to_rounding(width, height):
    preset = ImageClassification(crop_size=30, resize_size=35)
    image = _image(width, height)
    theirs = (
        preset(image) * torch.tensor(preset.std)[:, None, None] + torch.tensor(preset.mean)[:, None, None]
    )
    ours = torch.from_numpy(from_torchvision(preset).array(image)).permute(2, 0, 1)
    assert (ours - theirs * 255).abs().max() < 2.01  # levels of 255: the order of the two passes differs


def test_a_strip_of_twenty_thousand_pixels_is_not_resized_as_a_whole(monkeypatch):
    asked = []
    real = Image.Image.resize
    monkeypatch.setattr(
        Image.Image, "resize", lambda self, size, *a, **k: asked.append(size) or real(self, size, *a, **k)
    )
    assert imagenet().array(_image(20_000, 3)).shape == (224, 224, 3)
    assert asked == [(224, 224)]


def test_pixels_travel_as_bytes_and_are_normalised_on_the_batch():
    preprocess = ResizeAndCrop(resize=2, crop=(2, 2), mean=(0.5, 0.0, 0.0), std=(0.5, 1.0, 2.0))
    sent = preprocess.array(Image.new("RGB", (2, 2), (255, 51, 102)))
    assert sent.dtype == np.uint8
    assert sent.shape == (2, 2, 3)
    seen = preprocess.normalise(torch.from_numpy(sent)[None].permute(0, 3, 1, 2))
    assert seen[0, :, 0, 0].tolist() == pytest.approx([1.0, 0.2, 0.2])


def test_called_it_gives_the_pixels_as_a_tensor():
    preprocess = imagenet(32)
    image = _image(50, 40)
    pixels = preprocess(image)
    assert pixels.dtype == torch.uint8
    assert pixels.shape == (3, 32, 32)
    assert np.array_equal(pixels.permute(1, 2, 0).numpy(), np.array(preprocess.preview(image)))


def test_a_batch_normalised_keeps_the_channels_last():
    batch = torch.zeros(2, 8, 8, 3, dtype=torch.uint8).permute(0, 3, 1, 2)
    assert imagenet(8).normalise(batch).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    ("config", "kind"),
    [
        ({}, ResizeAndCrop),
        ({"interpolation": "bicubic", "crop_pct": 0.95}, ResizeAndCrop),
        ({"crop_pct": 1.0, "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}, ResizeAndCrop),
        ({"crop_mode": "squash", "crop_pct": 0.9}, ResizeAndCrop),
        ({"crop_mode": "border", "crop_pct": 0.9}, WholeTransform),
    ],
)
def test_transforms_of_timm_are_split_or_run_whole_with_the_same_result(config, kind):
    config = {
        "input_size": (3, 64, 64),
        "interpolation": "bilinear",
        "mean": (0.485, 0.456, 0.406),
        "std": (0.229, 0.224, 0.225),
        "crop_pct": 0.875,
        "crop_mode": "center",
    } | config
    transform = timm.data.create_transform(**config, is_training=False)
    preprocess = from_timm(transform, config)
    assert type(preprocess) is kind
    for size in [(100, 80), (64, 64), (31, 77)]:
        image = _image(*size)
        assert torch.equal(_input(preprocess, image), transform(image))
        shown = np.array(preprocess.preview(image)).astype(int)
        levels = (transform(image) * torch.tensor(config["std"])[:, None, None]) + torch.tensor(
            config["mean"]
        )[:, None, None]
        assert shown.shape == (*preprocess.size, 3)
        assert np.abs(shown - (levels * 255).permute(1, 2, 0).numpy()).max() <= 0.51


def test_transforms_in_another_order_are_run_whole():
    steps = Compose([CenterCrop(20), Resize(16), PILToTensor(), Normalize([0.5], [0.5])])
    config = {"input_size": (3, 16, 16), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}
    assert isinstance(from_timm(steps, config), WholeTransform)


def test_a_preset_for_another_task_is_refused():
    with pytest.raises(ValueError, match="image classification, got ObjectDetection"):
        from_torchvision(ObjectDetection())


@pytest.mark.parametrize("resize", [31, (31, 40), (40, 31)])
def test_a_crop_larger_than_the_resized_image_is_refused(resize):
    with pytest.raises(ValueError, match=r"A crop of \(32, 32\) pixels does not fit"):
        ResizeAndCrop(resize=resize, crop=(32, 32))


def test_its_description_holds_every_number():
    preprocess = ResizeAndCrop(resize=232, crop=(224, 224), interpolation=Image.Resampling.BICUBIC)
    assert preprocess.describe() == (
        "resized to 232 pixels on the shorter side (bicubic, antialiased), the centre 224 × 224 kept, "
        "scaled to 0..1, mean 0.485, 0.456, 0.406, deviation 0.229, 0.224, 0.225"
    )
    assert "16 × 20 pixels" in ResizeAndCrop(resize=(16, 20), crop=(16, 16)).describe()


def test_it_can_be_pickled_for_a_worker():
    preprocess = imagenet(16)
    assert pickle.loads(pickle.dumps(preprocess)) == preprocess  # noqa: S301 - made here


def test_workers_need_no_torch_for_it():
    code = "import sys, nnguide_core.images.decoding; print('torch' in sys.modules)"
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "False"
