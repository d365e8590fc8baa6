"""The search: exact whatever the bank, the engine and the block, and clear about what it refuses."""

import subprocess
import sys
import threading
from dataclasses import dataclass, replace
from unittest import mock

import faiss
import numpy as np
import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from nnguide_core.errors import BankMismatchError
from nnguide_core.search import TopK, compiled, exact, grouped, prepare, products, topk, topk_inner_product
from nnguide_core.search.rows import BankRows, Excluded, Problem
from nnguide_core.search.scaling import exponents, magnitudes, power_of_two, scaled
from nnguide_core.search.threads import run_all
from nnguide_core.search.topk import Engine
from tests import reference

INT8 = Engine(torch.int8, compiled=True)
ENGINES = [
    INT8,
    Engine(torch.float32, compiled=True),
    Engine(torch.float16, compiled=False),
    Engine(torch.bfloat16, compiled=False),
    Engine(torch.float32, compiled=False),
    Engine(torch.float64, compiled=False),
]
COMPILED = [engine for engine in ENGINES if engine.compiled]
GROUPED = [engine for engine in ENGINES if not engine.compiled]
PLENTY = 2**28
CPU = torch.device("cpu")


@dataclass(frozen=True)
class Case:
    """A search whose answer is hard to get right."""

    queries: np.ndarray
    bank: np.ndarray
    k: int
    exclude: Tensor | None = None
    absent: list[set[int]] | None = None


@pytest.fixture
def rng() -> np.random.Generator:
    return np.random.default_rng(20240817)


@pytest.fixture
def nothing_small(monkeypatch):
    """Every search is worth encoding."""
    monkeypatch.setattr(topk, "_SMALL_BANK", -1)
    monkeypatch.setattr(topk, "_FEW_QUERIES", 0)


def features(rng: np.random.Generator, count: int, width: int) -> np.ndarray:
    """Return rows like a bank's: around a few directions, none below zero, of lengths from 5 to 20."""
    centres = rng.normal(size=(7, width)).clip(0)
    rows = (centres[rng.integers(0, 7, count)] + 0.3 * rng.normal(size=(count, width))).clip(0)
    lengths = rng.uniform(5, 20, size=(count, 1))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True) * lengths).astype(np.float32)


@st.composite
def hard_cases(draw: st.DrawFn) -> Case:
    """Banks with near-ties, duplicates, huge and tiny rows, outliers, zeros and signs, and rows left out."""
    rng = np.random.default_rng(draw(st.integers(0, 2**32 - 1)))
    count, width = draw(st.sampled_from([1, 5, 127, 128, 129, 400])), draw(st.sampled_from([1, 2, 7, 16, 40]))
    distinct = draw(st.sampled_from([1, 3, count, count]))
    bank = rng.normal(size=(distinct, width))[rng.integers(0, distinct, count)]
    bank = np.where(rng.random(bank.shape) < draw(st.sampled_from([0, 0, 0.7])), 0, bank)
    if draw(st.booleans()):
        bank = rng.normal(size=width) + bank * draw(st.sampled_from([1e-7, 1e-4, 1e-2]))
    if draw(st.booleans()):
        bank = bank * rng.choice([-1.0, 1.0], size=(count, 1))
    if draw(st.booleans()):
        bank[:, 0] *= 100
    spread = draw(st.sampled_from([0, 0, 1, 8, 30]))
    bank = bank * 10.0 ** rng.uniform(-spread, spread, size=(count, 1))
    bank = (bank * 10.0 ** draw(st.sampled_from([0, 0, -42, -25, 7]))).clip(-3e38, 3e38).astype(np.float32)
    queries = rng.normal(size=(draw(st.integers(1, 6)), width))
    queries[:1] = bank[rng.integers(count)] if draw(st.booleans()) else queries[:1]
    queries = (queries * 10.0 ** draw(st.sampled_from([0, 0, -30, 6]))).clip(-3e38, 3e38).astype(np.float32)
    exclude, absent = draw_excluded(draw, rng, len(queries), count)
    remaining = count - max(map(len, absent)) if absent else count
    return Case(queries, bank, draw(st.integers(1, max(1, remaining))), exclude, absent)


def draw_excluded(
    draw: st.DrawFn, rng: np.random.Generator, queries: int, count: int
) -> tuple[Tensor | None, list[set[int]] | None]:
    kind = draw(st.sampled_from(["none", "none", "same", "own"])) if count > 4 else "none"
    if kind == "none":
        return None, None
    if kind == "same":
        exclude = rng.integers(0, count, size=count // 2)
        return torch.from_numpy(exclude), [set(exclude.tolist())] * queries
    exclude = rng.integers(-1, count, size=(queries, 4))
    return torch.from_numpy(exclude), [set(own) - {-1} for own in exclude.tolist()]


def problem_of(case: Case, budget: int = PLENTY) -> Problem:
    queries = torch.from_numpy(case.queries)
    excluded = Excluded.checked(case.exclude, len(case.queries), len(case.bank), case.k)
    return Problem(queries, magnitudes(queries), BankRows(case.bank), case.k, excluded, budget)


def searched(case: Case, *engines: Engine, budget: int = PLENTY) -> TopK:
    return topk.search(problem_of(case, budget), engines, {})


def proven(case: Case, engine: Engine) -> Tensor:
    problem = problem_of(case)
    return engine.find(problem, engine.encode(problem.rows, CPU, PLENTY))[2]


def assert_best(found: TopK, case: Case) -> None:
    values, places = reference.topk_inner_product(case.queries, case.bank, case.k, case.absent)
    assert found.indices.tolist() == places
    assert found.values.tolist() == values


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@given(case=hard_cases())
@settings(max_examples=80, deadline=None, derandomize=True)
def test_no_case_can_be_found_that_an_engine_gets_wrong(engine, case):
    assert_best(searched(case, engine), case)


@pytest.mark.usefixtures("nothing_small")
@given(case=hard_cases())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_case_can_be_found_that_all_engines_together_get_wrong(case):
    found = topk_inner_product(
        torch.from_numpy(case.queries), torch.from_numpy(case.bank), case.k, exclude=case.exclude
    )
    assert_best(found, case)


@given(case=hard_cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_small_case_can_be_found_that_the_search_gets_wrong(case):
    found = topk_inner_product(torch.from_numpy(case.queries), case.bank, case.k, exclude=case.exclude)
    assert_best(found, case)


def assert_compiled_bounds_hold(case: Case, engine: Engine) -> None:
    problem = problem_of(case)
    queries = compiled._encode_queries(problem, engine.dtype)
    for segment in engine.encode(problem.rows, CPU, PLENTY):
        columns, weights = segment.columns, queries.weights
        units = (queries.scales * segment.unit)[:, None]
        tile = products.multiply(queries.codes, segment.codes).numpy()
        middle = columns.scale * tile.astype(np.float32) * units
        true = case.queries.astype(np.float64) @ case.bank[columns.row].astype(np.float64).T
        margin = (weights.residual[:, None] * columns.norm + weights.norm[:, None] * columns.residual) * units
        assert (abs(middle - true) <= margin).all()
        assert (abs(true) <= weights.norm[:, None] * columns.norm * units).all()


def assert_grouped_bounds_hold(case: Case, engine: Engine) -> None:
    problem = problem_of(case)
    queries = grouped._encode_queries(problem, engine.dtype)
    for segment in engine.encode(problem.rows, CPU, PLENTY):
        tile = products.multiply(queries.codes, segment.codes)
        margin = grouped._margin(queries, segment, slice(0, len(case.queries))).unsqueeze(1)
        scale = (power_of_two(queries.exponents) * segment.unit).unsqueeze(1)
        rows = torch.from_numpy(case.bank)[segment.start : segment.start + len(segment.codes)].double()
        true = torch.from_numpy(case.queries).double() @ rows.T
        stored = products.output_error(engine.dtype) * tile.double().abs()
        assert ((tile.double() * scale - true).abs() <= (margin + stored) * scale).all()


@pytest.mark.parametrize("engine", COMPILED, ids=str)
@given(case=hard_cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_compiled_product_is_further_off_than_its_bound(engine, case):
    assert_compiled_bounds_hold(case, engine)


@pytest.mark.parametrize("engine", GROUPED, ids=str)
@given(case=hard_cases())
@settings(max_examples=60, deadline=None, derandomize=True)
def test_no_product_in_plain_torch_is_further_off_than_its_bound(engine, case):
    assert_grouped_bounds_hold(case, engine)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
@pytest.mark.parametrize("number", [0.1, 1 / 3])
def test_long_sums_of_numbers_that_all_round_the_same_way_stay_within_the_bound(engine, number):
    case = Case(np.full((4, 4096), number, np.float32), np.full((40, 4096), number, np.float32), 1)
    (assert_compiled_bounds_hold if engine.compiled else assert_grouped_bounds_hold)(case, engine)


def test_the_int8_bound_is_narrow_enough_to_be_of_use(rng):
    case = Case(features(rng, 64, 256), features(rng, 500, 256), 5)
    queries = compiled._encode_queries(problem_of(case), torch.int8)
    (segment,) = INT8.encode(BankRows(case.bank), CPU, PLENTY)
    columns, weights = segment.columns, queries.weights
    margin = weights.residual[:, None] * columns.norm + weights.norm[:, None] * columns.residual
    lengths = np.linalg.norm(case.queries, axis=1)[:, None] * np.linalg.norm(case.bank[columns.row], axis=1)
    assert (margin * (queries.scales * segment.unit)[:, None] / lengths).max() < 0.04


@pytest.mark.parametrize("engine", COMPILED, ids=str)
@pytest.mark.parametrize("size", [1, 7, 32, 65, 1000])
def test_the_answer_is_the_same_for_every_tile_and_segment(monkeypatch, rng, engine, size):
    case = Case(features(rng, 23, 24), features(rng, 400, 24), 9)
    monkeypatch.setattr(compiled, "_TILE_QUERIES", (size, size))
    monkeypatch.setattr(compiled, "_TILE", size * size)
    monkeypatch.setattr(compiled, "_FIRST_TILE", size)
    monkeypatch.setattr(compiled, "_ENCODED_ROWS", size)
    for budget in (1, 5_000, PLENTY):
        assert_best(searched(case, engine, budget=budget), case)


@pytest.mark.parametrize("engine", GROUPED, ids=str)
@pytest.mark.parametrize(("queries", "group"), [(1, 32), (7, 1), (23, 5)])
def test_the_answer_is_the_same_for_every_group_and_segment(monkeypatch, rng, engine, queries, group):
    case = Case(features(rng, 23, 24), features(rng, 400, 24), 9)
    monkeypatch.setattr(grouped, "_GROUP", group)
    monkeypatch.setattr(grouped, "_tile_queries", lambda *_: queries)
    for budget in (200_000, PLENTY):
        assert_best(searched(case, engine, budget=budget), case)


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_a_large_search_finds_what_faiss_finds(rng, engine):
    bank = rng.normal(size=(20_000, 48)).astype(np.float32) * rng.uniform(1, 3, size=(20_000, 1)).astype(
        np.float32
    )
    queries = rng.normal(size=(300, 48)).astype(np.float32)
    index = faiss.IndexFlatIP(48)
    index.add(bank)
    values, places = index.search(queries, 20)
    found = searched(Case(queries, bank, 20), engine)
    assert found.indices.tolist() == places.tolist()
    torch.testing.assert_close(found.values, torch.from_numpy(values), rtol=2e-6, atol=0)
    assert proven(Case(queries, bank, 20), engine).all()


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_values_are_right_to_a_millionth(rng, engine):
    queries, bank = rng.normal(size=(50, 300)).astype(np.float32), features(rng, 3000, 300)
    found = searched(Case(queries, bank, 50), engine)
    rows = bank[found.indices.numpy()].astype(np.float64)
    true = np.einsum("qd,qkd->qk", queries.astype(np.float64), rows)
    lengths = np.linalg.norm(queries, axis=1)[:, None] * np.linalg.norm(rows, axis=2)
    error, brute = abs(found.values.numpy() - true), np.einsum("qd,qkd->qk", queries, rows.astype(np.float32))
    assert (error <= 1e-6 * lengths).all()
    assert (abs(found.values.numpy() - brute) <= 1e-6 * lengths).all()
    sizeable = abs(true) >= 1e-3 * lengths
    assert sizeable.any()
    assert (error[sizeable] <= 1e-6 * abs(true[sizeable])).all()


def test_near_ties_below_the_step_of_int8_are_told_apart(rng):
    base = rng.normal(size=64)
    bank = (base + 1e-4 * rng.normal(size=(900, 64))).astype(np.float32)
    case = Case(base[None].astype(np.float32), bank, 10)
    assert_best(searched(case, INT8), case)


@pytest.mark.parametrize("engine", COMPILED, ids=str)
def test_more_ties_than_can_be_held_are_given_up_and_answered_all_the_same(rng, engine):
    bank = np.repeat(rng.normal(size=(1, 8)).astype(np.float32), 5000, axis=0)
    case = Case(rng.normal(size=(4, 8)).astype(np.float32), bank, 3)
    assert not proven(case, engine).any()
    assert searched(case, engine).indices.tolist() == [[0, 1, 2]] * 4


def test_one_query_given_up_takes_no_other_with_it(rng):
    bank = features(rng, 5000, 16)
    bank[:4000] = bank[0]
    bank[4000:] *= np.array([1.0] + [0.0] * 15, np.float32)
    queries = np.stack([bank[0]] + [np.eye(16, dtype=np.float32)[0]] * 40)
    queries[1:, 0] += rng.random(40).astype(np.float32)
    queries[1:, 1:] = -100
    case = Case(queries, bank, 4)
    assert proven(case, INT8).tolist() == [False] + [True] * 40
    assert_best(searched(case, INT8), case)


def test_a_short_row_in_the_right_direction_is_found_behind_long_ones():
    query = np.zeros((1, 8), np.float32)
    query[0, 0] = 3
    bank = np.zeros((3000, 8), np.float32)
    bank[:, 0], bank[:, 1] = 0.93, 0.36
    bank[2500:] = query / 3 * np.linspace(0.92, 0.95, 500, dtype=np.float32)[:, None]
    assert_best(searched(Case(query, bank, 4), INT8), Case(query, bank, 4))


def test_long_rows_end_the_search_before_short_ones_are_read(rng):
    bank = features(rng, 4000, 32)
    bank[1000:] *= 1e-3
    case = Case(features(rng, 30, 32), bank, 5)
    with mock.patch.object(compiled, "multiply", wraps=products.multiply) as multiply:
        found = searched(case, INT8)
    assert sum(call.args[1].shape[0] for call in multiply.call_args_list) < 2000
    assert_best(found, case)


@pytest.mark.usefixtures("nothing_small")
@pytest.mark.parametrize("lost", [torch.nan, torch.inf, -torch.inf])
def test_a_query_that_is_not_finite_gets_nan_and_no_rows(rng, lost):
    case = Case(features(rng, 12, 16), features(rng, 300, 16), 4)
    queries = torch.from_numpy(case.queries.copy())
    queries[[3, 7], [0, 15]] = lost
    found = topk_inner_product(queries, case.bank, 4)
    others = [i for i in range(12) if i not in (3, 7)]
    assert found.values[[3, 7]].isnan().all()
    assert (found.indices[[3, 7]] == -1).all()
    assert_best(
        TopK(found.values[others], found.indices[others]), replace(case, queries=case.queries[others])
    )


@pytest.mark.usefixtures("nothing_small")
def test_queries_that_are_zero_tie_everywhere(rng):
    queries, bank = torch.zeros(5, 16), features(rng, 600, 16)
    queries[2] = 1
    found = topk_inner_product(queries, bank, 3, exclude=torch.tensor([0, 2]))
    assert found.indices[[0, 1, 3, 4]].tolist() == [[1, 3, 4]] * 4
    assert found.values[[0, 1, 3, 4]].tolist() == [[0, 0, 0]] * 4
    own = torch.tensor([[0, -1], [1, 1], [5, 0], [-1, -1], [2, 1]])
    found = topk_inner_product(torch.zeros(5, 16), bank, 3, exclude=own)
    assert found.indices.tolist() == [[1, 2, 3], [0, 2, 3], [1, 2, 3], [0, 1, 2], [0, 3, 4]]


def test_minus_zero_ties_with_zero():
    bank = np.array([[-0.0, 1], [0, 1], [0, -1]], np.float32)
    found = topk_inner_product(torch.tensor([[-1.0, 0.0], [1.0, 0.0]]), bank, 3)
    assert found.indices.tolist() == [[0, 1, 2]] * 2
    assert not found.values.signbit().any()


@pytest.mark.parametrize("engine", ENGINES, ids=str)
def test_values_beyond_float32_tie_at_infinity(engine):
    bank = np.full((200, 4), 1e30, np.float32)
    bank[10:20] = 2e38
    queries = np.array([[1e30, 0, 0, 0], [-1e30, 0, 0, 0]], np.float32)
    case = Case(queries, bank, 15, torch.tensor([0, 3]), [{0, 3}] * 2)
    for found in (searched(case, engine), TopK(*exact.dense(problem_of(case)))):
        assert found.indices.tolist() == [[1, 2, *range(4, 17)]] * 2
        assert found.values.tolist() == [[np.inf] * 15, [-np.inf] * 15]


@pytest.mark.usefixtures("nothing_small")
@pytest.mark.parametrize("kind", ["int8", "plain torch", "few queries", "large k", "small"])
@pytest.mark.parametrize("lost", [np.nan, np.inf])
def test_bank_rows_that_are_not_finite_are_counted_and_refused(monkeypatch, rng, kind, lost):
    if kind == "plain torch":
        monkeypatch.setattr(topk, "_can_compile", lambda: False)
    if kind == "few queries":
        monkeypatch.setattr(topk, "_FEW_QUERIES", 100)
    if kind == "small":
        monkeypatch.setattr(topk, "_SMALL_BANK", 2**21)
    bank = features(rng, 300, 16)
    bank[[7, 250], 3] = lost
    with pytest.raises(
        ValueError, match=r"2 of 300 bank rows are NaN or infinite in float32 \(rows 7, 250\)"
    ):
        topk_inner_product(torch.ones(20, 16), bank, 100 if kind == "large k" else 3)
    with pytest.raises(ValueError, match="2 of 300 bank rows"):
        prepare(bank)


@pytest.mark.usefixtures("nothing_small")
def test_a_bank_row_that_is_not_finite_is_refused_even_if_every_query_is_zero():
    with pytest.raises(ValueError, match="1 of 100 bank rows"):
        topk_inner_product(torch.zeros(20, 2), np.array([[0, 1]] * 99 + [[0, np.nan]], np.float32), 2)


def test_more_than_five_bad_rows_are_counted_but_not_all_listed():
    bank = np.zeros((10, 2))
    bank[2:] = 1e300
    with pytest.raises(ValueError, match=r"8 of 10 bank rows .* \(rows 2, 3, 4, 5, 6, \.\.\.\)"):
        topk_inner_product(torch.ones(1, 2), bank, 1)


@pytest.mark.usefixtures("nothing_small")
@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16, torch.float64, torch.int32])
def test_other_types_are_searched_in_float32(rng, dtype):
    queries = torch.from_numpy(features(rng, 20, 24)).to(dtype)
    bank = torch.from_numpy(features(rng, 400, 24)).to(dtype)
    found = topk_inner_product(queries, bank, 5)
    assert found.values.dtype == torch.float32
    assert_best(found, Case(queries.float().numpy(), bank.float().numpy(), 5))


@pytest.mark.usefixtures("nothing_small")
def test_a_bank_may_lie_in_a_file_in_any_layout(tmp_path, rng):
    case = Case(features(rng, 20, 24), features(rng, 1500, 24), 5)
    for name, array in {
        "plain": case.bank,
        "big-endian": case.bank.astype(">f4"),
        "double": case.bank.astype(np.float64),
        "columns first": np.asfortranarray(case.bank),
    }.items():
        np.save(tmp_path / f"{name}.npy", array)
        for mode in ("r", "r+"):
            bank = np.load(tmp_path / f"{name}.npy", mmap_mode=mode)
            assert_best(topk_inner_product(torch.from_numpy(case.queries), bank, 5, budget=100_000), case)
            assert_best(topk_inner_product(torch.from_numpy(case.queries), prepare(bank), 5), case)


@pytest.mark.usefixtures("nothing_small")
def test_strided_queries_and_banks_are_read_as_they_are_meant(rng):
    case = Case(features(rng, 20, 24), features(rng, 300, 24), 5)
    queries = torch.from_numpy(np.asfortranarray(case.queries)).requires_grad_()
    wide = torch.from_numpy(np.repeat(case.bank, 2, axis=1))
    assert_best(topk_inner_product(queries, wide[:, ::2], 5), case)
    assert_best(topk_inner_product(-queries, -torch.from_numpy(case.bank), 5), case)
    with torch.inference_mode():
        assert_best(topk_inner_product(queries * 1, wide[:, ::2] * 1, 5), case)


@pytest.mark.usefixtures("nothing_small")
def test_a_prepared_bank_gives_the_same_again_and_again(rng):
    bank = features(rng, 900, 24)
    ready = prepare(torch.from_numpy(bank))
    assert (ready.rows.size, ready.rows.width) == (900, 24)
    for k in (1, 5, 200):
        case = Case(features(rng, 20, 24), bank, k)
        assert_best(topk_inner_product(torch.from_numpy(case.queries), ready, k), case)
    exclude = torch.arange(0, 900, 2)
    case = Case(case.queries, bank, 3, exclude, [set(exclude.tolist())] * 20)
    with mock.patch.object(compiled, "encoded", side_effect=AssertionError("encoded again")):
        assert_best(topk_inner_product(torch.from_numpy(case.queries), ready, 3, exclude=exclude), case)


@pytest.mark.usefixtures("nothing_small")
def test_an_empty_list_of_queries_has_an_empty_answer(rng):
    found = topk_inner_product(torch.empty(0, 24), features(rng, 100, 24), 5)
    assert (found.values.shape, found.values.dtype) == ((0, 5), torch.float32)
    assert (found.indices.shape, found.indices.dtype) == ((0, 5), torch.int64)


def test_rows_without_features_all_tie():
    assert topk_inner_product(torch.empty(2, 0), np.empty((4, 0)), 3).indices.tolist() == [[0, 1, 2]] * 2


@pytest.mark.parametrize(
    ("k", "message"),
    [
        (0, "k must be a whole number from 1 to the 10 bank rows, got 0"),
        (-3, "k must be a whole number from 1 to the 10 bank rows, got -3"),
        (2.0, "k must be a whole number from 1 to the 10 bank rows, got 2.0"),
        (True, "k must be a whole number from 1 to the 10 bank rows, got True"),
        (torch.arange(3), "k must be a whole number from 1 to the 10 bank rows, got tensor"),
        (None, "k must be a whole number from 1 to the 10 bank rows, got None"),
        (11, "k must be a whole number from 1 to the 10 bank rows, got 11"),
    ],
)
def test_a_k_that_cannot_be_is_refused(k, message):
    with pytest.raises(ValueError, match=message):
        topk_inner_product(torch.ones(2, 3), torch.ones(10, 3), k)


def test_any_whole_number_will_do_for_k():
    for k in (np.int64(2), torch.tensor(2)):
        assert topk_inner_product(torch.ones(1, 3), torch.ones(10, 3), k).indices.tolist() == [[0, 1]]


@pytest.mark.parametrize(
    ("exclude", "message"),
    [
        (torch.arange(8), "k is 3 but only 2 of 10 bank rows can be searched"),
        (torch.tensor([[0, 1, 1, 1, 1, 1, 1, 1, 1], [*range(8), -1]]), "k is 3 but only 2 of 10"),
        (torch.tensor([0, 10]), "rows from 0 to 9 of a bank of 10, got 0 to 10"),
        (torch.tensor([-1, 3]), "rows from 0 to 9 of a bank of 10, got -1 to 3"),
        (torch.tensor([[-2], [3]]), "rows from -1 to 9 of a bank of 10, got -2 to 3"),
        (torch.tensor([[1]]), r"must be \(rows,\) or \(2, rows\) for 2 queries, got \(1, 1\)"),
        (torch.tensor(1), r"got \(\)"),
        (torch.tensor([1.0]), "integers, got torch.float32"),
        (torch.ones(10, dtype=torch.bool), "integers, got torch.bool"),
        (["a"], "exclude must hold bank rows as integers: "),
        ([[1], [2, 3]], "exclude must hold bank rows as integers: "),
        ([10], "rows from 0 to 9 of a bank of 10, got 10 to 10"),
    ],
)
def test_an_exclusion_that_cannot_be_is_refused(exclude, message):
    with pytest.raises(ValueError, match=message):
        topk_inner_product(torch.ones(2, 3), torch.ones(10, 3), 3, exclude=exclude)


def test_rows_named_twice_are_left_out_once():
    queries, bank = torch.ones(2, 3), torch.ones(10, 3)
    found = topk_inner_product(queries, bank, 8, exclude=torch.tensor([0, 0, 5, 5]))
    assert found.indices.tolist() == [[1, 2, 3, 4, 6, 7, 8, 9]] * 2
    found = topk_inner_product(queries, bank, 9, exclude=torch.tensor([[0, 0, 0], [-1, 9, 9]]))
    assert found.indices.tolist() == [[*range(1, 10)], [*range(9)]]
    assert topk_inner_product(queries, bank, 10, exclude=torch.empty(0, dtype=torch.int64)).indices.shape == (
        2,
        10,
    )


def test_queries_of_another_width_are_refused_with_both_widths():
    with pytest.raises(BankMismatchError, match="The queries have 3 features but the bank has 4"):
        topk_inner_product(torch.ones(2, 3), torch.ones(10, 4), 1)


@pytest.mark.parametrize(
    ("queries", "bank", "message"),
    [
        (torch.ones(3), torch.ones(10, 3), r"queries must be .* \(3,\)"),
        (
            torch.ones(1, 3, dtype=torch.complex64),
            torch.ones(10, 3),
            "queries must be real .* torch.complex64",
        ),
        (torch.ones(1, 3), torch.ones(10), r"bank must be \(rows, features\), got shape \(10,\)"),
        (torch.ones(1, 3), np.ones((10, 3), complex), "bank must hold real numbers, got complex128"),
        (torch.ones(1, 3), np.full((10, 3), "a"), "bank must hold real numbers"),
    ],
)
def test_what_is_no_table_of_real_numbers_is_refused(queries, bank, message):
    with pytest.raises(ValueError, match=message):
        topk_inner_product(queries, bank, 1)


def test_a_budget_of_nothing_is_refused():
    with pytest.raises(ValueError, match="budget must be at least 1 byte, got 0"):
        topk_inner_product(torch.ones(2, 3), torch.ones(10, 3), 1, budget=0)


def test_only_a_processor_or_a_cuda_device_is_accepted():
    with pytest.raises(ValueError, match='runs on "cpu" or "cuda", got \'meta\''):
        topk_inner_product(torch.ones(2, 3), torch.ones(10, 3), 1, device="meta")


@pytest.mark.usefixtures("nothing_small")
def test_nothing_larger_than_the_budget_is_read_of_a_bank_at_once(rng):
    case = Case(features(rng, 20, 64), features(rng, 6000, 64), 5)
    read: list[int] = []
    block = BankRows.block

    def noted(rows, start, stop, device="cpu"):
        read.append((stop - start) * rows.width * 4)
        return block(rows, start, stop, device)

    for can_compile in (True, False):
        with (
            mock.patch.object(BankRows, "block", noted),
            mock.patch.object(topk, "_can_compile", lambda c=can_compile: c),
        ):
            assert_best(
                topk_inner_product(torch.from_numpy(case.queries), case.bank, 5, budget=400_000), case
            )
    assert len(read) > 15
    assert max(read) <= 400_000


LARGER_THAN_MEMORY = """
import resource, sys, numpy as np, torch
from nnguide_core.search import topk_inner_product
bank = np.lib.format.open_memmap(sys.argv[1], mode="r")
topk_inner_product(torch.ones(300, 256), bank[:9000], 3)  # starts threads, loads kernels
used = next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith("VmData")) * 1024
resource.setrlimit(resource.RLIMIT_DATA, (used + 80_000_000,) * 2)
try:
    np.array(bank)
    raise SystemExit("the limit limits nothing")
except MemoryError:
    pass
print(topk_inner_product(torch.ones(300, 256), bank, 3, budget=30_000_000).indices[0].tolist())
"""


@pytest.mark.skipif(sys.platform != "linux", reason="limits memory the way Linux does")
def test_a_bank_may_be_larger_than_memory(tmp_path):
    bank = np.lib.format.open_memmap(tmp_path / "bank.npy", mode="w+", dtype=np.float32, shape=(150_000, 256))
    bank[:9000] = 0.5  # the rest stays a hole in the file
    bank[[149_999, 123_456, 17]] = [[3], [2], [1]]
    bank.flush()
    command = [sys.executable, "-c", LARGER_THAN_MEMORY, str(tmp_path / "bank.npy")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.stdout.strip() == "[149999, 123456, 17]", done.stderr


@pytest.mark.usefixtures("nothing_small")
def test_without_a_compiler_the_answer_is_the_same(monkeypatch, rng):
    case = Case(features(rng, 40, 24), features(rng, 3000, 24), 7)
    monkeypatch.setattr(topk, "_can_compile", lambda: False)
    assert not any(engine.compiled for engine in topk.engines(CPU, 24))
    assert_best(topk_inner_product(torch.from_numpy(case.queries), case.bank, 7), case)
    assert_best(topk_inner_product(torch.from_numpy(case.queries), prepare(case.bank), 7), case)


def test_int8_is_used_only_where_the_processor_multiplies_it_exactly():
    products.int8_is_exact.cache_clear()
    with mock.patch.object(torch.cpu, "get_capabilities", return_value={"avx2": True}):
        assert not products.int8_is_exact()
        assert topk.engines(CPU, 24) == (Engine(torch.float32, compiled=True),)
    products.int8_is_exact.cache_clear()
    with mock.patch.object(torch.cpu, "get_capabilities", return_value={"avx512_vnni": True}):
        with mock.patch.object(torch, "_int_mm", lambda a, b: (a.int() @ b.int()).clamp(-32768, 32767)):
            assert not products.int8_is_exact()
        products.int8_is_exact.cache_clear()
        with mock.patch.object(torch, "_int_mm", lambda a, b: a.int() @ b.int()):
            assert products.int8_is_exact()
    products.int8_is_exact.cache_clear()


def test_rows_too_wide_for_sums_in_32_bits_are_not_searched_in_int8():
    assert 2**16 * 255 * 127 < 2**31
    assert INT8 in topk.engines(CPU, 2**16) or not products.int8_is_exact()
    assert INT8 not in topk.engines(CPU, 2**16 + 1)


def test_float32_products_that_may_be_less_are_not_relied_on(rng):
    case = Case(features(rng, 40, 24), features(rng, 3000, 24), 7)
    before = torch.backends.mkldnn.matmul.fp32_precision
    torch.backends.mkldnn.matmul.fp32_precision = "bf16"
    try:
        last = topk.engines(CPU, 24)[-1]
        assert last.dtype == torch.float64
        assert_best(searched(case, last), case)
    finally:
        torch.backends.mkldnn.matmul.fp32_precision = before
    assert topk.engines(CPU, 24)[-1].dtype == torch.float32


def test_importing_the_search_loads_no_compiler():
    code = "import sys, nnguide_core.search; sys.exit('numba' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


def test_tasks_give_their_results_in_order_and_their_first_error():
    assert run_all([lambda i=i: i * i for i in range(20)]) == [i * i for i in range(20)]

    def fail():
        raise KeyError("third")

    with pytest.raises(KeyError, match="third"):
        run_all([lambda: 1, lambda: 2, fail, lambda: 4])


def test_a_task_has_one_core_and_no_other_thread_has_fewer_than_before():
    before = torch.get_num_threads()
    torch.set_num_threads(3)
    try:
        assert run_all([torch.get_num_threads] * 6) == [1] * 6
        later: list[int] = []
        thread = threading.Thread(target=lambda: later.append(torch.get_num_threads()))
        thread.start()
        thread.join()
        assert [torch.get_num_threads(), *later] == [3, 3]
    finally:
        torch.set_num_threads(before)


@pytest.mark.usefixtures("nothing_small")
def test_searches_in_several_threads_do_not_disturb_each_other(rng):
    cases = [Case(features(rng, 300, 32), features(rng, 2000, 32), 5) for _ in range(4)]
    found: dict[int, TopK] = {}

    def search(i: int) -> None:
        found[i] = topk_inner_product(torch.from_numpy(cases[i].queries), cases[i].bank, 5)

    threads = [threading.Thread(target=search, args=(i,)) for i in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    for i, case in enumerate(cases):
        assert_best(found[i], case)


float32s = st.floats(width=32, allow_nan=False)


@settings(deadline=None)
@given(st.lists(st.tuples(float32s, st.integers(0, 2**32 - 1)), min_size=1, max_size=20))
def test_keys_order_by_value_then_row_and_can_be_read_back(pairs):
    values, places = (torch.tensor(column) for column in zip(*pairs, strict=True))
    keys = exact.pack(values.float(), places)
    read_values, read_places = exact.unpack(exact.best(keys[None], len(pairs) + 1))
    ordered = sorted((-value, place) for value, place in pairs)
    assert read_values[0].tolist() == [-value for value, _ in ordered] + [-np.inf]
    assert read_places[0].tolist() == [place for _, place in ordered] + [-1]


def test_powers_of_two_are_exact():
    assert power_of_two(torch.arange(-1022, 1024)).tolist() == [2.0**e for e in range(-1022, 1024)]


@settings(deadline=None)
@given(st.lists(st.floats(width=32, allow_nan=False, allow_infinity=False), min_size=1, max_size=5))
def test_scaling_brings_a_row_near_one_without_changing_a_bit(row):
    rows = torch.tensor([row])
    power = exponents(magnitudes(rows))
    near = scaled(rows, power)
    assert near.equal(scaled(rows, int(power)))
    assert not rows.any() or 0.5 <= near.abs().max() < 1
    kept = near.abs() >= 2.0**-100
    assert (near.double() * 2.0 ** float(power))[kept].equal(rows.double()[kept])


@given(case=hard_cases())
@settings(
    max_examples=100,
    deadline=None,
    derandomize=True,
    suppress_health_check=[HealthCheck.function_scoped_fixture],
)
def test_no_case_can_be_found_that_a_gpu_gets_wrong(cuda, case):
    queries, bank = torch.from_numpy(case.queries).to(cuda), torch.from_numpy(case.bank).to(cuda)
    problem = replace(problem_of(case), queries=queries, magnitudes=magnitudes(queries), rows=BankRows(bank))
    found = topk.search(problem, topk.engines(queries.device, 24), {})
    assert_best(TopK(found.values.cpu(), found.indices.cpu()), case)


@pytest.mark.usefixtures("nothing_small")
@pytest.mark.parametrize("lies", ["both there", "queries there", "bank there", "an array", "prepared"])
def test_a_gpu_answers_where_the_queries_lie(cuda, rng, lies):
    queries, bank = features(rng, 40, 24), features(rng, 900, 24)
    near, rows = torch.from_numpy(queries), torch.from_numpy(bank)
    given = {
        "both there": (near.to(cuda), rows.to(cuda)),
        "queries there": (near.to(cuda), rows),
        "bank there": (near, rows.to(cuda)),
        "an array": (near.to(cuda), bank),
        "prepared": (near.to(cuda), prepare(rows, device="cuda")),
    }[lies]
    own = torch.arange(40)[:, None]
    found = topk_inner_product(*given, 7, exclude=own, device="cuda")
    assert found.values.device == found.indices.device == given[0].device
    absent = [{row} for row in range(40)]
    assert_best(TopK(found.values.cpu(), found.indices.cpu()), Case(queries, bank, 7, own, absent))


def test_a_bank_too_large_for_a_gpu_is_sent_there_in_parts(cuda, rng):
    queries, bank = features(rng, 40, 24), features(rng, 3000, 24)
    found = topk_inner_product(
        torch.from_numpy(queries), torch.from_numpy(bank), 7, device=cuda, budget=4 * bank.nbytes - 8
    )
    assert_best(found, Case(queries, bank, 7))


@pytest.mark.parametrize("lies", ["both there", "queries there", "bank there"])
def test_what_lies_on_a_macs_gpu_is_searched_on_the_cpu(mps, rng, lies):
    queries, bank = features(rng, 40, 24), features(rng, 900, 24)
    near, rows = torch.from_numpy(queries), torch.from_numpy(bank)
    near, rows = (
        near.to(mps) if lies != "bank there" else near,
        rows.to(mps) if lies != "queries there" else rows,
    )
    for searched_bank in (rows, prepare(rows)):
        found = topk_inner_product(near, searched_bank, 7)
        assert found.values.device == found.indices.device == near.device
        assert_best(TopK(found.values.cpu(), found.indices.cpu()), Case(queries, bank, 7))


def test_what_torch_holds_and_does_not_use_counts_as_free(cuda, monkeypatch):
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda _: (100, 1000))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda _: 800)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda _: 300)
    assert topk._default_budget(cuda) == (100 + 800 - 300) // 2


def test_many_small_products_are_computed_in_calls_that_every_cublas_bears(monkeypatch, rng):
    monkeypatch.setattr(exact, "_MOST_PRODUCTS", 3)
    queries, rows = (
        torch.from_numpy(features(rng, 8, 5)),
        torch.from_numpy(features(rng, 16, 5)).view(8, 2, 5),
    )
    with mock.patch.object(torch, "bmm", wraps=torch.bmm) as bmm:
        values = exact.exact_values(queries, rows)
    assert [len(call.args[0]) for call in bmm.call_args_list] == [3, 3, 2]
    torch.testing.assert_close(values, (queries[:, None] * rows).sum(dim=2))


@pytest.mark.usefixtures("nothing_small")
def test_a_bank_is_encoded_before_only_where_a_gpu_has_room_for_it(cuda, rng, monkeypatch):
    queries, bank = torch.from_numpy(features(rng, 40, 24)), torch.from_numpy(features(rng, 900, 24))
    assert prepare(bank, device=cuda).segments
    monkeypatch.setattr(topk, "_default_budget", lambda _: 2 * bank.numel() - 1)
    narrow = prepare(bank, device=cuda)
    assert not narrow.segments
    assert_best(topk_inner_product(queries, narrow, 7), Case(queries.numpy(), bank.numpy(), 7))
