"""The whole way for every family of networks, from photos and a checkpoint to a decision and back.

load → extract → evaluate with all baselines → metrics, differences, reasons, what-if, map, report, tables →
save the detector → load it in a fresh process → score → the same numbers; by command line and pages.
"""

import contextlib
import io
import json
import os
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import pytest
import streamlit as st
import torch
from pyarrow import parquet
from streamlit.testing.v1 import AppTest

from nnguide_core import NNGuide
from nnguide_core.baselines import BASELINES
from nnguide_core.cli import main
from nnguide_core.evaluation import Evaluation, evaluate
from nnguide_core.evaluation.comparison import differences, metrics_table
from nnguide_core.evaluation.explanation import flips, gap_to, thresholds_over_k, typical, what_if
from nnguide_core.evaluation.maps import find_map, make_map
from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.questions import open_question
from nnguide_core.evaluation.tables import image_table
from nnguide_core.records import Run, Threshold
from nnguide_core.store import Workspace
from tests import reference
from tests.whole_way import CLASSES, FAMILIES, Family, checkpoint, write_photos

ROOT = Path(__file__).parents[1]
K = 5
RULE = Threshold("id_kept", 0.9)
ONE_SIDE = {
    "id": RULE,
    "ood": Threshold("ood_caught", 0.9),
}  # the rule of the threshold where only this side is given
SCORINGS = {
    "paper": (),
    "cosine": ("--scoring", "cosine"),
    "react": ("--react", "90"),
}
PAGES = ("data", "scores", "map", "triage", "export")
SETS = {"bank": ("train",), "id": ("asked/val",), "ood": ("asked/strange", "asked/mixed")}
SCORE_ALL = """
import sys
from nnguide_core.cli import main
for line in sys.stdin.read().splitlines():
    assert main(["score", *line.split("\\t"), "--quiet"]) == 0
"""


@dataclass(frozen=True)
class Way:
    """One family's photos and model, what the command line printed, and what a fresh process scored."""

    family: Family
    folder: Path
    model: tuple[str, ...]  # options
    facts: Mapping[str, dict]  # scoring, or the one side that was given -> what evaluate --json printed
    workspace: Workspace
    saved: Mapping[str, Path]  # the same -> a detector file of the evaluation
    fitted: Mapping[str, Path]  # scoring -> what fit wrote
    scored: Mapping[Path, Mapping[str, float]]  # detector file -> path below asked/ -> score

    def answered(self, name: str) -> Evaluation:
        """Open a run as the dashboard does after a restart."""
        return evaluate(open_question(self.workspace, self._run(name)), k=K)

    def address(self, name: str) -> dict[str, str]:
        """Return what opens a run on a page."""
        rule = ONE_SIDE.get(name, RULE)
        return {"run": self._run(name).question, "k": str(K), "threshold": f"{rule.kind}:{rule.level}"}

    def _run(self, name: str) -> Run:
        return Run.from_json(json.dumps(self.facts[name]["run"]))


@pytest.fixture(scope="module", params=FAMILIES)
def way(request, tmp_path_factory):
    """Evaluate, save and fit one family in every scoring; score with the files in a fresh process."""
    family, folder = FAMILIES[request.param], tmp_path_factory.mktemp("way")
    write_photos(folder, family.per_class)
    model = _model(family, folder)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("NNGUIDE_HOME", str(folder / "home"))
        patch.setenv("NNGUIDE_DATA_ROOTS", str(folder))
        st.cache_resource.clear()
        workspace, facts, saved, fitted = Workspace(folder / "home"), {}, {}, {}
        for name, options in SCORINGS.items():
            facts[name] = _evaluated(folder, model, options)
            saved[name], fitted[name] = folder / f"{name}.saved", folder / f"{name}.fitted"
            fit = ("fit", folder / "train", *model, *options, "--out", fitted[name], "--k", K, "--quiet")
            assert main([str(each) for each in fit]) == 0
        for side in ONE_SIDE:
            facts[side] = _evaluated(folder, model, (), {role: SETS[role] for role in ("bank", side)})
            saved[side] = folder / f"{side}.saved"
        made = Way(family, folder, model, facts, workspace, saved, fitted, {})
        for name in saved:
            save_detector(made.answered(name), saved[name], K, ONE_SIDE.get(name, RULE))
        made.scored.update(_scored(folder, [*saved.values(), *fitted.values()]))
        yield made
        st.cache_resource.clear()


def _model(family, folder):
    """Return the options that name a model, as somebody who has a checkpoint gives them."""
    weights = checkpoint(family, folder)
    if weights is None:
        return ("--model", family.model)
    (folder / "classes.txt").write_text("\n".join(CLASSES))
    return ("--model", family.model, "--checkpoint", str(weights), "--classes", str(folder / "classes.txt"))


def _evaluated(folder, model, options, sets=SETS):
    """Return what evaluate prints as JSON."""
    asked = []
    for role, names in sets.items():
        asked += [f"--{role}", *(str(folder / name) for name in names)]
    printed = io.StringIO()
    with contextlib.redirect_stdout(printed):
        assert main(["evaluate", *model, *asked, *options, "--k", str(K), "--json", "--quiet"]) == 0
    return json.loads(printed.getvalue())


def _scored(folder, files):
    """Score all in asked/ with each detector file, in one fresh process with no stored features."""
    tables = {file: folder / f"{file.name}.parquet" for file in files}
    lines = [f"{file}\t{folder / 'asked'}\t--out\t{out}" for file, out in tables.items()]
    home = {**os.environ, "NNGUIDE_HOME": str(folder / "another home"), "PYTHONPATH": str(ROOT)}
    done = subprocess.run(
        [sys.executable, "-c", SCORE_ALL], input="\n".join(lines), capture_output=True, text=True, env=home
    )
    assert done.returncode == 0, done.stderr
    return {file: _scores_by_path(parquet.read_table(out)) for file, out in tables.items()}


def _scores_by_path(table):
    return dict(zip(table["path"].to_pylist(), table["score"].to_pylist(), strict=True))


def _clipped(question, features, logits):
    """Return features and logits as ReAct leaves them, in float64: straight from its definition."""
    percentile = question.settings.react_percentile
    if percentile is None:
        return features.double(), logits.double()
    values = question.bank.features.features.double().flatten()
    clipped = features.double().clamp(max=float(torch.quantile(values, percentile / 100)))
    return clipped, clipped @ question.head.weight.double().T + question.head.bias.double()


def _naive_score(question, queries, row):
    """Return NNGuide's score of one query by straight loops; its own copy in the bank is left out."""
    bank, scoring = question.bank.features, question.settings.scoring
    mine = [place for place, image in enumerate(bank.ids) if image != queries.ids[row]]
    rows, row_logits = _clipped(question, bank.features[mine], bank.logits[mine])
    query, query_logits = _clipped(question, queries.features[[row]], queries.logits[[row]])
    scorer = reference.nnguide_paper if scoring == "paper" else reference.nnguide_cosine
    energies = (
        [reference.log_sum_exp(each) for each in some.tolist()] for some in (row_logits, query_logits)
    )
    bank_energies, query_energies = energies
    return scorer(rows.tolist(), bank_energies, query.tolist(), query_energies, K)[0]


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_saved_detector_scores_in_a_fresh_process_as_it_was_evaluated(way, scoring):
    answered = way.answered(scoring)
    expected = {}
    for judged in answered.queries:
        here = judged.scores("NNGuide", K).tolist()
        expected |= zip([f"{judged.dataset.name}/{each.path}" for each in judged.images], here, strict=True)
    assert way.scored[way.saved[scoring]] == pytest.approx(expected, rel=1e-6)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_fitted_detector_scores_in_a_fresh_process_as_the_library_does(way, scoring):
    answered, fitted = way.answered(scoring), NNGuide.load(way.fitted[scoring])
    bank, settings = answered.question.bank.features, vars(fitted.settings)
    rows = [bank.ids.index(image) for image in fitted.bank.ids]
    mine = NNGuide(None, answered.question.head, K, **settings)
    mine.fit_features(bank.features[rows], logits=bank.logits[rows], ids=fitted.bank.ids)
    queries = answered.ood[0].features
    expected = mine.predict_features(queries.features, logits=queries.logits)
    strange = [f"strange/{each.path}" for each in answered.ood[0].images]
    scored = [way.scored[way.fitted[scoring]][path] for path in strange]
    assert scored == pytest.approx(expected.tolist(), rel=1e-6)


@pytest.mark.parametrize("scoring", SCORINGS)
def test_a_score_is_that_of_the_formula_by_straight_loops(way, scoring):
    answered = way.answered(scoring)
    for judged in answered.queries:
        for row in (0, 4):
            naive = _naive_score(answered.question, judged.features, row)
            assert float(judged.scores("NNGuide", K)[row]) == pytest.approx(naive, rel=1e-4)


def test_a_detector_file_holds_the_head_of_every_network(way):
    for path in (*way.saved.values(), *way.fitted.values()):
        assert NNGuide.load(path).head is not None


@pytest.mark.parametrize("scoring", SCORINGS)
def test_the_command_line_tells_what_an_opened_run_gives(way, scoring):
    answered, facts = way.answered(scoring), way.facts[scoring]
    assert facts["without"] == dict(answered.without)
    told = {(row["dataset"], row["detector"]): row for row in facts["metrics"]}
    assert len(told) == 2 * len(answered.detectors)
    for row in metrics_table(answered, K):
        for metric in ("auroc", "ood_passed_at_95_id_kept", "id_flagged_at_95_ood_caught"):
            same = told[row.dataset, row.detector][metric]["estimate"]
            assert getattr(row, metric).estimate == pytest.approx(same, abs=1e-6)
        judged = next(each for each in answered.ood if each.dataset.name == row.dataset)
        sides = answered.id_scores(row.detector, K), judged.scores(row.detector, K)
        naive = reference.auroc(*(side.tolist() for side in sides))
        assert row.auroc.estimate == pytest.approx(naive, abs=1e-9)


def test_every_baseline_is_there(way):
    assert way.facts["paper"]["without"] == {}
    assert set(BASELINES) < {row["detector"] for row in way.facts["paper"]["metrics"]}


@pytest.mark.parametrize("scoring", SCORINGS)
def test_reasons_add_up_to_the_score(way, scoring):
    answered = way.answered(scoring)
    thresholds = thresholds_over_k(answered, RULE)
    for judged in answered.queries:
        scores = judged.scores("NNGuide", K).tolist()
        usual = typical(answered, int(judged.predicted[2]), K)
        found = judged.neighbors.rows(slice(2, 3))
        gap = gap_to(usual, float(found.guidance_at(K)), float(found.energy))
        assert gap.total == pytest.approx(scores[2] - usual.score, rel=1e-4, abs=1e-4)
        assert float(flips(judged, 2, thresholds).scores[K - 1]) == pytest.approx(scores[2], rel=1e-5)


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
def test_leaving_bank_images_out_is_a_bank_without_them(way, scoring):
    answered = way.answered(scoring)
    judged, bank = answered.ood[0], answered.question.bank.features
    absent = judged.neighbors.indices[2, :2]
    changed = what_if(answered, judged, 2, absent, K, answered.threshold(RULE, K))
    kept = ~torch.isin(torch.arange(answered.bank.size), absent)
    again = NNGuide(None, answered.question.head, K, **vars(answered.question.settings))
    again.fit_features(bank.features[kept], logits=bank.logits[kept])
    queries = judged.features
    expected = again.predict_features(queries.features[2:3], logits=queries.logits[2:3])
    assert changed.score == pytest.approx(float(expected), rel=1e-5)


def test_differences_are_those_of_the_areas(way):
    answered = way.answered("paper")
    areas = {(row.dataset, row.detector): row.auroc.estimate for row in metrics_table(answered, K)}
    for row in differences(answered, K):
        gap = areas[row.dataset, "NNGuide"] - areas[row.dataset, row.baseline]
        assert row.difference.estimate == pytest.approx(gap, abs=1e-9)


def test_the_table_has_every_image_with_its_decision(way):
    answered = way.answered("react")
    threshold = answered.threshold(RULE, K)
    rows = image_table(answered, K, threshold).to_pylist()
    assert len(rows) == sum(len(judged.features) for judged in answered.queries)
    assert all(row["flagged"] == (row["score"] >= threshold) for row in rows)
    both = [row["id"] for row in rows if row["dataset"] == "mixed" and "copy of" in row["path"]]
    assert len(both) == 3
    assert all([row["id"] for row in rows].count(image) == 2 for image in both)


def test_the_map_places_every_image_and_is_kept(way):
    answered = way.answered("paper")
    make_map(way.workspace, answered)
    made = find_map(way.workspace, answered)
    sizes = [answered.bank.size, *(len(judged.features) for judged in answered.queries)]
    assert [len(each) for each in (made.bank, *made.queries)] == sizes
    assert all(each.isfinite().all() for each in (made.bank, *made.queries))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_shows_the_run_of_the_command_line(way, page):
    app = _shown(page, way.address("paper"))
    assert "strange (8)" in _words(app)
    if page == "scores":
        tables = [each.value.to_dict() for each in app.dataframe if "AUROC" in list(each.value.columns)]
        shown = str(tables)
        for row in way.facts["paper"]["metrics"]:
            assert f"{row['auroc']['estimate']:.4f}" in shown


@pytest.mark.parametrize("side", ONE_SIDE)
def test_one_side_alone_gives_the_same_threshold_and_scores(way, side):
    answered, both = way.answered(side), way.answered("paper")
    assert answered.threshold(ONE_SIDE[side], K) == both.threshold(ONE_SIDE[side], K)
    for judged in answered.queries:
        same = next(each for each in both.queries if each.dataset.name == judged.dataset.name)
        assert judged.scores("NNGuide", K).tolist() == same.scores("NNGuide", K).tolist()
    assert way.scored[way.saved[side]] == pytest.approx(way.scored[way.saved["paper"]], rel=1e-6)


@pytest.mark.parametrize("page", PAGES)
@pytest.mark.parametrize("side", ONE_SIDE)
def test_a_page_shows_one_side_alone(way, side, page):
    assert way.answered(side).queries[0].dataset.name in _words(_shown(page, way.address(side)))


def _shown(page, address):
    app = AppTest.from_file(str(ROOT / "app.py"), default_timeout=240)
    app.query_params.update(address)
    if page != "data":
        app.switch_page(f"pages/{page}.py")
    app.run()
    assert not app.exception
    assert not app.error
    return app


def _words(app):
    return " ".join(
        str(each.value) for kind in ("text", "caption", "info", "markdown") for each in app.get(kind)
    )
