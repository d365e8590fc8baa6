"""Every k at once against scikit-learn, and against the same metrics asked k by k."""

import math
from collections.abc import Callable

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis.extra import numpy as hnp
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from nnguide_core import metrics, sweep
from nnguide_core.errors import UndefinedMetricError
from nnguide_core.scoring import Neighbors
from nnguide_core.sweep import Similarities, binned_over_k, over_k

# Similarities and energies of few distinct values make scores tie within and across the sides.
coarse = st.sampled_from([-1.0, 0.0, 0.5, 1.0, 2.0])
fine = st.floats(-8, 8, width=32)


@st.composite
def searched(draw: st.DrawFn, k_max: int, elements: st.SearchStrategy[float]) -> Similarities:
    queries = draw(st.integers(1, 12))
    similarities = draw(hnp.arrays(np.float32, (queries, k_max), elements=elements))
    energy = draw(hnp.arrays(np.float32, queries, elements=elements))
    return Similarities(torch.from_numpy(-np.sort(-similarities, axis=1)), torch.from_numpy(energy))


def random_side(seed: int, queries: int, k_max: int, shift: float = 0.0) -> Similarities:
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.randn(queries, k_max, generator=generator) + shift
    energy = 5 + torch.rand(queries, generator=generator)
    return Similarities(similarities.sort(dim=1, descending=True).values, energy)


def as_neighbors(side: Similarities) -> Neighbors:
    shape = side.similarities.shape
    return Neighbors(
        indices=torch.zeros(shape, dtype=torch.int64),
        similarities=side.similarities,
        cosines=torch.zeros(shape),
        energy=side.energy,
        zero_norm=torch.zeros(shape[0], dtype=torch.bool),
    )


def scores_at(side: Similarities, k: int) -> NDArray[np.float32]:
    scores: NDArray[np.float32] = as_neighbors(side).score_at(k).numpy()
    return scores


@given(st.data(), st.sampled_from([coarse, fine]), st.integers(1, 6))
@settings(deadline=None, max_examples=150)
def test_the_sweep_equals_the_metrics_of_each_k(
    data: st.DataObject, elements: st.SearchStrategy[float], k_max: int
) -> None:
    inside, outside = data.draw(searched(k_max, elements)), data.draw(searched(k_max, elements))
    level = data.draw(st.sampled_from([0.5, 0.9, 0.95, 1.0]))
    found = over_k(inside, outside, level=level)
    assert found.ks.tolist() == list(range(1, k_max + 1))
    for row, k in enumerate(found.ks.tolist()):
        sides = scores_at(inside, k), scores_at(outside, k)
        assert found.auroc[row] == pytest.approx(metrics.auroc(*sides), abs=1e-12)
        assert found.id_flagged_at_ood_caught[row] == metrics.id_flagged_at_ood_caught(*sides, level)
        assert found.ood_passed_at_id_kept[row] == metrics.ood_passed_at_id_kept(*sides, level)
        assert found.threshold_ood_caught[row] == metrics.threshold_ood_caught(sides[1], level)
        assert found.threshold_id_kept[row] == metrics.threshold_id_kept(sides[0], level)


@pytest.mark.parametrize("round_to", [None, 1])
def test_the_sweep_equals_sklearn_to_1e_9(round_to: int | None) -> None:
    inside, outside = random_side(0, 700, 40, shift=0.2), random_side(1, 500, 40)
    if round_to is not None:
        inside = Similarities(inside.similarities.round(decimals=round_to), torch.full((700,), 2.0))
        outside = Similarities(outside.similarities.round(decimals=round_to), torch.full((500,), 2.0))
    found = over_k(inside, outside)
    truth = np.repeat([0, 1], [700, 500])
    for row, k in enumerate(found.ks.tolist()):
        scores = np.concatenate([scores_at(inside, k), scores_at(outside, k)])
        alarms, caught, _ = roc_curve(truth, scores, drop_intermediate=False)
        missed, kept, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
        assert found.auroc[row] == pytest.approx(roc_auc_score(truth, scores), abs=1e-9)
        assert found.id_flagged_at_ood_caught[row] == pytest.approx(
            alarms[(caught >= 0.95).argmax()], abs=1e-9
        )
        assert found.ood_passed_at_id_kept[row] == pytest.approx(missed[(kept >= 0.95).argmax()], abs=1e-9)


def test_scores_of_the_sweep_are_the_neighbours_own_to_the_bit() -> None:
    side = random_side(2, 300, 200)
    table = sweep.scores_over_k(side, np.array([1, 7, 100, 200]))
    for row, k in enumerate([1, 7, 100, 200]):
        assert table[row].tolist() == scores_at(side, k).tolist()


def test_neighbours_as_they_are_can_be_swept() -> None:
    inside, outside = random_side(0, 50, 5), random_side(1, 40, 5)
    expected = over_k(inside, outside).auroc.tolist()
    assert over_k(as_neighbors(inside), as_neighbors(outside)).auroc.tolist() == expected


def test_chosen_k_are_rows_of_the_whole_sweep() -> None:
    inside, outside = random_side(0, 60, 30), random_side(1, 50, 20)
    whole, some = over_k(inside, outside), over_k(inside, outside, ks=[20, 3])
    assert whole.ks.tolist() == list(range(1, 21))
    assert some.ks.tolist() == [20, 3]
    assert some.auroc.tolist() == whole.auroc[[19, 2]].tolist()


def test_blocks_of_k_that_fit_the_memory_give_the_same(monkeypatch: pytest.MonkeyPatch) -> None:
    inside, outside = random_side(0, 60, 30), random_side(1, 50, 30)
    whole = over_k(inside, outside)
    monkeypatch.setattr(sweep, "_SCORE_BYTES", 4 * 110 * 7)
    parts = over_k(inside, outside)
    for column in ("ks", "auroc", "ood_passed_at_id_kept", "threshold_id_kept"):
        assert getattr(parts, column).tolist() == getattr(whole, column).tolist()


def test_the_sweep_leaves_its_input_alone() -> None:
    inside, outside = random_side(0, 60, 30), random_side(1, 50, 30)
    before = inside.similarities.clone(), outside.energy.clone()
    over_k(inside, outside)
    assert torch.equal(inside.similarities, before[0])
    assert torch.equal(outside.energy, before[1])


def test_queries_that_are_not_finite_are_refused_with_their_count() -> None:
    inside, outside = random_side(0, 60, 30), random_side(1, 50, 30)
    inside.similarities[[3, 5]] = math.nan
    inside.energy[9] = math.inf
    with pytest.raises(UndefinedMetricError, match="3 of 60 ID scores are not finite"):
        over_k(inside, outside)


def test_an_empty_side_is_not_defined() -> None:
    with pytest.raises(UndefinedMetricError, match="There are no OOD scores"):
        over_k(random_side(0, 6, 3), random_side(1, 0, 3))
    with pytest.raises(UndefinedMetricError, match="There are no ID scores"):
        over_k(Similarities(torch.zeros(0, 0), torch.zeros(0)), random_side(1, 6, 3))


@pytest.mark.parametrize("ks", [[0], [31], [], [-1, 3]])
def test_a_k_out_of_range_is_refused(ks: list[int]) -> None:
    with pytest.raises(ValueError, match="between 1 and the 30 neighbours kept"):
        over_k(random_side(0, 6, 30), random_side(1, 5, 30), ks)


GROUPS: dict[str, Callable[[], dict[str, Similarities]]] = {
    "id": lambda: {"right": random_side(0, 400, 50, shift=0.5), "wrong": random_side(1, 37, 50, shift=0.3)},
    "ood": lambda: {"near": random_side(2, 200, 50, shift=0.2), "far": random_side(3, 150, 60, shift=-0.5)},
}


@pytest.fixture(scope="module")
def binned() -> sweep.BinnedSweep:
    return binned_over_k(GROUPS["id"](), GROUPS["ood"](), bins=60)


def test_the_table_counts_what_a_threshold_at_an_edge_flags(binned: sweep.BinnedSweep) -> None:
    groups = [*GROUPS["id"]().values(), *GROUPS["ood"]().values()]
    for row in range(0, binned.ks.size, 7):
        edges = binned.edges(row)
        for number, group in enumerate(groups):
            scores = scores_at(group, int(binned.ks[row]))
            assert binned.counts[row, number].sum() == scores.size
            for edge in range(1, edges.size - 1):
                assert binned.counts[row, number, edge:].sum() == metrics.flagged(scores, edges[edge]).sum()


def test_the_table_s_exact_columns_are_the_sweep_s(binned: sweep.BinnedSweep) -> None:
    inside, outside = GROUPS["id"](), GROUPS["ood"]()
    pooled = Similarities(
        torch.cat([group.similarities for group in inside.values()]),
        torch.cat([group.energy for group in inside.values()]),
    )
    expected = over_k(pooled, outside["far"], binned.ks.tolist())
    assert binned.sweeps[1].auroc.tolist() == expected.auroc.tolist()
    row = int(np.flatnonzero(binned.ks == 10)[0])
    scores = [scores_at(group, 10) for group in (*inside.values(), *outside.values())]
    for thresholds, flagged in (
        (binned.pooled.threshold_id_kept, binned.flagged_at_id_kept),
        (binned.pooled.threshold_ood_caught, binned.flagged_at_ood_caught),
    ):
        assert flagged[row].tolist() == [metrics.flagged(one, thresholds[row]).sum() for one in scores]
    assert binned.pooled.auroc[row] == metrics.auroc(np.concatenate(scores[:2]), np.concatenate(scores[2:]))


def test_the_table_holds_every_k(binned: sweep.BinnedSweep) -> None:
    assert binned.ks.tolist() == list(range(1, 51))


def test_an_empty_group_is_counted_as_empty_and_leaves_the_others_as_they_are() -> None:
    inside = {"right": random_side(0, 40, 5), "wrong": random_side(1, 0, 5)}
    near = random_side(2, 30, 5)
    found = binned_over_k(inside, {"near": near, "far": random_side(3, 0, 5)})
    assert found.counts[:, [1, 3]].sum() == 0
    assert np.isnan(found.sweeps[1].auroc).all()
    assert np.isnan(found.sweeps[1].threshold_ood_caught).all()
    expected = over_k(inside["right"], near)
    for column in ("auroc", "id_flagged_at_ood_caught", "ood_passed_at_id_kept", "threshold_ood_caught"):
        assert getattr(found.pooled, column).tolist() == getattr(expected, column).tolist()
        assert getattr(found.sweeps[0], column).tolist() == getattr(expected, column).tolist()


def test_one_side_is_enough_for_counts_and_for_the_threshold_that_it_sets() -> None:
    side = random_side(0, 40, 5)
    id_only, ood_only = binned_over_k({"images": side}, {}), binned_over_k({}, {"images": side})
    for row, k in enumerate(range(1, 6)):
        scores = scores_at(side, k)
        kept, caught = metrics.threshold_id_kept(scores), metrics.threshold_ood_caught(scores)
        assert id_only.pooled.threshold_id_kept[row] == kept
        assert ood_only.pooled.threshold_ood_caught[row] == caught
        assert id_only.flagged_at_id_kept[row].tolist() == [metrics.flagged(scores, kept).sum()]
        assert ood_only.flagged_at_ood_caught[row].tolist() == [metrics.flagged(scores, caught).sum()]
    for found in (id_only, ood_only):
        assert found.counts.sum(axis=2).tolist() == [[40]] * 5
        assert np.isnan(found.pooled.auroc).all()
    assert np.isnan(id_only.pooled.threshold_ood_caught).all()
    assert np.isnan(ood_only.pooled.threshold_id_kept).all()


def test_an_id_and_an_ood_group_may_have_the_same_name() -> None:
    found = binned_over_k({"images": random_side(0, 40, 5)}, {"images": random_side(1, 30, 5)})
    assert found.groups == ("images", "images")
    assert found.counts[0].sum(axis=1).tolist() == [40, 30]


@pytest.mark.parametrize("groups", [{}, {"images": Similarities(torch.zeros(0, 5), torch.zeros(0))}])
def test_a_table_without_any_score_is_not_defined(groups: dict[str, Similarities]) -> None:
    with pytest.raises(UndefinedMetricError, match="There are no scores, neither ID nor OOD"):
        binned_over_k(groups, {})


def test_a_table_of_one_bin_is_refused() -> None:
    with pytest.raises(ValueError, match="at least 2 bins, got 1"):
        binned_over_k({"images": random_side(0, 40, 5)}, {"near": random_side(1, 30, 5)}, bins=1)
