"""Folded batch norms change no output by more than rounding, or nothing is folded."""

import pytest
import torch
from torch import nn

from nnguide_core.models.folding import fold_batch_norms


@pytest.fixture
def generator():
    return torch.Generator().manual_seed(3)


def _settled(network, generator):
    """Give batch norms statistics and weights as training leaves them."""
    for module in network.modules():
        if isinstance(module, nn.BatchNorm2d) and module.running_mean is not None:
            module.running_mean.normal_(generator=generator)
            module.running_var.uniform_(0.1, 3, generator=generator)
            if module.affine:
                nn.init.uniform_(module.weight, -2, 2, generator=generator)
                nn.init.normal_(module.bias, generator=generator)
    return network.eval().requires_grad_(False)


def _count(network, kind):
    return sum(isinstance(module, kind) for module in network.modules())


@pytest.mark.parametrize("bias", [True, False])
@pytest.mark.parametrize("affine", [True, False])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
def test_a_folded_norm_gives_the_same_output(generator, bias, affine, layout):
    network = _settled(
        nn.Sequential(
            nn.Conv2d(3, 8, 3, bias=bias),
            nn.BatchNorm2d(8, affine=affine),
            nn.ReLU(),
            nn.Conv2d(8, 6, 3, groups=2, stride=2, bias=bias),
            nn.BatchNorm2d(6, affine=affine),
        ),
        generator,
    ).to(memory_format=layout)
    images = torch.randn(2, 3, 11, 11, generator=generator)
    before = network(images)
    assert fold_batch_norms(network, images) == 2
    assert _count(network, nn.BatchNorm2d) == 0
    assert network[0].weight.is_contiguous(memory_format=layout)
    assert torch.allclose(network(images), before, rtol=1e-5, atol=1e-5)


class Branching(nn.Module):
    """A convolution whose output goes past its norm too."""

    def __init__(self):
        super().__init__()
        self.before = nn.Conv2d(3, 3, 1)
        self.before_norm = nn.BatchNorm2d(3)
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norm = nn.BatchNorm2d(3)

    def forward(self, images):
        found = self.convolution(self.before_norm(self.before(images)))
        return self.norm(found) + found


class Twice(nn.Module):
    """One convolution with two norms, as in networks that share weights."""

    def __init__(self):
        super().__init__()
        self.convolution = nn.Conv2d(3, 3, 1)
        self.norms = nn.ModuleList([nn.BatchNorm2d(3), nn.BatchNorm2d(3)])

    def forward(self, images):
        return self.norms[1](self.convolution(self.norms[0](self.convolution(images))))


@pytest.mark.parametrize("kind", [Branching, Twice])
def test_where_folding_would_change_the_output_everything_stays_as_it_was(generator, kind):
    network = _settled(kind(), generator)
    images = torch.randn(2, 3, 5, 5, generator=generator)
    before, state = network(images), {name: value.clone() for name, value in network.state_dict().items()}
    assert fold_batch_norms(network, images) == 0
    assert torch.equal(network(images), before)
    after = network.state_dict()
    assert after.keys() == state.keys()
    assert all(torch.equal(after[name], state[name]) for name in state)


class Active(nn.BatchNorm2d):
    """A norm with more in it than its class name says."""

    def forward(self, inputs):
        return super().forward(inputs).relu()


@pytest.mark.parametrize(
    "norm", [Active(4), nn.BatchNorm2d(4, track_running_stats=False), nn.GroupNorm(2, 4), nn.Identity()]
)
def test_other_norms_are_left_alone(generator, norm):
    network = _settled(nn.Sequential(nn.Conv2d(3, 4, 1), norm), generator)
    images = torch.randn(2, 3, 5, 5, generator=generator)
    before = network(images)
    assert fold_batch_norms(network, images) == 0
    assert torch.equal(network(images), before)


def test_a_norm_before_its_convolution_stays(generator):
    network = _settled(nn.Sequential(nn.BatchNorm2d(3), nn.Conv2d(3, 4, 1), nn.ReLU()), generator)
    assert fold_batch_norms(network, torch.randn(2, 3, 5, 5, generator=generator)) == 0
    assert _count(network, nn.BatchNorm2d) == 1


def test_no_hooks_are_left_behind(generator):
    network = _settled(nn.Sequential(nn.Conv2d(3, 4, 1), nn.BatchNorm2d(4)), generator)
    fold_batch_norms(network, torch.randn(2, 3, 5, 5, generator=generator))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in network.modules())
