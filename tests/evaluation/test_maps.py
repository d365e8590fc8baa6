import pytest
import torch

from nnguide_core.errors import CancelledError
from nnguide_core.evaluation import evaluate
from nnguide_core.evaluation.maps import elsewhere, find_map, make_map, map_key
from nnguide_core.evaluation.questions import ask_demo
from nnguide_core.store import Workspace


@pytest.fixture(scope="module")
def workspace(tmp_path_factory):
    return Workspace(tmp_path_factory.mktemp("workspace"))


@pytest.fixture(scope="module")
def demo(workspace):
    return evaluate(ask_demo(workspace), baselines=())


@pytest.fixture(scope="module")
def places(workspace, demo):
    make_map(workspace, demo)
    return find_map(workspace, demo)


def test_a_map_that_was_stopped_is_not_kept(tmp_path, demo):
    other = Workspace(tmp_path)
    with pytest.raises(CancelledError):
        make_map(other, demo, cancelled=lambda: True)
    assert find_map(other, demo) is None


def test_a_map_has_a_place_for_every_image_and_is_made_once(workspace, demo, places):
    assert places.bank.shape == (demo.bank.size, 2)
    assert [len(each) for each in places.queries] == [len(judged.features) for judged in demo.queries]
    assert all(each.isfinite().all() for each in (places.bank, *places.queries))
    make_map(workspace, demo, cancelled=lambda: True)


def test_a_kept_map_that_does_not_fit_is_set_aside(tmp_path, demo, places):
    other = Workspace(tmp_path)
    other.save("projections", map_key(demo), {"bank": places.bank[:-1]}, {})
    assert find_map(other, demo) is None
    assert other.load("projections", map_key(demo)) is None
    assert len(other.all_set_aside()) == 1


def test_a_true_neighbour_is_elsewhere_unless_it_is_among_the_nearest_on_the_map(demo, places):
    for row in (0, 5):
        place, true_rows = places.queries[1][row], demo.queries[1].neighbors.indices[row, :4]
        nearest = (places.bank - place).square().sum(dim=1).argsort()[: 5 * 4]
        expected = [not bool(torch.isin(each, nearest)) for each in true_rows]
        assert elsewhere(places, demo, 1, row, 4).tolist() == expected
