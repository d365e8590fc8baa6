"""Networks by name: their own preprocessing and class names, and sentences where they cannot be had."""

import urllib.error

import pytest
import timm
import torch
import torchvision
from PIL import Image

from nnguide_core.errors import ModelError
from nnguide_core.images.preprocessing import ResizeAndCrop
from nnguide_core.models import architectures


@pytest.fixture
def hub(tmp_path):
    """An empty cache of weights."""
    before = torch.hub.get_dir()
    torch.hub.set_dir(tmp_path)
    yield tmp_path / "checkpoints"
    torch.hub.set_dir(before)


@pytest.fixture
def offline(monkeypatch):
    def refuse(*_, **__):
        raise urllib.error.URLError("no route to host")

    monkeypatch.setattr(torch.hub, "urlopen", refuse)


def _same(one, other):
    one, other = one.state_dict(), other.state_dict()
    return one.keys() == other.keys() and all(torch.equal(one[name], other[name]) for name in one)


def test_every_classifier_of_torchvision_is_available_and_no_detector():
    names = architectures.available()
    assert len(names) == 80
    assert {"resnet50", "vit_b_16", "regnet_y_16gf", "maxvit_t"} < set(names)
    assert not [name for name in names if "rcnn" in name or "segm" in name or "quant" in name or "3d" in name]


def test_weights_are_listed_by_name():
    assert architectures.weights_of("resnet50") == ("IMAGENET1K_V1", "IMAGENET1K_V2")


def test_random_weights_are_the_same_every_time_and_leave_the_generator_alone():
    torch.manual_seed(5)
    expected = torch.rand(1)
    torch.manual_seed(5)
    one = architectures.torchvision_model("mobilenet_v3_small", class_count=4)
    assert torch.rand(1) == expected
    other = architectures.torchvision_model("mobilenet_v3_small", class_count=4)
    assert _same(one.network, other.network)
    assert one.class_names is None


@pytest.mark.parametrize(
    ("name", "options", "expected"),
    [
        ("resnet18", {}, ResizeAndCrop(256, (224, 224))),
        ("inception_v3", {}, ResizeAndCrop(342, (299, 299))),
        ("resnet18", {"image_size": 48}, ResizeAndCrop(48, (48, 48))),
        ("resnet18", {"weights": "IMAGENET1K_V1", "own": ()}, ResizeAndCrop(256, (224, 224))),
        (
            "efficientnet_b1",
            {"weights": "IMAGENET1K_V1", "own": (), "image_size": 64},
            ResizeAndCrop(64, (64, 64), Image.Resampling.BICUBIC),
        ),
        (
            "efficientnet_b1",
            {"weights": "IMAGENET1K_V1", "own": ()},
            ResizeAndCrop(256, (240, 240), Image.Resampling.BICUBIC),
        ),
    ],
)
def test_random_weights_see_images_of_the_usual_size_or_of_the_one_asked_for(name, options, expected):
    assert architectures.torchvision_model(name, class_count=2, **options).preprocess == expected


def test_weights_from_the_cache_come_with_their_classes_and_transforms(hub, monkeypatch):
    weights = torchvision.models.ShuffleNet_V2_X0_5_Weights.IMAGENET1K_V1
    network = torchvision.models.shufflenet_v2_x0_5()
    hub.mkdir()
    torch.save(network.state_dict(), hub / weights.url.rpartition("/")[2])
    monkeypatch.setattr(torch.hub, "urlopen", pytest.fail)
    built = architectures.torchvision_model("shufflenet_v2_x0_5", "DEFAULT")
    assert _same(built.network, network)
    assert built.class_names == tuple(weights.meta["categories"])
    with pytest.raises(ModelError, match="has 1000 classes, but 8 were asked for"):
        architectures.torchvision_model("shufflenet_v2_x0_5", "DEFAULT", class_count=8)


@pytest.mark.usefixtures("offline")
def test_weights_that_cannot_be_downloaded_say_where_to_put_the_file(hub):
    with pytest.raises(ModelError) as refusal:
        architectures.torchvision_model("resnet50", "IMAGENET1K_V2")
    assert "no route to host" in str(refusal.value)
    assert f"Place the file resnet50-11ad3fa6.pth in {hub}" in str(refusal.value)


def test_code_in_the_cache_of_weights_never_runs(hub, tmp_path):
    class Trap:
        def __reduce__(self):
            return (tmp_path / "sprung").mkdir, ()

    hub.mkdir()
    torch.save({"fc.weight": Trap()}, hub / "resnet18-f37072fd.pth")
    with pytest.raises(ModelError, match=r"resnet18-f37072fd\.pth .* it is damaged"):
        architectures.torchvision_model("resnet18", "DEFAULT")
    assert not (tmp_path / "sprung").exists()


def test_an_unknown_name_is_answered_with_similar_ones():
    with pytest.raises(ModelError, match=r"no classifier 'resnet5'. Similar ones: .*resnet50"):
        architectures.torchvision_model("resnet5")
    with pytest.raises(ModelError, match=r"no weights 'V3'. There are IMAGENET1K_V1, IMAGENET1K_V2, DEFAULT"):
        architectures.torchvision_model("resnet50", "V3")
    with pytest.raises(ModelError, match="timm has no model 'resnet5'"):
        architectures.timm_model("resnet5")


def test_a_timm_model_comes_with_its_own_transforms():
    built = architectures.timm_model("test_vit", class_count=5)
    config = timm.data.resolve_model_data_config(built.network)
    assert built.preprocess.size == config["input_size"][1:]
    assert built.preprocess.mean == config["mean"]
    assert built.network.num_classes == 5


@pytest.mark.parametrize(
    ("name", "weights", "asked"),
    [
        ("resnet18", "tv_in1k", "resnet18.tv_in1k"),
        ("resnet18.tv_in1k", "DEFAULT", "resnet18.tv_in1k"),
        ("resnet18.tv_in1k", "tv_in1k", "resnet18.tv_in1k"),
        ("resnet18", "DEFAULT", "resnet18"),
        ("hf-hub:me/mine", "DEFAULT", "hf-hub:me/mine"),
    ],
)
def test_timm_is_asked_for_the_weights_that_were_named(monkeypatch, name, weights, asked):
    made = timm.create_model("test_resnet")
    seen = []

    def create(model, pretrained):
        seen.append((model, pretrained))
        return made

    monkeypatch.setattr(timm, "create_model", create)
    architectures.timm_model(name, weights)
    assert seen == [(asked, True)]


def test_own_weights_on_timms_network_are_seen_through_the_preprocessing_that_was_named():
    built = architectures.timm_model("resnet18", "a2_in1k", class_count=3, own=())
    other = architectures.timm_model("resnet18", "tv_in1k", class_count=3, own=())
    assert (built.preprocess.interpolation, other.preprocess.interpolation) == (
        Image.Resampling.BICUBIC,
        Image.Resampling.BILINEAR,
    )
    assert built.class_names is None


@pytest.mark.parametrize(
    ("name", "weights", "match"),
    [
        (
            "resnet18",
            "IMAGENET1K_V1",
            r"no weights 'IMAGENET1K_V1'. There are a1_in1k, .*tv_in1k",
        ),
        ("resnet18.a1_in1k", "tv_in1k", "names the weights a1_in1k, and tv_in1k were asked for: name one"),
        ("hf-hub:me/mine", "tv_in1k", "has its own weights, not tv_in1k: leave them out"),
    ],
)
def test_weights_that_timm_does_not_have_are_refused(name, weights, match):
    with pytest.raises(ModelError, match=match):
        architectures.timm_model(name, weights)


@pytest.mark.parametrize(
    "given", [{"name": "resnet18"}, {"weights": "IMAGENET1K_V1"}, {"weights": "DEFAULT", "class_count": 3}]
)
def test_what_the_demo_cannot_be_is_refused(given):
    with pytest.raises(ModelError, match="has one network, DemoResNet, and one set of weights for 8 classes"):
        architectures.demo_model(**given)


def test_names_of_imagenet_classes_are_those_of_timm():
    assert architectures._timm_classes(timm.create_model("resnet18"))[0] == "tench, Tinca tinca"
    assert architectures._timm_classes(timm.create_model("resnet18", num_classes=7)) is None


def test_without_timm_the_error_says_how_to_install_it(monkeypatch):
    def missing(name):
        raise ImportError(name)

    monkeypatch.setattr(architectures, "import_module", missing)
    with pytest.raises(
        ModelError, match=r"timm is not installed. Install it with pip install timm, or .* resnet50"
    ):
        architectures.timm_model("resnet50d")


def test_weights_that_timm_cannot_get_are_a_sentence(monkeypatch):
    def refuse(*_, **__):
        raise FileNotFoundError("cannot find the requested files in the local cache")

    monkeypatch.setattr(timm, "create_model", refuse)
    with pytest.raises(
        ModelError, match=r"timm could not make resnet18 with its weights, .* in the local cache"
    ):
        architectures.timm_model("resnet18", "DEFAULT")


def test_the_demo_network_names_its_classes_and_sees_small_images():
    built = architectures.demo_model(class_count=8)
    assert built.preprocess.size == (32, 32)
    assert built.class_names[0] == "airplane"
    assert architectures.demo_model(class_count=3).class_names is None
