"""A workspace in which every name tries to become markup, code, an address or a formula."""

import io
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import Tensor, nn

from nnguide_core.datasets import labels_for, open_dataset
from nnguide_core.evaluation import Part, Question
from nnguide_core.evaluation.questions import keep
from nnguide_core.records import Dataset, Features, Role, Run, Verdict, fingerprint
from nnguide_core.settings import VERDICTS, BankSettings
from nnguide_core.store import Workspace

__all__ = ["CODE", "ELSEWHERE", "FORMULAS", "MARKUP", "NOTE", "make_workspace", "write_images"]

ELSEWHERE = "elsewhere.example"  # no request may go there
CODE = "<img src=x onerror=window.__mark=1>"
MARKUP = (  # of each the beginning would be gone if it were read as Markdown or HTML
    "![p1cture](http://elsewhere.example/a.png)",
    "[l1nk](javascript:window.__mark=2)",
    ":red[c0lour] :material/home: :smile:",
    "**b0ld** `c0de` $f0rmula_1$",
    '"><svg onload=window.__mark=3><b>h7ml</b>',
    "%{x} {{7*7}} &lt; &amp;",
)
FORMULAS = ('=HYPERLINK("http://elsewhere.example")', "+1+1", "-1+1", "@SUM(1)", "\t=1+1", "\r=1+1")
NOTE = f"=1+1 {CODE} {' '.join(MARKUP)} <script>window.__mark=4</script>"
_CLASSES = (f"{CODE} {MARKUP[0]}", f"{MARKUP[1]} {MARKUP[2]}", f"{FORMULAS[0]} {MARKUP[3]} {MARKUP[4]}")
_WIDTH = 16


def make_workspace(home: Path, images: Path) -> Run:
    """Fill a workspace with one run, its datasets' images below a folder, and verdicts; return the run."""
    generator = torch.Generator().manual_seed(7)
    head = nn.Linear(_WIDTH, len(_CLASSES)).requires_grad_(False)
    head.load_state_dict(
        {"weight": torch.randn(3, _WIDTH, generator=generator).relu() * 2, "bias": torch.zeros(3)}
    )
    sets = {
        f"bank {CODE}{MARKUP[0]}": (Role.BANK, 45),
        f"{FORMULAS[0]} {MARKUP[1]} {MARKUP[2]}": (Role.ID, 30),
        f"@ood {MARKUP[3]} {MARKUP[4]} {MARKUP[5]}": (Role.OOD, 24),
        f"{CODE}\u202e gnp.exe \x07</script><script>window.__mark=5</script>": (Role.OOD, 12),
    }
    parts = []
    for number, (name, (role, count)) in enumerate(sets.items()):
        folder = write_images(images / str(number), count, classes=role is not Role.OOD)
        dataset = replace(_relabelled(open_dataset(folder, name, role)), name=name)
        parts.append(Part(dataset, _features(dataset, head, generator)))
    model = fingerprint("hostile model")
    question = Question(
        model, f"model {CODE} {' '.join(MARKUP[:4])}", _CLASSES, head, tuple(parts), BankSettings()
    )
    workspace = Workspace(home)
    keep(workspace, question)
    run = question.run(5)
    workspace.save_run(run)
    workspace.add_verdicts(_verdicts(run, parts))
    workspace.close()
    return run


def write_images(folder: Path, count: int, *, classes: bool = False) -> Path:
    """Write small images whose names do what names should not; and one file that is no image."""
    chance = np.random.default_rng(count)
    for number in range(count):
        below = folder / f"class {number % 3}" if classes else folder
        below.mkdir(parents=True, exist_ok=True)
        (below / _file_name(number)).write_bytes(_png(chance))
    (folder / f"broken {CODE} {_for_files(MARKUP[0])}.png").write_bytes(b"\x89PNG\r\n")
    return folder


def _file_name(number: int) -> str:
    words = (*FORMULAS, CODE, *MARKUP)[number % (len(FORMULAS) + 1 + len(MARKUP))]
    return f"{_for_files(words)} {number}.png"


def _for_files(words: str) -> str:
    return words.replace("/", "\u2215")


def _relabelled(dataset: Dataset) -> Dataset:
    """Return the dataset with hostile class names, which folders cannot have for their slashes."""
    names: Mapping[str | None, str | None] = {
        None: None,
        **{f"class {at}": words for at, words in enumerate(_CLASSES)},
    }
    return replace(dataset, images=tuple(replace(each, label=names[each.label]) for each in dataset.images))


def _features(dataset: Dataset, head: nn.Linear, generator: torch.Generator) -> Features:
    count = len(dataset.images)
    labels = labels_for(dataset, _CLASSES)
    features: Tensor = torch.randn(count, _WIDTH, generator=generator).relu()
    known = labels >= 0
    features[known] += head.weight[labels[known]]
    return Features(
        features, head(features), dataset.ids, labels, fingerprint("hostile model"), dataset.fingerprint
    )


def _verdicts(run: Run, parts: list[Part]) -> list[Verdict]:
    judged = [
        image.id for part in parts if part.dataset.role is not Role.BANK for image in part.dataset.images
    ]
    now = datetime.now(UTC)
    return [
        Verdict(image, VERDICTS[number % len(VERDICTS)], NOTE, now, run.id)
        for number, image in enumerate(judged[::2])
    ]


def _png(chance: np.random.Generator) -> bytes:
    file = io.BytesIO()
    Image.fromarray(chance.integers(0, 255, (24, 24, 3), dtype=np.uint8)).save(file, "PNG")
    return file.getvalue()
