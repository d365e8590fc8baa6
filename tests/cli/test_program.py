"""Tests of nnguide_core.cli.program and nnguide_core.cli.commands, on the demo's own photos."""

import csv
import json
import logging
import shutil
import signal
import subprocess
import sys
import zipfile

import pytest
import torch
from pyarrow import parquet
from torch import nn

from nnguide_core.cli import commands, main
from nnguide_core.demo import demo_sets
from nnguide_core.detector import NNGuide
from nnguide_core.errors import DeviceError
from nnguide_core.evaluation import evaluate
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.evaluation.questions import ask_demo
from nnguide_core.images.preprocessing import imagenet
from nnguide_core.models import architectures, specs
from nnguide_core.models.architectures import Built
from nnguide_core.store import Workspace

CLASSES = ("airplane", "automobile", "bird", "cat", "dog", "frog", "horse", "ship")


@pytest.fixture(autouse=True)
def private_workspace(tmp_path, monkeypatch):
    logger = logging.getLogger("nnguide_core")
    before, level = list(logger.handlers), logger.level
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))
    yield
    for handler in set(logger.handlers) - set(before):
        handler.close()
        logger.removeHandler(handler)
    logger.setLevel(level)


@pytest.fixture(scope="module")
def photos(tmp_path_factory):
    """Folders with the first photos of each class of three demo sets."""
    root = tmp_path_factory.mktemp("photos")
    wanted = {"ID test": ("id", 12), "deer and truck": ("ood", 10), "bank": ("bank", 15)}
    for each in demo_sets():
        if each.name in wanted:
            folder, count = wanted[each.name]
            _extract(each.path, root / folder, count)
    (root / "ood" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    (root / "empty").mkdir()
    (root / "empty" / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing")
    return root


@pytest.fixture
def detector(photos, tmp_path, capsys):
    """A detector file of the demo's model, whose threshold is one that fit found."""
    path = tmp_path / "detector.nnguide"
    assert main(["fit", str(photos / "id"), "--model", "demo", "--out", str(path), "--quiet"]) == 0
    capsys.readouterr()
    return path


class TinyNet(nn.Module):
    """A stand-in for ResNet-50: the mean colour, widened, and a linear head."""

    def __init__(self, classes):
        super().__init__()
        self.widen = nn.Linear(3, 16)
        self.fc = nn.Linear(16, classes)

    def forward(self, images):
        return self.fc(self.widen(images.mean(dim=(2, 3))).relu())


def _tiny(classes):
    network = TinyNet(classes)
    generator = torch.Generator().manual_seed(0)
    for parameter in network.parameters():
        nn.init.normal_(parameter, generator=generator)
    return network


def _checkpoint(folder, classes):
    path = folder / "own.pth"
    torch.save(_tiny(classes).state_dict(), path)
    return path


def _stand_in(patch, asked):
    """Let resnet50 be a small network, and note what was asked for."""

    def torchvision_model(name, weights=None, *, class_count=None, **_):
        asked.append((name, weights, class_count))
        return Built(_tiny(class_count or 8), imagenet(32), CLASSES if weights else None)

    patch.setitem(architectures.LIBRARIES, "torchvision", torchvision_model)


def _extract(path, folder, count):
    taken: dict[str, int] = {}
    with zipfile.ZipFile(path) as archive:
        for name in sorted(archive.namelist()):
            kind = name.split("/")[0]
            taken[kind] = taken.get(kind, 0) + 1
            if taken[kind] <= count:
                target = folder / name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(archive.read(name))


def _rows(table):
    with table.open(newline="") as file:
        return list(csv.DictReader(file))


def _evaluated(capsys, photos, *arguments, bank="bank", held_out=("id",), ood=("ood",), code=0):
    """Evaluate the demo's model and return the JSON object that is printed."""
    given = ["evaluate", "--json", "--quiet", "--bank", str(photos / bank)]
    given += ["--id", *(str(photos / each) for each in held_out)]
    given += ["--ood", *(str(photos / each) for each in ood)]
    model = () if {"--official", "--model"} & set(arguments) else ("--model", "demo")
    assert main([*given, *model, *arguments]) == code
    return json.loads(capsys.readouterr().out)


def test_fit_then_score_writes_a_table_of_every_image(photos, tmp_path, capsys):
    detector, table = tmp_path / "detector.nnguide", tmp_path / "scores.csv"
    assert main(["fit", str(photos / "id"), "--model", "demo", "--out", str(detector), "--k", "5"]) == 0
    assert "80 of 80 bank images, k = 5" in capsys.readouterr().out
    assert main(["score", str(detector), str(photos / "ood"), "--out", str(table), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    rows = _rows(table)
    assert len(rows) == 20
    for row in rows:
        assert float(row["score"]) == pytest.approx(-float(row["guidance"]) * float(row["energy"]), rel=1e-5)
        assert len(row["neighbours"].split(" | ")) == 5
    flagged = sum(row["flagged"] == "true" for row in rows)
    assert f"{flagged} of 20 images flagged" in printed.out


def test_the_file_keeps_the_precision_that_auto_stood_for(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(specs, "_fast_in_bfloat16", lambda _: True)
    path, table = tmp_path / "detector.nnguide", tmp_path / "scores.csv"
    fit = ["fit", str(photos / "id"), "--model", "demo", "--out", str(path), "--quiet"]
    assert main([*fit, "--precision", "auto"]) == 0
    assert NNGuide.load(path).provenance["spec"]["precision"] in ("float32", "bfloat16")
    monkeypatch.setattr(specs, "_fast_in_bfloat16", lambda _: False)
    assert main(["score", str(path), str(photos / "ood"), "--out", str(table), "--quiet"]) == 0


@pytest.mark.parametrize(("given", "asked"), [((), None), (("--device", "cpu"), "cpu")])
def test_the_demo_is_recomputed_on_the_device_that_was_asked_for_else_the_usual_one(
    monkeypatch, capsys, given, asked
):
    def load_model(_, device):
        raise DeviceError(f"Asked for {device}.")

    monkeypatch.setattr(commands, "load_model", load_model)
    assert main(["demo", "--recompute", "--quiet", *given]) == 1
    assert f"Asked for {asked}." in capsys.readouterr().err


def test_parquet_has_the_same_scores_as_csv(detector, photos, tmp_path):
    for name in ("scores.csv", "scores.parquet"):
        assert (
            main(["score", str(detector), str(photos / "ood"), "--out", str(tmp_path / name), "--quiet"]) == 0
        )
    written = [float(row["score"]) for row in _rows(tmp_path / "scores.csv")]
    assert parquet.read_table(tmp_path / "scores.parquet")["score"].to_pylist() == pytest.approx(
        written, rel=1e-6
    )


def test_another_threshold_flags_everything(detector, photos, tmp_path, capsys):
    table = str(tmp_path / "scores.csv")
    main(["score", str(detector), str(photos / "ood"), "--out", table, "--threshold=-1e9", "--json"])
    facts = json.loads(capsys.readouterr().out)
    assert facts["flagged"] == facts["images"] == 20
    assert (facts["bank"], facts["k"], facts["without_score"]) == (80, 10, 0)
    assert [each["path"] for each in facts["skipped"]] == ["broken.png"]
    assert facts["skipped"][0]["reason"]


def test_images_that_are_in_the_bank_are_told_before_they_are_scored(detector, photos, tmp_path, capsys):
    assert (
        main(["score", str(detector), str(photos / "id"), "--out", str(tmp_path / "s.csv"), "--quiet"]) == 0
    )
    printed = capsys.readouterr().out
    assert 0 <= printed.index("among the queries, byte for byte: 80 (") < printed.index("Wrote")


def test_evaluate_prints_every_detector_as_json(photos, capsys):
    facts = _evaluated(capsys, photos, "--strict", code=3)  # broken.png was skipped
    assert {"NNGuide", "Energy", "MSP", "KNN"} <= {row["detector"] for row in facts["metrics"]}
    assert all(
        0 <= row["auroc"]["low"] <= row["auroc"]["estimate"] <= row["auroc"]["high"] <= 1
        for row in facts["metrics"]
    )
    assert (facts["run"]["k"], facts["bank"], facts["bank_images"]) == (10, 120, 120)
    assert [(each["dataset"], each["path"]) for each in facts["skipped"]] == [("ood", "broken.png")]
    assert facts["report"]["leaks"] == []
    (caution,) = facts["cautions"]
    assert caution.startswith(
        "Mahalanobis uses a shrunk covariance (Ledoit–Wolf): 120 bank images are too few"
    )


@pytest.mark.parametrize(("side", "images", "flagged"), [("id", 96, 4), ("ood", 20, 19)])
def test_one_side_is_enough_to_evaluate(photos, capsys, side, images, flagged):
    given = ["evaluate", "--model", "demo", "--json", "--quiet", "--bank", str(photos / "bank")]
    assert main([*given, f"--{side}", str(photos / side)]) == 0
    facts = json.loads(capsys.readouterr().out)
    assert [(each["images"], each["flagged"]) for each in facts["flagged"]] == [(images, flagged)]
    assert len(facts["not_defined"]) == 1


def test_the_device_is_chosen_and_told(detector, photos, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("NNGUIDE_DEVICE", "cuda:99")
    score = ["score", str(detector), str(photos / "ood"), "--out", str(tmp_path / "s.csv"), "--quiet"]
    assert main([*score, "--device", "cpu"]) == 0
    assert capsys.readouterr().out.endswith(" Features computed on cpu.\n")
    assert main(score) == 1
    assert "There is no device 'cuda:99' here. NNGUIDE_DEVICE asks for it. Choose" in capsys.readouterr().err
    assert _evaluated(capsys, photos, "--device", "cpu")["run"]["device"] == "cpu"
    assert NNGuide.load(detector).provenance["run"]["device"] == "cpu"


def test_the_bank_that_was_drawn_is_the_one_that_is_told(photos, capsys):
    facts = _evaluated(capsys, photos, "--fraction", "0.25")
    assert (facts["bank"], facts["bank_images"]) == (30, 120)


def test_copies_between_bank_and_queries_are_told_before_any_number(photos, tmp_path, capsys):
    shutil.copytree(photos / "id", tmp_path / "id")
    for path in sorted((photos / "bank" / "cat").iterdir())[:3]:
        shutil.copy(path, tmp_path / "id" / "cat" / f"again-{path.name}")
    arguments = ["evaluate", "--model", "demo", "--quiet", "--bank", str(photos / "bank")]
    assert main([*arguments, "--id", str(tmp_path / "id"), "--ood", str(photos / "ood")]) == 0
    printed = capsys.readouterr().out
    leaks = printed.index("Both in the bank and among the queries, byte for byte: 3 (bank/cat/")
    assert leaks < printed.index("AUROC")
    facts = _evaluated(capsys, photos, held_out=[tmp_path / "id"])
    assert len(facts["report"]["leaks"]) == 3
    assert all([place["dataset"] for place in leak] == ["bank", "id"] for leak in facts["report"]["leaks"])


def test_ood_sets_of_one_name_stay_apart(photos, tmp_path, capsys):
    for folder, kind in (("A", "deer"), ("B", "truck")):
        shutil.copytree(photos / "ood" / kind, tmp_path / folder / "test")
    next((tmp_path / "B" / "test").iterdir()).unlink()
    facts = _evaluated(capsys, photos, ood=[tmp_path / "A" / "test", tmp_path / "B" / "test"])
    counts = {row["dataset"]: row["ood_count"] for row in facts["metrics"]}
    assert counts == {"A/test": 10, "B/test": 9}
    assert len(facts["metrics"]) == 2 * len({row["detector"] for row in facts["metrics"]})


def test_a_set_without_an_image_that_can_be_read_has_its_reason(photos, capsys):
    facts = _evaluated(capsys, photos, ood=("ood", "empty"))
    empty = [row for row in facts["metrics"] if row["dataset"] == "empty"]
    assert {row["reasons"]["auroc"] for row in empty} == {"There is no OOD image with a score."}
    assert "empty has no image that can be read (1 files found)." in facts["cautions"]
    assert {each["dataset"] for each in facts["skipped"]} == {"ood", "empty"}


def test_classes_that_the_model_does_not_know_are_named(photos, tmp_path, monkeypatch, capsys):
    _stand_in(monkeypatch, [])
    (tmp_path / "names.txt").write_text("\n".join(CLASSES).replace("cat", "cats"))
    own = ["--model", "resnet50", "--checkpoint", str(_checkpoint(tmp_path, 8))]
    facts = _evaluated(capsys, photos, *own, "--classes", str(tmp_path / "names.txt"))
    assert "bank: the model does not know 1 of its 8 classes (cat)." in facts["report"]["sentences"][0]


def test_energies_of_0_or_less_are_a_caution_and_no_python_warning(photos, capsys):
    arguments = ["evaluate", "--model", "demo", "--json", "--quiet", "--energy-offset=-100"]
    arguments += ["--bank", str(photos / "bank"), "--id", str(photos / "id"), "--ood", str(photos / "ood")]
    assert main(arguments) == 0
    printed = capsys.readouterr()
    cautions = json.loads(printed.out)["cautions"]
    assert cautions[0].startswith("120 of 120 bank images have an energy of 0 or less")
    assert f"nnguide: caution: {cautions[0]}\n" in printed.err
    assert "NNGuideWarning" not in printed.err
    assert ".py:" not in printed.err


def test_the_demo_prints_the_librarys_numbers(tmp_path, capsys):
    assert main(["demo", "--json", "--quiet"]) == 0
    facts = json.loads(capsys.readouterr().out)
    question = ask_demo(Workspace(tmp_path / "another"))
    rows = metrics_table(evaluate(question, baselines=("Energy", "MSP", "KNN")))
    assert {row.detector for row in rows} == {"NNGuide", "Energy", "MSP", "KNN"}
    assert [(each["detector"], each["dataset"], each["auroc"]["estimate"]) for each in facts["metrics"]] == [
        (row.detector, row.dataset, row.auroc.estimate) for row in rows
    ]
    assert [each["read"] for each in facts["datasets"]] == [2000, 1000, 600, 400, 100]


def test_the_official_setting_asks_for_its_weights_and_bank_and_clips(photos, monkeypatch, capsys):
    asked = []
    _stand_in(monkeypatch, asked)
    facts = _evaluated(capsys, photos, "--official", "--fraction", "0.5")
    assert asked == [("resnet50", "IMAGENET1K_V1", None)]
    assert facts["run"]["settings"]["react_percentile"] == 95.0
    assert (facts["run"]["k"], facts["run"]["settings"]["fraction"], facts["bank"]) == (10, 0.5, 60)


def test_the_official_bank_of_few_images_is_refused_before_any_feature(photos, monkeypatch, capsys):
    _stand_in(monkeypatch, [])
    arguments = ["evaluate", "--official", "--quiet", "--bank", str(photos / "bank")]
    assert main([*arguments, "--id", str(photos / "id"), "--ood", str(photos / "ood")]) == 1
    assert "at least k = 10 ID images, but has 1 (the fraction 0.01 of 120)" in capsys.readouterr().err


def test_react_alone_changes_scores_and_neither_bank_nor_weights(photos, monkeypatch, capsys):
    asked = []
    _stand_in(monkeypatch, asked)
    plain = _evaluated(capsys, photos, "--model", "resnet50")
    clipped = _evaluated(capsys, photos, "--model", "resnet50", "--react")
    assert asked == [("resnet50", "DEFAULT", None)] * 2
    assert clipped["run"]["settings"] == {**plain["run"]["settings"], "react_percentile": 95.0}
    assert plain["bank"] == clipped["bank"] == 120
    assert plain["metrics"][0]["auroc"]["estimate"] != clipped["metrics"][0]["auroc"]["estimate"]


def test_own_weights_are_found_from_any_folder(photos, tmp_path, monkeypatch, capsys):
    asked = []
    _stand_in(monkeypatch, asked)
    checkpoint, detector = _checkpoint(tmp_path, 5), tmp_path / "own.nnguide"
    monkeypatch.chdir(tmp_path)
    own = ["--model", "resnet50", "--checkpoint", checkpoint.name, "--feature-layer", "fc"]
    fit = ["fit", str(photos / "id"), "--out", str(detector), "--quiet"]
    assert main([*fit, *own, "--class-count", "5", "--precision", "float32"]) == 0
    assert asked == [("resnet50", None, 5)]
    monkeypatch.chdir("/")
    score = ["score", str(detector), str(photos / "ood"), "--out", str(tmp_path / "s.csv"), "--quiet"]
    assert main(score) == 0
    assert {row["predicted"] for row in _rows(tmp_path / "s.csv")} <= set("01234")
    checkpoint.rename(tmp_path / "moved.pth")
    capsys.readouterr()
    assert main(score) == 1
    assert "own.pth is not there any more: name it with --checkpoint" in capsys.readouterr().err
    assert main([*score, "--checkpoint", str(tmp_path / "moved.pth")]) == 0


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "--model", "resnet99", "--bank", "{id}", "--id", "{id}", "--ood", "{ood}"], "resnet99"),
        (["evaluate", "--model", "demo", "--bank", "/no/such", "--id", "{id}", "--ood", "{ood}"], "/no/such"),
        (
            ["evaluate", "--model", "demo", "--bank", "{id}", "--id", "{empty}", "--ood", "{ood}"],
            "no ID image",
        ),
        (
            ["evaluate", "--model", "demo", "--bank", "{empty}", "--id", "{id}", "--ood", "{ood}"],
            "broken.png",
        ),
        (
            ["fit", "{id}", "--model", "demo", "--out", "{out}", "--k", "1000"],
            "k = 1000 ID images, but has 80",
        ),
        (["fit", "{one}", "--model", "demo", "--out", "{out}", "--k", "1"], "too few images (1)"),
        (["score", "{id}/cat/x.png", "{ood}", "--out", "{out}"], "x.png"),
    ],
)
def test_what_is_refused_gets_a_sentence_and_exit_code_1(
    photos, tmp_path, capsys, monkeypatch, arguments, words
):
    monkeypatch.setattr(commands, "ask", None)  # refused before any feature is computed
    shutil.copytree(photos / "empty", tmp_path / "one")
    shutil.copy(next((photos / "id" / "cat").iterdir()), tmp_path / "one" / "one.png")
    places = {"id": photos / "id", "ood": photos / "ood", "out": tmp_path / "out.csv"}
    places |= {"empty": photos / "empty", "one": tmp_path / "one"}
    assert main([each.format(**places) for each in [*arguments, "--quiet"]]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_a_k_that_the_detector_cannot_serve_is_refused_before_any_image_is_opened(
    detector, tmp_path, capsys, monkeypatch
):
    monkeypatch.setattr(commands, "opened", None)
    score = ["score", str(detector), str(tmp_path), "--out", str(tmp_path / "s.csv"), "--quiet"]
    assert main([*score, "--k", "81"]) == 1
    assert "at least k = 81 ID images, but has 80" in capsys.readouterr().err


def test_wrong_arguments_exit_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    assert stop.value.code == 2


def test_an_interrupted_command_ends_with_130_and_says_how_it_goes_on(monkeypatch, capsys):
    def interrupt(_):
        raise KeyboardInterrupt

    monkeypatch.setitem(commands.COMMANDS, "demo", interrupt)
    assert main(["demo"]) == 130
    assert "The same command goes on where it stopped." in capsys.readouterr().err


def test_an_interrupt_while_it_imports_leaves_no_traceback():
    # Python names every module that it has imported, so that the interrupt falls among torch's own.
    process = subprocess.Popen(
        [sys.executable, "-X", "importtime", "-m", "nnguide_core", "demo", "--quiet"],
        stderr=subprocess.PIPE,
        text=True,
    )
    assert process.stderr is not None
    assert any("torch." in line for line in process.stderr)
    process.send_signal(signal.SIGINT)
    _, error = process.communicate(timeout=60)
    assert process.returncode == 130
    assert "Traceback" not in error
