"""Every k at once: AUROC and both FPRs for 1,000 k at 60,000 scores, against scikit-learn asked k by k.

python -m benchmarks.sweep [--rounds N]
"""

import argparse

import numpy as np
import torch
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

from benchmarks.table import Row, Timing, interleaved, markdown
from nnguide_core.sweep import Similarities, over_k, scores_over_k

__all__ = ["rows"]

QUERIES = 30_000  # on each side
K_MAX = 1_000
SAMPLED = 20  # how many k the peer is asked for; it does the same work for each


def rows(rounds: int = 5) -> list[Row]:
    """Return the table's line."""
    inside, outside = _side(0, 0.2), _side(1, 0.0)
    asked = np.linspace(1, K_MAX, SAMPLED).round().astype(np.int64)
    table = np.concatenate([scores_over_k(inside, asked), scores_over_k(outside, asked)], axis=1)
    truth = np.repeat([0, 1], QUERIES)
    _check_equal(inside, outside, asked, [_sklearn(truth, scores) for scores in table])
    timing = interleaved(
        lambda: over_k(inside, outside), lambda: [_sklearn(truth, scores) for scores in table], rounds
    )
    whole = Timing(timing.ours, tuple(seconds * K_MAX / SAMPLED for seconds in timing.peer))
    return [
        whole.row(
            "AUROC and both FPRs for every k",
            f"{2 * QUERIES:,} scores, k ≤ {K_MAX:,}",
            "scikit-learn per k",
            target="≥ 20×",
            note=f"scikit-learn timed at {SAMPLED} k, given the scores; ours starts from the similarities",
        )
    ]


def _side(seed: int, shift: float) -> Similarities:
    generator = torch.Generator().manual_seed(seed)
    similarities = torch.randn(QUERIES, K_MAX, generator=generator) + shift
    energy = 5 + torch.rand(QUERIES, generator=generator)
    return Similarities(similarities.sort(dim=1, descending=True).values, energy)


def _sklearn(truth: NDArray[np.int64], scores: NDArray[np.float32]) -> tuple[float, float, float]:
    alarms, caught, _ = roc_curve(truth, scores, drop_intermediate=False)
    missed, kept, _ = roc_curve(1 - truth, -scores, drop_intermediate=False)
    area = roc_auc_score(truth, scores)
    return area, alarms[(caught >= 0.95).argmax()], missed[(kept >= 0.95).argmax()]


def _check_equal(
    inside: Similarities,
    outside: Similarities,
    asked: NDArray[np.int64],
    expected: list[tuple[float, float, float]],
) -> None:
    found = over_k(inside, outside, asked.tolist())
    columns = np.stack([found.auroc, found.id_flagged_at_ood_caught, found.ood_passed_at_id_kept], axis=1)
    np.testing.assert_allclose(columns, expected, rtol=0, atol=1e-9)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--rounds", type=int, default=5)
    print(markdown(rows(parser.parse_args().rounds)))
