"""Every page in every state: a whole run, no ID queries, no OOD queries, verdicts given, an unknown run."""

from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from nnguide_core.evaluation.own_features import OwnFile, own_question
from nnguide_core.evaluation.plans import answer
from nnguide_core.evaluation.questions import keep
from nnguide_core.jobs import Job, JobContext
from nnguide_core.records import Role, Verdict
from nnguide_core.settings import BankSettings
from tests.synthetic import changed

APP = Path(__file__).parents[2] / "app.py"
PAGES = ("data", "scores", "map", "triage", "export")
ROLES = {"train": Role.BANK, "test": Role.ID, "street": Role.OOD}


@pytest.fixture(scope="module", autouse=True)
def home(tmp_path_factory):
    patch = pytest.MonkeyPatch()
    patch.setenv("NNGUIDE_HOME", str(tmp_path_factory.mktemp("home")))
    patch.setenv("NNGUIDE_DATA_ROOTS", str(tmp_path_factory.mktemp("data")))
    st.cache_resource.clear()
    yield
    from views import resources

    resources.jobs().close()
    st.cache_resource.clear()
    patch.undo()


@pytest.fixture(scope="module")
def runs(tmp_path_factory):
    """Three runs of features alone: whole, without ID queries, without OOD queries; their fingerprints."""
    folder = tmp_path_factory.mktemp("features")
    whole = {
        name: written(folder, name, centre) for name, centre in zip(ROLES, (0.6, 0.55, 0.3), strict=True)
    }
    kinds = {"whole": list(ROLES), "no ID": ["train", "street"], "no OOD": ["train", "test"]}
    return {
        kind: computed([OwnFile(whole[name], name, ROLES[name]) for name in names])
        for kind, names in kinds.items()
    }


def written(folder, name, centre):
    rng = np.random.default_rng(len(name))
    features = rng.normal(centre, 0.2, (40, 6)).clip(0).astype(np.float32)
    np.savez(folder / name, features=features, logits=4 * features[:, :3])
    return folder / f"{name}.npz"


def computed(files, change=lambda question: question):
    from views import resources

    question = change(own_question(files, BankSettings(), None))
    keep(resources.workspace(), question)
    return answer(resources.workspace(), question, JobContext(Job("key", "title", {})))


def shown(page, question, **address):
    app = AppTest.from_file(str(APP), default_timeout=240)
    app.query_params.update({"run": question, **address})
    if page != "data":
        app.switch_page(f"pages/{page}.py")
    app.run()
    assert not app.exception
    return app


def press(app, label):
    next(each for each in app.button if each.label == label).click().run()
    assert not app.exception


def said(app, *kinds):
    return " ".join(str(each.value).replace("\\", "") for kind in kinds for each in app.get(kind))


@pytest.mark.parametrize("page", PAGES)
def test_a_page_on_own_data_names_its_run_and_has_no_error(runs, page):
    app = shown(page, runs["whole"])
    assert not app.error
    assert "model own features" in said(app, "text")
    assert "test (40), street (40)" in said(app, "text")


@pytest.mark.parametrize(
    ("page", "sentence"),
    [
        ("data", "No histogram and no curves"),
        ("scores", "No histogram and no curves"),
        ("map", "no ID queries to set a threshold with"),
        ("triage", "no ID queries to set a threshold with"),
        ("export", "Without a threshold there are no decisions to export"),
    ],
)
def test_without_id_queries_a_page_says_what_is_missing(runs, page, sentence):
    app = shown(page, runs["no ID"])
    if page == "map":
        from views import resources

        for job in resources.jobs().all():
            assert job.wait(240)
        app.run()
    assert not app.error
    assert sentence in said(app, "info")


@pytest.mark.parametrize("page", PAGES)
def test_without_ood_queries_a_page_shows_what_is_defined(runs, page):
    app = shown(page, runs["no OOD"])
    assert not app.error
    assert "queries test (40)" in said(app, "text")
    if page in ("data", "scores"):
        assert "No histogram and no curves" in said(app, "info")


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_run_gets_one_sentence_on_every_page(page):
    app = shown(page, "f" * 16)
    assert ["does not know the run" in each.value for each in app.error] == [True]


def test_a_verdict_is_shown_with_what_it_changes(runs):
    from views import resources

    street = resources.evaluation(runs["whole"]).ood[0]
    verdict = Verdict(street.features.ids[0], "really ID", "a note", datetime.now(UTC))
    resources.workspace().add_verdicts([verdict])
    app = shown("triage", runs["whole"])
    assert "What the verdicts change (1)" in [each.label for each in app.expander]
    assert "street: 40 OOD images" in said(app, "text")
    assert "street: 39 OOD images" in said(app, "text")
    assert "with 1 verdict applied" in said(app, "text")
    app = shown("scores", runs["whole"])
    next(each for each in app.toggle if each.label == "Show what the verdicts change").set_value(True).run()
    assert not app.exception
    assert "with 1 verdict applied" in said(app, "text")


def test_undo_lets_the_verdict_before_stand_again(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[2]
    app = shown("triage", runs["whole"], image=image)
    for decision in ("wrong label", "unsure"):
        press(app, decision)
        assert app.session_state["nnguide.image"] != image
        app.session_state["nnguide.image"] = image
        app.run()
    assert resources.workspace().current_verdicts()[image].decision == "unsure"
    press(app, "undo")
    assert resources.workspace().current_verdicts()[image].decision == "wrong label"
    press(app, "undo")
    assert image not in resources.workspace().current_verdicts()
    count = len(resources.workspace().verdicts())
    press(app, "undo")
    assert [each.value for each in app.toast] == ["This session has no verdict to take back."]
    assert len(resources.workspace().verdicts()) == count


def test_a_verdict_keeps_the_note_and_its_button_belongs_to_one_image(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[5]
    app = shown("triage", runs["whole"], image=image)
    app.text_input(key=f"note.{image}").set_value("a blurred one")
    app.button(key=f"say.unsure.{image}").click().run()
    said = resources.workspace().current_verdicts()[image]
    assert (said.decision, said.note) == ("unsure", "a blurred one")
    following = app.session_state["nnguide.image"]
    assert following != image
    keys = [each.key for each in app.button if each.key.startswith("say.")]
    assert keys
    assert all(key.endswith(f".{following}") for key in keys)
    press(app, "undo")
    assert image not in resources.workspace().current_verdicts()


def test_an_open_image_that_the_queue_does_not_hold_is_named(runs):
    from views import resources

    answered = resources.evaluation(runs["whole"])
    app = shown("triage", runs["whole"], image=answered.id[0].features.ids[0])
    assert "is not in this queue with these filters" in said(app, "caption")


def test_verdicts_on_images_of_other_runs_are_not_counted(runs):
    from views import resources

    elsewhere = resources.evaluation(runs["whole"]).ood[0].features.ids[3]
    resources.workspace().add_verdicts([Verdict(elsewhere, "really ID", "", datetime.now(UTC))])
    assert any("verdicts change" in each.label for each in shown("triage", runs["whole"]).expander)
    assert not any("verdicts change" in each.label for each in shown("triage", runs["no OOD"]).expander)


def test_an_image_of_the_address_is_explained_beside_its_neighbours(runs):
    from views import resources

    street = resources.evaluation(runs["whole"]).ood[0]
    app = AppTest.from_file(str(APP), default_timeout=240)
    app.query_params.update({"run": runs["whole"], "image": street.features.ids[1], "k": "4"})
    app.run()
    assert not app.exception
    assert len(app.checkbox) == 4
    assert "Why?" in said(app, "markdown")
    app.checkbox[0].uncheck().run()
    assert "Without 1 bank image the score is" in said(app, "info")


@pytest.mark.filterwarnings("ignore:.* NaN or infinity")
def test_an_image_without_a_score_is_not_explained_by_the_last_bank_image(tmp_path):
    def broken(question):
        features = question.queries[-1].features.features.clone()
        features[1] = torch.nan
        return changed(question, "street", features=features)

    files = [OwnFile(written(tmp_path, name, 0.5), name, role) for name, role in ROLES.items()]
    run = computed(files, broken)
    from views import resources

    image = resources.evaluation(run).ood[0].features.ids[1]
    app = shown("triage", run, image=image, k="4")
    assert "no score and no neighbours: its features or logits hold NaN" in said(app, "info")
    assert not [each for each in app.checkbox if each.label.startswith("neighbour")]


def test_bank_images_to_leave_out_are_known_to_every_session(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[1]
    app = shown("triage", runs["whole"], image=image, k="4")
    app.checkbox[0].uncheck().run()
    press(app, "Put on the list of bank images to leave out")
    assert "(1 now)" in said(shown("export", runs["whole"]), "text")
    assert "(0 now)" in said(shown("export", runs["no OOD"]), "text")
    app = shown("export", runs["whole"])
    press(app, "Empty the list")
    assert "(0 now)" in said(shown("export", runs["whole"]), "text")


def test_what_was_prepared_for_download_stays_when_more_is(runs):
    app = shown("export", runs["whole"])
    for what in ("the report", "the detector file", "the bank's tables", "the tables"):
        press(app, f"Prepare {what}")
    offered = [each.label for each in app.get("download_button")]
    assert {"Download report.html", "Download detector.nnguide"} <= set(offered)
    assert {"All 40 bank images, CSV", "All 80 images, CSV"} <= set(offered)
    assert not [each.label for each in app.button if each.label == "Prepare the report"]


def test_what_was_set_aside_is_listed_on_the_data_page(runs):
    from views import resources

    workspace = resources.workspace()
    damaged = workspace.root / "tensors" / "features" / f"{'a' * 64}.safetensors"
    assert "Damaged and set aside" not in " ".join(
        each.label for each in shown("data", runs["whole"]).expander
    )
    damaged.parent.mkdir(parents=True, exist_ok=True)
    damaged.write_bytes(b"no tensors")
    assert workspace.load("features", "a" * 64) is None
    app = shown("data", runs["whole"])
    assert "Damaged and set aside: 1 file of the workspace" in [each.label for each in app.expander]
