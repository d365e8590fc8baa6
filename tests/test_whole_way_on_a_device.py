"""The whole way with a network on a GPU: from JPEGs to scores, metrics, reasons, tables, map and files."""

from dataclasses import fields, replace

import numpy as np
import pytest
import torch
from PIL import Image

from nnguide_core.datasets import open_dataset
from nnguide_core.demo import demo_spec
from nnguide_core.detector import NNGuide
from nnguide_core.evaluation import NNGUIDE, evaluate
from nnguide_core.evaluation.comparison import differences, metrics_table
from nnguide_core.evaluation.explanation import flips, gap_to, thresholds_over_k, typical, what_if
from nnguide_core.evaluation.judging import DEFAULT_THRESHOLD
from nnguide_core.evaluation.maps import elsewhere, find_map, make_map
from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.questions import ask, open_question
from nnguide_core.evaluation.queues import ORDERS, QUEUES, Situation, ordered, queue
from nnguide_core.evaluation.tables import bank_table, image_table
from nnguide_core.models import load_model
from nnguide_core.records import Role
from nnguide_core.settings import BankSettings
from nnguide_core.store import Workspace
from views.map_table import map_table

pytestmark = pytest.mark.filterwarnings("ignore::nnguide_core.errors.NNGuideWarning")

K = 5
SETTINGS = (BankSettings(), BankSettings(scoring="cosine", react_percentile=90.0))


@pytest.fixture(scope="module")
def datasets(tmp_path_factory):
    """A bank, an ID and two OOD datasets of small JPEGs: a colour for each class, and noise."""
    root, rng = tmp_path_factory.mktemp("images"), np.random.default_rng(0)
    made = []
    for name, role, count in (
        ("bank", Role.BANK, 40),
        ("id", Role.ID, 12),
        ("a", Role.OOD, 8),
        ("b", Role.OOD, 8),
    ):
        for number in range(count):
            folder = root / name / ("cat" if number % 2 else "dog")
            folder.mkdir(parents=True, exist_ok=True)
            colour = (200, 60, 40) if number % 2 else (40, 60, 200)
            spread = 25 if role is not Role.OOD else 120
            pixels = np.clip(rng.normal(colour, spread, (32, 32, 3)), 0, 255).astype(np.uint8)
            Image.fromarray(pixels).save(folder / f"{number}.jpg")
        made.append(open_dataset(root / name, name, role))
    return made


@pytest.fixture(scope="module")
def on_cpu(datasets, tmp_path_factory):
    """What every kind of settings gives without a GPU."""
    workspace = Workspace(tmp_path_factory.mktemp("on CPU"))
    classifier = load_model(demo_spec(), "cpu")
    return {each: evaluate(ask(classifier, datasets, each, workspace=workspace)) for each in SETTINGS}


@pytest.mark.parametrize("settings", SETTINGS, ids=["paper", "cosine and ReAct"])
def test_on_a_cuda_device_all_goes_as_on_the_cpu(cuda, settings, datasets, on_cpu, tmp_path):
    check_the_whole_way(cuda, settings, datasets, on_cpu[settings], tmp_path)


@pytest.mark.parametrize("settings", SETTINGS[1:], ids=["cosine and ReAct"])
def test_on_a_macs_gpu_all_goes_as_on_the_cpu(mps, settings, datasets, on_cpu, tmp_path):
    check_the_whole_way(mps, settings, datasets, on_cpu[settings], tmp_path)


def check_the_whole_way(device, settings, datasets, expected, tmp_path):
    workspace = Workspace(tmp_path / "workspace")
    classifier = load_model(demo_spec(), device)
    question = ask(classifier, datasets, settings, workspace=workspace)
    answered = evaluate(question, device=device)
    assert classifier.device.type == device.type
    assert classifier.head.weight.device == classifier.device  # the network keeps its own
    assert tensors_of(answered) == {"cpu"}
    assert (answered.detectors, answered.without) == (expected.detectors, expected.without)
    assert_same(answered, expected)
    check_metrics(answered, expected)
    check_reasons(answered)
    check_tables(answered)
    if settings == SETTINGS[0]:  # a map is the same for all, and takes its time
        check_map(workspace, answered)
    check_files(workspace, answered, tmp_path)


def tensors_of(answered):
    """Where all that was answered lies."""
    parts = [answered.bank, *answered.question.parts, *answered.queries]
    holders = [*parts, *(part.features for part in parts[1:]), *(each.neighbors for each in answered.queries)]
    held = [getattr(holder, field.name) for holder in holders for field in fields(holder)]
    held += [score for each in answered.queries for score in each.baselines.values()]
    held += list(answered.question.head.parameters())
    return {each.device.type for each in held if isinstance(each, torch.Tensor)}


def assert_same(answered, expected):
    """Compare scores, leaving room for batches of another size."""
    for ours, theirs in zip(answered.queries, expected.queries, strict=True):
        for detector in expected.detectors:
            found, wanted = ours.scores(detector, K), theirs.scores(detector, K)
            torch.testing.assert_close(found, wanted, rtol=1e-3, atol=1e-3, equal_nan=True)


def check_metrics(answered, expected):
    rows, wanted = metrics_table(answered, K), metrics_table(expected, K)
    found, known = ([row.auroc.estimate for row in each] for each in (rows, wanted))
    assert found == pytest.approx(known, abs=0.02)
    assert len(differences(answered, K)) == len(rows) - 2  # of two OOD datasets, for all but NNGuide


def check_reasons(answered):
    judged, threshold = answered.ood[0], answered.threshold(DEFAULT_THRESHOLD, K)
    score = float(judged.neighbors.score_at(K)[0])
    usual = typical(answered, int(judged.predicted[0]), K)
    guidance = float(judged.neighbors.guidance_at(K)[0])
    gap = gap_to(usual, guidance, float(judged.neighbors.energy[0]))
    assert gap.total == pytest.approx(score - usual.score, rel=1e-4)
    found = flips(judged, 0, thresholds_over_k(answered, DEFAULT_THRESHOLD))
    assert float(found.scores[K - 1]) == pytest.approx(score)
    nearest = judged.neighbors.indices[0, :K]
    assert what_if(answered, judged, 0, nearest, K, threshold).score != score
    # So few remain that the bank is searched again.
    others = torch.arange(answered.bank.size)[~torch.isin(torch.arange(answered.bank.size), nearest)]
    again = what_if(answered, judged, 0, others, K, threshold)
    assert again.neighbors.indices[0].tolist() == nearest.tolist()
    situation = Situation(answered, K, threshold)
    for name in QUEUES:
        for order in ORDERS:
            ordered(situation, queue(name, situation), order)


def check_tables(answered):
    run, threshold = answered.run(K), answered.threshold(DEFAULT_THRESHOLD, K)
    table = image_table(answered, K, threshold, {}, run)
    scores = torch.cat([judged.scores(NNGUIDE, K) for judged in answered.queries])
    assert table["score"].to_pylist() == pytest.approx(scores.tolist())
    assert bank_table(answered, K, frozenset(), run).num_rows == answered.bank.size


def check_map(workspace, answered):
    make_map(workspace, answered)
    found = find_map(workspace, answered)
    shown = [part.dataset.name for part in answered.question.parts]
    table = map_table(answered, found, K, answered.threshold(DEFAULT_THRESHOLD, K), shown)
    assert len(table.points.positions) == 68
    assert elsewhere(found, answered, 0, 0, K).shape == (K,)


def check_files(workspace, answered, tmp_path):
    run = answered.run(K)
    workspace.save_run(run)
    (kept,) = workspace.runs()
    again = evaluate(open_question(workspace, kept), device="cpu")
    assert kept.device == again.run(K).device == answered.question.device
    assert_same(again, answered)
    path = tmp_path / "detector.nnguide"
    save_detector(answered, path, K, DEFAULT_THRESHOLD)
    loaded = NNGuide.load(path)
    part = answered.queries[0]
    scores = loaded.predict_features(part.features.features, logits=part.features.logits)
    torch.testing.assert_close(scores, part.scores(NNGUIDE, K), rtol=1e-5, atol=1e-5)


def test_a_run_says_which_device_it_was_and_counts_as_the_same(cuda, datasets, on_cpu, tmp_path):
    workspace = Workspace(tmp_path)
    run = evaluate(ask(load_model(demo_spec(), cuda), datasets, workspace=workspace), baselines=()).run(K)
    there = on_cpu[BankSettings()].run(K)
    assert run.device.startswith("cuda (")
    assert there.device == "cpu"
    assert (run.id, run.question, run) == (there.id, there.question, replace(there, device="anything"))
    # Features that were computed there are not computed again here.
    again = ask(load_model(demo_spec(), "cpu"), datasets, workspace=workspace, progress=pytest.fail)
    assert again.device == run.device
