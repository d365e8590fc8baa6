"""Every page in every state: a whole run, one side, the same images on both, verdicts, an unknown run."""

import re
import threading
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import pytest
import streamlit as st
import torch
from streamlit.testing.v1 import AppTest

from nnguide_core.errors import StoreError
from nnguide_core.evaluation import DEFAULT_THRESHOLD
from nnguide_core.evaluation.own_features import OwnFile, own_question
from nnguide_core.evaluation.plans import answer
from nnguide_core.evaluation.questions import keep
from nnguide_core.evaluation.tables import image_table
from nnguide_core.jobs import Job, JobContext
from nnguide_core.records import Role, Run, Verdict
from nnguide_core.settings import BankSettings
from tests.synthetic import changed, make_question
from views.current import View
from views.state import ImageKey, Selection

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
    """Runs of features alone, whole and lacking something; their fingerprints."""
    folder = tmp_path_factory.mktemp("features")
    whole = {
        name: written(folder, name, centre) for name, centre in zip(ROLES, (0.6, 0.55, 0.3), strict=True)
    }
    train, test, street = (OwnFile(whole[name], name, role) for name, role in ROLES.items())
    far = written(folder, "blank", 0.6, factor=np.float32(2e38))
    blank = OwnFile(far, "blank", Role.OOD)  # guidance x energy is no finite number: no image has a score
    kinds = {
        "whole": [train, test, street],
        "no ID": [train, street],
        "no OOD": [train, test],
        "blank OOD": [train, test, blank],
        "one OOD blank": [train, test, street, blank],
        "nothing": [train, blank],
        "both": [train, test, street, OwnFile(whole["test"], "test again", Role.OOD)],
    }
    return {kind: computed(files) for kind, files in kinds.items()}


def written(folder, name, centre, factor=4.0):
    rng = np.random.default_rng(len(name))
    features = rng.normal(centre, 0.2, (40, 6)).clip(0).astype(np.float32)
    np.savez(folder / name, features=features, logits=factor * features[:, :3])
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


@pytest.fixture(scope="module")
def old_run():
    """The name of a run saved before runs named their classes, as the first format wrote it."""
    from views import resources

    question = replace(make_question(), kept_classes="")
    keep(resources.workspace(), question)
    run = question.run(10)
    assert run.classes == ""
    resources.workspace().save_run(Run.from_json(run.to_json().replace('"format": 2', '"format": 1')))
    return run.question


@pytest.mark.parametrize("page", PAGES)
def test_a_run_saved_before_runs_named_their_classes_is_opened_on_every_page(old_run, page):
    app = shown(page, old_run)
    assert not app.error
    assert "model synthetic" in said(app, "text")


ONE_SIDED = {  # run -> rule of the threshold, how many of the first query dataset it flags, what is missing
    "no ID": ("at least 95 % of OOD caught", 38, "Add ID images to see AUROC"),
    "no OOD": ("at least 95 % of ID kept", 2, "Add OOD images to see AUROC"),
    "blank OOD": ("at least 95 % of ID kept", 2, "No OOD image has a score, so AUROC"),
    "one OOD blank": ("at least 95 % of ID kept", 2, ""),
}


@pytest.mark.parametrize("kind", ONE_SIDED)
@pytest.mark.parametrize("page", PAGES)
def test_one_side_is_enough_for_a_threshold_on_every_page(runs, page, kind):
    rule, _, missing = ONE_SIDED[kind]
    app = shown(page, runs[kind])
    if page == "map":
        app = with_map(app)
        assert "locates, it never decides" in said(app, "caption")
    assert not app.error
    assert f"({rule})" in said(app, "text")
    assert "no threshold" not in said(app, "info")
    if page in ("data", "scores"):
        assert missing in said(app, "info")
        assert app.get("component_v2") or app.get("bidi_component")


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_one_side_is_enough_for_a_board_with_every_k_and_what_it_flags(runs, kind):
    from views import resources
    from views.score_board import _reply as reply

    answered = resources.evaluation(runs[kind])
    view = View(answered, 7, answered.default_rule, {})
    table, told = resources.score_table(runs[kind]), reply(view)
    assert table.edges.shape[0] == answered.k_max == 40
    assert table.counts.sum(axis=2)[:, 6].tolist() == [
        int(judged.neighbors.finite.sum()) for judged in answered.queries
    ]
    assert told.exact.flagged[0] == ONE_SIDED[kind][1]
    assert told.choice.threshold == view.threshold


@pytest.mark.parametrize("kind", ONE_SIDED)
def test_one_side_is_enough_for_a_histogram_in_the_report_and_for_every_table(runs, kind):
    app = shown("export", runs[kind])
    next(each for each in app.toggle if each.label == "Show the figures").set_value(True).run()
    assert not app.exception
    assert not app.error
    offered = [each.label for each in app.get("download_button")]
    assert {"scores, HTML", "Download report.html", "Download detector.nnguide"} <= set(offered)
    assert ("roc, HTML" in offered) == (kind == "one OOD blank")


@pytest.mark.parametrize("page", PAGES)
def test_without_any_score_a_page_says_that_nothing_is_flagged(runs, page):
    app = shown(page, runs["nothing"])
    app = with_map(app) if page == "map" else app
    assert not app.error
    assert {"data": "There are no scores", "scores": "There are no scores"}.get(
        page, "No test image has a score, so there is no threshold"
    ) in said(app, "info")


def test_a_rule_that_a_run_cannot_follow_waits_for_one_that_can(runs):
    app = shown("scores", runs["no ID"], threshold="id_kept:0.9")
    assert "at least 95 % of OOD caught" in said(app, "text")
    app.session_state["nnguide.question"] = runs["whole"]
    app.run()
    assert "at least 90 % of ID kept" in said(app, "text")


def with_map(app):
    from views import resources

    for job in resources.jobs().all():
        assert job.wait(240)
    return app.run()


@pytest.mark.parametrize("page", PAGES)
def test_an_unknown_run_gets_one_sentence_on_every_page(page):
    app = shown(page, "f" * 16)
    assert ["is not in this workspace" in each.value for each in app.error] == [True]


def test_a_verdict_is_shown_with_what_it_changes(runs):
    from views import resources

    street = resources.evaluation(runs["whole"]).ood[0]
    verdict = Verdict(street.features.ids[0], "really ID", "a note", datetime.now(UTC))
    resources.workspace().add_verdicts([verdict])
    app = shown("triage", runs["whole"])
    assert "What the verdicts change" in [each.label for each in app.expander]
    assert "street: 40 OOD images" not in said(app, "text")  # what is closed is not computed
    app.session_state["effect"] = True
    app.run()
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
    opened = app.session_state["nnguide.image"]
    for decision in ("wrong label", "unsure"):
        press(app, decision)
        assert app.session_state["nnguide.image"] != opened
        app.session_state["nnguide.image"] = opened
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
    app.button(key=f"say.unsure.{image}:street").click().run()
    said = resources.workspace().current_verdicts()[image]
    assert (said.decision, said.note) == ("unsure", "a blurred one")
    following = app.session_state["nnguide.image"]
    assert following.id != image
    keys = [each.key for each in app.button if each.key.startswith("say.")]
    assert keys
    assert all(key.endswith(f".{following}") for key in keys)
    press(app, "undo")
    assert image not in resources.workspace().current_verdicts()
    assert app.session_state["nnguide.image"] == ImageKey("street", image)
    assert app.text_input(key=f"note.{image}").value == "a blurred one"


def test_a_note_is_kept_without_a_verdict_and_when_it_is_edited_afterwards(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[7]
    app = shown("triage", runs["whole"], image=image)
    app.text_input(key=f"note.{image}").set_value("is this a yak?").run()
    assert image not in resources.workspace().current_verdicts()
    view = View(
        resources.evaluation(runs["whole"]), 4, DEFAULT_THRESHOLD, resources.workspace().current_remarks()
    )
    table = image_table(view.evaluation, 4, view.threshold, view.remarks).to_pylist()
    assert [(row["verdict"], row["note"]) for row in table if row["id"] == image] == [("", "is this a yak?")]
    assert image not in view.verdicts
    offered = [each.label for each in shown("export", runs["whole"]).get("download_button")]
    assert any(re.fullmatch(r"\d+ verdicts? and \d+ notes?, JSON", label) for label in offered)
    assert (
        shown("triage", runs["whole"], image=image).text_input(key=f"note.{image}").value == "is this a yak?"
    )
    app.button(key=f"say.unsure.{image}:street").click().run()
    app = shown("triage", runs["whole"], image=image)
    app.text_input(key=f"note.{image}").set_value("yes, a yak")
    app.switch_page("pages/export.py").run()
    verdict = resources.workspace().current_verdicts()[image]
    assert (verdict.decision, verdict.note) == ("unsure", "yes, a yak")


def test_a_note_that_is_edited_is_not_in_the_way_of_undo(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[8]
    app = shown("triage", runs["whole"], image=image)
    press(app, "unsure")
    app.session_state["nnguide.image"] = ImageKey("street", image)
    app.run()
    app.text_input(key=f"note.{image}").set_value("a yak").run()
    press(app, "undo")
    assert not app.toast
    assert image not in resources.workspace().current_verdicts()
    assert resources.workspace().note(image) == "a yak"


def test_undo_takes_back_no_verdict_that_another_session_gave(runs):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[9]
    app, other = (shown("triage", runs["whole"], image=image) for _ in range(2))
    press(app, "really ID")
    press(other, "really OOD")
    press(app, "undo")
    assert resources.workspace().current_verdicts()[image].decision == "really OOD"
    assert "Another session has changed this image's verdict or note since" in app.toast[0].value
    press(other, "undo")
    assert resources.workspace().current_verdicts()[image].decision == "really ID"


@pytest.mark.parametrize("act", ["note", "verdict", "undo", "list"])
def test_a_workspace_that_cannot_be_written_is_a_sentence_on_the_page(runs, monkeypatch, act):
    from views import resources

    image = resources.evaluation(runs["whole"]).ood[0].features.ids[10]
    app = shown("triage", runs["whole"], image=image, k="4")
    press(app, "unsure")
    app.session_state["nnguide.image"] = ImageKey("street", image)
    app.run()
    app.checkbox[0].uncheck().run()

    def full(*_, **__):
        raise StoreError("The workspace's file could not be used: the disk is full.")

    for name in ("save_run", "give_verdict", "save_note", "take_back", "change_setting", "add_verdicts"):
        monkeypatch.setattr(resources.workspace(), name, full, raising=False)
    monkeypatch.setattr(resources.workspace(), "save_setting", full)
    if act == "note":
        app.text_input(key=f"note.{image}").set_value("lost?").run()
    else:
        labels = {
            "verdict": "wrong label",
            "undo": "undo",
            "list": "Put on the list of bank images to leave out",
        }
        press(app, labels[act])
    assert not app.exception
    assert "the disk is full" in said(app, "error")
    assert "model own features" in said(app, "text")


def test_a_reload_finds_the_queue_with_its_order_and_filters(runs):
    app = shown("triage", runs["whole"])
    assert "queue" not in app.query_params
    app.get("button_group")[0].set_value("near the threshold").run()
    app.selectbox(key="field.order").set_value("lowest score").run()
    app.selectbox(key="field.filter.dataset").set_value("street").run()
    app.switch_page(
        "app.py"
    ).run()  # which writes the address: the driver runs a page that was switched to alone
    address = {name: app.query_params[name] for name in ("queue", "order", "dataset")}
    again = shown("triage", runs["whole"], **address)
    assert again.get("button_group")[0].value == "near the threshold"
    assert again.selectbox(key="field.order").value == "lowest score"
    assert again.selectbox(key="field.filter.dataset").value == "street"
    nonsense = shown("triage", runs["whole"], queue="<b>", order="1", dataset="none such")
    assert nonsense.get("button_group")[0].value == "misses"
    assert nonsense.selectbox(key="field.filter.dataset").value == ""


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


@pytest.mark.parametrize(
    ("name", "group"), [("test", "ID flagged (false alarm)"), ("test again", "OOD flagged")]
)
def test_an_image_of_both_sides_is_opened_as_the_one_that_was_chosen(runs, name, group):
    from views import resources

    answered = resources.evaluation(runs["both"])
    threshold = answered.threshold(DEFAULT_THRESHOLD, 4)
    row = int(answered.id[0].neighbors.score_at(4).argmax())
    assert answered.id[0].neighbors.score_at(4)[row] >= threshold
    image = answered.id[0].features.ids[row]
    app = shown("triage", runs["both"], image=f"{image}:{name}", k="4")
    assert {name, group} <= {each.value for each in app.text}
    assert dict(app.query_params)["image"] == f"{image}:{name}"
    press(app, "unsure")
    assert resources.workspace().current_verdicts()[image].decision == "unsure"
    assert app.session_state["nnguide.image"] != ImageKey(name, image)
    press(app, "undo")
    assert app.session_state["nnguide.image"] == ImageKey(name, image)


def test_a_selection_holds_the_images_of_the_datasets_that_it_names(runs):
    from views import resources

    chosen = resources.evaluation(runs["both"]).id[0].features.ids[:3]
    app = shown("triage", runs["both"])
    app.session_state["nnguide.selection"] = Selection({"test again": frozenset(chosen)})
    app.run()
    assert "from the map (3)" in app.get("button_group")[0].options


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
    app.session_state["nnguide.image"] = ImageKey("street", image)
    press(app, "Take off the list")
    assert "(0 now)" in said(shown("export", runs["whole"]), "text")


def test_two_sessions_lose_nothing_of_each_others_list(runs):
    from views import exclusions, resources
    from views.current import View

    answered = resources.evaluation(runs["whole"])
    view = View(answered, 4, DEFAULT_THRESHOLD, {})
    exclusions.leave_out(view, [0])
    app = shown("export", runs["whole"])
    assert "(1 now)" in said(app, "text")
    threads = [threading.Thread(target=exclusions.leave_out, args=(view, [row])) for row in range(1, 9)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert exclusions.left_out(view) == frozenset(range(9))
    press(app, "Empty the list")  # of which this page shows one image
    assert exclusions.left_out(view) == frozenset(range(1, 9))
    exclusions.put_back(view, range(9))


def test_files_are_offered_at_once_and_made_when_they_are_asked_for(runs, monkeypatch):
    from views import export_page

    made = []
    for name in ("image_table", "bank_table", "save_detector"):
        monkeypatch.setattr(export_page, name, lambda *_, name=name: made.append(name))
    monkeypatch.setattr(export_page.one_file, "html_report", lambda *_: made.append("report"))
    app = shown("export", runs["whole"])
    offered = [each.label for each in app.get("download_button")]
    assert {"Download report.html", "Download detector.nnguide"} <= set(offered)
    assert {"All 40 bank images, CSV", "All 80 test images, CSV"} <= set(offered)
    assert made == []


def test_as_many_images_are_misflagged_as_the_table_holds(runs):
    from views import export_page, resources

    for kind in ("whole", *ONE_SIDED):
        answered = resources.evaluation(runs[kind])
        view = View(answered, 5, answered.default_rule, {})
        wrong = export_page._wrong(image_table(answered, 5, view.threshold))
        assert export_page._misflagged(view, view.threshold) == wrong.num_rows > 0


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
