"""How fast images become features: against the model's bare forward, and against a plain DataLoader loop.

python -m benchmarks.features [model ...] [--rounds N] [--scale FACTOR]

Every round measures in turn, on the same JPEG files (500 × 375 pixels, quality 90, about 110 kB):

    extract    nnguide_core.features.extract from the files, start of the workers included
    forward    the same network on batches that lie in memory, run as torch runs it by default
    own cores  the same, each batch on a core of its own as in extract: what extract cannot exceed
    loop       ImageFolder with the weights' transforms, a DataLoader with 2 workers and batches of 32, the
               network as torchvision gives it in float32, features by a hook
"""

import argparse
import io
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
import torchvision
from PIL import Image
from torch import Tensor, nn

from benchmarks.table import Row, Timing, markdown
from nnguide_core.datasets import scan_folder
from nnguide_core.features import extract
from nnguide_core.features.compute_threads import ComputeThreads
from nnguide_core.models import Classifier, ModelSpec, Precision, architectures, load_model
from nnguide_core.records import Role

__all__ = ["rows", "write_photos"]

DISTINCT = 128  # files with contents of their own; more are copies under other names
BATCH = 32  # of the peers


@dataclass(frozen=True)
class Case:
    """One line of the table, before it is measured."""

    model: str
    precision: Precision
    images: int


CASES = (
    Case("resnet50", "float32", 128),
    Case("resnet50", "bfloat16", 256),
    Case("mobilenet_v3_large", "float32", 768),
)


def rows(rounds: int = 2, cases: tuple[Case, ...] = CASES, scale: float = 1.0) -> list[Row]:
    """Return the table's lines: three peers per case; bfloat16 only where the processor is made for it."""
    lines: list[Row] = []
    for case in cases:
        if case.precision == "bfloat16" and not _has_bfloat16():
            continue
        with tempfile.TemporaryDirectory() as folder:
            images = round(case.images * scale)
            write_photos(Path(folder), images)
            lines += _measured(case, Path(folder), images, rounds)
    return lines


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("models", nargs="*", help="only these")
    parser.add_argument("--rounds", type=int, default=2)
    parser.add_argument(
        "--scale", type=float, default=1.0, help="of the number of images: 3 for figures to quote"
    )
    arguments = parser.parse_args()
    cases = tuple(case for case in CASES if not arguments.models or case.model in arguments.models)
    print(markdown(rows(arguments.rounds, cases, arguments.scale)))


def _has_bfloat16() -> bool:
    able = torch.cpu.get_capabilities()
    return torch.cuda.is_available() or bool(able.get("avx512_bf16") or able.get("amx_bf16"))


def _measured(case: Case, folder: Path, images: int, rounds: int) -> list[Row]:
    classifier = load_model(ModelSpec("torchvision", case.model, precision=case.precision))
    plain = architectures.torchvision_model(case.model).network.eval()
    dataset = scan_folder(folder, "photos", Role.ID)
    found, expected = extract(dataset, classifier).features, _loop(folder, plain)  # also the warm-up
    if case.precision == "float32" and not torch.allclose(found, expected, rtol=1e-2, atol=1e-4):
        raise AssertionError(f"The features of {case.model} are not those of the plain loop.")
    times = [
        [
            _seconds(lambda: extract(dataset, classifier)),
            _seconds(lambda: _forward(classifier, images)),
            _seconds(lambda: _forward_on_own_cores(classifier, images)),
            _seconds(lambda: _loop(folder, plain)),
        ]
        for _ in range(rounds)
    ]
    ours, forward, own_cores, loop = (tuple(column) for column in zip(*times, strict=True))
    name, size = f"features, {case.model} {case.precision}", f"{images:,} JPEG files"
    rate = f"{images / min(ours):.0f} images/s"
    return [
        Timing(ours, forward).row(name, size, "bare forward", "≥ 0.90×", rate),
        Timing(ours, own_cores).row(name, size, "bare forward, a batch per core"),
        Timing(ours, loop).row(name, size, "ImageFolder + DataLoader", "≥ 1.5×"),
    ]


def write_photos(folder: Path, count: int, seed: int = 0) -> None:
    """Write JPEG files into two folders of classes."""
    rng = np.random.default_rng(seed)
    for index in range(count):
        path = folder / f"class{index % 2}" / f"{index:05d}.jpg"
        path.parent.mkdir(parents=True, exist_ok=True)
        copied = folder / f"class{index % DISTINCT % 2}" / f"{index % DISTINCT:05d}.jpg"
        path.write_bytes(_photo(rng) if index < DISTINCT else copied.read_bytes())


def _photo(rng: np.random.Generator) -> bytes:
    """Return a JPEG file that decodes as slowly as a photo does: gradients, soft shapes and fine noise."""
    down, across = np.mgrid[0:375, 0:500]
    slopes = rng.uniform(0.1, 0.4, size=(2, 3))
    shapes = Image.fromarray(rng.integers(60, 196, size=(47, 63, 3), dtype=np.uint8)).resize((500, 375))
    pixels = across[..., None] * slopes[0] + down[..., None] * slopes[1] + np.asarray(shapes) - 64.0
    pixels += rng.normal(0, 10, size=pixels.shape)
    file = io.BytesIO()
    Image.fromarray(pixels.clip(0, 255).astype(np.uint8)).save(file, "JPEG", quality=90)
    return file.getvalue()


def _forward(classifier: Classifier, images: int) -> None:
    batch = _batch(classifier, BATCH)
    for _ in range(images // BATCH):
        classifier.forward(batch)


def _forward_on_own_cores(classifier: Classifier, images: int) -> None:
    batch = _batch(classifier, BATCH // 2)
    with ComputeThreads(classifier.device.type) as threads:
        for future in [threads.submit(classifier.forward, batch) for _ in range(images // len(batch))]:
            future.result()


def _batch(classifier: Classifier, size: int) -> Tensor:
    generator = torch.Generator().manual_seed(0)
    images = torch.randn(size, 3, *classifier.preprocess.size, generator=generator)
    return images.to(classifier.device, memory_format=torch.channels_last)


def _loop(folder: Path, network: nn.Module) -> Tensor:
    transform = torchvision.transforms._presets.ImageClassification(crop_size=224)
    images = torchvision.datasets.ImageFolder(str(folder), transform)
    loader = torch.utils.data.DataLoader(images, batch_size=BATCH, num_workers=2)
    features: list[Tensor] = []
    last = [module for module in network.modules() if isinstance(module, nn.Linear)][-1]
    hook = last.register_forward_pre_hook(lambda _, inputs: features.append(inputs[0]))
    with torch.inference_mode():
        for batch, _ in loader:
            network(batch)
    hook.remove()
    return torch.cat(features)


def _seconds(work: Callable[[], object]) -> float:
    began = time.perf_counter()
    work()
    return time.perf_counter() - began


if __name__ == "__main__":
    main()
