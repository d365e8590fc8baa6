"""Plans: through JSON and back, prepared from what the workspace holds, computed as one job."""

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nnguide_core.demo import demo_spec
from nnguide_core.errors import CancelledError, DatasetError, DeviceError, ForbiddenPathError, StoreError
from nnguide_core.evaluation.checks import check
from nnguide_core.evaluation.plans import Plan, compute, prepared, scan
from nnguide_core.jobs import Job, JobContext
from nnguide_core.models import ModelSpec
from nnguide_core.records import Role
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from nnguide_core.store.tensors import TensorFiles
from tests.synthetic import lose_dataset


@pytest.fixture
def workspace(tmp_path):
    return Workspace(tmp_path / "workspace")


@pytest.fixture
def context():
    return JobContext(Job("key", "title", {}))


@pytest.fixture
def make_folder(tmp_path):
    """make_folder(name, {class: count}) -> a folder of small noisy photos, the class "" for none."""
    rng = np.random.default_rng(3)

    def make(name, counts):
        for label, count in counts.items():
            (tmp_path / name / label).mkdir(parents=True, exist_ok=True)
            for row in range(count):
                pixels = rng.integers(0, 255, (20, 30, 3), dtype=np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / label / f"{row}.png")
        return tmp_path / name

    return make


@pytest.fixture
def plan(workspace, make_folder, context):
    """An ID folder with two classes, one unknown to the demo's model, and an OOD folder called cat."""
    test = scan(workspace, make_folder("test", {"cat": 6, "zebra": 4}), "test", Role.ID, context)
    ood = scan(workspace, make_folder("cat", {"": 5}), "cat", Role.OOD, context)
    return Plan(demo_spec(), (test, ood))


def test_a_plan_comes_back_from_json_as_it_was(plan):
    odd = replace(
        plan,
        spec=ModelSpec("torchvision", "resnet18", checkpoint=Path("/x.pt"), class_names=("a", "b")),
        settings=BankSettings(0.5, 3, "stratified", 90.0, "cosine", 2.0),
        device="cuda:1",
    )
    assert Plan.from_json(json.loads(json.dumps(odd.to_json()))) == odd
    assert odd.key == Plan.from_json(json.loads(json.dumps(odd.to_json()))).key != plan.key


@pytest.mark.parametrize(
    "content", [{}, {"spec": None}, {"spec": {"library": "nothing"}}, {"spec": {"source": "nothing"}}]
)
def test_what_is_no_plan_is_refused(content):
    with pytest.raises(StoreError, match="start it anew"):
        Plan.from_json(content)


def test_an_id_dataset_without_a_bank_is_split_by_class(workspace, plan):
    bank, queries, ood = prepared(workspace, replace(plan, bank_share=0.5))
    assert (bank.role, queries.role, ood.role) == (Role.BANK, Role.ID, Role.OOD)
    assert bank.class_counts == queries.class_counts | {"cat": 3, "zebra": 2}
    assert not set(bank.ids) & set(queries.ids)


def test_the_seed_decides_which_images_fill_the_bank(workspace, plan):
    drawn = [
        prepared(workspace, replace(plan, settings=BankSettings(seed=seed)))[0].ids for seed in (0, 0, 1)
    ]
    assert drawn[0] == drawn[1] != drawn[2]


def test_names_and_roles_are_those_that_were_chosen(workspace, plan):
    test, ood = plan.datasets
    chosen = (replace(test, name="my bank", role=Role.BANK), replace(ood, name="<b>street</b>"))
    bank, street = prepared(workspace, replace(plan, datasets=chosen))
    assert (bank.name, bank.role, street.name) == ("my bank", Role.BANK, "<b>street</b>")
    assert {image.dataset for image in bank.images} == {"my bank"}


@pytest.mark.parametrize(
    ("roles", "names", "said"),
    [
        ((Role.OOD, Role.OOD), ("a", "b"), "no bank, and 0 ID datasets"),
        ((Role.BANK, Role.BANK), ("a", "b"), "2 datasets have the role bank"),
        ((Role.ID, Role.OOD), ("a", "a"), "Two datasets are called a"),
        ((Role.ID, Role.OOD), ("a", " "), "no name"),
    ],
)
def test_plans_that_cannot_be_are_refused_in_a_sentence(workspace, plan, roles, names, said):
    chosen = tuple(
        replace(each, role=role, name=name)
        for each, role, name in zip(plan.datasets, roles, names, strict=True)
    )
    with pytest.raises(DatasetError, match=said):
        prepared(workspace, replace(plan, datasets=chosen))


def test_a_dataset_that_is_gone_is_named(workspace, plan):
    for stored in workspace.datasets():
        lose_dataset(workspace, stored)
    with pytest.raises(StoreError, match="images of test are no longer kept"):
        prepared(workspace, plan)


def test_a_folder_without_images_says_what_was_found(workspace, tmp_path, context):
    (tmp_path / "none").mkdir()
    (tmp_path / "none" / "a.jpg").write_bytes(b"no image")
    with pytest.raises(DatasetError, match=r"no image that can be read \(1 files found\). a.jpg: "):
        scan(workspace, tmp_path / "none", "none", Role.OOD, context)


def test_a_typed_path_is_checked_again_by_the_job_that_reads_it(
    workspace, make_folder, context, tmp_path, monkeypatch
):
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path / "test"))
    inside = make_folder("test/photos", {"cat": 1})
    assert scan(workspace, inside, "photos", Role.OOD, context, typed=True).images == 1
    with pytest.raises(ForbiddenPathError):
        scan(workspace, make_folder("private", {"cat": 1}), "private", Role.OOD, context, typed=True)


def test_datasets_and_features_are_written_once_and_not_read_to_see_whether_they_are_there(
    workspace, plan, context, monkeypatch
):
    written, read = [], []
    save, load = TensorFiles.save, Workspace.load_features

    def save_and_tell(self, kind, *rest, **options):
        written.append(kind)
        save(self, kind, *rest, **options)

    monkeypatch.setattr(TensorFiles, "save", save_and_tell)
    monkeypatch.setattr(Workspace, "load_features", lambda *names: read.append(names) or load(*names))
    compute(workspace, plan, context)
    assert sorted(written) == ["datasets"] * 2 + ["features"] * 3 + ["heads"]
    assert len(read) == 3  # once each, to find out what there is to compute
    read.clear()
    assert check(workspace, plan, context).to_compute == 0
    assert read == []


def test_a_plan_is_checked_and_computed(workspace, plan, context):
    found = check(workspace, plan, context)
    assert found.report.shared_classes == {"cat": ("cat",)}
    assert [each.dataset for each in found.class_cautions] == ["test bank", "test ID"]
    assert "(zebra)" in found.class_cautions[1].text
    assert found.model is not None
    assert len(found.model.seen) == 4
    assert found.to_compute == 15
    question = compute(workspace, plan, context)
    assert [run.question for run in workspace.runs()] == [question]
    assert check(workspace, plan, context).to_compute == 0


def test_a_model_that_cannot_be_loaded_is_part_of_the_check(workspace, plan, context):
    found = check(workspace, replace(plan, spec=ModelSpec("torchvision", "resnet0")), context)
    assert found.model is None
    assert "no classifier 'resnet0'" in found.problem
    assert len(found.report.datasets) == 3


def test_a_plan_that_was_kept_before_devices_could_be_chosen_asks_for_none(plan):
    content = {name: value for name, value in plan.to_json().items() if name != "device"}
    assert Plan.from_json(content) == plan


def test_a_device_that_is_not_there_is_part_of_the_check_and_refused_by_the_job(workspace, plan, context):
    there = replace(plan, device="cuda:99")
    found = check(workspace, there, context)
    assert found.model is None
    assert found.problem.startswith("There is no device 'cuda:99' here. Choose one of: auto, ")
    with pytest.raises(DeviceError, match="no device 'cuda:99' here"):
        compute(workspace, there, context)
    assert not workspace.runs()


def test_a_cancelled_plan_leaves_no_run(workspace, plan):
    job = Job("key", "title", {})
    job.cancel()
    with pytest.raises(CancelledError):
        compute(workspace, plan, JobContext(job))
    assert workspace.runs() == ()


def test_what_the_bank_cannot_do_is_said_in_a_sentence(workspace, plan, context):
    few = replace(plan, settings=BankSettings(energy_offset=1e30))
    none = replace(plan, settings=BankSettings(fraction=1e-9))
    assert compute(workspace, few, context)
    with pytest.raises(DatasetError, match="1e-09"):
        compute(workspace, none, context)
