"""Tests of nnguide_core.cli.arguments"""

import subprocess
import sys
from pathlib import Path
from typing import get_args

import pytest

from nnguide_core.cli.arguments import OFFICIAL, PRECISIONS, TABLES, parse
from nnguide_core.models import Precision
from nnguide_core.settings import VERSION

EVALUATE = ["evaluate", "--bank", "b", "--id", "i", "--ood", "o"]
FIT = ["fit", "images", "--out", "d.nnguide", "--model", "demo"]
SCORE = ["score", "d.nnguide", "images", "--out", "s.csv"]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([*SCORE, "--threshold", "nan"], "--threshold: a finite number is needed, got nan"),
        ([*SCORE, "--threshold=-inf"], "--threshold: a finite number is needed, got -inf"),
        ([*SCORE, "--threshold", "high"], "--threshold: a finite number is needed, got high"),
        ([*SCORE, "--k", "0"], "--k: a whole number of 1 or more is needed, got 0"),
        ([*SCORE, "--out", "s.txt"], "--out: a table is written as .csv or .parquet, got s.txt"),
        ([*FIT, "--held-out", "1.0"], "--held-out: a share between 0 and 1 is needed, got 1.0"),
        ([*FIT, "--held-out", "0"], "--held-out: a share between 0 and 1 is needed, got 0"),
        ([*FIT, "--keep", "nan"], "--keep: a share in (0, 1] is needed, got nan"),
        ([*FIT, "--energy-offset", "inf"], "--energy-offset: a finite number is needed, got inf"),
        ([*FIT, "--react", "101"], "--react: a percentile in (0, 100] is needed, got 101"),
        ([*FIT, "--class-count", "2.5"], "--class-count: a whole number of 1 or more is needed, got 2.5"),
        (EVALUATE, "--model or --official is needed"),
        (["evaluate", "--bank", "b", "--model", "demo"], "--id or --ood is needed"),
        ([*EVALUATE, "--official", "--model", "vit_b_16"], "--official is the setting of resnet50"),
        ([*EVALUATE, "--official", "--checkpoint", "own.pth"], "--official is the setting of resnet50"),
    ],
)
def test_what_cannot_work_is_refused_by_its_option_and_with_2(capsys, arguments, words):
    with pytest.raises(SystemExit) as stop:
        parse(arguments)
    assert stop.value.code == 2
    assert words in capsys.readouterr().err


@pytest.mark.parametrize("command", [["fit", "images", "--model", "demo"], SCORE[:3]])
def test_a_folder_is_no_file_to_write(tmp_path, capsys, command):
    folder = tmp_path / "made.csv"
    folder.mkdir()
    with pytest.raises(SystemExit):
        parse([*command, "--out", str(folder)])
    assert f"{folder} is a folder: name the file to write" in capsys.readouterr().err


@pytest.mark.parametrize("command", [EVALUATE, ["fit", "images", "--out", "d.nnguide"]])
def test_the_official_setting_is_one_option(command):
    options = parse([*command, "--official"])
    given = (options.model, options.weights, options.react, options.fraction, options.k, options.scoring)
    assert given == ("resnet50", "IMAGENET1K_V1", 95.0, 0.01, 10, "paper")


@pytest.mark.parametrize(
    "extra",
    [["--official", "--fraction", "1", "--k", "3"], ["--k", "3", "--fraction", "1", "--official"]],
)
def test_what_is_given_beside_the_official_setting_counts_in_either_order(extra):
    options = parse([*EVALUATE, *extra])
    assert (options.fraction, options.k, options.react) == (1.0, 3, OFFICIAL["react"])


def test_react_alone_is_the_percentile_and_nothing_else():
    options = parse([*EVALUATE, "--model", "resnet50", "--react"])
    assert (options.react, options.weights, options.fraction, options.k) == (95.0, None, 1.0, 10)


def test_every_part_of_the_official_setting_is_in_the_help(capsys):
    with pytest.raises(SystemExit):
        parse(["fit", "--help"])
    help_text = " ".join(capsys.readouterr().out.split())
    assert "--weights IMAGENET1K_V1" in help_text
    assert "--react 95, --fraction 0.01 and --k 10" in help_text


def test_precisions_and_tables_are_those_that_there_are():
    from nnguide_core.evaluation.tables import write_table

    assert get_args(Precision) == PRECISIONS
    with pytest.raises(ValueError, match=" or ".join(TABLES)):
        write_table(None, Path("s.txt"))


@pytest.mark.parametrize(
    ("arguments", "code", "printed"),
    [(["--version"], 0, f"nnguide {VERSION}"), (["--help"], 0, "usage"), (["fit"], 2, "required")],
)
def test_help_version_and_refusals_import_nothing_slow(arguments, code, printed):
    script = (
        "import sys\n"
        "from nnguide_core.cli import main\n"
        "try:\n"
        "    main()\n"
        "finally:\n"
        "    print(sorted({'torch', 'numpy', 'PIL', 'tqdm'} & sys.modules.keys()))\n"
    )
    run = subprocess.run(
        [sys.executable, "-c", script, *arguments], capture_output=True, text=True, timeout=60, check=False
    )
    assert run.returncode == code
    assert printed in run.stdout + run.stderr
    assert run.stdout.splitlines()[-1] == "[]"
