"""How often 95 % intervals hold the true value, simulated: normal and exponential scores, and the demo's own.

python -m benchmarks.coverage [--replicates N]

Each cell is the share of replicates whose interval holds the truth, and in brackets the shares of those that
lie wholly above it and wholly below it, in percent. Normal scores have the same spread on both sides;
exponential ones have a long tail of ID images that look like OOD. The second detector of a difference shares
half of its variance with the first and has the next lower AUROC. With "few misses" both err on the same 3 %
of ID images alone. The demo's scores are drawn with replacement from its images, whose own numbers are the
truth; its second detector is Energy.
"""

import argparse
import math
import tempfile
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from statistics import NormalDist

import numpy as np
import torch
from numpy.typing import NDArray

from nnguide_core import metrics
from nnguide_core.evaluation import NNGUIDE, evaluate
from nnguide_core.evaluation.questions import ask_demo
from nnguide_core.intervals import (
    Difference,
    Interval,
    auroc_difference,
    auroc_interval,
    id_flagged_interval,
    ood_passed_interval,
)
from nnguide_core.settings import DEFAULT_K
from nnguide_core.store import Workspace

__all__ = ["main"]

AUROCS = (0.995, 0.975, 0.94, 0.88)
SECOND = {0.995: 0.975, 0.975: 0.94, 0.94: 0.88, 0.88: 0.82}  # the AUROC of the second detector
IMAGES = (50, 100, 200)  # on each side
DRAWS = 2_000  # of each share's interval, a fifth of the default
LEVEL = metrics.DEFAULT_LEVEL

Scores = NDArray[np.float64]
Sides = tuple[Scores, Scores]  # (N,) ID and (N,) OOD scores
Draw = Callable[[np.random.Generator, int], tuple[Sides, Sides]]  # N images a side, by two detectors


@dataclass(frozen=True)
class Case:
    """Scores that can be drawn again and again, and what is true of them."""

    name: str
    draw: Draw
    auroc: float  # of the first detector
    difference: float  # of its AUROC and the second's
    id_flagged: float  # where 95 % of OOD is caught
    ood_passed: float  # where 95 % of ID is kept


def main(replicates: int) -> None:
    """Print the table, line by line."""
    print("| scores | AUROC | images a side | AUROC's interval | difference | ID flagged | OOD passed |")
    print("| --- | ---: | ---: | --- | --- | --- | --- |")
    with ProcessPoolExecutor() as pool:
        for line in pool.map(partial(_line, replicates), range(len(_cases()) * len(IMAGES))):
            print(line, flush=True)


def _line(replicates: int, number: int) -> str:
    case, images = _cases()[number // len(IMAGES)], IMAGES[number % len(IMAGES)]
    generator = np.random.default_rng(number)
    drawn = [case.draw(generator, images) for _ in range(replicates)]
    cells = (
        _held((auroc_interval(*first) for first, _ in drawn), case.auroc),
        _held((auroc_difference(*first, *second) for first, second in drawn), case.difference),
        _held((id_flagged_interval(*first, draws=DRAWS) for first, _ in drawn), case.id_flagged),
        _held((ood_passed_interval(*first, draws=DRAWS) for first, _ in drawn), case.ood_passed),
    )
    return f"| {case.name} | {case.auroc:.3f} | {images} | {' | '.join(cells)} |"


def _held(found: Iterable[Interval | Difference], truth: float) -> str:
    above, below = np.mean([(one.low > truth, one.high < truth) for one in found], axis=0)
    return f"{100 * (1 - above - below):.1f} ({100 * above:.1f}, {100 * below:.1f})"


@cache
def _cases() -> list[Case]:
    made = [kind(auroc, SECOND[auroc]) for kind in (_normal, _exponential) for auroc in AUROCS]
    return [*made, _few_misses(0.03), *_of_demo()]


def _normal(auroc: float, second: float) -> Case:
    shifts = [math.sqrt(2) * NormalDist().inv_cdf(each) for each in (auroc, second)]

    def draw(generator: np.random.Generator, images: int) -> tuple[Sides, Sides]:
        inside, outside = _alike(generator, images), _alike(generator, images)
        return (inside[0], outside[0] + shifts[0]), (inside[1], outside[1] + shifts[1])

    share = NormalDist().cdf(NormalDist().inv_cdf(LEVEL) - shifts[0])
    return Case("normal", draw, auroc, auroc - second, share, share)


def _exponential(auroc: float, second: float) -> Case:
    scales = [each / (1 - each) for each in (auroc, second)]

    def draw(generator: np.random.Generator, images: int) -> tuple[Sides, Sides]:
        inside, outside = (
            [-torch.special.log_ndtr(torch.from_numpy(each)).numpy() for each in _alike(generator, images)]
            for _ in range(2)
        )
        return (inside[0], outside[0] * scales[0]), (inside[1], outside[1] * scales[1])

    flagged, passed = LEVEL ** scales[0], 1 - (1 - LEVEL) ** (1 / scales[0])
    return Case("exponential", draw, auroc, auroc - second, flagged, passed)


def _few_misses(share: float) -> Case:
    """Return detectors that both err on the same few ID images alone, the second twice as far."""

    def draw(generator: np.random.Generator, images: int) -> tuple[Sides, Sides]:
        hard, how_far = generator.random(images) < share, generator.random(images)
        inside, outside = 0.9 * generator.random(images), 1 + generator.random(images)
        first, second = (np.where(hard, 1 + part * how_far, inside) for part in (0.5, 1.0))
        return (first, outside), (second, outside)

    return Case("few misses", draw, 1 - share / 4, share / 4, 0.9 * share, 0.0)


def _alike(generator: np.random.Generator, images: int) -> tuple[Scores, Scores]:
    """Return two standard normal scores of each image that share half of their variance, (N,) each."""
    own = generator.normal(size=(3, images)) * math.sqrt(0.5)
    return own[0] + own[1], own[0] + own[2]


def _of_demo() -> list[Case]:
    with tempfile.TemporaryDirectory() as folder:
        answered = evaluate(ask_demo(Workspace(Path(folder))), baselines=("Energy",))
    cases = []
    for judged in answered.ood:
        first, second = (
            (
                torch.cat([each.scores(name, DEFAULT_K) for each in answered.id]).double().numpy(),
                judged.scores(name, DEFAULT_K).double().numpy(),
            )
            for name in (NNGUIDE, "Energy")
        )
        auroc = metrics.auroc(*first)
        cases.append(
            Case(
                f"demo, {judged.dataset.name}",
                partial(_drawn_again, first, second),
                auroc,
                auroc - metrics.auroc(*second),
                metrics.id_flagged_at_ood_caught(*first),
                metrics.ood_passed_at_id_kept(*first),
            )
        )
    return cases


def _drawn_again(
    first: Sides, second: Sides, generator: np.random.Generator, images: int
) -> tuple[Sides, Sides]:
    rows = [generator.integers(side.size, size=images) for side in first]
    return (first[0][rows[0]], first[1][rows[1]]), (second[0][rows[0]], second[1][rows[1]])


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--replicates", type=int, default=1_000)
    main(parser.parse_args().replicates)
