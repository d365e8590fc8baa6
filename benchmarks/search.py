"""How fast the exact search is, against faiss, pytorch-ood and scikit-learn on the same arrays.

    python -m benchmarks.search [--only WORD] [--rounds N]

Ours includes encoding the bank unless a line says that it was prepared; the peers' indexes are built before.
Every line first checks that the peer finds the same rows.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import normalize

from benchmarks.table import Row, interleaved, markdown
from nnguide_core.search import prepare, topk, topk_inner_product
from nnguide_core.search.rows import BankRows, Excluded, Problem
from nnguide_core.search.scaling import magnitudes

__all__ = ["main", "rows"]

QUERIES, BANK, WIDTH, K = 4096, 50_000, 512, 10
CLASSES = 100
_PRODUCT_ROWS = 2048

Search = Callable[[], Tensor]  # gives the indices (Q, k), or scores (Q,)


@dataclass(frozen=True)
class Data:
    """Queries, and a bank of unit features times energies."""

    features: Tensor  # (Q, D), not normalised
    units: Tensor  # (N, D)
    energies: Tensor  # (N,)

    @property
    def queries(self) -> Tensor:
        """The unit features of the queries, (Q, D)."""
        return normalize(self.features, dim=1)

    @property
    def bank(self) -> Tensor:
        """The bank's rows, (N, D)."""
        return self.units * self.energies[:, None]


@dataclass(frozen=True)
class Line:
    """One line of the table: how the data are made, and what is compared on them."""

    name: str
    data: Callable[[], Data]
    ours: Callable[[Data], Search]
    peer: str
    theirs: Callable[[Data], Search]
    target: str = ""
    note: str = ""


def rows(rounds: int = 7, only: str = "") -> list[Row]:
    """Measure the lines whose name, peer or note holds the word."""
    torch.set_grad_enabled(False)
    return [_measure(line, rounds) for line in LINES if only in f"{line.name} {line.peer} {line.note}"]


def main() -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description="How fast the exact search is.")
    parser.add_argument("--only", default="", help="measure the lines that hold this word")
    parser.add_argument("--rounds", type=int, default=7)
    options = parser.parse_args()
    print(markdown(rows(options.rounds, options.only)))


def scattered(queries: int = QUERIES, bank: int = BANK, width: int = WIDTH) -> Data:
    """Return random directions with energies from 5 to 10: many rows are almost as near as the nearest."""
    rng = torch.Generator().manual_seed(1)
    units = normalize(torch.randn(bank, width, generator=rng), dim=1)
    return Data(torch.randn(queries, width, generator=rng), units, 5 + 5 * torch.rand(bank, generator=rng))


def clustered(queries: int = QUERIES, bank: int = BANK, width: int = WIDTH) -> Data:
    """Return what a network gives: features around class means, none below zero, and energies to match."""
    rng = torch.Generator().manual_seed(2)
    means = torch.randn(CLASSES, width, generator=rng).relu()

    def draw(count: int) -> Tensor:
        classes = torch.randint(0, CLASSES, (count,), generator=rng)
        strength = 1 + 0.25 * torch.randn(count, 1, generator=rng)
        return (means[classes] * strength + 0.4 * torch.randn(count, width, generator=rng)).relu()

    features = draw(bank)
    energies = (features @ means.T / means.norm(dim=1)).logsumexp(dim=1)
    return Data(draw(queries), normalize(features, dim=1), energies)


def one_small() -> Data:
    """Return a single query and a small bank."""
    return scattered(1, 2000, 128)


def one_query() -> Data:
    """Return a single query and the usual bank."""
    return scattered(1)


def _measure(line: Line, rounds: int) -> Row:
    data = line.data()
    ours, theirs = line.ours(data), line.theirs(data)
    _refuse_disagreement(ours(), theirs())
    timing = interleaved(ours, theirs, rounds)
    size = f"{len(data.features):,} × {len(data.units):,} × {data.units.shape[1]}, k = {K}"
    return timing.row(line.name, size, line.peer, line.target, line.note)


def _refuse_disagreement(ours: Tensor, theirs: Tensor) -> None:
    """Raise where results differ by more than ties within float32's rounding explain."""
    if ours.is_floating_point():
        same = torch.isclose(ours, theirs, rtol=1e-5).float().mean()
    else:
        same = (ours == theirs).float().mean()
    if same < 0.999:
        raise RuntimeError(f"Only {float(same):.4%} of the results agree.")


def _search(data: Data) -> Search:
    queries, bank = data.queries, data.bank
    return lambda: topk_inner_product(queries, bank, K).indices


def _search_prepared(data: Data) -> Search:
    queries, bank = data.queries, prepare(data.bank)
    return lambda: topk_inner_product(queries, bank, K).indices


def _search_float32(data: Data) -> Search:
    queries, bank = data.queries, data.bank
    precise = topk.engines(torch.device("cpu"), WIDTH)[-1:]

    def search() -> Tensor:
        excluded = Excluded.checked(None, len(queries), len(bank), K)
        problem = Problem(queries, magnitudes(queries), BankRows(bank), K, excluded, 2**30)
        return topk.search(problem, precise, {}).indices

    return search


def _search_cosine(data: Data) -> Search:
    queries, units = data.queries, data.units
    return lambda: topk_inner_product(queries, units, K).indices


def _score(data: Data) -> Search:
    head, bank, features = _head(data), data.bank, data.features

    def score() -> Tensor:
        found = topk_inner_product(normalize(features, dim=1), bank, K)
        energy: Tensor = head(features).logsumexp(dim=1)
        return -found.values.mean(dim=1) * energy

    return score


def _product(data: Data) -> Search:
    """Return what multiplies in float32, block by block, and selects nothing: it answers what is known."""
    queries, bank, found = data.queries, data.bank, _search(data)()
    out = torch.empty(len(queries), _PRODUCT_ROWS)

    def multiply() -> Tensor:
        for start in range(0, len(bank), _PRODUCT_ROWS):
            rows = bank[start : start + _PRODUCT_ROWS]
            torch.mm(queries, rows.T, out=out[:, : len(rows)])
        return found

    return multiply


def _faiss(data: Data) -> Search:
    return _faiss_over(data.queries, data.bank)


def _faiss_cosine(data: Data) -> Search:
    return _faiss_over(data.queries, data.units)


def _faiss_over(queries: Tensor, bank: Tensor) -> Search:
    import faiss

    index = faiss.IndexFlatIP(bank.shape[1])
    index.add(bank.numpy())
    return lambda: torch.from_numpy(index.search(queries.numpy(), K)[1])


def _pytorch_ood(data: Data) -> Search:
    from pytorch_ood.detector import NNGuide

    detector = NNGuide(None, _head(data), k=K)
    detector._scaled_features = data.bank  # what fit_features would make of features with these energies
    return lambda: detector.predict_features(data.features)


def _sklearn(data: Data) -> Search:
    from sklearn.neighbors import NearestNeighbors

    index = NearestNeighbors(n_neighbors=K, metric="cosine").fit(data.units.numpy())
    queries = data.queries.numpy()
    return lambda: torch.from_numpy(index.kneighbors(queries, return_distance=False).astype(np.int64))


def _head(data: Data) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(data.units.shape[1], CLASSES).requires_grad_(False)


LINES = (
    Line("search", scattered, _search, "faiss-cpu IndexFlatIP", _faiss, "≥ 4×", "bank encoded inside"),
    Line(
        "search", scattered, _search_prepared, "faiss-cpu IndexFlatIP", _faiss, "≥ 4×", "bank prepared before"
    ),
    Line(
        "search", clustered, _search, "faiss-cpu IndexFlatIP", _faiss, "≥ 4×", "class clusters with energies"
    ),
    Line(
        "search",
        clustered,
        _search_cosine,
        "faiss-cpu IndexFlatIP",
        _faiss_cosine,
        "",
        "class clusters, cosine",
    ),
    Line(
        "search", scattered, _search_float32, "faiss-cpu IndexFlatIP", _faiss, "≥ 2×", "float32 products only"
    ),
    Line("search", scattered, _search, "the float32 product alone", _product, "", "no selection: the limit"),
    Line(
        "score", scattered, _score, "pytorch-ood 0.4.0 NNGuide", _pytorch_ood, "≥ 6×", "bank encoded inside"
    ),
    Line("search", scattered, _search_cosine, "scikit-learn NearestNeighbors", _sklearn, "≥ 20×", "cosine"),
    Line("search", one_query, _search, "faiss-cpu IndexFlatIP", _faiss, "", "one query, bank not prepared"),
    Line("search", one_small, _search, "faiss-cpu IndexFlatIP", _faiss, "", "one query, small bank"),
)

if __name__ == "__main__":
    main()
