"""The bank: which images it draws, how it scales them, and what it refuses."""

import math

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from torch import Tensor, nn

from nnguide_core.bank import FeatureBank, build_bank, clip, percentile
from nnguide_core.errors import ModelNotSetException
from nnguide_core.settings import BankSettings
from tests import reference


def features(count: int, width: int = 4, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def linear(width: int = 4, classes: int = 3, seed: int = 1) -> nn.Linear:
    head = nn.Linear(width, classes)
    generator = torch.Generator().manual_seed(seed)
    head.load_state_dict(
        {
            "weight": torch.randn(classes, width, generator=generator),
            "bias": torch.randn(classes, generator=generator),
        }
    )
    return head.requires_grad_(False)


def drawn(count: int, labels: Tensor | None = None, **how: object) -> FeatureBank:
    made = BankSettings(**how)  # type: ignore[arg-type]
    return build_bank(torch.ones(count, 1), energies=torch.ones(count), labels=labels, settings=made)


def test_rows_are_unit_features_times_energy() -> None:
    given = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    bank = build_bank(given, energies=torch.tensor([10.0, 5.0, 2.0]))
    assert bank.rows.tolist() == [pytest.approx([6.0, 8.0]), [5.0, 0.0], [0.0, 2.0]]
    assert bank.energies.tolist() == [10.0, 5.0, 2.0]
    assert (bank.size, bank.width, bank.react_threshold) == (3, 2, None)


def test_energies_come_from_the_head_from_logits_or_as_they_are() -> None:
    z, head = features(20), linear()
    by_head = build_bank(z, head=head)
    by_logits = build_bank(z, logits=head(z))
    by_energies = build_bank(z, energies=head(z).logsumexp(dim=1))
    expected = [reference.log_sum_exp(row) for row in head(z).double().tolist()]
    assert by_head.energies.tolist() == pytest.approx(expected, rel=1e-6)
    assert torch.equal(by_head.rows, by_logits.rows)
    assert torch.equal(by_head.rows, by_energies.rows)


def test_given_logits_come_before_the_head() -> None:
    bank = build_bank(features(2), head=linear(), logits=torch.tensor([[1.0], [2.0]]))
    assert bank.energies.tolist() == [1.0, 2.0]


def test_the_offset_is_added_to_energies_from_anywhere() -> None:
    z, head, offset = features(5), linear(), BankSettings(energy_offset=7.0)
    plain = build_bank(z, head=head).energies
    for source in ({"head": head}, {"logits": head(z)}, {"energies": head(z).logsumexp(dim=1)}):
        bank = build_bank(z, settings=offset, **source)
        torch.testing.assert_close(bank.energies, plain + 7.0)


def test_images_with_a_label_below_0_are_left_out() -> None:
    labels = torch.tensor([2, -1, 0, -5, 1])
    bank = build_bank(features(5), head=linear(), labels=labels, ids=list("abcde"))
    assert bank.positions.tolist() == [0, 2, 4]
    assert bank.labels.tolist() == [2, 0, 1]
    assert bank.ids == ("a", "c", "e")
    assert torch.equal(bank.rows, build_bank(features(5)[labels >= 0], head=linear()).rows)


def test_images_with_a_label_below_0_are_kept_where_that_is_asked_for() -> None:
    labels = torch.tensor([2, -1, 0, -5, 1])
    bank = build_bank(features(5), head=linear(), labels=labels, keep_unknown=True)
    assert bank.labels.tolist() == labels.tolist()
    assert bank.unlabelled == 2
    assert torch.equal(bank.rows, build_bank(features(5), head=linear()).rows)


def test_a_stratified_draw_that_keeps_unknown_labels_takes_the_same_share_of_them() -> None:
    labels = torch.tensor([0, -1, 1, -1]).repeat(10)
    how = BankSettings(fraction=0.5, draw="stratified")
    ones = torch.ones(40)
    bank = build_bank(ones[:, None], energies=ones, labels=labels, keep_unknown=True, settings=how)
    assert torch.bincount(bank.labels + 1).tolist() == [10, 5, 5]


def test_labels_and_ids_may_be_absent() -> None:
    bank = build_bank(features(3), head=linear())
    assert bank.labels.tolist() == [-1, -1, -1]
    assert bank.ids == ("", "", "")


def test_the_fraction_of_the_paper_gives_the_size_of_the_paper() -> None:
    assert drawn(1_281_167, fraction=0.01).size == 12_811


@pytest.mark.parametrize(("fraction", "count", "size"), [(0.29, 100, 29), (0.07, 100, 7), (1.0, 3, 3)])
def test_the_fraction_is_not_cut_by_rounding(fraction: float, count: int, size: int) -> None:
    assert drawn(count, fraction=fraction).size == size


def test_one_seed_draws_the_same_images_and_another_seed_others() -> None:
    positions = [drawn(1000, fraction=0.1, seed=seed).positions for seed in (3, 3, 4)]
    assert torch.equal(positions[0], positions[1])
    assert not torch.equal(positions[0], positions[2])


def test_a_draw_is_in_the_order_of_the_images_without_repeats() -> None:
    positions = drawn(1000, fraction=0.5).positions
    assert positions.tolist() == sorted(set(positions.tolist()))


def test_a_random_draw_from_images_in_class_order_has_every_class() -> None:
    labels = torch.arange(10).repeat_interleave(100)
    assert set(drawn(1000, labels, fraction=0.1).labels.tolist()) == set(range(10))


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=100)
def test_a_stratified_draw_keeps_the_same_share_of_every_class(
    counts: list[int], fraction: float, seed: int, shuffle: object
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)] + [-1] * 3
    shuffle.shuffle(labels)  # type: ignore[attr-defined]
    total = math.floor(fraction * sum(counts) + 1e-9)
    if total == 0:
        return
    bank = drawn(len(labels), torch.tensor(labels), fraction=fraction, seed=seed, draw="stratified")
    assert bank.size == len(set(bank.positions.tolist())) == total
    for label, count in enumerate(counts):
        share = total * count / sum(counts)
        assert abs(int((bank.labels == label).sum()) - share) < 1


def test_a_stratified_draw_moves_with_its_seed() -> None:
    labels = torch.arange(5).repeat(40)
    draws = [drawn(200, labels, fraction=0.2, draw="stratified", seed=seed).positions for seed in (0, 1)]
    assert not torch.equal(*draws)


def test_a_stratified_draw_favours_no_class_where_there_is_not_an_image_for_each() -> None:
    labels = torch.arange(10)
    draws = [
        drawn(10, labels, fraction=0.5, draw="stratified", seed=seed).labels.tolist() for seed in range(20)
    ]
    assert {label for draw in draws for label in draw} == set(range(10))


def test_a_draw_by_class_needs_labels() -> None:
    for draw in ("stratified", "balanced"):
        with pytest.raises(ValueError, match=f"A {draw} draw of the bank needs labels"):
            drawn(10, draw=draw)


@given(
    counts=st.lists(st.integers(0, 40), min_size=1, max_size=8),
    fraction=st.floats(0.01, 0.99),
    seed=st.integers(0, 2**63 - 1),
    shuffle=st.randoms(use_true_random=False),
)
@settings(deadline=None, max_examples=100)
def test_a_balanced_draw_keeps_the_same_number_of_every_class_and_all_of_those_that_have_fewer(
    counts: list[int], fraction: float, seed: int, shuffle: object
) -> None:
    labels = [label for label, count in enumerate(counts) for _ in range(count)] + [-1] * 3
    shuffle.shuffle(labels)  # type: ignore[attr-defined]
    total = math.floor(fraction * sum(counts) + 1e-9)
    if total == 0:
        return
    bank = drawn(len(labels), torch.tensor(labels), fraction=fraction, seed=seed, draw="balanced")
    assert bank.size == len(set(bank.positions.tolist())) == total
    kept = torch.bincount(bank.labels, minlength=len(counts)).tolist()
    most = max(kept)
    assert all(one in (most, most - 1) or one == count for one, count in zip(kept, counts, strict=True))


def test_a_balanced_draw_of_an_uneven_set_by_hand() -> None:
    labels = torch.tensor([0] * 90 + [1] * 8 + [2] * 2)
    bank = drawn(100, labels, fraction=0.16, draw="balanced")
    assert torch.bincount(bank.labels).tolist() == [7, 7, 2]
    assert torch.bincount(drawn(100, labels, fraction=0.16, draw="stratified").labels)[0] in (14, 15)


def test_a_balanced_draw_leaves_no_class_and_no_image_out_for_good() -> None:
    labels = torch.arange(10)
    draws = [
        drawn(10, labels, fraction=0.5, draw="balanced", seed=seed).labels.tolist() for seed in range(20)
    ]
    assert {label for draw in draws for label in draw} == set(range(10))
    labels = torch.tensor([0, 0, 0, 0, 1])
    kept = [
        drawn(5, labels, fraction=0.4, draw="balanced", seed=seed).positions.tolist() for seed in range(40)
    ]
    assert {tuple(each) for each in kept} == {(row, 4) for row in range(4)}


def test_too_few_images_are_refused_with_both_numbers_and_the_reasons() -> None:
    labels = torch.tensor([0, 0, 0, 0, -1])
    with pytest.raises(
        ValueError, match=r"at least k = 3 ID images, but has 2 \(1 of 5 have a label"
    ) as error:
        build_bank(features(5), head=linear(), labels=labels, settings=BankSettings(fraction=0.5), k=3)
    assert "the fraction 0.5 of 4" in str(error.value)


@pytest.mark.parametrize("count", [0, 3])
def test_an_empty_bank_is_refused(count: int) -> None:
    with pytest.raises(ValueError, match="at least k = 1 ID images, but has 0"):
        build_bank(features(count), head=linear(), labels=torch.full((count,), -1))


@given(
    hnp.arrays(
        "float32",
        hnp.array_shapes(min_dims=2, max_dims=2, max_side=12),
        elements=st.floats(-3.0000000054977558e38, 3.0000000054977558e38, width=32)
        | st.sampled_from([0.0, -0.0, 1.0, -1.0]),
    ),
    st.floats(0.0, 100.0),
)
@settings(deadline=None, max_examples=60)
def test_percentile_interpolates_between_the_values_in_order(values: np.ndarray, percent: float) -> None:
    ordered = sorted(values.flatten().tolist())
    place = percent / 100.0 * (len(ordered) - 1)
    below, above = ordered[math.floor(place)], ordered[math.ceil(place)]
    expected = below + (above - below) * (place - math.floor(place))
    assert percentile(torch.from_numpy(values), percent) == expected


@pytest.mark.parametrize("percent", [50.0, 95.0, 100.0])
def test_percentile_is_exact_for_more_values_than_float32_can_count(percent: float) -> None:
    z = features(2**12 + 2, 2**12)
    place = percent / 100 * (z.numel() - 1)
    ranks = [math.floor(place), math.ceil(place)]
    below, above = np.partition(z.flatten().numpy(), ranks)[ranks].astype(float)
    assert percentile(z, percent) == below + (above - below) * (place - math.floor(place))


def test_clip_lowers_only_what_is_above_the_threshold() -> None:
    z = torch.tensor([[-5.0, 0.5, 2.0]])
    assert clip(z, 1.0).tolist() == [[-5.0, 0.5, 1.0]]
    assert clip(z, None) is z


def test_react_clips_at_the_percentile_of_all_id_images_before_the_draw() -> None:
    z, head, labels = features(200), linear(), torch.arange(200) % 5 - 1
    how = BankSettings(react_percentile=90.0, fraction=0.25, seed=2)
    bank = build_bank(z, head=head, labels=labels, settings=how)
    threshold = float(np.percentile(z[labels >= 0].numpy().astype(float), 90.0))
    assert bank.react_threshold == pytest.approx(threshold, rel=1e-6)
    clipped = z[bank.positions].clamp(max=bank.react_threshold)
    assert torch.equal(bank.rows, build_bank(clipped, head=head).rows)


def test_react_takes_logits_from_the_head_even_if_others_are_given() -> None:
    z, head, how = features(30), linear(), BankSettings(react_percentile=50.0)
    assert torch.equal(
        build_bank(z, head=head, logits=head(z), settings=how).energies,
        build_bank(z, head=head, settings=how).energies,
    )


@pytest.mark.parametrize("source", ["logits", "energies"])
def test_react_without_a_head_is_refused(source: str) -> None:
    given = {"logits": torch.ones(5, 2), "energies": torch.ones(5)}
    with pytest.raises(ValueError, match=f"give the head, or turn ReAct off. Given: {source}"):
        build_bank(features(5), settings=BankSettings(react_percentile=95.0), **{source: given[source]})  # type: ignore[arg-type]


@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_bank_rows_that_are_no_numbers_are_refused_by_count_and_row(bad: float) -> None:
    z = features(50)
    z[[3, 9, 20, 21, 22, 23, 40], 1] = bad
    with pytest.raises(ValueError, match=r"7 of 50 bank images .* features \(rows 3, 9, 20, 21, 22, …\)"):
        build_bank(z, head=linear())


def test_bank_logits_that_are_no_numbers_are_refused_by_count_and_row() -> None:
    logits = torch.ones(10, 2)
    logits[4, 0] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 10 bank images .* energies \(rows 4\)"):
        build_bank(features(10), logits=logits)


def test_images_that_are_left_out_may_hold_nan_unless_react_needs_them() -> None:
    z, labels = features(10), torch.zeros(10)
    z[0], labels[0] = torch.nan, -1
    assert build_bank(z, head=linear(), labels=labels).size == 9
    assert build_bank(z, head=linear(), labels=labels, settings=BankSettings(react_percentile=95.0)).size == 9
    labels[0] = 0
    how = BankSettings(fraction=0.5, seed=next(seed for seed in range(9) if 0 not in positions(seed)))
    assert build_bank(z, head=linear(), settings=how).size == 5
    with pytest.raises(ValueError, match="1 of 10 bank images"):
        build_bank(z, head=linear(), settings=BankSettings(0.5, how.seed, react_percentile=95.0))


def positions(seed: int) -> list[int]:
    return drawn(10, fraction=0.5, seed=seed).positions.tolist()


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_a_head_of_another_precision_is_run_in_float32_at_least(dtype: torch.dtype) -> None:
    z, head = features(20, 8).to(dtype), linear(8)
    for value in head.parameters():
        value.mul_(200.0)
    head = head.to(dtype)
    bank = build_bank(z, head=head)
    logits = z.double() @ head.weight.double().T + head.bias.double()
    expected = [reference.log_sum_exp(row) for row in logits.tolist()]
    assert max(expected) ** 2 > torch.finfo(torch.float16).max
    assert bank.energies.dtype == bank.rows.dtype == torch.float32
    assert bank.energies.tolist() == pytest.approx(expected, rel=1e-6)
    assert head.weight.dtype == dtype


def test_a_half_precision_head_with_buffers_is_run_in_float32() -> None:
    head = nn.Sequential(nn.BatchNorm1d(4), linear()).eval()
    z = features(10)
    wide = build_bank(z, head=head).energies
    torch.testing.assert_close(build_bank(z, head=head.half()).energies, wide, rtol=2e-3, atol=2e-3)


@pytest.mark.parametrize("head", [lambda z: z.sum(dim=1), lambda z: z[:1], lambda z: z[:, :0]])
def test_a_head_that_gives_no_row_of_logits_for_each_image_is_refused(head: object) -> None:
    with pytest.raises(ValueError, match=r"into logits of shape \(5, classes\), but it gave \("):
        build_bank(features(5), head=head)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"features": torch.ones(3)}, r"must be \(images, features\), got \(3,\)"),
        ({"features": torch.ones(3, 0)}, r"must be \(images, features\), got \(3, 0\)"),
        ({"labels": torch.ones(4)}, r"labels must be \(3,\), got \(4,\)"),
        ({"labels": torch.ones(3, 1)}, r"labels must be \(3,\), got \(3, 1\)"),
        ({"ids": ["a"]}, "one id for each of 3 images, got 1"),
        ({"logits": torch.ones(3)}, r"logits must be \(3, classes\), got \(3,\)"),
        ({"energies": torch.ones(3, 1)}, r"energies must be \(3,\), got \(3, 1\)"),
        ({"logits": torch.ones(3, 2), "energies": torch.ones(3)}, "Both logits and energies"),
        ({"batch_size": 0}, "batch size must be at least 1, got 0"),
    ],
)
def test_wrong_shapes_are_named_with_what_was_expected(wrong: dict[str, object], message: str) -> None:
    given: dict[str, object] = {"features": torch.ones(3, 2), "head": linear(2)} | wrong
    with pytest.raises(ValueError, match=message):
        build_bank(**given)  # type: ignore[arg-type]


def test_a_bank_without_any_source_of_energies_is_refused() -> None:
    with pytest.raises(ModelNotSetException, match="pass logits or energies"):
        build_bank(features(3))


@pytest.mark.parametrize("batch_size", [1, 7, 64, 1000])
def test_the_bank_is_the_same_for_every_batch_size(batch_size: int) -> None:
    z, head = features(100, 16), linear(16)
    whole, split = build_bank(z, head=head), build_bank(z, head=head, batch_size=batch_size)
    torch.testing.assert_close(split.rows, whole.rows, rtol=1e-6, atol=1e-6)


def test_energies_of_0_or_less_and_zero_rows_are_counted() -> None:
    z = torch.tensor([[1.0, 0.0], [0.0, 0.0], [0.0, 1.0], [1.0, 1.0]])
    bank = build_bank(z, energies=torch.tensor([-1.0, 2.0, 0.0, 3.0]))
    assert (bank.negative_energies, bank.zero_rows) == (2, 2)
    assert bank.rows.isfinite().all()


@pytest.mark.parametrize(
    ("energies", "signs"),
    [
        ([2.0, 0.5, 0.0], [1.0, 1.0, 0.0]),
        ([5.0, -1.0, 2.0], [1.0, -1.0, 1.0]),
        ([-5.0, 1.0, -2.0], [1.0, -1.0, 1.0]),
    ],
    ids=["positive", "mean above 0", "mean below 0"],
)
def test_cosine_scoring_searches_unit_rows_that_keep_the_sign_of_their_scale(
    energies: list[float], signs: list[float]
) -> None:
    z = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, -2.0]])
    bank = build_bank(z, energies=torch.tensor(energies), settings=BankSettings(scoring="cosine"))
    assert (bank.direction() * bank.scales).tolist() == signs
    units = torch.tensor([[0.6, 0.8], [1.0, 0.0], [0.0, -1.0]])
    torch.testing.assert_close(bank.direction() * bank.search_rows, units * torch.tensor(signs)[:, None])


def test_paper_scoring_searches_the_rows_themselves() -> None:
    bank = build_bank(features(3), head=linear())
    assert bank.search_rows is bank.rows
    assert bank.scales is bank.energies
    assert bank.direction() == 1.0


def test_the_direction_of_cosine_scoring_is_that_of_the_images_that_count() -> None:
    z, energies = torch.eye(4), torch.tensor([-10.0, 1.0, 1.0, 1.0])
    for scoring, directions in (("cosine", (-1.0, 1.0, -1.0)), ("paper", (1.0, 1.0, 1.0))):
        bank = build_bank(z, energies=energies, settings=BankSettings(scoring=scoring))  # type: ignore[arg-type]
        absent = (None, torch.tensor([0]), torch.tensor([1, 3]))
        assert tuple(map(bank.direction, absent)) == directions


def test_a_bank_without_some_rows_is_the_bank_of_the_others() -> None:
    bank = build_bank(features(6), head=linear(), labels=torch.arange(6), ids=list("abcdef"))
    rest = build_bank(features(6)[[0, 2, 3]], head=linear(), labels=torch.tensor([0, 2, 3]), ids=list("acd"))
    found = bank.without(torch.tensor([1, 4, 5, 5]))
    assert found.positions.tolist() == [0, 2, 3]
    assert torch.equal(found.rows, rest.rows)
    assert torch.equal(found.energies, rest.energies)
    assert torch.equal(found.labels, rest.labels)
    assert found.ids == rest.ids
    assert bank.size == 6


def test_own_rows_are_all_rows_with_the_same_id() -> None:
    bank = build_bank(features(5), head=linear(), ids=["a", "b", "a", "", "c"])
    assert bank.own_rows(["c", "a", "x", ""]).tolist() == [[4, -1], [0, 2], [-1, -1], [-1, -1]]


def test_own_rows_of_queries_that_are_not_in_the_bank_are_none() -> None:
    bank = build_bank(features(2), head=linear())
    assert bank.own_rows(["x", "y"]).shape == (2, 0)
    assert bank.own_rows([]).shape == (0, 0)


def test_a_bank_moves_as_a_whole() -> None:
    bank = build_bank(features(3), head=linear())
    moved = bank.to("cpu")
    assert torch.equal(moved.rows, bank.rows)
    assert moved.ids == bank.ids


def test_a_bank_on_cuda_is_the_bank_of_the_cpu(cuda: torch.device) -> None:
    z, how = features(100, 16), BankSettings(react_percentile=90.0, fraction=0.5)
    on_cpu = build_bank(z, head=linear(16), settings=how)
    on_cuda = build_bank(z.to(cuda), head=linear(16).to(cuda), settings=how)
    assert {tensor.device.type for tensor in (on_cuda.rows, on_cuda.energies, on_cuda.positions)} == {"cuda"}
    assert torch.equal(on_cuda.positions.cpu(), on_cpu.positions)
    assert on_cuda.react_threshold == on_cpu.react_threshold
    torch.testing.assert_close(on_cuda.rows.cpu(), on_cpu.rows, rtol=1e-5, atol=1e-6)


def test_a_head_is_run_where_it_is(cuda: torch.device) -> None:
    energies = build_bank(features(20, 16), head=linear(16).to(cuda)).energies
    assert energies.device.type == "cpu"
    torch.testing.assert_close(energies, build_bank(features(20, 16), head=linear(16)).energies)
