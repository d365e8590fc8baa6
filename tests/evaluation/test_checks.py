"""What is known before computing: classes that the model does not know, class counts, time, cancelling."""

import numpy as np
import pytest
from PIL import Image

from nnguide_core.datasets.report import report
from nnguide_core.demo import demo_spec
from nnguide_core.errors import CancelledError
from nnguide_core.evaluation import checks
from nnguide_core.evaluation.checks import Check, ModelCard, check, class_cautions
from nnguide_core.evaluation.plans import Plan, scan
from nnguide_core.images.previews import previews
from nnguide_core.jobs import Job, JobContext
from nnguide_core.records import Dataset, ImageRef, Role
from nnguide_core.store import Workspace


def dataset(tmp_path, name, role, labels):
    images = tuple(
        ImageRef(f"{name}{row}", name, f"{row}.png", label, f"{row}.png") for row, label in enumerate(labels)
    )
    return Dataset(name, role, tmp_path, images)


@pytest.fixture
def job():
    return Job("key", "title", {})


@pytest.fixture
def plan(tmp_path):
    """An ID folder with classes of which the demo's model knows one, in a workspace."""
    rng, workspace = np.random.default_rng(3), Workspace(tmp_path / "workspace")
    for label in ("cat", "zebra"):
        (tmp_path / "test" / label).mkdir(parents=True)
        for row in range(20):
            pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(tmp_path / "test" / label / f"{row}.png")
    chosen = scan(workspace, tmp_path / "test", "test", Role.ID, JobContext(Job("scan", "scan", {})))
    return workspace, Plan(demo_spec(), (chosen,))


def test_classes_of_which_the_model_knows_some_are_neither_right_nor_wrong_and_guide(tmp_path):
    sets = [
        dataset(tmp_path, "bank", Role.BANK, ["cat", "zebra", None]),
        dataset(tmp_path, "test", Role.ID, ["cat", "zebra", "yak"]),
        dataset(tmp_path, "far", Role.OOD, ["yak"]),
    ]
    bank, test = class_cautions(sets, ["cat", "dog"])
    assert (bank.dataset, bank.none_known, test.dataset, test.none_known) == ("bank", False, "test", False)
    assert bank.text == (
        "bank: the model does not know 1 of its 2 classes (zebra). Their images guide like any other."
    )
    assert "does not know 2 of its 3 classes (yak, zebra)" in test.text
    assert test.text.endswith("Their images count as classified neither rightly nor wrongly.")


def test_a_dataset_of_which_the_model_knows_no_class_asks_whether_it_is_the_right_one(tmp_path):
    sets = [
        dataset(tmp_path, "bank", Role.BANK, ["zebra", "yak"]),
        dataset(tmp_path, "test", Role.ID, ["zebra"]),
        dataset(tmp_path, "flat", Role.ID, [None, None]),
    ]
    bank, test = class_cautions(sets, ["cat"])
    for found in (bank, test):
        assert found.none_known
        assert "Is this the right model, or are its class names missing?" in found.text
    assert "All its images guide nevertheless." in bank.text
    assert "None of its images counts as classified rightly or wrongly." in test.text


def test_the_time_is_that_of_loading_starting_computing_and_searching(tmp_path):
    sets = [dataset(tmp_path, "bank", Role.BANK, ["cat"])]
    card = ModelCard({}, ("cat",), (), rate=20.0, loading=3.0, starting=2.0)
    found = Check(report(sets), (), card, "", to_compute=100, sets_to_compute=2, search=4.0)
    assert found.feature_seconds == 2 * 2 + 100 / 20
    assert found.seconds == 3 + 9 + 4
    unknown = Check(report(sets), (), ModelCard({}, (), (), None), "", to_compute=100)
    assert unknown.seconds is None


def test_a_check_measures_what_its_time_is_made_of(plan, job):
    found = check(*plan, JobContext(job))
    assert found.model.loading > 0
    assert found.model.starting > 0
    assert found.model.rate > 0
    assert found.sets_to_compute == 2
    assert [each.dataset for each in found.class_cautions] == ["test bank", "test ID"]


@pytest.mark.parametrize("step", ["load_model", "previews", "extract"])
def test_a_check_that_is_cancelled_stops_after_the_step_that_it_is_in(plan, job, monkeypatch, step):
    done = []
    work = getattr(checks, step)

    def cancelling(*args, **options):
        job.cancel()
        done.append(step)
        return work(*args, **options)

    monkeypatch.setattr(checks, step, cancelling)
    with pytest.raises(CancelledError):
        check(*plan, JobContext(job))
    assert done == [step]
    assert job.progress.step in ("Loading the model", "Looking at what the network sees", "Timing the model")


def test_previews_stop_between_two_images(plan):
    workspace, wanted = plan
    stored = workspace.dataset(wanted.datasets[0].fingerprint, name="test", role=Role.ID)
    preprocess = checks.load_model(demo_spec()).preprocess
    with pytest.raises(CancelledError, match="1 of 4 previews"):
        previews(stored, preprocess, stored.images[:4], cancelled=lambda: True)
    assert len(previews(stored, preprocess, stored.images[:4])) == 4
