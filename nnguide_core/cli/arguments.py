"""What the command line takes. Imports nothing that is slow, so that help and refusals need not wait."""

import argparse
import math
import os
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from nnguide_core.errors import DatasetError
from nnguide_core.names import visible
from nnguide_core.settings import DEFAULT_K, REACT_PERCENTILE, VERSION

if TYPE_CHECKING:
    _Commands = argparse._SubParsersAction[argparse.ArgumentParser]

__all__ = ["DRAWS", "OFFICIAL", "OFFICIAL_MODEL", "PRECISIONS", "TABLES", "check_paths", "parse", "parser"]

DRAWS = ("random", "stratified", "balanced")
PRECISIONS = ("float32", "bfloat16", "auto")
TABLES = (".csv", ".parquet")
# Source: roomo7time/nnguide, the official code, where the network is ResNet-50.
OFFICIAL_MODEL = "resnet50"
OFFICIAL: Mapping[str, Any] = {
    "weights": "IMAGENET1K_V1",
    "react": REACT_PERCENTILE,
    "fraction": 0.01,
    "k": DEFAULT_K,
}
_USUAL: Mapping[str, Any] = {"k": DEFAULT_K, "fraction": 1.0}
# Options that name what must be there.
_READ = ("bank", "id", "ood", "detector", "images", "checkpoint", "classes")


def parse(arguments: Sequence[str] | None = None) -> argparse.Namespace:
    """Return the options of a command; on wrong arguments say which, and exit with 2."""
    options = parser().parse_args(arguments)
    if "model" in options:
        _check_model(options)
    if "ood" in options and not options.id and not options.ood:
        options.refuse("--id or --ood is needed, or there is nothing to judge")
    if "fraction" in options:
        for name, value in (OFFICIAL if vars(options).get("official") else _USUAL).items():
            if getattr(options, name) is None:
                setattr(options, name, value)
    return options


def check_paths(options: argparse.Namespace) -> None:
    """Refuse a path to read that is not there, before anything slow is imported.

    Raises:
        DatasetError: with the path as it was given.
    """
    for name in _READ:
        given = vars(options).get(name)
        for path in given if isinstance(given, list) else [given]:
            if path is not None and not os.path.exists(path):  # noqa: PTH110 - no name is too long for it
                raise DatasetError(f"There is nothing at {visible(str(path))}. Is the path spelt right?")


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line; what depends on other options, parse fills in."""
    top = argparse.ArgumentParser(
        prog="nnguide", description="Nearest Neighbor Guidance for out-of-distribution detection."
    )
    top.add_argument("--version", action="version", version=f"nnguide {VERSION}")
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(commands)
    _add_score(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    _add_runs(commands)
    _add_clean(commands)
    return top


def _add_fit(commands: "_Commands") -> None:
    command = commands.add_parser("fit", help="build a detector file from a model and a folder of ID images")
    command.add_argument("id", type=Path, help="ID images: a folder with one subfolder per class, or a zip")
    command.add_argument("--out", type=_new_file, required=True, help="the detector file to write")
    command.add_argument(
        "--held-out",
        type=_share_below_one,
        default=0.2,
        help="share of the images kept out of the bank to set the threshold with (default 0.2)",
    )
    command.add_argument(
        "--keep",
        type=_share,
        default=0.95,
        help="share of the held-out images that the threshold passes (default 0.95)",
    )
    _add_model(command)
    _add_bank(command)
    _add_common(command)


def _add_score(commands: "_Commands") -> None:
    command = commands.add_parser("score", help="judge a folder of images with a detector file")
    command.add_argument("detector", type=Path, help="what fit wrote")
    command.add_argument("images", type=Path, help="a folder or a zip")
    command.add_argument("--out", type=_new_table, required=True, help="the table to write, .csv or .parquet")
    command.add_argument(
        "--threshold", type=_number, help="flag from this score on, instead of the detector's"
    )
    command.add_argument("--k", type=_count, help="neighbours that guide, instead of the detector's")
    command.add_argument("--checkpoint", type=Path, help="where the model's own weights are, if they moved")
    _add_common(command)


def _add_evaluate(commands: "_Commands") -> None:
    command = commands.add_parser("evaluate", help="measure how well ID and OOD images are told apart")
    command.add_argument("--bank", type=Path, required=True, help="ID training images for the bank")
    command.add_argument("--id", type=Path, default=[], nargs="+", help="held-out ID images")
    command.add_argument(
        "--ood",
        type=Path,
        default=[],
        nargs="+",
        help="OOD images, one set per path. With only one of --id and --ood there are scores, a threshold "
        "and flagged images, but no AUROC and no FPR",
    )
    _add_model(command)
    _add_bank(command)
    _add_common(command)


def _add_demo(commands: "_Commands") -> None:
    command = commands.add_parser("demo", help="evaluate on the shipped demo")
    command.add_argument(
        "--recompute",
        action="store_true",
        help="compute the features anew, from the images",
    )
    _add_bank(command)
    _add_common(command)


def _add_runs(commands: "_Commands") -> None:
    command = commands.add_parser("runs", help="list the runs that the workspace keeps, with their sizes")
    _add_quick(command)


def _add_clean(commands: "_Commands") -> None:
    command = commands.add_parser("clean", help="remove runs, and what nothing in the workspace needs")
    command.add_argument("runs", nargs="*", metavar="RUN", help="the first 12 or more digits of a run's id")
    _add_quick(command)


def _add_quick(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.set_defaults(quiet=True, strict=False)


def _add_model(command: argparse.ArgumentParser) -> None:
    command.set_defaults(refuse=command.error)
    group = command.add_argument_group("model")
    group.add_argument("--model", help='a torchvision classifier such as resnet50, timm:NAME, or "demo"')
    group.add_argument(
        "--official",
        action="store_true",
        help="the setting of the paper's official code for ResNet-50: --model resnet50 --weights "
        f"{OFFICIAL['weights']} (not torchvision's newer ones, whose features differ), --react "
        f"{OFFICIAL['react']:g}, --fraction {OFFICIAL['fraction']:g} and --k {OFFICIAL['k']}. A bank, k, "
        "percentile or weights that are given too count instead",
    )
    group.add_argument(
        "--weights",
        help="weights of torchvision, such as IMAGENET1K_V2, or of timm, such as tv2_in1k (default: the "
        "library's own choice); with --checkpoint only their preprocessing is used",
    )
    group.add_argument("--checkpoint", type=Path, help="own weights: safetensors, or what torch.save wrote")
    group.add_argument("--classes", type=Path, help="a text file, one class name per line, in class order")
    group.add_argument(
        "--class-count", type=_count, help="classes of the own weights, where the checkpoint does not tell"
    )
    group.add_argument(
        "--feature-layer", help="the layer whose input is the features, where it cannot be found"
    )
    group.add_argument(
        "--image-size",
        type=_count,
        help="side of the network's input in pixels (default: that of the weights)",
    )
    group.add_argument(
        "--precision",
        choices=PRECISIONS,
        default=PRECISIONS[0],
        help="float32: the same features everywhere (default); bfloat16: faster on CPUs and GPUs made for "
        "it, and scores move a little; auto: bfloat16 where device and network allow",
    )


def _add_bank(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("bank and score")
    group.add_argument("--k", type=_count, help=f"neighbours (default {DEFAULT_K})")
    group.add_argument("--fraction", type=_share, help="share of the images that the bank keeps (default 1)")
    group.add_argument(
        "--draw",
        choices=DRAWS,
        default=DRAWS[0],
        help="stratified: the same share of every class; balanced: the same number of every class",
    )
    group.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    group.add_argument("--scoring", choices=("paper", "cosine"), default="paper")
    group.add_argument("--energy-offset", type=_number, default=0.0, help="added to every energy")
    group.add_argument(
        "--react",
        type=_percentile,
        nargs="?",
        const=REACT_PERCENTILE,
        help=f"clip features at this percentile of the ID values ({REACT_PERCENTILE:g} without a number); "
        "on its own it changes neither weights nor bank",
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument(
        "--device",
        help='"cuda", "cuda:1", "mps" or "cpu" (default: NNGUIDE_DEVICE, else the fastest kind that is here)',
    )
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--strict", action="store_true", help="exit with 3 if any file was skipped")


def _check_model(options: argparse.Namespace) -> None:
    if options.official:
        if options.model not in (None, OFFICIAL_MODEL) or options.checkpoint is not None:
            options.refuse(
                f"--official is the setting of {OFFICIAL_MODEL} with torchvision's weights: leave out "
                "--model and --checkpoint, or give --react, --fraction and --k instead of --official"
            )
        options.model = OFFICIAL_MODEL
    if options.model is None:
        options.refuse("--model or --official is needed")


def _parsed(kind: Callable[[str], Any], text: str, fits: Callable[[Any], bool], wanted: str) -> Any:
    """Return the value of a text, or refuse it with what is wanted."""
    try:
        value = kind(text)
    except ValueError:
        value = None
    if value is None or not fits(value):
        raise argparse.ArgumentTypeError(f"{wanted} is needed, got {text}")
    return value


def _number(text: str) -> float:
    return float(_parsed(float, text, math.isfinite, "a finite number"))


def _share(text: str) -> float:
    return float(_parsed(float, text, lambda value: 0.0 < value <= 1.0, "a share in (0, 1]"))


def _share_below_one(text: str) -> float:
    return float(_parsed(float, text, lambda value: 0.0 < value < 1.0, "a share between 0 and 1"))


def _percentile(text: str) -> float:
    return float(_parsed(float, text, lambda value: 0.0 < value <= 100.0, "a percentile in (0, 100]"))


def _count(text: str) -> int:
    return int(_parsed(int, text, lambda value: value >= 1, "a whole number of 1 or more"))


def _new_file(text: str) -> Path:
    if Path(text).is_dir():
        raise argparse.ArgumentTypeError(f"{text} is a folder: name the file to write")
    return Path(text)


def _new_table(text: str) -> Path:
    if Path(text).suffix.lower() not in TABLES:
        raise argparse.ArgumentTypeError(f"a table is written as {' or '.join(TABLES)}, got {text}")
    return _new_file(text)
