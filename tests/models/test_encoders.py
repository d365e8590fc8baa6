"""Encoder and head are found by running a network, or an error names the layers that can be given."""

import copy
import pickle
import threading

import pytest
import torch
from torch import nn

from nnguide_core.errors import ModelError
from nnguide_core.models.encoders import Encoder, find_split, forward


class Flexible(nn.Module):
    """A small network whose end is given by the test."""

    def __init__(self, end, trunk=None):
        super().__init__()
        self.trunk = trunk or nn.Sequential(
            nn.Conv2d(3, 6, 3), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()
        )
        self.inner = nn.Linear(6, 6)
        self.head = nn.Linear(6, 4)
        self.other = nn.Linear(6, 4)
        self.end = end

    def forward(self, images):
        return self.end(self, self.trunk(images))


@pytest.fixture(autouse=True)
def _seed():
    with torch.random.fork_rng():
        torch.manual_seed(0)
        yield


@pytest.fixture
def probe():
    return torch.randn(3, 3, 9, 9)


def _network(end, **options):
    return Flexible(end, **options).eval().requires_grad_(False)


def test_the_last_linear_layer_that_gives_the_output_is_the_head(probe):
    network = _network(lambda self, x: self.head(self.inner(x).relu()))
    split = find_split(network, probe)
    features, logits = forward(network, split, probe)
    assert (split.layer, split.width, split.class_count, split.exact) == ("head", 6, 4, True)
    assert torch.equal(features, network.inner(network.trunk(probe)).relu())
    assert torch.equal(logits, network(probe))
    assert torch.equal(network.head(features), logits)


def test_a_linear_layer_called_after_the_head_does_not_mislead(probe):
    def end(self, x):
        logits = self.head(x)
        self.other(x)
        return logits

    assert find_split(_network(end), probe).layer == "head"


def test_a_head_whose_output_is_only_reshaped_is_found(probe):
    network = _network(lambda self, x: self.head(x).view(-1, 2, 2).flatten(1))
    assert find_split(network, probe).layer == "head"


def test_a_head_that_is_averaged_with_another_is_no_head(probe):
    network = _network(lambda self, x: (self.head(x) + self.other(x)) / 2)
    with pytest.raises(
        ModelError, match=r"No linear layer .* \(feature_layer\): other \(6 wide\), head \(6 wide\)"
    ):
        find_split(network, probe)


def test_a_named_head_before_a_softmax_gives_the_logits_itself(probe):
    network = _network(lambda self, x: self.head(x).softmax(1))
    with pytest.raises(ModelError, match=r"head \(6 wide\)"):
        find_split(network, probe)
    split = find_split(network, probe, "head")
    features, logits = forward(network, split, probe)
    assert split.exact
    assert torch.equal(logits, network.head(network.trunk(probe)))
    assert torch.equal(features, network.trunk(probe))


def test_a_named_layer_further_in_gives_features_but_no_head(probe):
    network = _network(lambda self, x: self.head(self.inner(x).relu()))
    split = find_split(network, probe, "inner")
    features, logits = forward(network, split, probe)
    assert not split.exact
    assert torch.equal(features, network.trunk(probe))
    assert torch.equal(logits, network(probe))


@pytest.mark.parametrize(("layer", "width"), [("trunk.0", 3), ("trunk.2", 6)])
def test_maps_of_channels_are_averaged_over_positions(probe, layer, width):
    network = _network(lambda self, x: self.head(x))
    split = find_split(network, probe, layer)
    features, _ = forward(network, split, probe)
    expected = probe if layer == "trunk.0" else network.trunk[:2](probe)
    assert torch.allclose(features, expected.mean(dim=(2, 3)))
    assert split.width == width


class Tokens(nn.Module):
    """A vision transformer's skeleton: a class token before 4 patches."""

    def __init__(self, named="class_token"):
        super().__init__()
        self.patches = nn.Conv2d(3, 6, 4, 4)
        self.register_parameter(named, nn.Parameter(torch.randn(1, 1, 6)))
        self.named = named
        self.norm = nn.LayerNorm(6)
        self.head = nn.Linear(6, 4)

    def tokens(self, images):
        patches = self.patches(images).flatten(2).transpose(1, 2)
        token = getattr(self, self.named).expand(len(images), -1, -1)
        return torch.cat([token + patches.mean(1, keepdim=True), patches], dim=1)

    def forward(self, images):
        return self.head(self.norm(self.tokens(images))[:, 0])


def test_before_the_last_norm_of_a_transformer_the_class_token_is_taken(probe):
    network = Tokens().eval()
    split = find_split(network, probe, "norm")
    features, logits = forward(network, split, probe)
    assert torch.equal(features, network.tokens(probe)[:, 0])
    assert torch.equal(logits, network(probe))
    assert not split.exact


def test_tokens_without_a_class_token_are_refused(probe):
    with pytest.raises(ModelError, match=r"input of layer 'norm' \(LayerNorm\) has shape \(3, 5, 6\)"):
        find_split(Tokens("register").eval(), probe, "norm")


def test_an_unknown_layer_is_refused_with_those_that_can_be_named(probe):
    network = _network(lambda self, x: self.head(x))
    with pytest.raises(
        ModelError, match=r"no layer 'fc'. Layers that can be named: head \(6 wide\), trunk.2 "
    ):
        find_split(network, probe, "fc")
    with pytest.raises(ModelError, match="calls no layer 'other' on one tensor"):
        find_split(network, probe, "other")


def test_a_layer_that_is_called_twice_is_refused(probe):
    network = _network(lambda self, x: self.head(self.inner(self.inner(x))))
    with pytest.raises(ModelError, match="layer 'inner' more than once"):
        find_split(network, probe, "inner")


def test_a_lack_of_memory_is_not_blamed_on_the_size_of_the_images(probe):
    def run(*_):
        raise RuntimeError("could not create a primitive")

    with pytest.raises(RuntimeError, match="could not create a primitive"):
        find_split(_network(run), probe)


@pytest.mark.parametrize(
    ("end", "match"),
    [
        (lambda self, x: (self.head(x), x), r"shape \(3, classes\) for 3 images, but it returned a tuple"),
        (lambda self, x: self.head(x)[0], r"it returned \(4,\)"),
        (lambda self, x: self.head(x)[:2], r"it returned \(2, 4\)"),
        (lambda self, x: self.head(x[:, :3]), r"does not run on images of 9 × 9 pixels: .*mat1 and mat2"),
    ],
)
def test_an_output_that_is_no_logits_is_refused(probe, end, match):
    with pytest.raises(ModelError, match=match):
        find_split(_network(end), probe)


def test_features_that_depend_on_the_other_images_are_refused(probe):
    network = _network(lambda self, x: self.head(x - x.mean(0)))
    with pytest.raises(ModelError, match="depend on the other images of its batch"):
        find_split(network, probe)


def test_the_encoder_is_a_module_that_gives_the_features(probe):
    network = _network(lambda self, x: self.head(x))
    encoder = Encoder(network, find_split(network, probe))
    assert isinstance(encoder, nn.Module)
    assert torch.equal(encoder(probe), network.trunk(probe))
    assert encoder.double()(probe.double()).dtype == torch.float32


def test_threads_do_not_see_each_others_features(probe):
    barrier = threading.Barrier(4)

    def end(self, x):
        barrier.wait(10)
        return self.head(x)

    batches = [probe + shift for shift in range(4)]
    network = _network(lambda self, x: self.head(x))
    split = find_split(network, probe)
    network.end = end
    found = {}

    def work(index):
        found[index] = forward(network, split, batches[index])[0]

    threads = [threading.Thread(target=work, args=(index,)) for index in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for index, batch in enumerate(batches):
        assert torch.equal(found[index], network.trunk(batch))


def test_the_network_can_still_be_copied_and_pickled(probe):
    network = Tokens().eval()
    split = find_split(network, probe)
    before = forward(network, split, probe)
    again = copy.deepcopy(network)
    assert torch.equal(again(probe), before[1])
    assert torch.equal(pickle.loads(pickle.dumps(network))(probe), before[1])  # noqa: S301 - made here
