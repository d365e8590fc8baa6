"""Tests of nnguide_core.cli.inputs"""

from pathlib import Path
from typing import get_args

import pytest
import torch

from nnguide_core.bank import build_bank
from nnguide_core.cli.arguments import DRAWS, parse
from nnguide_core.cli.inputs import check_size, dataset_names, settings_of, spec_of
from nnguide_core.errors import ModelError
from nnguide_core.models import ModelSpec
from nnguide_core.settings import BankSettings, Draw

EVALUATE = ["evaluate", "--bank", "b", "--id", "i", "--ood", "o"]


def spec(*arguments):
    return spec_of(parse([*EVALUATE, *arguments]))


@pytest.mark.parametrize(
    ("paths", "names"),
    [
        (["train", "val", "ood.zip"], ["train", "val", "ood"]),
        (["A/test", "B/test"], ["A/test", "B/test"]),
        (["x/A/test", "y/A/test"], ["x/A/test", "y/A/test"]),
        (["far.zip", "far.csv"], ["far.zip", "far.csv"]),
        (["same", "same", "other"], ["same", "same 2", "other"]),
    ],
)
def test_every_path_has_a_name_of_its_own(paths, names):
    assert dataset_names([Path(path) for path in paths]) == names


def test_the_folder_that_one_is_in_is_called_by_its_name(tmp_path, monkeypatch):
    (tmp_path / "photos.v2" / "sub").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "photos.v2" / "sub")
    assert dataset_names([Path(), Path("..")]) == ["sub", "photos.v2"]


@pytest.mark.parametrize(("images", "fraction"), [(200, 0.05), (30, 0.3), (10, 1.0), (999, 0.01)])
def test_the_largest_k_is_what_the_bank_really_draws(images, fraction):
    settings = BankSettings(fraction)
    features = torch.rand(images, 4, generator=torch.Generator().manual_seed(0))
    drawn = build_bank(features, energies=torch.ones(images), settings=settings).size
    check_size(drawn, images, settings)
    with pytest.raises(ValueError, match=rf"at least k = {drawn + 1} ID images, but has {drawn}"):
        check_size(drawn + 1, images, settings)


def test_a_model_is_torchvisions_timms_or_ones_own(tmp_path):
    names = tmp_path / "names.txt"
    names.write_text("\ufeffcat\n\n dog \n", encoding="utf-8")
    assert spec("--model", "resnet18") == ModelSpec("torchvision", "resnet18", "DEFAULT")
    assert spec("--model", "timm:vit", "--precision", "auto") == ModelSpec(
        "timm", "vit", "DEFAULT", precision="auto"
    )
    own = ["--model", "resnet18", "--checkpoint", "own.pth"]
    assert spec(*own, "--class-count", "3", "--feature-layer", "fc") == ModelSpec(
        "torchvision", "resnet18", checkpoint=Path("own.pth"), class_count=3, feature_layer="fc"
    )
    assert spec(*own, "--classes", str(names)).class_names == ("cat", "dog")
    assert spec("--model", "timm:a.b", "--weights", "c", "--image-size", "64") == ModelSpec(
        "timm", "a.b", "c", image_size=64
    )
    assert spec("--model", "timm:local-dir:/a", *own[2:]) == ModelSpec(
        "timm", "local-dir:/a", checkpoint=Path("own.pth")
    )
    assert spec("--model", "demo", "--precision", "bfloat16").precision == "bfloat16"


def test_a_source_of_models_that_there_is_not_is_refused():
    with pytest.raises(ModelError, match=r"\(libraries: torchvision, timm, demo\) or demo; got 'keras:vgg'"):
        spec("--model", "keras:vgg")


def test_class_names_that_are_no_text_are_refused_by_their_file(tmp_path):
    (tmp_path / "r18.pth").write_bytes(b"\x80\x02\xff")
    with pytest.raises(
        ModelError, match=r"The class names in .*r18\.pth cannot be read: it is no UTF-8 text"
    ):
        spec("--model", "resnet18", "--classes", str(tmp_path / "r18.pth"))


def test_the_draws_offered_are_those_there_are():
    assert get_args(Draw) == DRAWS


def test_bank_settings_are_those_that_were_given():
    given = ["--fraction", "0.5", "--seed", "3", "--draw", "balanced", "--react", "90", "--scoring", "cosine"]
    options = parse([*EVALUATE, "--model", "demo", *given, "--energy-offset", "-1.5"])
    assert settings_of(options) == BankSettings(0.5, 3, "balanced", 90.0, "cosine", -1.5)
