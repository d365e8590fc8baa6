"""The script that builds the demo: drawing, packing, training and its resumption."""

import io
import zipfile

import numpy as np
import pytest
import torch
from PIL import Image

from scripts import demo_sources
from scripts.demo_packing import draw, noise, pack
from scripts.demo_sources import Split
from scripts.demo_training import Recipe, _cropped_and_flipped, train


@pytest.fixture
def split():
    pixels = np.random.default_rng(7).integers(0, 256, (30, 8, 8, 3), np.uint8)
    return Split("tiny", pixels, np.arange(30, dtype=np.uint8) % 3)


def test_drawn_pictures_are_named_after_their_class_and_place(split):
    drawn = draw(split, ("a", "b", "c"), ("c", "a"), per_class=4, seed=1)
    assert len(drawn) == 8
    for name, picture in drawn.items():
        label, place = name.removesuffix(".png").split("/")
        assert "abc"[split.labels[int(place)]] == label
        assert (picture == split.pixels[int(place)]).all()


def test_another_seed_draws_other_pictures(split):
    first, second = (draw(split, ("a", "b", "c"), ("a",), per_class=4, seed=seed) for seed in (1, 2))
    assert first.keys() != second.keys()


def test_packing_twice_gives_the_same_bytes_and_loses_no_pixel(split, tmp_path):
    pictures = draw(split, ("a", "b", "c"), ("a", "b"), per_class=5, seed=1)
    pack(pictures, tmp_path / "one.zip")
    pack(dict(reversed(pictures.items())), tmp_path / "two.zip")
    assert (tmp_path / "one.zip").read_bytes() == (tmp_path / "two.zip").read_bytes()
    with zipfile.ZipFile(tmp_path / "one.zip") as archive:
        assert archive.namelist() == sorted(pictures)
        for name, pixels in pictures.items():
            assert (np.asarray(Image.open(io.BytesIO(archive.read(name)))) == pixels).all()


def test_noise_is_uniform_over_all_byte_values():
    values, counts = np.unique(np.stack(list(noise(100, 32, seed=3).values())), return_counts=True)
    assert len(values) == 256
    assert abs(counts / counts.mean() - 1).max() < 0.15  # 1,200 of each: five standard deviations


def test_a_source_with_other_pixels_is_refused(split, monkeypatch):
    monkeypatch.setitem(demo_sources.PIXEL_HASHES, "tiny", "0" * 64)
    with pytest.raises(SystemExit, match="tiny is not what was expected"):
        demo_sources._checked(split)


def test_crops_shift_by_at_most_the_margin_and_flips_mirror():
    ramp = torch.arange(40).expand(64, 1, 40, 40).to(torch.uint8)
    cropped = _cropped_and_flipped(ramp, 4, torch.Generator().manual_seed(0))
    assert cropped.shape == (64, 1, 32, 32)
    steps = cropped.int().diff(dim=3)
    assert set(steps.unique().tolist()) == {-1, 1}  # each is the ramp, or the ramp mirrored
    starts = cropped.amin(dim=(1, 2, 3))
    assert set(starts.tolist()) == set(range(9))


def test_the_learning_rate_rises_to_its_peak_and_falls_to_zero_in_every_cycle():
    recipe = Recipe(cycles=((8, 0.2), (4, 0.1)), warm_up=0.25)
    rates = [recipe.rate(quarter / 4) for quarter in range(49)]
    assert rates[0] == rates[32] == rates[48] == 0
    assert max(rates) == rates[8] == pytest.approx(0.2)
    assert max(rates[32:]) == rates[36] == pytest.approx(0.1)
    assert rates[20] == pytest.approx(0.1)  # half-way down the cosine


def test_an_interrupted_training_resumes_to_the_same_weights(tmp_path):
    generator = torch.Generator().manual_seed(0)
    images = torch.randint(0, 256, (8, 3, 32, 32), dtype=torch.uint8, generator=generator)
    labels = torch.randint(0, 8, (8,), generator=generator)
    recipe = Recipe(cycles=((2, 0.2), (1, 0.1)), batch_size=4)
    straight, _ = train(images, labels, recipe, tmp_path / "straight.pt")
    with pytest.raises(KeyboardInterrupt):
        train(images, _Interrupted(labels, after=3), recipe, tmp_path / "broken.pt")
    resumed, _ = train(images, labels, recipe, tmp_path / "broken.pt")
    for name, tensor in straight.state_dict().items():
        torch.testing.assert_close(resumed.state_dict()[name], tensor, rtol=0, atol=0)


class _Interrupted:
    """Labels that raise KeyboardInterrupt when read once too often: in the second of three epochs."""

    def __init__(self, labels, after):
        self.labels, self.left = labels, after

    def to(self, device):
        self.labels = self.labels.to(device)
        return self

    def __len__(self):
        return len(self.labels)

    def __getitem__(self, rows):
        self.left -= 1
        if self.left < 0:
            raise KeyboardInterrupt
        return self.labels[rows]
