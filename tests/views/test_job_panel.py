"""What background jobs do before they read a path that someone typed, perhaps before a restart."""

from dataclasses import replace

import pytest

from nnguide_core.demo import demo_spec
from nnguide_core.errors import ForbiddenPathError
from nnguide_core.evaluation.plans import Plan
from nnguide_core.jobs import Job, JobContext
from nnguide_core.models import ModelSpec
from nnguide_core.records import Role
from nnguide_core.store import Workspace
from views import job_panel


@pytest.fixture
def context():
    return JobContext(Job("key", "title", {}))


@pytest.fixture
def workspace(tmp_path, monkeypatch):
    """The server's workspace, beside an allowed folder and a private one."""
    for name in ("allowed", "private"):
        (tmp_path / name / "photos").mkdir(parents=True)
        (tmp_path / name / "net.pth").write_bytes(b"x")
    monkeypatch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path / "allowed"))
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "workspace"))
    workspace = Workspace()
    monkeypatch.setattr("views.resources.workspace", lambda: workspace)
    return workspace


@pytest.mark.usefixtures("workspace")
def test_a_scan_checks_its_path_again(tmp_path, context):
    with pytest.raises(ForbiddenPathError):
        job_panel._scan(tmp_path / "private" / "photos", "x", Role.OOD, context)
    (tmp_path / "allowed" / "photos").rmdir()
    (tmp_path / "allowed" / "photos").symlink_to(tmp_path / "private" / "photos")
    with pytest.raises(ForbiddenPathError):
        job_panel._scan(tmp_path / "allowed" / "photos", "x", Role.OOD, context)


@pytest.mark.usefixtures("workspace")
@pytest.mark.parametrize("work", [job_panel._check, job_panel._compute])
def test_a_plan_checks_the_path_of_its_checkpoint_again(tmp_path, context, work):
    path = tmp_path / "allowed" / "net.pth"
    plan = Plan(ModelSpec("torchvision", "resnet18", checkpoint=path), ())
    path.unlink()
    path.symlink_to(tmp_path / "private" / "net.pth")
    with pytest.raises(ForbiddenPathError):
        work(plan, context)


def test_uploaded_checkpoints_and_the_demo_need_no_root(workspace):
    uploaded = ModelSpec("torchvision", "resnet18", checkpoint=workspace.blobs / "a" / "net.pth")
    job_panel._check_checkpoint(Plan(uploaded, ()))
    job_panel._check_checkpoint(Plan(demo_spec(), ()))
    elsewhere = replace(uploaded, checkpoint=workspace.root / "workspace.sqlite")
    with pytest.raises(ForbiddenPathError):
        job_panel._check_checkpoint(Plan(elsewhere, ()))
