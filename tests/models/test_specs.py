"""A loaded classifier: features and logits of one pass, a fingerprint that says what they depend on."""

import json
import re
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import timm
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from nnguide_core.errors import CancelledError, CheckpointError, DeviceError, ModelError
from nnguide_core.models import ModelSpec, architectures, checkpoints, load_model, specs
from nnguide_core.models.demo_network import CLASS_NAMES, DemoResNet

FAMILIES = {
    "alexnet": 4096,
    "convnext_tiny": 768,
    "densenet121": 1024,
    "efficientnet_b0": 1280,
    "googlenet": 1024,
    "inception_v3": 2048,
    "mnasnet0_5": 1280,
    "mobilenet_v2": 1280,
    "mobilenet_v3_small": 1024,
    "regnet_y_400mf": 440,
    "resnet18": 512,
    "shufflenet_v2_x0_5": 1024,
    "swin_t": 768,
    "vit_b_32": 768,
}  # one of each family of torchvision, with the width of its features


@pytest.fixture(scope="module", autouse=True)
def _one_thread():
    """Small networks gain nothing from more threads, which wait for each other on a busy machine."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@pytest.fixture(scope="module")
def spec():
    return ModelSpec("torchvision", "shufflenet_v2_x0_5", class_count=4, image_size=48)


@pytest.fixture(scope="module")
def classifier(spec):
    return load_model(spec, "cpu")


@pytest.fixture(scope="module")
def images():
    return torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))


def _settled(name, side):
    """A network as training leaves it: norms that have seen images, and a head that tells classes apart."""
    built = architectures.torchvision_model(name, class_count=6, image_size=side)
    generator = torch.Generator().manual_seed(2)
    for module in built.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch settles it
    with torch.no_grad(), torch.random.fork_rng():
        built.network.train()(torch.randn(8, 3, side, side, generator=generator))
        list(built.network.parameters())[-2].normal_(std=0.1, generator=generator)
    return replace(built, network=built.network.eval())


@pytest.mark.parametrize("name", FAMILIES)
def test_features_and_logits_are_those_of_the_plain_network(name, monkeypatch):
    side = 96 if name == "inception_v3" else 64
    built = _settled(name, side)
    images = torch.randn(2, 3, side, side, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = built.network(images)
    monkeypatch.setitem(architectures.LIBRARIES, "torchvision", lambda *_, **__: built)
    classifier = load_model(ModelSpec("torchvision", name, class_count=6, image_size=side), "cpu")
    features, logits = classifier.forward(images)
    assert features.shape == (2, FAMILIES[name]) == (2, classifier.width)
    assert logits.shape == (2, 6) == (2, classifier.class_count)
    assert features.dtype == logits.dtype == torch.float32
    assert expected.std() > 0.01
    assert torch.allclose(logits, expected, rtol=1e-3, atol=float(1e-4 * expected.abs().max()))
    assert torch.allclose(classifier.head(features), logits, rtol=1e-4, atol=1e-5)
    assert torch.equal(classifier.encoder(images.contiguous(memory_format=torch.channels_last)), features)


def test_a_network_without_a_last_linear_layer_says_what_could_be_named():
    spec = ModelSpec("torchvision", "squeezenet1_1", class_count=5, image_size=64)
    with pytest.raises(ModelError, match=r"No linear layer .* classifier.1 \(512 wide\)"):
        load_model(spec, "cpu")
    classifier = load_model(replace(spec, feature_layer="classifier.1"), "cpu")
    assert (classifier.width, classifier.head) == (512, None)
    assert classifier.describe()["logits"] == "whole network"


def test_a_timm_model_is_split_and_folded_too():
    classifier = load_model(ModelSpec("timm", "test_resnet", class_count=5), "cpu")
    images = torch.randn(2, 3, *classifier.preprocess.size, generator=torch.Generator().manual_seed(1))
    features, logits = classifier.forward(images)
    assert torch.allclose(classifier.head(features), logits, atol=1e-5)
    assert classifier.class_count == 5


def test_the_network_is_frozen_channels_last_and_folded(classifier):
    assert not classifier.network.training
    assert not any(parameter.requires_grad for parameter in classifier.network.parameters())
    assert not any(isinstance(module, nn.BatchNorm2d) for module in classifier.network.modules())
    weight = next(parameter for parameter in classifier.network.parameters() if parameter.ndim == 4)
    assert weight.is_contiguous(memory_format=torch.channels_last)


def test_preprocess_and_forward_fit_together(classifier):
    image = Image.fromarray(np.random.default_rng(0).integers(0, 256, (60, 70, 3), dtype=np.uint8))
    features, logits = classifier.forward(classifier.normalise(classifier.preprocess(image)[None]))
    assert features.shape == (1, classifier.width)
    assert logits.isfinite().all()


def test_the_fingerprint_is_the_same_in_another_process(classifier, spec):
    code = (
        "import torch; torch.rand(7); torch.set_num_threads(1)\n"
        "from nnguide_core.models import ModelSpec, load_model\n"
        f"spec = ModelSpec('torchvision', {spec.architecture!r}, class_count=4, image_size=48)\n"
        "print(load_model(spec).fingerprint)"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == classifier.fingerprint


@pytest.mark.parametrize(
    "change",
    [
        {"class_count": 5},
        {"image_size": 49},
        {"architecture": "mnasnet0_5"},
        {"feature_layer": "conv5.0"},
        {"precision": "bfloat16"},
    ],
)
def test_whatever_changes_features_changes_the_fingerprint(classifier, spec, change):
    assert load_model(replace(spec, **change), "cpu").fingerprint != classifier.fingerprint


def test_what_changes_no_feature_leaves_the_fingerprint(classifier, spec, tmp_path):
    network = architectures.torchvision_model(spec.architecture, class_count=4).network
    for name, value in network.state_dict().items():
        if name.endswith("num_batches_tracked"):
            value += 7
    save_file(network.state_dict(), tmp_path / "same.safetensors")
    same = replace(spec, checkpoint=tmp_path / "same.safetensors", class_names=tuple("abcd"))
    assert load_model(same, "cpu").fingerprint == classifier.fingerprint


def test_one_weight_that_differs_changes_the_fingerprint(classifier, spec, tmp_path):
    state = architectures.torchvision_model(spec.architecture, class_count=4).network.state_dict()
    state["fc.bias"][2] += 1e-6
    save_file(state, tmp_path / "other.safetensors")
    other = replace(spec, checkpoint=tmp_path / "other.safetensors")
    assert load_model(other, "cpu").fingerprint != classifier.fingerprint


@pytest.mark.parametrize("auxiliary", [True, False])
def test_a_checkpoint_of_googlenet_loads_with_and_without_its_side_outputs(tmp_path, auxiliary):
    side_outputs = ("aux1.fc1.weight",) if auxiliary else ()
    network = architectures.torchvision_model("googlenet", class_count=3, own=side_outputs).network
    torch.save({"state_dict": network.state_dict()}, tmp_path / "googlenet.pth")
    spec = ModelSpec(
        "torchvision", "googlenet", checkpoint=tmp_path / "googlenet.pth", class_count=3, image_size=64
    )
    assert load_model(spec, "cpu").split.layer == "fc"


def test_a_checkpoint_for_a_timm_architecture_is_loaded(tmp_path):
    network = architectures.timm_model("test_vit", class_count=3).network
    torch.save(network.state_dict(), tmp_path / "vit.pth")
    spec = ModelSpec("timm", "test_vit", checkpoint=tmp_path / "vit.pth", class_names=("a", "b", "c"))
    assert load_model(spec, "cpu").class_names == ("a", "b", "c")


@pytest.mark.parametrize("name", ["test_resnet", "test_vit"])
def test_timms_network_and_timms_preprocessing_take_ones_own_weights_at_ones_own_size(tmp_path, name):
    network = timm.create_model(name, num_classes=3, **({"img_size": 64} if name == "test_vit" else {}))
    torch.save(network.state_dict(), tmp_path / "own.pth")
    spec = ModelSpec("timm", name, checkpoint=tmp_path / "own.pth", class_count=3, image_size=64)
    classifier = load_model(spec, "cpu")
    config = timm.data.resolve_model_data_config(network, args={"img_size": 64})
    assert (classifier.name, classifier.preprocess.size) == (f"own.pth on timm:{name}", (64, 64))
    assert classifier.preprocess.mean == config["mean"]
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with torch.inference_mode():
        expected = network.eval()(images)
    assert torch.allclose(classifier.forward(images)[1], expected, rtol=1e-3, atol=1e-5)


def test_a_name_that_both_libraries_know_means_the_library_that_was_named(tmp_path):
    state = timm.create_model("resnet18d", num_classes=3).state_dict()
    assert "conv1.0.weight" in state  # which torchvision's resnets do not have
    torch.save(timm.create_model("resnet18", num_classes=3).state_dict(), tmp_path / "own.pth")
    of = {
        library: load_model(ModelSpec(library, "resnet18", checkpoint=tmp_path / "own.pth", class_count=3))
        for library in ("torchvision", "timm")
    }
    assert "antialiased" in of["torchvision"].preprocess.describe()
    assert of["torchvision"].preprocess.interpolation != of["timm"].preprocess.interpolation


def test_a_specification_comes_back_from_json_as_it_was(tmp_path):
    spec = ModelSpec(
        "timm", "test_vit", "r160_in1k", tmp_path / "a.pth", ("a", "b"), 2, "head", 64, "bfloat16"
    )
    assert ModelSpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    ("source", "given", "expected"),
    [
        ("torchvision", {"weights": "DEFAULT"}, ModelSpec("torchvision", "resnet18", "DEFAULT")),
        ("timm", {"weights": "tv2_in1k"}, ModelSpec("timm", "resnet18", "DEFAULT")),
        ("timm", {}, ModelSpec("timm", "resnet18")),
        ("checkpoint", {"checkpoint": "/a"}, ModelSpec("torchvision", "resnet18", checkpoint=Path("/a"))),
        (
            "checkpoint",
            {"checkpoint": "/a", "architecture": "test_vit", "image_size": 64},
            ModelSpec("timm", "test_vit", checkpoint=Path("/a")),
        ),
        (
            "demo",
            {"architecture": "DemoResNet", "checkpoint": "/x/model.safetensors", "class_count": 8},
            ModelSpec("demo", "DemoResNet", "DEFAULT"),
        ),
    ],
)
def test_a_specification_with_a_source_means_the_network_that_was_loaded_then(source, given, expected):
    about = ModelSpec("torchvision", "resnet18").to_json() | given | {"source": source}
    del about["library"]
    assert ModelSpec.from_json(about) == expected


def test_a_batch_norm_is_no_feature_layer_and_whatever_is_suggested_instead_is_one():
    """A folded batch norm is gone: its input cannot be had any more."""
    network = timm.create_model("test_resnet", num_classes=3)
    norms = [name for name, module in network.named_modules() if isinstance(module, nn.BatchNorm2d)]
    spec = ModelSpec("timm", "test_resnet", class_count=3, image_size=64)
    images = torch.randn(2, 3, 64, 64, generator=torch.Generator().manual_seed(1))
    with pytest.raises(ModelError, match=rf"input of layer '{norms[-1]}' \(FoldedBatchNorm\)") as refusal:
        load_model(replace(spec, feature_layer=norms[-1]), "cpu")
    suggested = re.findall(r"([\w.]+) \((\d+) wide\)", str(refusal.value))
    assert len(suggested) == 5
    for layer, width in suggested:
        features, _ = load_model(replace(spec, feature_layer=layer), "cpu").forward(images)
        assert features.shape == (2, int(width))


@pytest.mark.parametrize("architecture", ["shufflenet_v2_x0_5", "squeezenet1_1"])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_the_number_of_classes_is_that_of_the_checkpoints_head(tmp_path, architecture, prefix):
    state = architectures.torchvision_model(architecture, class_count=7).network.state_dict()
    torch.save({f"{prefix}{name}": tensor for name, tensor in state.items()}, tmp_path / "own.pth")
    layer = "classifier.1" if architecture == "squeezenet1_1" else None
    spec = ModelSpec(
        "torchvision", architecture, checkpoint=tmp_path / "own.pth", feature_layer=layer, image_size=64
    )
    classifier = load_model(spec, "cpu")
    assert (classifier.class_count, classifier.class_names) == (7, tuple("0123456"))
    assert classifier.spec == replace(spec, class_count=7)


@pytest.fixture
def three(spec, tmp_path):
    """A model with a checkpoint of three classes, which its specification does not count."""
    state = architectures.torchvision_model(spec.architecture, class_count=3).network.state_dict()
    torch.save(state, tmp_path / "own.pth")
    return replace(spec, checkpoint=tmp_path / "own.pth", class_count=None)


def test_a_checkpoint_is_opened_once_for_the_number_of_its_classes_and_its_weights(three, monkeypatch):
    opened, open_regular = [], checkpoints.open_regular
    monkeypatch.setattr(checkpoints, "open_regular", lambda path: opened.append(path) or open_regular(path))
    assert load_model(three, "cpu").class_count == 3
    assert opened == [three.checkpoint]


def test_reading_a_checkpoint_can_be_stopped(three):
    with pytest.raises(CancelledError):
        load_model(three, "cpu", cancelled=lambda: True)


def test_class_names_that_do_not_fit_the_head_are_refused_with_both_numbers(three):
    with pytest.raises(ModelError, match=r"own\.pth has 3 classes, but 2 class names were given"):
        load_model(replace(three, class_names=("a", "b")), "cpu")


def test_a_checkpoint_without_the_architectures_head_is_refused_by_the_names_that_it_lacks(three):
    torch.save({"weight": torch.ones(3, 4)}, three.checkpoint)
    with pytest.raises(CheckpointError, match=r"own\.pth does not fit the architecture: it lacks conv1"):
        load_model(three, "cpu")


def test_a_device_that_is_not_here_is_refused_before_the_network_is_built(spec, monkeypatch):
    built = []
    monkeypatch.setitem(architectures.LIBRARIES, "torchvision", lambda *_, **__: built.append("network"))
    with pytest.raises(DeviceError, match="no device 'cuda:99'"):
        load_model(spec, "cuda:99")
    assert built == []


def test_a_checkpoint_with_other_classes_is_refused(spec, tmp_path):
    network = architectures.torchvision_model(spec.architecture, class_count=9).network
    torch.save(network.state_dict(), tmp_path / "nine.pth")
    with pytest.raises(CheckpointError, match=r"fc.weight \(\(9, 1024\), expected \(4, 1024\)\)"):
        load_model(replace(spec, checkpoint=tmp_path / "nine.pth"), "cpu")


def test_the_demo_is_loaded_from_half_precision_and_computes_in_float32(tmp_path):
    with torch.random.fork_rng():
        torch.manual_seed(1)
        network = DemoResNet()
    half = {name: v.half() if v.ndim > 1 else v for name, v in network.state_dict().items()}
    save_file(half, tmp_path / "model.safetensors")
    spec = ModelSpec("demo", "DemoResNet", checkpoint=tmp_path / "model.safetensors", class_names=CLASS_NAMES)
    classifier = load_model(spec, "cpu")
    assert classifier.class_names == CLASS_NAMES
    assert (classifier.name, classifier.width) == ("model.safetensors on demo:DemoResNet", 128)
    assert classifier.preprocess.size == (32, 32)
    assert next(classifier.network.parameters()).dtype == torch.float32


def test_classes_without_names_are_numbered(classifier):
    assert classifier.class_names == ("0", "1", "2", "3")


def test_class_names_that_do_not_fit_the_network_are_refused(spec):
    with pytest.raises(ModelError, match=r"has 4 classes, but 2 class names and class_count 4 were given"):
        load_model(replace(spec, class_names=("a", "b")), "cpu")


def test_bfloat16_gives_float32_features_near_the_exact_ones():
    spec = ModelSpec("torchvision", "resnet18", class_count=4, image_size=48)
    images = torch.randn(3, 3, 48, 48, generator=torch.Generator().manual_seed(0))
    exact_features, exact_logits = load_model(spec, "cpu").forward(images)
    features, logits = load_model(replace(spec, precision="bfloat16"), "cpu").forward(images)
    assert features.dtype == logits.dtype == torch.float32
    assert not torch.equal(features, exact_features)
    assert torch.cosine_similarity(features, exact_features).min() > 0.999
    assert (logits - exact_logits).abs().max() < 0.05 * exact_logits.abs().max()


@pytest.mark.parametrize(
    ("fast", "cosine", "share", "expected"),
    [
        (True, 0.99, 0.5, "bfloat16"),
        (False, 0.99, 0.5, "float32"),
        (True, 1.0, 0.5, "float32"),
        (True, 0.99, 0.0, "float32"),
    ],
)
def test_auto_precision_asks_the_device_and_the_network(monkeypatch, fast, cosine, share, expected):
    monkeypatch.setattr(specs, "_fast_in_bfloat16", lambda _: fast)
    monkeypatch.setattr(specs, "_SAFE_COSINE", cosine)
    monkeypatch.setattr(specs, "_SAFE_LOGITS", share)
    spec = ModelSpec("torchvision", "resnet18", class_count=4, image_size=48, precision="auto")
    classifier = load_model(spec, "cpu")
    assert classifier.precision == expected
    assert classifier.fingerprint == load_model(replace(spec, precision=expected), "cpu").fingerprint


def test_what_it_describes_is_what_it_has(classifier):
    about = classifier.describe()
    assert about["model"] == "shufflenet_v2_x0_5, random weights"
    assert (about["features"], about["classes"], about["feature layer"]) == (1024, 4, "fc")
    assert about["image"].startswith("resized to 48 pixels")
    assert about["device"] == "cpu"


@pytest.mark.parametrize(
    ("given", "match"),
    [
        ({"library": "keras"}, "library must be one of torchvision, timm, demo, got 'keras'"),
        ({"precision": "float16"}, "precision must be one of float32, bfloat16, auto, got 'float16'"),
        ({"class_count": 0}, "class_count must be at least 1, got 0"),
        ({"image_size": 0}, "image_size must be at least 1 pixel, got 0"),
    ],
)
def test_a_spec_that_makes_no_sense_is_refused(given, match):
    with pytest.raises(ValueError, match=match):
        ModelSpec(**{"library": "torchvision", "architecture": "resnet18"} | given)


@pytest.mark.parametrize("precision", ["float32", "bfloat16"])
def test_on_cuda_the_features_are_those_of_the_cpu(cuda, classifier, spec, images, precision):
    there = load_model(replace(spec, precision=precision), "cuda")
    features, logits = there.forward(images.to(cuda))
    exact_features, exact_logits = classifier.forward(images)
    tolerance = 1e-4 if precision == "float32" else 0.03
    assert (features.cpu() - exact_features).abs().max() < tolerance * exact_features.abs().max()
    assert (logits.cpu() - exact_logits).abs().max() < tolerance * exact_logits.abs().max()
