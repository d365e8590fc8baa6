"""What a machine with a CUDA device must show, in one table and under five minutes.

    python -m benchmarks.device [--small]

1. the tests that need a CUDA device;
2. the whole way once: made JPEGs, a ResNet-18 with random weights, scores, metrics, a detector file;
3. the exact search at ImageNet's size, beside a bare half-precision product of the same queries and bank, and
   beside pytorch-ood's NNGuide on the same card.

Each line is printed as soon as it is measured. --small tries the same with little data, on a CPU too.
"""

import argparse
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.features import write_photos
from nnguide_core.datasets import open_dataset
from nnguide_core.detector import NNGuide
from nnguide_core.devices import choose_device, describe_device
from nnguide_core.evaluation import NNGUIDE, evaluate
from nnguide_core.evaluation.comparison import metrics_table
from nnguide_core.evaluation.judging import DEFAULT_THRESHOLD
from nnguide_core.evaluation.provenance import save_detector
from nnguide_core.evaluation.questions import ask
from nnguide_core.models import ModelSpec, load_model
from nnguide_core.records import Role
from nnguide_core.search import prepare, topk_inner_product
from nnguide_core.store import Workspace

__all__ = ["main"]

ROOT = Path(__file__).parents[1]
CLASSES = 1000
TESTS_SECONDS = 150  # after which the tests are stopped, so that the whole stays under five minutes


@dataclass(frozen=True)
class Size:
    """How much is measured."""

    queries: int
    bank: int
    width: int
    k: int
    peer_queries: int  # of the queries, for pytorch-ood
    images: int  # in each of three datasets
    rounds: int

    def __str__(self) -> str:
        return f"{self.queries:,} × {self.bank:,} × {self.width:,}, k = {self.k}"


FULL = Size(50_000, 1_281_167, 2048, 100, peer_queries=5_000, images=512, rounds=5)
SMALL = Size(300, 4_000, 64, 10, peer_queries=100, images=12, rounds=1)


def main(arguments: list[str] | None = None) -> int:
    """Print the table; return 1 where there is no CUDA device, or something failed."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--small", action="store_true", help="try it with little data, on a CPU too")
    small = parser.parse_args(arguments).small
    if not (small or torch.cuda.is_available()):
        print("There is no CUDA device here, so nothing was measured: --small tries it on the CPU.")
        return 1
    torch.set_grad_enabled(False)
    size = SMALL if small else FULL
    device = choose_device("cuda" if torch.cuda.is_available() else "cpu")
    print(f"{describe_device(device)}, torch {torch.__version__}, medians of {size.rounds}\n")
    print("| what | size | time | beside it |\n| --- | --- | ---: | --- |", flush=True)
    passed = small or _tests()
    _whole_way(device, size.images)
    for name, bank in (("scattered rows", _scattered), ("class clusters", _clustered)):
        _search(device, size, name, bank)
    return 0 if passed else 1


def _tests() -> bool:
    """Run what needs a CUDA device; return whether all of it passed."""
    files = [str(path) for path in (ROOT / "tests").rglob("test_*.py") if "cuda" in path.read_text("utf-8")]
    command = [sys.executable, "-m", "pytest", "-m", "cuda", "-q", *files]
    began = time.perf_counter()
    try:
        ended = subprocess.run(
            command, cwd=ROOT, capture_output=True, text=True, timeout=TESTS_SECONDS, check=False
        )
    except subprocess.TimeoutExpired:
        _line("tests", "", TESTS_SECONDS, "STOPPED: they took too long")
        return False
    said = (ended.stdout.strip().splitlines() or [ended.stderr.strip()[-200:]])[-1]
    _line("tests", "pytest -m cuda", time.perf_counter() - began, said)
    if ended.returncode:
        print(ended.stdout, file=sys.stderr)
    return ended.returncode == 0


def _whole_way(device: torch.device, images: int) -> None:
    """Go from JPEGs to metrics and to a detector file that gives the same scores, each step timed."""
    with tempfile.TemporaryDirectory() as folder:
        root = Path(folder)
        datasets = []
        for seed, (name, role) in enumerate((("bank", Role.BANK), ("ID", Role.ID), ("OOD", Role.OOD))):
            write_photos(root / name, images, seed)
            datasets.append(open_dataset(root / name, name, role))
        with _timed("model", "ResNet-18, random weights"):
            classifier = load_model(ModelSpec("torchvision", "resnet18", class_count=CLASSES), device)
        with _timed("features", f"{3 * images:,} JPEGs of 500 × 375"):
            question = ask(classifier, datasets, workspace=Workspace(root / "workspace"))
        with _timed("bank, neighbours, baselines", f"{2 * images:,} × {images:,} × 512"):
            answered = evaluate(question, device=device)
        with _timed("metrics", f"{len(answered.detectors)} detectors"):
            metrics_table(answered)
        with _timed("detector file, read and scored again", f"{images:,} images"):
            save_detector(answered, root / "detector", 10, DEFAULT_THRESHOLD)
            judged = answered.queries[0]
            detector = NNGuide.load(root / "detector", head=question.head)
            scores = detector.predict_features(judged.features.features, logits=judged.features.logits)
        _refuse_difference(scores, judged.scores(NNGUIDE, 10))


def _search(
    device: torch.device, size: Size, name: str, make: Callable[[torch.device, Size], Tensor]
) -> None:
    rows = make(device, size)
    queries = normalize(rows[:: max(1, size.bank // size.queries)][: size.queries].clone(), dim=1)
    queries = normalize(queries + normalize(torch.randn_like(queries), dim=1), dim=1)
    bare = _bare_seconds(queries, rows, size.rounds)
    rate = 2e-12 * size.queries * size.bank * size.width / bare
    _line("bare half-precision product", f"{size}", bare, f"{rate:.3g} TFLOP/s")
    plain = _seconds(lambda: topk_inner_product(queries, rows, size.k), device, size.rounds)
    _line(f"search, {name}", f"{size}", plain, f"the bare product takes {bare / plain:.0%} of that")
    ready = prepare(rows)
    prepared = _seconds(lambda: topk_inner_product(queries, ready, size.k), device, size.rounds)
    share = f"the bare product takes {bare / prepared:.0%} of that"
    _line(f"search, {name}, bank prepared", f"{size}", prepared, share)
    _beside_pytorch_ood(device, size, queries, rows, prepared)


def _beside_pytorch_ood(
    device: torch.device, size: Size, queries: Tensor, rows: Tensor, prepared: float
) -> None:
    """Time pytorch-ood's NNGuide on some of the queries, and compare its scores with ours."""
    from pytorch_ood.detector import NNGuide as PytorchOodNNGuide

    torch.manual_seed(0)
    head = nn.Linear(size.width, CLASSES).to(device).requires_grad_(False)
    some = queries[: size.peer_queries]
    peer = PytorchOodNNGuide(None, head, k=size.k)
    peer._scaled_features = rows  # what its fit_features would make of features with these energies
    seconds = _seconds(lambda: peer.predict_features(some), device, min(3, size.rounds))
    whole = seconds * size.queries / len(some)
    note = f"{whole:.3g} s for {size.queries:,} queries at this rate: {whole / prepared:.1f}× ours"
    _line("pytorch-ood 0.4.0 NNGuide", f"the first {len(some):,} queries only", seconds, note)
    found = topk_inner_product(some, rows, size.k)
    _refuse_difference(-found.values.mean(dim=1) * head(some).logsumexp(dim=1), peer.predict_features(some))


def _scattered(device: torch.device, size: Size) -> Tensor:
    """Return random directions of nearly equal lengths: many rows are almost as near as the nearest."""
    torch.manual_seed(3)
    return torch.randn(size.bank, size.width, device=device)


def _clustered(device: torch.device, size: Size) -> Tensor:
    """Return what a network gives: features around class means, none below zero."""
    torch.manual_seed(4)
    means = torch.randn(CLASSES, size.width, device=device).relu_()
    rows = torch.randn(size.bank, size.width, device=device).mul_(0.5)
    for start in range(0, size.bank, 65536):
        part = rows[start : start + 65536]
        part += means[torch.randint(CLASSES, (len(part),), device=device)]
        part.relu_()
    return rows


def _bare_seconds(queries: Tensor, rows: Tensor, rounds: int) -> float:
    """Return the seconds of the half-precision product alone, in blocks that are overwritten."""
    near, codes, step = queries.half(), rows.half(), 1664
    out = torch.empty(step, len(codes), dtype=codes.dtype, device=codes.device)

    def multiply() -> None:
        for start in range(0, len(near), step):
            part = near[start : start + step]
            torch.mm(part, codes.T, out=out[: len(part)])

    return _seconds(multiply, queries.device, rounds)


def _seconds(work: Callable[[], object], device: torch.device, rounds: int) -> float:
    """Return the median time of some calls after one that is not counted."""
    times = []
    for _ in range(rounds + 1):
        _finish(device)
        began = time.perf_counter()
        work()
        _finish(device)
        times.append(time.perf_counter() - began)
    return median(times[1:])


def _finish(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)


@contextmanager
def _timed(what: str, size: str) -> Iterator[None]:
    began = time.perf_counter()
    yield
    _line(what, size, time.perf_counter() - began, "")


def _line(what: str, size: str, seconds: float, beside: str) -> None:
    print(f"| {what} | {size} | {seconds:.3f} s | {beside} |", flush=True)


def _refuse_difference(ours: Tensor, theirs: Tensor) -> None:
    same = float(torch.isclose(ours, theirs, rtol=1e-4, atol=1e-4).float().mean())
    if same < 0.999:
        raise RuntimeError(f"Only {same:.4%} of the scores agree.")


if __name__ == "__main__":
    sys.exit(main())
