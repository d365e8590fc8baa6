"""A run of 100,000 images in a workspace, made up but complete: features, thumbnails and map."""

import io
from pathlib import Path

import numpy as np
import torch
from PIL import Image
from torch import nn

from nnguide_core.evaluation import Part, Question, evaluate
from nnguide_core.evaluation.maps import map_key
from nnguide_core.evaluation.questions import keep
from nnguide_core.records import Dataset, Features, ImageRef, Role, fingerprint
from nnguide_core.store import Workspace
from views.resources import THUMBNAIL_SIDE

__all__ = ["make_large_run"]

MODEL = fingerprint("a large run")
WIDTH, CLASSES, PICTURES = 64, 10, 64
SIZES = {("bank", Role.BANK): 50_000, ("ID test", Role.ID): 25_000, ("OOD", Role.OOD): 25_000}


def make_large_run(home: Path) -> str:
    """Fill a workspace with one run, its map and its thumbnails; return the run's question."""
    rng = torch.Generator().manual_seed(5)
    centres = 2 * torch.randn(CLASSES, WIDTH, generator=rng).relu()
    head = nn.Linear(WIDTH, CLASSES).requires_grad_(False)
    head.load_state_dict({"weight": centres, "bias": torch.zeros(CLASSES)})
    parts = tuple(_part(*what, size, centres, head, rng) for what, size in SIZES.items())
    names = tuple(f"class {place}" for place in range(CLASSES))
    question = Question(MODEL, "large", names, head, parts)
    workspace = Workspace(home)
    keep(workspace, question)
    run = question.run(10)
    workspace.save_run(run)
    _save_map(workspace, question)
    _save_thumbnails(workspace, question)
    return run.question


def _save_thumbnails(workspace: Workspace, question: Question) -> None:
    """Keep a picture of every query, as if it had been looked at before; there are no files."""
    rng, pictures = np.random.default_rng(6), []
    for _ in range(PICTURES):
        data = io.BytesIO()
        Image.fromarray(rng.integers(0, 255, (64, 64, 3), dtype=np.uint8)).save(data, "WEBP")
        pictures.append(data.getvalue())
    for part in question.queries:
        made = {image: pictures[row % PICTURES] for row, image in enumerate(part.dataset.ids)}
        workspace.thumbnails.put(made, THUMBNAIL_SIDE)


def _part(
    name: str,
    role: Role,
    size: int,
    centres: torch.Tensor,
    head: nn.Linear,
    rng: torch.Generator,
) -> Part:
    labels = torch.arange(size) % CLASSES
    spread = 1.2 if role is Role.OOD else 0.6
    features = (centres[labels] + spread * torch.randn(size, WIDTH, generator=rng)).relu()
    images = tuple(
        ImageRef(
            fingerprint(name, str(row)), name, f"{row}.png", f"class {row % CLASSES}", f"{row % PICTURES}.png"
        )
        for row in range(size)
    )
    dataset = Dataset(name, role, Path("/nowhere"), images)
    made = Features(
        features, head(features), dataset.ids, labels, fingerprint("a large run"), dataset.fingerprint
    )
    return Part(dataset, made)


def _save_map(workspace: Workspace, question: Question) -> None:
    """Keep a map that lays the images around their classes: laying out 100,000 by UMAP takes minutes."""
    evaluation = evaluate(question, k=1, baselines=())
    rng = torch.Generator().manual_seed(7)
    around = 8 * torch.randn(CLASSES, 2, generator=rng)
    places = {"bank": question.bank, **{f"query.{at}": part for at, part in enumerate(question.queries)}}
    tensors = {
        name: around[torch.arange(len(part.features)) % CLASSES]
        + torch.randn(len(part.features), 2, generator=rng)
        for name, part in places.items()
    }
    workspace.save("projections", map_key(evaluation), tensors, {}, needs=[question.run(1).question])
