"""The work of the dashboard without a browser: fit, score, evaluate, demo.

Exit codes: 0 done; 1 refused or failed, with a sentence; 2 wrong arguments; 3 done, but files were skipped
and --strict was given; 130 interrupted, and the same command goes on where it stopped.
"""

import argparse
import logging
import sys
import time
from collections.abc import Sequence
from pathlib import Path

from nnguide_core.errors import CancelledError, NNGuideError
from nnguide_core.logs import log_to_file
from nnguide_core.names import visible
from nnguide_core.settings import DEFAULT_K, REACT_PERCENTILE, workspace_home

__all__ = ["main", "parser"]

_LOG = logging.getLogger(__name__)
_REFUSED, _SKIPPED, _INTERRUPTED = 1, 3, 130


def main(arguments: Sequence[str] | None = None) -> int:
    """Run one command and return its exit code."""
    from nnguide_core.commands import COMMANDS

    options = parser().parse_args(arguments)
    began = time.monotonic()
    try:
        log_to_file(workspace_home())
        skipped = COMMANDS[options.command](options)
    except (NNGuideError, ValueError, OSError, MemoryError, RuntimeError) as error:
        sentence = _sentence(error)
        _log(options.command, began, f"failed - {sentence}")
        if isinstance(error, CancelledError):
            return _INTERRUPTED
        sys.stderr.write(f"nnguide: {visible(sentence)}\n")
        return _REFUSED
    except KeyboardInterrupt:
        _log(options.command, began, "interrupted")
        sys.stderr.write("\nnguide: interrupted. The same command goes on where it stopped.\n")
        return _INTERRUPTED
    _log(options.command, began, f"done, {skipped:,} files skipped")
    return _SKIPPED if skipped and options.strict else 0


def parser() -> argparse.ArgumentParser:
    """Return the parser of the command line."""
    top = argparse.ArgumentParser(
        prog="nnguide", description="Nearest Neighbor Guidance for out-of-distribution detection."
    )
    commands = top.add_subparsers(dest="command", required=True, metavar="COMMAND")
    _add_fit(commands)
    _add_score(commands)
    _add_evaluate(commands)
    _add_demo(commands)
    return top


def _add_fit(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("fit", help="build a detector file from a model and a folder of ID images")
    command.add_argument("id", type=Path, help="ID images: a folder with one subfolder per class, or a zip")
    command.add_argument("--out", type=Path, required=True, help="the detector file to write")
    command.add_argument(
        "--held-out",
        type=_share,
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


def _add_score(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("score", help="judge a folder of images with a detector file")
    command.add_argument("detector", type=Path, help="what fit wrote")
    command.add_argument("images", type=Path, help="a folder or a zip")
    command.add_argument("--out", type=Path, required=True, help="the table to write, .csv or .parquet")
    command.add_argument("--threshold", type=float, help="flag from this score on, instead of the detector's")
    command.add_argument("--k", type=int, help="neighbours that guide, instead of the detector's")
    command.add_argument("--checkpoint", type=Path, help="where the model's own weights are, if they moved")
    _add_common(command)


def _add_evaluate(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("evaluate", help="measure how well ID and OOD images are told apart")
    command.add_argument("--bank", type=Path, required=True, help="ID training images for the bank")
    command.add_argument("--id", type=Path, required=True, nargs="+", help="held-out ID images")
    command.add_argument("--ood", type=Path, required=True, nargs="+", help="OOD images, one set per path")
    _add_model(command)
    _add_bank(command)
    _add_common(command)


def _add_demo(commands: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    command = commands.add_parser("demo", help="evaluate on the shipped demo")
    command.add_argument(
        "--recompute",
        action="store_true",
        help="compute the features anew, from the images",
    )
    _add_bank(command)
    _add_common(command)


def _add_model(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("model")
    group.add_argument(
        "--model",
        required=True,
        help='a torchvision classifier such as resnet50, a timm one as timm:NAME, or "demo"',
    )
    group.add_argument("--weights", help='torchvision weights such as IMAGENET1K_V2 (default "DEFAULT")')
    group.add_argument("--checkpoint", type=Path, help="own weights: safetensors or a state dict")
    group.add_argument("--classes", type=Path, help="a text file, one class name per line, in class order")
    group.add_argument("--head", help="name of the last linear layer, where it cannot be found")


def _add_bank(command: argparse.ArgumentParser) -> None:
    group = command.add_argument_group("bank and score")
    group.add_argument("--k", type=int, default=DEFAULT_K, help=f"neighbours (default {DEFAULT_K})")
    group.add_argument("--fraction", type=_share, default=1.0, help="share of the images that the bank keeps")
    group.add_argument("--balanced", action="store_true", help="draw the same share of every class")
    group.add_argument("--seed", type=int, default=0, help="of the draw (default 0)")
    group.add_argument("--scoring", choices=("paper", "cosine"), default="paper")
    group.add_argument("--energy-offset", type=float, default=0.0, help="added to every energy")
    group.add_argument(
        "--react",
        type=float,
        nargs="?",
        const=REACT_PERCENTILE,
        help=f"clip features at this percentile of the ID values ({REACT_PERCENTILE:g} without a number)",
    )


def _add_common(command: argparse.ArgumentParser) -> None:
    command.add_argument("--json", action="store_true", help="print one JSON object instead of text")
    command.add_argument("--quiet", action="store_true", help="no progress bars")
    command.add_argument("--strict", action="store_true", help="exit with 3 if any file was skipped")


def _share(text: str) -> float:
    value = float(text)
    if not 0.0 < value <= 1.0:
        raise argparse.ArgumentTypeError(f"a share in (0, 1] is needed, got {text}")
    return value


def _sentence(error: Exception) -> str:
    """Return what a user should read of an error; what no user can cause is raised again."""
    from nnguide_core.jobs import in_words

    if sentence := in_words(error):
        return sentence
    if isinstance(error, ValueError):
        return str(error)
    raise error


def _log(command: str, began: float, outcome: str) -> None:
    _LOG.info("command %s after %.1f s: %s", command, time.monotonic() - began, outcome)
