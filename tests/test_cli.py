"""Tests of nnguide_core.cli and nnguide_core.commands, on the demo's own photos."""

import csv
import json
import zipfile

import pytest
from pyarrow import parquet

from nnguide_core.cli import main
from nnguide_core.demo import demo_sets


@pytest.fixture(autouse=True)
def private_workspace(tmp_path, monkeypatch):
    monkeypatch.setenv("NNGUIDE_HOME", str(tmp_path / "home"))


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
    return root


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


def test_fit_then_score_writes_a_table_of_every_image(photos, tmp_path, capsys):
    detector, table = tmp_path / "detector.nnguide", tmp_path / "scores.csv"
    assert main(["fit", str(photos / "id"), "--model", "demo", "--out", str(detector), "--k", "5"]) == 0
    assert "k = 5" in capsys.readouterr().out
    assert main(["score", str(detector), str(photos / "ood"), "--out", str(table), "--quiet"]) == 0
    printed = capsys.readouterr()
    assert "broken.png" in printed.err
    with table.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == 20
    for row in rows:
        assert float(row["score"]) == pytest.approx(-float(row["guidance"]) * float(row["energy"]), rel=1e-5)
        assert len(row["neighbours"].split(" | ")) == 5
    flagged = sum(row["flagged"] == "true" for row in rows)
    assert f"{flagged} of 20 images flagged" in printed.out


def test_parquet_has_the_same_scores_as_csv(photos, tmp_path):
    detector = tmp_path / "detector.nnguide"
    main(["fit", str(photos / "id"), "--model", "demo", "--out", str(detector), "--quiet"])
    for name in ("scores.csv", "scores.parquet"):
        assert (
            main(["score", str(detector), str(photos / "ood"), "--out", str(tmp_path / name), "--quiet"]) == 0
        )
    with (tmp_path / "scores.csv").open(newline="") as file:
        written = [float(row["score"]) for row in csv.DictReader(file)]
    assert parquet.read_table(tmp_path / "scores.parquet")["score"].to_pylist() == pytest.approx(
        written, rel=1e-6
    )


def test_another_threshold_flags_everything(photos, tmp_path, capsys):
    detector, table = tmp_path / "detector.nnguide", tmp_path / "scores.csv"
    main(["fit", str(photos / "id"), "--model", "demo", "--out", str(detector), "--quiet"])
    main(["score", str(detector), str(photos / "ood"), "--out", str(table), "--threshold=-1e9", "--json"])
    facts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert facts["flagged"] == facts["images"] == 20


def test_evaluate_prints_every_detector_as_json(photos, capsys):
    arguments = ["evaluate", "--model", "demo", "--json", "--quiet", "--bank", str(photos / "bank")]
    code = main([*arguments, "--id", str(photos / "id"), "--ood", str(photos / "ood"), "--strict"])
    assert code == 3  # broken.png was skipped
    facts = json.loads(capsys.readouterr().out)
    assert {"NNGuide", "Energy", "MSP", "KNN"} <= {row["detector"] for row in facts["metrics"]}
    assert all(
        0 <= row["auroc"]["low"] <= row["auroc"]["estimate"] <= row["auroc"]["high"] <= 1
        for row in facts["metrics"]
    )
    assert facts["run"]["k"] == 10


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["evaluate", "--model", "resnet99", "--bank", "{id}", "--id", "{id}", "--ood", "{ood}"], "resnet99"),
        (["evaluate", "--model", "demo", "--bank", "/no/such", "--id", "{id}", "--ood", "{ood}"], "/no/such"),
        (["fit", "{id}", "--model", "demo", "--out", "{out}", "--k", "1000"], "1000"),
        (["score", "{id}/cat/x.png", "{ood}", "--out", "{out}"], "x.png"),
    ],
)
def test_what_is_refused_gets_a_sentence_and_exit_code_1(photos, tmp_path, capsys, arguments, words):
    places = {"id": photos / "id", "ood": photos / "ood", "out": tmp_path / "out.csv"}
    assert main([each.format(**places) for each in [*arguments, "--quiet"]]) == 1
    error = capsys.readouterr().err
    assert words in error
    assert "Traceback" not in error


def test_wrong_arguments_exit_with_2():
    with pytest.raises(SystemExit) as stop:
        main(["fit"])
    assert stop.value.code == 2
