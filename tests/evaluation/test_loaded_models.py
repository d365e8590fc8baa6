"""From load_model to a detector file and back in another process: a network of each family, real pictures."""

import csv
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torch import nn

from nnguide_core.baselines import BASELINES
from nnguide_core.datasets import open_dataset
from nnguide_core.evaluation import Evaluation, evaluate
from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.questions import ask, open_question
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.models.architectures import LIBRARIES
from nnguide_core.records import Role, Threshold
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace

CLASSES = ("cat", "dog")
K = 3
NETWORKS = {  # those whose checkpoints are too large for the whole way on the command line
    "vit_b_32": "torchvision",
    "convnext_tiny": "torchvision",
    "mobilenetv3_small_050": "timm",  # whose head is a subclass of nn.Linear
}
SETTINGS = {"plain": BankSettings(), "ReAct": BankSettings(react_percentile=90.0)}
SCORING = """
import json, sys
from nnguide_core.cli import main
for detector, table in json.loads(sys.argv[1]):
    assert main(["score", detector, sys.argv[2], "--out", table, "--quiet"]) == 0
"""

pytestmark = pytest.mark.filterwarnings("ignore::nnguide_core.errors.NNGuideWarning")


@pytest.fixture(scope="module")
def photos(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folders of JPEGs and PNGs: 80 for the bank, 6 ID and 6 OOD."""
    root = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    for name, count in (("bank", 80), ("id", 6), ("ood", 6)):
        for number in range(count):
            folder = root / name if name == "ood" else root / name / CLASSES[number % 2]
            folder.mkdir(parents=True, exist_ok=True)
            ramp = np.linspace(0, 255, 40)[:, None, None] * rng.random(3)
            pixels = np.clip(ramp + rng.normal(0, 40, (40, 36, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.{'jpg' if number % 3 else 'png'}")
    return root


@pytest.fixture(scope="module")
def answers(photos: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[tuple[str, str], Any]:
    """Each network's evaluation, the same one after a restart, and the table that another process wrote."""
    root = tmp_path_factory.mktemp("ways")
    workspace = Workspace(root / "home")
    sets = [open_dataset(photos / role, role.value, role) for role in (Role.BANK, Role.ID, Role.OOD)]
    found: dict[tuple[str, str], Any] = {}
    for name, library in NETWORKS.items():
        classifier = load_model(trained(root, library, name), "cpu")
        for kind, settings in SETTINGS.items():
            question = ask(classifier, sets, settings, workspace=workspace)
            evaluation = evaluate(question, k=K)
            save_detector(evaluation, root / f"{name} {kind}", K, Threshold("id_kept", 0.8))
            again = evaluate(open_question(workspace, evaluation.run(K)), k=K)
            found[name, kind] = (evaluation, again, root / f"{name} {kind}.csv")
        del classifier
    files = [(str(table.with_suffix("")), str(table)) for _, _, table in found.values()]
    subprocess.run(
        [sys.executable, "-c", SCORING, json.dumps(files), str(photos / "ood")],
        env={**os.environ, "NNGUIDE_HOME": str(root / "other home")},
        check=True,
    )
    return found


def trained(folder: Path, library: str, name: str) -> ModelSpec:
    """Save a network as training leaves it, with norms that have seen images, and return what loads it."""
    size = 32
    built = LIBRARIES[library](name, class_count=2, image_size=size, own=())
    generator = torch.Generator().manual_seed(2)
    for module in built.network.modules():
        if isinstance(module, nn.BatchNorm2d):
            module.momentum = 1.0  # one batch settles it
    with torch.no_grad(), torch.random.fork_rng():
        built.network.train()(torch.randn(8, 3, size, size, generator=generator))
        list(built.network.parameters())[-2].normal_(std=0.1, generator=generator)
    save_file(built.network.state_dict(), folder / f"{name}.safetensors")
    return ModelSpec(
        library,
        name,
        checkpoint=folder / f"{name}.safetensors",
        class_names=CLASSES,
        image_size=size,
    )


def numbers(evaluation: Evaluation) -> dict[str, list[float]]:
    return {
        detector: [score for judged in evaluation.queries for score in judged.scores(detector, K).tolist()]
        for detector in evaluation.detectors
    }


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_another_process_scores_what_was_saved_as_this_one_did(answers, name: str, kind: str) -> None:
    evaluation, _, table = answers[name, kind]
    judged = evaluation.ood[0]
    expected = dict(
        zip((image.path for image in judged.images), judged.scores("NNGuide", K).tolist(), strict=True)
    )
    with table.open(newline="") as file:
        written = {row["path"]: float(row["score"]) for row in csv.DictReader(file)}
    assert written == pytest.approx(expected, rel=1e-6)
    assert len(set(written.values())) == 6


@pytest.mark.parametrize("kind", SETTINGS)
@pytest.mark.parametrize("name", NETWORKS)
def test_after_a_restart_there_are_the_same_detectors_and_numbers(answers, name: str, kind: str) -> None:
    evaluation, again, _ = answers[name, kind]
    assert numbers(again) == numbers(evaluation)
    assert again.without == evaluation.without
    assert set(evaluation.detectors) == {"NNGuide", *BASELINES}
