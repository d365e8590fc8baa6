"""Calling heads and encoders of any kind, and the device they live on."""

from collections.abc import Callable

import pytest
import timm
import torch
from torch import Tensor, nn
from torch.nn.modules.linear import NonDynamicallyQuantizableLinear

from nnguide_core.networks import Network, device_of, head_logits, linear, move, plain_linear


def test_a_head_may_be_a_module_a_method_or_any_function() -> None:
    head, z = nn.Linear(4, 3).requires_grad_(False), torch.ones(2, 4)
    for call in (head, head.forward, lambda z: z @ head.weight.T + head.bias):
        torch.testing.assert_close(head_logits(call, z), head(z))


def test_a_module_in_half_precision_is_run_in_float32_and_left_as_it_is() -> None:
    head = nn.Linear(4, 2, bias=False).requires_grad_(False).half()
    head.weight.fill_(300.0)
    z = torch.full((1, 4), 300.0, dtype=torch.float16)
    assert head(z).isinf().all()
    assert head_logits(head, z).tolist() == [[360_000.0, 360_000.0]]
    assert head.weight.dtype == torch.float16


def test_a_float64_module_keeps_its_precision() -> None:
    head = nn.Linear(1, 1, bias=False).requires_grad_(False).double()
    head.weight.fill_(1 + 1e-12)
    logits = head_logits(head, torch.ones(1, 1))
    assert logits.dtype == torch.float64
    assert logits.item() == 1 + 1e-12


def test_a_function_is_given_float32() -> None:
    seen: list[torch.dtype] = []

    def head(z: Tensor) -> Tensor:
        seen.append(z.dtype)
        return z.half()

    assert head_logits(head, torch.ones(2, 3, dtype=torch.float64)).dtype == torch.float32
    assert seen == [torch.float32]


def test_logits_of_a_wrong_shape_are_refused_with_both_shapes() -> None:
    with pytest.raises(
        ValueError, match=r"features of shape \(2, 3\) into logits of shape \(2, classes\), but .* \(2,\)"
    ):
        head_logits(lambda z: z[:, 0], torch.ones(2, 3))


def test_the_device_of_a_module_is_that_of_its_weights_or_buffers() -> None:
    meta = torch.device("meta")
    assert device_of(nn.Linear(2, 2, device="meta")) == meta
    assert device_of(nn.Linear(2, 2, device="meta").forward) == meta
    assert device_of(nn.BatchNorm1d(2, affine=False).to("meta")) == meta
    for nowhere in (None, nn.Identity(), torch.relu, lambda z: z):
        assert device_of(nowhere) is None


def test_moving_leaves_what_has_no_weights_alone() -> None:
    module = nn.Linear(2, 2)
    move(module.forward, torch.device("meta"))
    assert module.weight.device.type == "meta"
    for nowhere in (None, torch.relu, lambda z: z):
        move(nowhere, torch.device("meta"))


HEADS: dict[str, Callable[[nn.Linear], Network]] = {
    "module": lambda linear: linear,
    "forward": lambda linear: linear.forward,
    "other method": lambda linear: Twice(linear).twice,
    "scripted": lambda linear: torch.jit.script(linear),
    "traced": lambda linear: torch.jit.trace(linear, torch.ones(2, 3, dtype=linear.weight.dtype)),
    "inside": lambda linear: nn.Sequential(nn.Identity(), torch.jit.script(linear)),
    "DataParallel": lambda linear: nn.DataParallel(linear),
}


class Twice(nn.Module):
    def __init__(self, linear: nn.Linear) -> None:
        super().__init__()
        self.linear = linear

    def twice(self, z: Tensor) -> Tensor:
        return 2 * self.linear(z)


@pytest.mark.filterwarnings("ignore:.*is deprecated:FutureWarning")
@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16, torch.float64])
@pytest.mark.parametrize("name", HEADS)
def test_a_head_of_any_kind_and_precision_is_run_in_float32_at_least(name: str, dtype: torch.dtype) -> None:
    generator = torch.Generator().manual_seed(0)
    linear = nn.Linear(3, 2).requires_grad_(False)
    linear.weight.copy_(300 * torch.randn(2, 3, generator=generator))
    linear = linear.to(dtype)
    z = 300 * torch.randn(5, 3, generator=generator).to(dtype)
    exact = torch.float64 if dtype == torch.float64 else torch.float32
    expected = z.to(exact) @ linear.weight.to(exact).T + linear.bias.to(exact)
    head = HEADS[name](linear)
    with torch.no_grad():
        logits = head_logits(head, z)
    assert logits.dtype == exact
    torch.testing.assert_close(logits, expected * (2 if name == "other method" else 1))
    owner = head if isinstance(head, nn.Module) else head.__self__  # type: ignore[attr-defined]
    assert {each.dtype for each in owner.parameters()} == {dtype}


def test_a_linear_layer_is_plain_only_if_its_weights_are_all_that_it_computes_with() -> None:
    class Scaled(nn.Linear):
        def forward(self, z: Tensor) -> Tensor:
            return 3 * super().forward(z)

    class Named(nn.Linear):
        """A subclass that changes nothing."""

    hooked, prepared, replaced = nn.Linear(3, 2), nn.Linear(3, 2), nn.Linear(3, 2)
    hooked.register_forward_hook(lambda _, __, output: 2 * output)
    prepared.register_forward_pre_hook(lambda _, given: (2 * given[0],))
    replaced.forward = torch.relu  # type: ignore[method-assign]
    normed = nn.utils.parametrizations.weight_norm(nn.Linear(3, 2))
    plain = nn.Linear(3, 2)
    for head in (plain, Named(3, 2), NonDynamicallyQuantizableLinear(3, 2), timm.layers.Linear(3, 2)):
        assert plain_linear(head) is head
    for other in (
        Scaled(3, 2),
        hooked,
        prepared,
        replaced,
        normed,
        nn.Sequential(plain),
        plain.forward,
        None,
    ):
        assert plain_linear(other) is None


@pytest.mark.parametrize("bias", [True, False])
def test_a_layer_of_given_weights_shares_their_memory_and_moves_alone(bias: bool) -> None:
    layer = timm.layers.Linear(3, 2, bias=bias)
    shared = linear(layer.weight, layer.bias)
    assert torch.equal(shared(torch.ones(1, 3)), layer(torch.ones(1, 3)))
    assert shared.weight.data_ptr() == layer.weight.data_ptr()
    assert (shared.in_features, shared.out_features, shared.training) == (3, 2, False)
    assert not any(parameter.requires_grad for parameter in shared.parameters())
    move(shared, torch.device("meta"))
    assert layer.weight.device.type == "cpu"
