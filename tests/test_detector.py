"""NNGuide against pytorch-ood's, straight loops, hand-computed cases and the method's own invariances."""

import doctest
import gc
import inspect
import pickle
import re
import subprocess
import sys
import warnings
import weakref
from collections.abc import Iterator
from dataclasses import fields, replace
from pathlib import Path
from typing import Any

import hypothesis.strategies as st
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from torch import Tensor, nn

from nnguide_core import detector as detector_module
from nnguide_core.detector import NNGuide
from nnguide_core.errors import (
    BankMismatchError,
    ModelNotSetException,
    NNGuideWarning,
    RequiresFittingException,
)
from nnguide_core.scoring import energy, unit_features
from nnguide_core.search import topk
from tests import reference

WIDTH, CLASSES = 24, 5


@pytest.fixture(autouse=True)
def _no_unexpected_warning() -> Iterator[None]:
    with warnings.catch_warnings():
        warnings.simplefilter("error", NNGuideWarning)
        yield


def linear(width: int = WIDTH, classes: int = CLASSES, seed: int = 1, raised: float = 3.0) -> nn.Linear:
    """Return a head whose energies are above 0 on the features made here."""
    generator = torch.Generator().manual_seed(seed)
    head = nn.Linear(width, classes).requires_grad_(False)
    head.weight.copy_(0.5 * torch.randn(classes, width, generator=generator) / width**0.5)
    head.bias.copy_(torch.randn(classes, generator=generator) + raised)
    return head


def normal(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    return torch.randn(count, width, generator=torch.Generator().manual_seed(seed))


def clustered(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Return features as after a ReLU: a few directions, many zeros, some rows twice."""
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(4, width, generator=torch.Generator().manual_seed(99))
    picks = torch.randint(4, (count,), generator=generator)
    z = (centres[picks] + 0.3 * torch.randn(count, width, generator=generator)).relu()
    z[1::10] = z[::10][: len(z[1::10])]
    return z


def far(count: int, width: int = WIDTH, seed: int = 0) -> Tensor:
    """Return features of very different lengths."""
    lengths = 10.0 ** torch.linspace(-4, 1, count)
    return normal(count, width, seed) * lengths[:, None]


def fitted(k: int = 10, scoring: Any = "paper", count: int = 60, **how: Any) -> NNGuide:
    return NNGuide(None, linear(), k, scoring, **how).fit_features(normal(count))


def assert_same_scores(ours: Tensor, theirs: Tensor) -> None:
    """Each score within 1e-6 of its own size, or within 3e-7 where similarities of about 1 cancel."""
    assert ours.dtype == torch.float32
    torch.testing.assert_close(ours, theirs.float(), rtol=1e-6, atol=3e-7)


def assert_same_to_rounding(ours: Tensor, theirs: Tensor) -> None:
    """Each score within 2e-6 of the largest: a score near 0 is a difference of large numbers."""
    torch.testing.assert_close(ours, theirs, rtol=2e-6, atol=2e-6 * float(theirs.abs().max()))


# The paper's scoring, as in pytorch-ood 0.4.0


@pytest.mark.parametrize("data", [normal, clustered, far])
@pytest.mark.parametrize("k", [1, 3, 10, 80])
@pytest.mark.parametrize("as_module", [True, False], ids=["Linear", "lambda"])
def test_scores_are_those_of_pytorch_ood(data: Any, k: int, as_module: bool) -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    head = linear()
    call = head if as_module else lambda z: z @ head.weight.T + head.bias
    z, labels, queries = data(100), torch.arange(100) % 5 - 1, data(40, seed=7)
    ours = NNGuide(None, call, k).fit_features(z, labels)
    theirs = Theirs(None, call, k).fit_features(z, labels)
    assert_same_scores(ours.predict_features(queries), theirs.predict_features(queries))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_scores_are_those_of_pytorch_ood_when_fitted_in_another_precision(dtype: torch.dtype) -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    z, queries = clustered(100).to(dtype), clustered(40, seed=7)
    labels = torch.zeros(100, dtype=torch.int64)
    ours = NNGuide(None, linear()).fit_features(z, labels)
    theirs = Theirs(None, linear()).fit_features(z, labels)
    assert_same_scores(ours.predict_features(queries), theirs.predict_features(queries))


@pytest.mark.parametrize("batch_size", [1, 7, 1000])
def test_scores_are_those_of_pytorch_ood_for_every_batch_size(batch_size: int) -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    z, queries, labels = clustered(100), clustered(30, seed=7), torch.zeros(100)
    ours = NNGuide(None, linear()).fit_features(z, labels, batch_size=batch_size)
    theirs = Theirs(None, linear()).fit_features(z, labels, batch_size=batch_size)
    assert_same_scores(
        ours.predict_features(queries, batch_size=batch_size),
        theirs.predict_features(queries, batch_size=batch_size),
    )


@pytest.mark.parametrize("flatten_in_encoder", [True, False])
def test_scores_from_images_are_those_of_pytorch_ood(flatten_in_encoder: bool) -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    generator = torch.Generator().manual_seed(0)
    encoder = nn.Sequential(nn.Conv2d(3, WIDTH, 2), nn.ReLU(), nn.Flatten())
    images, labels = torch.randn(50, 3, 2, 2, generator=generator), torch.arange(50) % 4 - 1
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=8)
    theirs = Theirs(encoder, linear()).fit(loader)
    ours = NNGuide(encoder if flatten_in_encoder else encoder[:2], linear()).fit(loader)
    assert_same_scores(ours(images), theirs(images))
    assert ours.bank is not None
    assert ours.bank.size == int((labels >= 0).sum())


def test_scores_are_those_of_straight_loops() -> None:
    z, queries, head = clustered(40), clustered(20, seed=7), linear()
    scores = NNGuide(None, head, 6).fit_features(z).predict_features(queries)
    expected = reference.nnguide_paper(*as_lists(z, queries, head), 6)
    assert scores.tolist() == pytest.approx(expected, rel=1e-5)


def as_lists(z: Tensor, queries: Tensor, head: nn.Linear) -> tuple[Any, Any, Any, Any]:
    energies = [
        [
            reference.log_sum_exp(row)
            for row in (part.double() @ head.weight.double().T + head.bias.double()).tolist()
        ]
        for part in (z, queries)
    ]
    return z.double().tolist(), energies[0], queries.double().tolist(), energies[1]


@pytest.mark.parametrize("name", ["__init__", "fit", "fit_features", "predict", "predict_features"])
def test_every_call_to_pytorch_ood_is_a_call_to_this(name: str) -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    theirs = inspect.signature(getattr(Theirs, name)).parameters
    ours = inspect.signature(getattr(NNGuide, name)).parameters
    assert list(ours)[: len(theirs)] == list(theirs)
    assert {key: ours[key].default for key in theirs if key != "labels"} == {
        key: theirs[key].default for key in theirs if key != "labels"
    }


def test_everything_public_of_pytorch_ood_is_here_but_its_metadata() -> None:
    from pytorch_ood.detector import NNGuide as Theirs

    public = {name for name in dir(Theirs) if not name.startswith("_")}
    assert public - set(dir(NNGuide)) == {"info"}
    assert NNGuide.requires_fit is Theirs.requires_fit is True


def test_pytorch_oods_grid_search_runs_on_this_detector() -> None:
    from pytorch_ood.utils import GridSearch

    images, labels = normal(60), torch.arange(60) % 3 - 1
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=20)
    detector = NNGuide(nn.Identity(), linear())
    best = GridSearch(detector, loader, loader, hyperparameter_space={"k": [1, 5, 10]}).run()
    assert detector.k == best["k"]
    assert NNGuide.hyperparameter_space == {}


def test_the_grid_search_measures_the_settings_that_it_names() -> None:
    from pytorch_ood.utils import GridSearch

    images, labels = clustered(60), torch.arange(60) % 3 - 1
    loader = torch.utils.data.DataLoader(torch.utils.data.TensorDataset(images, labels), batch_size=20)
    space = {"scoring": ["paper", "cosine"], "react_percentile": [None, 60.0], "fraction": [1.0, 0.5]}
    search = GridSearch(NNGuide(nn.Identity(), linear(), 3), loader, loader, hyperparameter_space=space)
    search.run()
    known = labels >= 0
    for each in search.results_:
        plain = NNGuide(nn.Identity(), linear(), 3, **each["params"]).fit_features(images[known])
        scores = plain.predict_features(images)
        wins = (scores[~known][:, None] > scores[known]).double() + 0.5 * (
            scores[~known][:, None] == scores[known]
        )
        assert each["score"] == pytest.approx(float(wins.mean()), abs=1e-6)
    assert len({each["score"] for each in search.results_}) > 2


def test_a_setting_that_changes_needs_a_new_fit_and_k_does_not() -> None:
    detector = NNGuide(None, linear(), 3).fit_features(normal(20))
    detector.hyperparameter_space = {"k": [], "react_percentile": [], "fraction": []}
    before = detector.predict_features(normal(4))
    detector.set_hyperparameters(k=2, fraction=1.0)
    assert not torch.equal(detector.predict_features(normal(4)), before)
    detector.set_hyperparameters(react_percentile=80.0)
    assert detector.get_hyperparameters() == {"k": 2, "react_percentile": 80.0, "fraction": 1.0}
    with pytest.raises(RequiresFittingException):
        detector.predict_features(normal(4))
    expected = NNGuide(None, linear(), 2, react_percentile=80.0).fit_features(normal(20))
    detector.fit_features(normal(20))
    assert torch.equal(detector.predict_features(normal(4)), expected.predict_features(normal(4)))
    with pytest.raises(ValueError, match=r"in \(0, 1\], got 2"):
        detector.set_hyperparameters(k=1, fraction=2)
    assert detector.get_hyperparameters() == {"k": 2, "react_percentile": 80.0, "fraction": 1.0}


class Trained(nn.Module):
    """An encoder as training leaves it."""

    def __init__(self, *layers: nn.Module) -> None:
        super().__init__()
        self.layers = nn.Sequential(*layers)

    def forward(self, images: Tensor) -> Tensor:
        return self.layers(images)


@pytest.mark.parametrize(
    "encoder",
    [
        nn.Sequential(nn.BatchNorm1d(WIDTH), nn.ReLU()),
        nn.Sequential(nn.Identity(), nn.Dropout(0.1)),
        Trained(nn.Identity()).forward,
    ],
)
def test_an_encoder_in_training_mode_is_told_once_per_call_by_its_name(encoder: Any) -> None:
    detector = NNGuide(encoder, linear(), 3)
    batches = [normal(10, seed=seed) for seed in range(3)]
    name = type(getattr(encoder, "__self__", encoder)).__name__
    told = rf"The encoder \({name}\) is in training mode: .* Call eval\(\) on the encoder and fit again\."
    for call in (
        lambda: detector.fit(batches),
        lambda: detector.predict(normal(4)),
        lambda: detector(normal(4)),
    ):
        with warnings.catch_warnings(record=True) as caught:
            warnings.simplefilter("always")
            call()
        assert len(caught) == 1
        assert re.fullmatch(told, str(caught[0].message))
        assert caught[0].filename == __file__


def test_a_head_in_training_mode_is_told_and_plain_layers_have_no_mode() -> None:
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(WIDTH, WIDTH), nn.ReLU())
    assert encoder.training
    NNGuide(encoder, linear(), 3).fit([normal(10)])
    with pytest.warns(NNGuideWarning, match=r"The head \(Sequential\) is in training mode"):
        detector = NNGuide(encoder, nn.Sequential(nn.Dropout(0.5), linear()), 3).fit([normal(10)])
    assert isinstance(detector.head, nn.Module)
    detector.head.eval()
    detector(normal(4))


def test_a_bank_is_encoded_once_and_let_go_with_the_detectors_next_fit(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    encoded: list[int] = []
    encode = topk.Engine.encode

    def counted(engine: topk.Engine, rows: Any, *arguments: Any) -> Any:
        encoded.append(rows.size)
        return encode(engine, rows, *arguments)

    monkeypatch.setattr(topk.Engine, "encode", counted)
    z = normal(4200, width=512)  # smaller banks are searched as they are
    detector = NNGuide(None, None, 3).fit_features(z, energies=torch.ones(4200))
    first = detector.predict_features(z[:12], energies=torch.ones(12), batch_size=6)
    again = detector.predict_features(z[:12], energies=torch.ones(12))
    assert torch.equal(first, again)
    assert encoded == [4200]
    assert detector.bank is not None
    assert "prepared" in vars(detector.bank)
    assert "prepared" not in vars(pickle.loads(pickle.dumps(detector.bank)))  # noqa: S301 - made here
    held = weakref.ref(detector.bank.prepared)
    detector.fit_features(z[:20], energies=torch.ones(20))
    gc.collect()
    assert held() is None


def test_only_named_hyperparameters_can_be_set() -> None:
    detector = NNGuide(None, linear())
    detector.hyperparameter_space = {"k": [1, 2]}
    assert detector.set_hyperparameters(k=2) is detector
    assert detector.get_hyperparameters() == {"k": 2}
    with pytest.raises(ValueError, match=r"no hyperparameter 'head' to search. Known: k"):
        detector.set_hyperparameters(head=None)
    detector.hyperparameter_space = {"k": [1, 2], "temperature": [1.0]}
    with pytest.raises(ValueError, match=r"no hyperparameter 'temperature' .* It can name k, fraction, seed"):
        detector.set_hyperparameters(temperature=1.0)


# The cosine scoring, as in pytorch-ood 0.3.2


@pytest.mark.parametrize("data", [normal, clustered])
@pytest.mark.parametrize("k", [1, 4, 40])
@pytest.mark.parametrize("raised", [3.0, -1.6, -4.0], ids=["positive", "mixed", "negative"])
def test_cosine_scores_are_those_of_pytorch_ood_0_3_2(data: Any, k: int, raised: float) -> None:
    z, queries, head = data(40), data(20, seed=7), linear(raised=raised)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NNGuideWarning)
        scores = NNGuide(None, head, k, "cosine").fit_features(z).predict_features(queries)
    expected = reference.nnguide_cosine(*as_lists(z, queries, head), k)
    assert scores.tolist() == pytest.approx(expected, rel=1e-5, abs=1e-5)


# Hand-computed cases


@pytest.mark.parametrize(
    ("scoring", "k", "confidence"),
    [
        ("paper", 1, 8.546316),
        ("paper", 2, 5.669765),
        ("paper", 3, 3.779843),
        ("cosine", 1, 2.126928),
        ("cosine", 2, 2.126928),
        ("cosine", 3, 1.417952),
    ],
)
def test_the_hand_computed_case_with_a_head(scoring: Any, k: int, confidence: float) -> None:
    weight = torch.tensor([[1.0, 0.0], [0.0, 0.0]])
    detector = NNGuide(None, lambda z: z @ weight.T, k, scoring)
    detector.fit_features(torch.tensor([[1.0, 0.0], [4.0, 0.0], [0.0, 1.0]]), torch.tensor([0, 0, 1]))
    assert detector.predict_features(torch.tensor([[2.0, 0.0]])).item() == pytest.approx(
        -confidence, rel=1e-6
    )


@pytest.mark.parametrize(
    ("scoring", "confidences"),
    [("paper", (24.0, 22.0, 44 / 3)), ("cosine", (4.0, 3.2, 32 / 15))],
)
def test_the_hand_computed_case_with_energies(scoring: Any, confidences: tuple[float, ...]) -> None:
    bank = torch.tensor([[3.0, 4.0], [1.0, 0.0], [0.0, 2.0]])
    detector = NNGuide(None, None, 3, scoring).fit_features(bank, energies=torch.tensor([10.0, 5.0, 2.0]))
    found = detector.neighbors_features(torch.tensor([[2.0, 0.0]]), energies=torch.tensor([4.0]))
    assert [-found.score_at(k).item() for k in (1, 2, 3)] == pytest.approx(confidences, rel=1e-6)
    first, second = ([0, 1, 2], [0.6, 1.0, 0.0]) if scoring == "paper" else ([1, 0, 2], [1.0, 0.6, 0.0])
    assert found.indices.tolist() == [first]
    assert found.cosines.tolist() == [pytest.approx(second)]


def test_the_hand_computed_case_with_negative_energies_warns() -> None:
    detector = NNGuide(None, None, 2)
    with pytest.warns(NNGuideWarning, match=r"2 of 2 bank images have an energy of 0 or less \(lowest -2\)"):
        detector.fit_features(torch.eye(2), energies=torch.tensor([-2.0, -2.0]))
    with pytest.warns(NNGuideWarning, match=r"1 of 1 queries have an energy of 0 or less \(lowest -3\)"):
        found = detector.neighbors_features(torch.tensor([[1.0, 0.0]]), energies=torch.tensor([-3.0]))
    assert [-found.score_at(k).item() for k in (1, 2)] == [0.0, 3.0]


# Invariances

counts = st.integers(2, 30)
seeds = st.integers(0, 2**16)
factors = st.floats(0.01, 100.0)
steady = settings(deadline=None, max_examples=25)


def scores_of(z: Tensor, logits: Tensor, queries: Tensor, query_logits: Tensor, k: int) -> Tensor:
    detector = NNGuide(None, None, k).fit_features(z, logits=logits)
    return detector.predict_features(queries, logits=query_logits)


def drawn_case(count: int, seed: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    head = linear()
    z, queries = normal(count, seed=seed), normal(7, seed=seed + 1)
    return z, head(z), queries, head(queries)


@given(counts, seeds, factors)
@steady
def test_scaling_the_features_with_the_logits_fixed_changes_nothing(count: int, seed: int, by: float) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    before = scores_of(z, logits, queries, query_logits, 2)
    assert_same_to_rounding(scores_of(z * by, logits, queries * by, query_logits, 2), before)


@given(counts, seeds)
@steady
def test_permuting_or_rotating_bank_and_queries_together_changes_nothing(count: int, seed: int) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    before = scores_of(z, logits, queries, query_logits, 2)
    order = torch.randperm(WIDTH, generator=torch.Generator().manual_seed(seed))
    rotation = torch.linalg.qr(normal(WIDTH, seed=seed).double())[0]
    permuted = scores_of(z[:, order], logits, queries[:, order], query_logits, 2)
    rotated = scores_of(z.double() @ rotation, logits, queries.double() @ rotation, query_logits, 2)
    assert_same_to_rounding(permuted, before)
    assert_same_to_rounding(rotated, before)


@given(counts, seeds)
@steady
def test_permuting_the_bank_or_the_classes_changes_nothing(count: int, seed: int) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    before = scores_of(z, logits, queries, query_logits, 2)
    generator = torch.Generator().manual_seed(seed)
    rows, classes = torch.randperm(count, generator=generator), torch.randperm(CLASSES, generator=generator)
    assert_same_to_rounding(scores_of(z[rows], logits[rows], queries, query_logits, 2), before)
    assert_same_to_rounding(scores_of(z, logits[:, classes], queries, query_logits[:, classes], 2), before)


@given(counts, seeds, st.integers(1, 9))
@steady
def test_splitting_into_batches_changes_nothing(count: int, seed: int, size: int) -> None:
    z, queries, head = normal(count, seed=seed), normal(7, seed=seed + 1), linear()
    whole = NNGuide(None, head, 2).fit_features(z).neighbors_features(queries)
    split = (
        NNGuide(None, head, 2).fit_features(z, batch_size=size).neighbors_features(queries, batch_size=size)
    )
    assert torch.equal(split.indices, whole.indices)
    assert_same_to_rounding(split.score, whole.score)


@given(counts, seeds, st.integers(1, 4), st.integers(1, 2))
@steady
def test_a_bank_duplicated_m_times_with_m_times_the_neighbours_changes_nothing(
    count: int, seed: int, times: int, k: int
) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    before = scores_of(z, logits, queries, query_logits, k)
    many = scores_of(z.repeat(times, 1), logits.repeat(times, 1), queries, query_logits, k * times)
    assert_same_to_rounding(many, before)


@given(counts, seeds)
@steady
def test_all_of_the_bank_as_neighbours_gives_the_mean_over_the_bank(count: int, seed: int) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    mean = (unit_features(z) * energy(logits)[:, None]).double().mean(dim=0)
    expected = -(unit_features(queries).double() @ mean) * energy(query_logits)
    torch.testing.assert_close(
        scores_of(z, logits, queries, query_logits, count), expected.float(), rtol=1e-5, atol=1e-5
    )


@given(counts, seeds)
@steady
def test_guidance_never_rises_with_k(count: int, seed: int) -> None:
    z, logits, queries, query_logits = drawn_case(count, seed)
    found = NNGuide(None, None, count).fit_features(z, logits=logits)
    kept = found.neighbors_features(queries, logits=query_logits)
    assert (kept.similarities.diff(dim=1) <= 0).all()
    guidance = torch.stack([kept.guidance_at(k) for k in range(1, count + 1)], dim=1)
    assert (guidance.diff(dim=1) <= 1e-6 * guidance.abs().amax()).all()


def test_adding_a_constant_to_all_logits_changes_the_ranking() -> None:
    z, queries = torch.tensor([[1.0, 0.0], [0.6, 0.8]]), torch.tensor([[1.0, 0.0], [0.0, 1.0]])
    logits, query_logits = torch.tensor([[1.0], [9.0]]), torch.tensor([[1.0], [0.9]])
    before = scores_of(z, logits, queries, query_logits, 1)
    after = scores_of(z, logits + 100, queries, query_logits + 100, 1)
    assert before.argsort().tolist() != after.argsort().tolist()


# Where energies come from


def test_logits_energies_and_head_give_the_same_scores() -> None:
    z, queries, head = normal(30), normal(9, seed=1), linear()
    by_head = NNGuide(None, head).fit_features(z).predict_features(queries)
    by_logits = (
        NNGuide(None, None).fit_features(z, logits=head(z)).predict_features(queries, logits=head(queries))
    )
    energies = [head(part).logsumexp(dim=1) for part in (z, queries)]
    by_energies = NNGuide(None, None).fit_features(z, energies=energies[0])
    assert torch.equal(by_head, by_logits)
    assert torch.equal(by_head, by_energies.predict_features(queries, energies=energies[1]))


def test_the_energy_offset_is_added_to_bank_and_queries() -> None:
    z, queries, energies = normal(30), normal(9, seed=1), torch.linspace(1, 2, 30)
    shifted = NNGuide(None, None, energy_offset=5.0).fit_features(z, energies=energies)
    plain = NNGuide(None, None).fit_features(z, energies=energies + 5.0)
    query_energies = torch.linspace(2, 3, 9)
    assert_same_scores(
        shifted.predict_features(queries, energies=query_energies),
        plain.predict_features(queries, energies=query_energies + 5.0),
    )


def test_the_offset_that_a_warning_names_ends_the_warning() -> None:
    z, energies = normal(30), torch.linspace(-1.5, 2, 30)
    with pytest.warns(NNGuideWarning, match=r"set energy_offset above 1\.5"):
        NNGuide(None, None).fit_features(z, energies=energies)
    with pytest.warns(NNGuideWarning, match=r"set energy_offset above 1\.5"):
        NNGuide(None, None, energy_offset=1.0).fit_features(z, energies=energies)
    NNGuide(None, None, energy_offset=1.51).fit_features(z, energies=energies)


def test_react_is_a_plain_detector_on_clipped_features() -> None:
    z, queries, head = normal(80), normal(9, seed=1), linear()
    react = NNGuide(None, head, react_percentile=80.0).fit_features(z)
    assert react.bank is not None
    threshold = react.bank.react_threshold
    assert threshold is not None
    assert threshold == pytest.approx(float(z.double().flatten().quantile(0.8)), rel=1e-6)
    plain = NNGuide(None, head).fit_features(z.clamp(max=threshold))
    assert torch.equal(react.predict_features(queries), plain.predict_features(queries.clamp(max=threshold)))
    given = react.predict_features(queries, logits=head(queries))
    assert torch.equal(given, react.predict_features(queries))


def test_react_with_given_logits_and_no_head_is_refused() -> None:
    detector = NNGuide(None, None, react_percentile=95.0)
    with pytest.raises(ValueError, match="give the head, or turn ReAct off"):
        detector.fit_features(normal(20), logits=torch.ones(20, 2))


def test_the_bank_settings_reach_the_bank() -> None:
    labels = torch.arange(60) % 3
    how: dict[str, Any] = {"fraction": 0.5, "seed": 4, "draw": "stratified"}
    bank = NNGuide(None, linear(), **how).fit_features(normal(60), labels).bank
    assert bank is not None
    assert torch.bincount(bank.labels).tolist() == [10, 10, 10]
    assert (bank.settings.fraction, bank.settings.seed, bank.settings.draw) == (0.5, 4, "stratified")


@pytest.mark.parametrize(
    ("how", "message"),
    [
        ({"scoring": "dot"}, '"paper" or "cosine", got \'dot\''),
        ({"fraction": 0.0}, r"in \(0, 1\], got 0.0"),
        ({"react_percentile": 101.0}, r"in \(0, 100\], got 101.0"),
        ({"seed": -1}, "got -1"),
        ({"seed": "a"}, "seed must be a whole number, got 'a'"),
        ({"seed": 1.5}, "seed must be a whole number, got 1.5"),
        ({"seed": None}, "seed must be a whole number, got None"),
        ({"energy_offset": float("nan")}, "finite number, got nan"),
    ],
)
def test_settings_out_of_range_are_refused(how: dict[str, Any], message: str) -> None:
    with pytest.raises(ValueError, match=message):
        NNGuide(None, None, **how)


# Neighbours, and bank rows that count as absent


def test_a_similarity_is_the_cosine_times_the_energy_of_its_bank_image() -> None:
    detector, queries = fitted(k=20), normal(9, seed=1)
    found = detector.neighbors_features(queries)
    assert detector.bank is not None
    torch.testing.assert_close(found.cosines * detector.bank.energies[found.indices], found.similarities)
    cosines = torch.cosine_similarity(queries[:, None], normal(60)[found.indices], dim=2)
    torch.testing.assert_close(found.cosines, cosines)
    assert torch.equal(found.score, detector.predict_features(queries))


def test_no_cosine_is_rounded_above_1() -> None:
    z = normal(500)
    cosines = NNGuide(None, linear(), 1).fit_features(z).neighbors_features(z).cosines
    assert cosines.max() == 1.0


def test_more_neighbours_than_k_can_be_kept_and_hold_every_smaller_k() -> None:
    detector, queries = fitted(k=3), normal(9, seed=1)
    kept = detector.neighbors_features(queries, k=20)
    assert kept.k == 20
    torch.testing.assert_close(kept.score_at(3), detector.predict_features(queries))


def test_ties_are_neighbours_in_the_order_of_the_bank() -> None:
    z = torch.tensor([[0.0, 1.0], [2.0, 0.0], [1.0, 0.0], [4.0, 0.0]])
    detector = NNGuide(None, None, 3).fit_features(z, energies=torch.ones(4))
    assert detector.neighbors_features(
        torch.tensor([[1.0, 0.0]]), energies=torch.ones(1)
    ).indices.tolist() == [[1, 2, 3]]


def test_k_may_change_after_fitting() -> None:
    detector, queries = fitted(k=3), normal(9, seed=1)
    detector.k = 7
    assert torch.equal(detector.predict_features(queries), fitted(k=7).predict_features(queries))


def test_excluded_bank_images_count_as_absent_for_every_query() -> None:
    z, queries = normal(60), normal(9, seed=1)
    gone = torch.tensor([5, 17, 40])
    without = NNGuide(None, linear(), 10).fit_features(z[[row for row in range(60) if row not in gone]])
    detector = fitted()
    assert_same_scores(detector.predict_features(queries, exclude=gone), without.predict_features(queries))
    assert not torch.isin(detector.neighbors_features(queries, exclude=gone).indices, gone).any()
    assert detector.bank is not None
    assert detector.bank.size == 60


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
def test_excluding_images_is_a_fit_without_them_where_that_turns_the_mean_energy(scoring: Any) -> None:
    z, energies = normal(30).abs(), torch.linspace(0.1, 3.0, 30)
    energies[:5] = -20.0
    queries, ones = normal(9, seed=1).abs(), torch.ones(9)
    gone = torch.arange(5)
    with pytest.warns(NNGuideWarning, match="5 of 30 bank images have an energy of 0 or less"):
        whole = NNGuide(None, None, 4, scoring).fit_features(z, energies=energies)
    rest = NNGuide(None, None, 4, scoring).fit_features(z[5:], energies=energies[5:])
    found = whole.neighbors_features(queries, energies=ones, exclude=gone)
    expected = rest.neighbors_features(queries, energies=ones)
    assert torch.equal(found.indices, expected.indices + 5)
    assert_same_scores(found.score, expected.score)
    torch.testing.assert_close(found.cosines, expected.cosines)


@pytest.mark.parametrize("batch_size", [1, 4, 1000])
def test_a_bank_image_can_be_scored_without_its_own_row(batch_size: int) -> None:
    z, ids = normal(30), [f"image {row}" for row in range(30)]
    z[7], ids[7] = z[3], ids[3]
    detector = NNGuide(None, linear(), 5).fit_features(z, ids=ids)
    assert detector.bank is not None
    scores = detector.predict_features(z, batch_size, exclude=detector.bank.own_rows(ids))
    for row, own in enumerate(ids):
        others = torch.tensor([other != own for other in ids])
        alone = NNGuide(None, linear(), 5).fit_features(z[others]).predict_features(z[row : row + 1])
        assert_same_scores(scores[row : row + 1], alone)


@pytest.mark.parametrize("shape", [(8, 1), (10, 1), (1, 9, 1), ()])
def test_exclude_of_a_wrong_shape_is_refused(shape: tuple[int, ...]) -> None:
    with pytest.raises(ValueError, match=r"exclude must be \(rows,\) or \(9, rows\) for 9 queries, got"):
        fitted().predict_features(normal(9), exclude=torch.zeros(shape, dtype=torch.int64))


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (["a"], "exclude must hold bank rows as integers"),
        ([0.5], "exclude must hold bank rows as integers, got torch.float32"),
        ([[0], [1, 2]], "exclude must hold bank rows as integers"),
        (object(), "exclude must hold bank rows as integers"),
        ([60], "rows from 0 to 59 of a bank of 60, got 60 to 60"),
    ],
)
def test_what_cannot_be_excluded_is_refused(exclude: Any, message: str) -> None:
    with pytest.raises(ValueError, match=message):
        fitted().predict_features(normal(2), exclude=exclude)


def test_a_list_of_rows_is_excluded_like_a_tensor() -> None:
    rows: Any = [5, 17, 40]
    expected = fitted().predict_features(normal(9, seed=1), exclude=torch.tensor(rows))
    assert torch.equal(fitted().predict_features(normal(9, seed=1), exclude=rows), expected)


def test_excluding_all_but_fewer_than_k_is_refused() -> None:
    with pytest.raises(ValueError, match="9"):
        fitted(count=60).predict_features(normal(2), exclude=torch.arange(51))


# Edge cases


@pytest.mark.parametrize("k", [0, -3, 2.0, 1.5, "3", None, True])
def test_a_k_that_is_no_whole_number_from_1_is_refused_at_fit_with_both_numbers(k: Any) -> None:
    with pytest.raises(ValueError, match=r"from 1 to the 20 bank rows, got"):
        NNGuide(None, linear(), k).fit_features(normal(20))


def test_a_k_above_the_known_images_is_refused_at_fit_with_both_numbers() -> None:
    with pytest.raises(ValueError, match="k = 10 ID images, but has 9"):
        NNGuide(None, linear()).fit_features(normal(20), torch.arange(20) - 11)


def test_a_k_above_the_bank_is_refused_after_fitting_with_both_numbers() -> None:
    detector = fitted(count=20)
    detector.k = 21
    with pytest.raises(ValueError, match="k must be a whole number from 1 to the 20 bank rows, got 21"):
        detector.predict_features(normal(1))


def test_a_k_of_numpys_integers_is_a_whole_number() -> None:
    k: Any = np.int64(4)
    assert NNGuide(None, linear(), k).fit_features(normal(9)).neighbors_features(normal(1)).k == 4


def test_a_seed_of_numpys_integers_draws_and_is_saved_like_a_number(tmp_path: Path) -> None:
    seed: Any = np.int64(4)
    detector = fitted(fraction=0.5, seed=seed)
    detector.save(tmp_path / "detector.safetensors")
    assert NNGuide.load(tmp_path / "detector.safetensors").settings.seed == 4
    assert repr(detector.settings.seed) == "4"


def test_a_query_that_the_clip_leaves_nothing_of_is_reported() -> None:
    z = torch.zeros(40, WIDTH)
    z[:, 0] = torch.arange(40.0)
    with pytest.warns(NNGuideWarning, match="40 of 40 bank rows are all zero"):
        detector = NNGuide(None, linear(), 5, react_percentile=50.0).fit_features(z)
    queries = normal(3).abs()
    queries[1, 3] = -1.0
    with pytest.warns(NNGuideWarning, match=r"2 of 3 queries \(rows 0, 2\) have features that are all zero"):
        found = detector.neighbors_features(queries)
    assert found.zero_norm.tolist() == [True, False, True]
    assert found.score[found.zero_norm].tolist() == [0.0, 0.0]


def test_a_zero_norm_query_has_guidance_0_and_score_0_and_is_flagged() -> None:
    queries = normal(4, seed=1)
    queries[2] = 0.0
    with pytest.warns(NNGuideWarning, match=r"1 of 4 queries \(rows 2\) have features that are all zero"):
        found = fitted().neighbors_features(queries)
    assert found.zero_norm.tolist() == [False, False, True, False]
    assert (found.guidance[2].item(), found.score[2].item()) == (0.0, 0.0)
    assert found.finite.all()


def test_a_query_orthogonal_to_the_bank_is_not_taken_for_a_zero_norm_query() -> None:
    detector = NNGuide(None, None, 1).fit_features(torch.tensor([[1.0, 0.0]]), energies=torch.ones(1))
    found = detector.neighbors_features(torch.tensor([[0.0, 1.0]]), energies=torch.ones(1))
    assert (found.score.item(), found.zero_norm.item()) == (0.0, False)


def test_a_zero_norm_bank_image_guides_no_query_and_is_reported() -> None:
    z = normal(10)
    z[4] = 0.0
    with pytest.warns(NNGuideWarning, match="1 of 10 bank rows are all zero and guide no query"):
        detector = NNGuide(None, linear(), 10).fit_features(z)
    found = detector.neighbors_features(normal(3, seed=1))
    assert found.finite.all()
    assert (found.similarities[found.indices == 4] == 0).all()


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
def test_a_bank_image_whose_energy_is_0_has_no_direction_left(scoring: Any) -> None:
    detector = NNGuide(None, None, 2, scoring)
    with pytest.warns(NNGuideWarning):
        detector.fit_features(torch.eye(2), energies=torch.tensor([0.0, 3.0]))
    found = detector.neighbors_features(torch.tensor([[0.8, 0.6]]), energies=torch.ones(1))
    assert found.indices.tolist() == [[1, 0]]
    assert found.cosines.tolist() == [[pytest.approx(0.6), 0.0]]


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
@pytest.mark.parametrize("react", [None, 90.0])
@pytest.mark.parametrize("bad", [torch.nan, torch.inf, -torch.inf])
def test_a_query_that_is_no_number_has_a_nan_score_and_leaves_the_others_alone(
    scoring: Any, react: float | None, bad: float
) -> None:
    detector, queries = fitted(scoring=scoring, react_percentile=react), normal(6, seed=1)
    clean = detector.predict_features(queries)
    queries[4, 3] = bad
    with pytest.warns(NNGuideWarning, match=r"1 of 6 queries \(rows 4\) have NaN or infinity"):
        found = detector.neighbors_features(queries)
    assert found.finite.tolist() == [True] * 4 + [False, True]
    assert found.score[4].isnan()
    assert found.similarities[4].isnan().all()
    assert (found.indices == -1).any(dim=1).tolist() == [False] * 4 + [True, False]
    assert torch.equal(found.score[found.finite], clean[found.finite])


def test_a_query_whose_logits_are_no_numbers_has_a_nan_score() -> None:
    detector = NNGuide(None, None, 3).fit_features(normal(9), energies=torch.ones(9))
    with pytest.warns(NNGuideWarning, match=r"2 of 3 queries \(rows 0, 2\)"):
        found = detector.neighbors_features(normal(3), energies=torch.tensor([torch.nan, 1.0, torch.inf]))
    assert found.score.isnan().tolist() == [True, False, True]
    assert found.energy.isnan().tolist() == [True, False, True]
    assert found.similarities.isnan().all(dim=1).tolist() == [True, False, True]
    assert (found.indices == -1).all(dim=1).tolist() == [True, False, True]


def test_a_bank_image_that_is_no_number_is_refused() -> None:
    z = normal(20)
    z[11, 2] = torch.nan
    with pytest.raises(ValueError, match=r"1 of 20 bank images .* \(rows 11\)"):
        NNGuide(None, linear()).fit_features(z)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64])
def test_features_and_head_of_any_precision_are_computed_in_float32(dtype: torch.dtype) -> None:
    z, queries, head = normal(50).to(dtype), normal(9, seed=1).to(dtype), linear(raised=300.0).to(dtype)
    scores = NNGuide(None, head, 5).fit_features(z).predict_features(queries)
    wide = linear(raised=300.0).to(dtype).float()
    expected = NNGuide(None, wide, 5).fit_features(z.float()).predict_features(queries.float())
    assert scores.abs().max() > torch.finfo(torch.float16).max / 2
    assert_same_scores(scores, expected)


def test_queries_of_another_width_are_refused_with_both_numbers() -> None:
    with pytest.raises(BankMismatchError, match=r"queries have 7 features but the bank has 24"):
        fitted().predict_features(torch.ones(2, 7))


def test_queries_that_are_no_matrix_are_refused() -> None:
    with pytest.raises(
        ValueError, match=r"must be real and \(queries, features\), got torch.float32 \(24,\)"
    ):
        fitted().predict_features(torch.ones(WIDTH))


@pytest.mark.parametrize("batch_size", [0, -1])
def test_a_batch_size_below_1_is_refused(batch_size: int) -> None:
    with pytest.raises(ValueError, match=f"batch size must be at least 1, got {batch_size}"):
        fitted().predict_features(normal(2), batch_size)


def test_no_queries_have_no_scores() -> None:
    found = fitted().neighbors_features(torch.empty(0, WIDTH))
    assert found.score.shape == (0,)
    assert found.indices.shape == (0, 10)


def test_one_image_is_a_bank() -> None:
    detector = NNGuide(None, linear(), 1).fit_features(normal(1))
    assert detector.predict_features(normal(1)).item() == pytest.approx(
        -(energy(linear()(normal(1))).item() ** 2)
    )


def test_a_bank_of_identical_images_works() -> None:
    detector = NNGuide(None, linear(), 5).fit_features(normal(1).expand(20, WIDTH))
    assert detector.neighbors_features(normal(2, seed=1)).indices.tolist() == [[0, 1, 2, 3, 4]] * 2


def test_features_with_gradients_are_fine_and_scores_have_none() -> None:
    scores = (
        NNGuide(None, linear())
        .fit_features(normal(20).requires_grad_())
        .predict_features(normal(3, seed=1).requires_grad_())
    )
    assert not scores.requires_grad


@pytest.mark.parametrize("name", ["predict", "__call__", "predict_features", "neighbors_features"])
def test_a_warning_points_at_the_users_line(name: str) -> None:
    detector = NNGuide(nn.Identity(), linear()).fit_features(normal(20))
    with pytest.warns(NNGuideWarning) as caught:
        getattr(detector, name)(torch.zeros(1, WIDTH))
    assert caught[0].filename == __file__


# Errors, loaders, devices


def test_what_is_not_fitted_cannot_judge_or_be_saved(tmp_path: Path) -> None:
    detector = NNGuide(nn.Identity(), linear())
    for call in (detector, detector.predict_features, detector.neighbors_features):
        with pytest.raises(RequiresFittingException, match="call fit"):
            call(normal(1))
    with pytest.raises(RequiresFittingException):
        detector.save(tmp_path / "detector.safetensors")
    assert not list(tmp_path.iterdir())


def test_without_an_encoder_images_cannot_be_fitted_or_judged() -> None:
    with pytest.raises(ModelNotSetException, match=r"use fit_features\(\)"):
        NNGuide(None, linear()).fit([])
    with pytest.raises(ModelNotSetException, match=r"use predict_features\(\)"):
        NNGuide(None, linear()).predict(normal(1))
    with pytest.raises(ValueError, match="No encoder"):
        fitted()(normal(1))


def test_without_a_head_logits_or_energies_are_asked_for() -> None:
    detector = NNGuide(None, None, 1)
    with pytest.raises(ModelNotSetException, match="pass logits or energies"):
        detector.fit_features(normal(3))
    detector.fit_features(normal(3), energies=torch.ones(3))
    with pytest.raises(ModelNotSetException, match="pass logits or energies"):
        detector.predict_features(normal(3))


def test_pytorch_oods_exceptions_catch_ours_when_it_is_imported() -> None:
    from pytorch_ood import api

    with pytest.raises(api.RequiresFittingException) as not_fitted:
        NNGuide(None, linear()).predict_features(normal(1))
    assert isinstance(not_fitted.value, RequiresFittingException)
    with pytest.raises(api.ModelNotSetException) as no_encoder:
        NNGuide(None, linear()).predict(normal(1))
    assert isinstance(no_encoder.value, ModelNotSetException)
    for raised in (not_fitted.value, no_encoder.value):
        copy = pickle.loads(pickle.dumps(raised))  # noqa: S301 - our own bytes
        assert (type(copy).__module__, str(copy)) == ("nnguide_core.errors", str(raised))


def test_the_library_imports_no_more_than_torch() -> None:
    program = """
import sys
import nnguide_core
assert "torch" not in sys.modules
from nnguide_core import FeatureBank, NNGuide, Neighbors, NNGuideError, RequiresFittingException
heavy = {"torchvision", "pytorch_ood", "umap", "sklearn", "numba", "pandas", "streamlit", "plotly", "scipy"}
assert not heavy & set(sys.modules), heavy & set(sys.modules)
try:
    NNGuide(None, None).predict_features(None)
except RequiresFittingException as error:
    assert type(error) is RequiresFittingException
"""
    subprocess.run([sys.executable, "-c", program], check=True, cwd=Path(__file__).parents[1])


def test_the_package_offers_no_other_names() -> None:
    import nnguide_core

    assert dir(nnguide_core) == sorted(nnguide_core.__all__)
    with pytest.raises(AttributeError, match="no attribute 'Nonsense'"):
        nnguide_core.Nonsense  # noqa: B018


def test_a_loader_may_give_images_alone() -> None:
    images = normal(20)
    detector = NNGuide(lambda x: x, linear(), 5).fit([images[:12], images[12:]])
    assert torch.equal(
        detector(images), NNGuide(None, linear(), 5).fit_features(images).predict_features(images)
    )
    tupled = NNGuide(lambda x: x, linear(), 5).fit([(images[:12],), [images[12:]]])
    assert torch.equal(detector(images), tupled(images))


def test_images_of_a_loader_with_a_label_below_0_are_not_encoded() -> None:
    seen: list[int] = []

    def encoder(images: Tensor) -> Tensor:
        seen.append(len(images))
        return images

    detector = NNGuide(encoder, linear(), 3)
    detector.fit(
        [
            (normal(4), torch.tensor([0, -1, 2, -1])),
            (normal(2), torch.tensor([-1, -1])),
            (normal(3), torch.arange(3)),
        ]
    )
    assert seen == [2, 3]
    assert detector.bank is not None
    assert detector.bank.labels.tolist() == [0, 2, 0, 1, 2]


@pytest.mark.parametrize("batches", [[], [(torch.ones(2, WIDTH), torch.tensor([-1, -2]))]])
def test_a_loader_without_an_id_image_is_refused(batches: list[Any]) -> None:
    with pytest.raises(ValueError, match="no ID image"):
        NNGuide(nn.Identity(), linear()).fit(batches)


class _Recording(nn.Linear):
    """A head that knows where it was sent."""

    sent: list[torch.device]

    def to(self, *args: Any, **kwargs: Any) -> Any:
        self.__dict__.setdefault("sent", []).append(torch.device(args[0]))
        return super().to(*args, **kwargs)


def test_the_device_is_that_of_encoder_head_or_bank_or_what_was_asked_for() -> None:
    cpu = torch.device("cpu")
    assert NNGuide(None, None).device is None
    assert NNGuide(None, lambda z: z).to("cpu").device == cpu
    assert NNGuide(None, linear()).device == cpu
    assert NNGuide(None, linear().forward).device == cpu
    assert NNGuide(nn.Linear(2, 2), None).device == cpu
    assert NNGuide(nn.BatchNorm1d(2, affine=False), None).device == cpu
    assert NNGuide(None, lambda z: z, 1).fit_features(normal(3).abs()).device == cpu


@pytest.mark.parametrize("bound", [False, True], ids=["module", "bound method"])
def test_to_moves_encoder_head_and_bank(bound: bool) -> None:
    encoder, head = _Recording(WIDTH, WIDTH), _Recording(WIDTH, CLASSES)
    detector = NNGuide(encoder.forward if bound else encoder, head.forward if bound else head, 1)
    assert detector.to("cpu") is detector
    assert encoder.sent == head.sent == [torch.device("cpu")]
    detector.fit_features(normal(3), energies=torch.ones(3))
    before = detector.bank
    assert detector.to(torch.device("cpu")).bank is not before


def test_fit_moves_the_encoder_to_the_device_it_is_given() -> None:
    encoder = _Recording(WIDTH, WIDTH)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", NNGuideWarning)
        NNGuide(encoder, linear(), 1).fit([normal(3)], device="cpu")
    assert torch.device("cpu") in encoder.sent


def test_the_bank_follows_an_encoder_that_is_moved(cuda: torch.device, tmp_path: Path) -> None:
    encoder, head = nn.Linear(WIDTH, WIDTH).requires_grad_(False), linear()
    images = normal(30)
    detector = NNGuide(encoder, head, 5).fit_features(images)
    on_cpu = detector(images)
    detector.save(tmp_path / "detector.safetensors")
    encoder.to(cuda)
    assert torch.equal(detector(images), detector(images.to(cuda)).cpu())
    assert head.weight.device == detector.bank.rows.device == cuda  # type: ignore[union-attr]
    torch.testing.assert_close(detector(images), on_cpu, rtol=1e-4, atol=1e-4)
    loaded = NNGuide.load(tmp_path / "detector.safetensors", encoder, head)
    torch.testing.assert_close(loaded(images), detector(images))
    assert head.weight.device == cuda


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
def test_scores_on_cuda_are_those_of_the_cpu(scoring: Any, cuda: torch.device, tmp_path: Path) -> None:
    z, queries, encoder = normal(200), normal(20, seed=1), nn.Identity()
    how: dict[str, Any] = {"react_percentile": 90.0, "fraction": 0.5}
    on_cpu = NNGuide(encoder, linear(), 10, scoring, **how).fit_features(z)
    on_cuda = NNGuide(encoder, linear(), 10, scoring, **how).to(cuda).fit_features(z)
    scores = on_cuda.predict_features(queries.to(cuda))
    assert scores.device == on_cuda.device == cuda
    torch.testing.assert_close(scores.cpu(), on_cpu.predict_features(queries), rtol=1e-5, atol=1e-5)
    on_cuda.save(tmp_path / "detector.safetensors")
    loaded = NNGuide.load(tmp_path / "detector.safetensors", encoder)
    torch.testing.assert_close(loaded(queries), scores.cpu(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(loaded.to(cuda)(queries.to(cuda)), scores)


@pytest.mark.parametrize("scoring", ["paper", "cosine"])
@pytest.mark.parametrize("percentile", [None, 90.0])
def test_results_lie_where_the_queries_do(gpu: torch.device, scoring: Any, percentile: float | None) -> None:
    network = nn.Sequential(nn.Linear(WIDTH, WIDTH), nn.ReLU(), linear()).requires_grad_(False).eval()
    encoder, head, images = network[:2], network[2], normal(60)
    on_cpu = NNGuide(encoder, head, 5, scoring, react_percentile=percentile).fit([images])
    expected, there = on_cpu(images), images.to(gpu)
    network.to(gpu)
    detector = NNGuide(encoder, head, 5, scoring, react_percentile=percentile).fit([images])
    for queries in (images, there):
        scores = detector(queries)
        assert scores.device == queries.device
        torch.testing.assert_close(scores.cpu(), expected, rtol=1e-4, atol=1e-4)
        found = detector.neighbors_features(queries.abs(), exclude=torch.tensor([1, 2]))
        lie = {field.name: getattr(found, field.name).device for field in fields(found)}
        assert set(lie.values()) == {queries.device}
        assert found.score_at(3).device == found.shares.device == queries.device
    assert network(there).device.type == gpu.type  # encoder and head were not torn apart


def test_a_bank_on_the_cpu_is_searched_on_the_device_that_is_named(cuda: torch.device) -> None:
    z, queries = normal(300), normal(50, seed=1)
    expected = NNGuide(None, linear(), 10).fit_features(z).neighbors_features(queries)
    detector = NNGuide(None, linear(), 10).fit_features(z)
    detector.bank = replace(detector.bank, search_device=cuda)  # type: ignore[type-var]
    found = detector.neighbors_features(queries)
    assert detector.bank.rows.device == found.indices.device == torch.device("cpu")
    assert detector.bank.prepared.device == cuda
    assert torch.equal(found.indices, expected.indices)


def test_the_example_in_the_docstring_is_true() -> None:
    assert doctest.testmod(detector_module).failed == 0
    assert doctest.testmod(detector_module).attempted > 0


def test_a_detector_says_what_it_is() -> None:
    assert repr(NNGuide(None, None)) == "NNGuide(k=10, scoring='paper', not fitted)"
    assert repr(fitted(scoring="cosine")) == "NNGuide(k=10, scoring='cosine', 60 bank images)"
