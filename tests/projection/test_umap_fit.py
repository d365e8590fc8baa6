"""The map is the same twice, keeps what is near, and takes any bank and any queries."""

import math
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from nnguide_core import files
from nnguide_core.errors import BankMismatchError, CancelledError, StoreError
from nnguide_core.progress import Progress
from nnguide_core.projection import MapSettings, Projection, fit, layout, umap_fit

# One worker pays for importing umap-learn and for its compilation.
pytestmark = pytest.mark.xdist_group("umap")

CENTRES = torch.eye(3, 12) * 6


def clusters(seed: int, each: int) -> tuple[Tensor, Tensor]:
    """Return rows around three directions, (3 * each, 12), and which one each belongs to."""
    generator = torch.Generator().manual_seed(seed)
    labels = torch.arange(3).repeat_interleave(each)
    return CENTRES[labels] + torch.randn(3 * each, 12, generator=generator), labels


@pytest.fixture(scope="module")
def made() -> Projection:
    return fit(clusters(0, 60)[0])


def nearest_label(made: Projection, places: Tensor, labels: Tensor) -> Tensor:
    return labels[torch.cdist(places, made.positions).argmin(dim=1)]


def test_the_same_rows_and_seed_give_the_same_map(made: Projection) -> None:
    rows = clusters(0, 60)[0]
    assert torch.equal(fit(rows).positions, made.positions)
    assert not torch.equal(fit(rows, MapSettings(seed=1)).positions, made.positions)


def test_rows_of_a_kind_lie_together(made: Projection) -> None:
    labels = clusters(0, 60)[1]
    distances = torch.cdist(made.positions, made.positions).fill_diagonal_(torch.inf)
    assert (labels[distances.topk(10, largest=False).indices] == labels[:, None]).float().mean() > 0.97


def test_queries_lie_among_rows_of_their_kind(made: Projection) -> None:
    queries, labels = clusters(1, 30)
    found = nearest_label(made, made.transform(queries), clusters(0, 60)[1])
    assert (found == labels).float().mean() > 0.95


def test_only_directions_count(made: Projection) -> None:
    queries = clusters(1, 10)[0]
    lengths = torch.ldexp(torch.ones(30), torch.linspace(-60, 50, 30).round())[
        :, None
    ]  # exact, as is division
    assert torch.equal(made.transform(queries * lengths), made.transform(queries))


def test_a_query_s_place_does_not_depend_on_the_others(made: Projection) -> None:
    queries = clusters(1, 10)[0]
    alone = torch.cat([made.transform(queries[row : row + 1]) for row in range(30)])
    assert torch.allclose(made.transform(queries), alone, atol=1e-4)


def test_a_bank_row_as_a_query_lies_close_to_itself(made: Projection) -> None:
    moved = (made.transform(clusters(0, 60)[0]) - made.positions).norm(dim=1)
    assert moved.median() < 0.05 * (made.positions.amax(dim=0) - made.positions.amin(dim=0)).norm()


def test_queries_without_a_direction_have_no_place(made: Projection) -> None:
    queries = clusters(1, 2)[0]
    queries[0] = 0.0
    queries[1, 3] = torch.nan
    queries[2, 0] = torch.inf
    places = made.transform(queries)
    assert places.isnan().all(dim=1).tolist() == [True, True, True, False, False, False]
    assert torch.allclose(places[3:], made.transform(queries[3:]), atol=1e-4)


def test_no_queries_have_no_places(made: Projection) -> None:
    assert made.transform(torch.empty(0, 12)).shape == (0, 2)


def test_queries_of_another_width_are_refused(made: Projection) -> None:
    with pytest.raises(BankMismatchError, match=r"shape \(2, 11\) but the map was made of rows with 12"):
        made.transform(torch.ones(2, 11))


@pytest.mark.parametrize("size", [0, 1, 2, 3, 5, 16])
def test_small_banks_have_a_map(size: int) -> None:
    rows = clusters(2, 6)[0][:size]
    found = fit(rows)
    assert found.positions.shape == (size, 2)
    assert found.positions.isfinite().all()
    assert found.transform(clusters(1, 1)[0]).isfinite().all() == (size > 0)


@pytest.mark.parametrize("shape", [(40, 12), (4, 1)])
def test_equal_rows_have_a_map(shape: tuple[int, int]) -> None:
    found = fit(torch.ones(shape))
    assert found.positions.isfinite().all()
    assert found.transform(torch.ones(2, shape[1])).isfinite().all()


def test_bank_rows_without_a_direction_have_no_place() -> None:
    rows = clusters(2, 6)[0]
    rows[4] = 0.0
    found = fit(rows)
    assert found.positions.isnan().any(dim=1).nonzero().tolist() == [[4]]
    assert 4 not in found.fitted
    assert len(found.fitted) == len(rows) - 1


def test_a_large_bank_is_laid_out_by_a_sample_and_placed_whole() -> None:
    rows, labels = clusters(0, 60)
    found = fit(rows, MapSettings(most_fitted=90))
    assert len(found.fitted) == 90
    assert torch.equal(found.fitted, fit(rows, MapSettings(most_fitted=90)).fitted)
    assert found.fitted.tolist() == sorted(set(found.fitted.tolist()))
    assert found.positions.isfinite().all()
    distances = torch.cdist(found.positions, found.positions).fill_diagonal_(torch.inf)
    assert (labels[distances.argmin(dim=1)] == labels).float().mean() > 0.95


def test_rows_searched_in_blocks_give_the_same_map(made: Projection, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(umap_fit, "_BLOCK", 50)
    monkeypatch.setattr(umap_fit, "_VALUES", 1000)
    assert torch.allclose(fit(clusters(0, 60)[0]).positions, made.positions, atol=1e-3)


def remembered(monkeypatch: pytest.MonkeyPatch, name: str) -> list[Any]:
    """Return a list that will hold what the layout's function of this name was given."""
    given: list[Any] = []
    function = getattr(layout, name)

    def watched(*graph: Any) -> layout.Edges:
        given.extend(graph)
        edges: layout.Edges = function(*graph)
        return edges

    monkeypatch.setattr(layout, name, watched)
    return given


def cosine_neighbours(queries: Tensor, rows: Tensor, k: int) -> tuple[list[list[int]], Tensor]:
    distances = 1 - torch.nn.functional.cosine_similarity(
        queries[:, None].double(), rows[None].double(), dim=2
    )
    found = distances.sort(dim=1)
    return found.indices[:, :k].tolist(), found.values[:, :k]


def test_rows_are_held_by_their_nearest_others_by_cosine(monkeypatch: pytest.MonkeyPatch) -> None:
    given = remembered(monkeypatch, "united_edges")
    rows = clusters(0, 20)[0]
    fit(rows, MapSettings(neighbours=6))
    indices, distances = cosine_neighbours(rows, rows, 6)
    assert given[0].tolist() == [row[1:] for row in indices]
    others = distances[:, 1:].float().numpy()
    expected = layout.memberships(others, others[:, 0].astype("float64"), math.log2(6))
    assert given[1] == pytest.approx(expected, abs=1e-4)


def test_queries_are_held_by_their_nearest_rows_by_cosine(
    made: Projection, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = remembered(monkeypatch, "query_edges")
    queries = clusters(1, 5)[0]
    made.transform(queries)
    indices, distances = cosine_neighbours(queries, clusters(0, 60)[0], 15)
    assert given[0].tolist() == indices
    expected = layout.memberships(distances.float().numpy(), distances[:, 0].numpy() * 0, math.log2(15), 1)
    assert given[1] == pytest.approx(expected, abs=1e-4)


def test_the_steps_are_reported_to_their_end() -> None:
    told: list[Progress] = []
    fit(clusters(0, 20)[0], MapSettings(most_fitted=40), told.append)
    last = {moment.step: (moment.done, moment.total) for moment in told}
    assert last == {
        "finding the neighbours of bank images": (40, 40),
        "laying out the map": (500, 500),
        "placing the other bank images": (20, 20),
    }


@pytest.mark.parametrize("asked", [1, 3, 250])
def test_a_map_can_be_stopped(asked: int) -> None:
    answers = iter([False] * (asked - 1) + [True])
    with pytest.raises(CancelledError, match="stopped before it was finished"):
        fit(clusters(0, 20)[0], cancelled=lambda: next(answers))


def test_placing_can_be_stopped(made: Projection) -> None:
    with pytest.raises(CancelledError, match="stopped before it was finished"):
        made.transform(clusters(1, 2)[0], cancelled=lambda: True)


def test_a_loaded_map_places_queries_as_the_saved_one(made: Projection, tmp_path: Path) -> None:
    umap_fit.save(made, tmp_path / "map.safetensors")
    loaded = umap_fit.load(tmp_path / "map.safetensors", clusters(0, 60)[0])
    queries = clusters(1, 5)[0]
    assert torch.equal(loaded.positions, made.positions)
    assert loaded.settings == made.settings
    assert torch.equal(loaded.transform(queries), made.transform(queries))
    assert (tmp_path / "map.safetensors").stat().st_size < 8_000


def test_a_map_of_other_rows_is_refused(made: Projection, tmp_path: Path) -> None:
    umap_fit.save(made, tmp_path / "map.safetensors")
    other = clusters(0, 60)[0]
    other[7, 3] += 1e-3
    with pytest.raises(BankMismatchError, match="made of another bank"):
        umap_fit.load(tmp_path / "map.safetensors", other)


def test_a_file_that_is_no_map_is_refused(tmp_path: Path) -> None:
    files.save_tensors(tmp_path / "other.safetensors", {"positions": torch.zeros(1, 2)}, {"format": "other"})
    with pytest.raises(StoreError, match="not a map of this version: its format is 'other'"):
        umap_fit.load(tmp_path / "other.safetensors", torch.zeros(1, 2))


@pytest.mark.parametrize(
    ("given", "words"),
    [
        ({"seed": -1}, "seed must be in .0, 2..32., got -1"),
        ({"neighbours": 1}, "at least 2 neighbours, got 1"),
        ({"min_dist": 1.5}, "must be in .0, 1., got 1.5"),
        ({"most_fitted": 0}, "at least 1 row, got 0"),
    ],
)
def test_settings_out_of_range_are_refused(given: dict[str, Any], words: str) -> None:
    with pytest.raises(ValueError, match=words):
        MapSettings(**given)


def test_rows_of_one_dimension_are_refused() -> None:
    with pytest.raises(ValueError, match=r"shape \(N, D\), got \(3,\)"):
        fit(torch.ones(3))
