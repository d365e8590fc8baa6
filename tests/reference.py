"""Naive versions that the fast ones are checked against: straight loops in float64, nothing clever."""

import math

import numpy as np


def nnguide_paper(
    bank: list[list[float]],
    bank_energies: list[float],
    queries: list[list[float]],
    query_energies: list[float],
    k: int,
) -> list[float]:
    """Return NNGuide's scores as in the paper and pytorch-ood 0.4.0, higher = more OOD."""
    scores = []
    for query, energy in zip(queries, query_energies, strict=True):
        similarities = [
            scale * cosine_similarity(query, row) for row, scale in zip(bank, bank_energies, strict=True)
        ]
        guidance = sum(sorted(similarities, reverse=True)[:k]) / k
        scores.append(-guidance * energy)
    return scores


def nnguide_cosine(
    bank: list[list[float]],
    bank_energies: list[float],
    queries: list[list[float]],
    query_energies: list[float],
    k: int,
) -> list[float]:
    """Return NNGuide scores as in pytorch-ood 0.3.2: rows scaled by E / (mean E + 1e-8), then cosines."""
    mean = sum(bank_energies) / len(bank_energies)
    scaled = []
    for row, energy in zip(bank, bank_energies, strict=True):
        norm = sum(value**2 for value in row) ** 0.5
        scaled.append([value / (norm + 1e-8) * energy / (mean + 1e-8) for value in row])
    scores = []
    for query, energy in zip(queries, query_energies, strict=True):
        norm = sum(value**2 for value in query) ** 0.5
        unit = [value / (norm + 1e-8) for value in query]
        similarities = [cosine_similarity(unit, row) for row in scaled]
        guidance = sum(sorted(similarities, reverse=True)[:k]) / k
        scores.append(-guidance * energy)
    return scores


def cosine_similarity(one: list[float], other: list[float]) -> float:
    """Return the cosine of the angle between two vectors, 0 if one of them is zero."""
    dot = sum(a * b for a, b in zip(one, other, strict=True))
    norms = sum(a**2 for a in one) ** 0.5 * sum(b**2 for b in other) ** 0.5
    return dot / norms if norms else 0.0


def log_sum_exp(logits: list[float]) -> float:
    """Return log(sum(exp(logits))), shifted by the largest."""
    largest = max(logits)
    return largest + math.log(sum(math.exp(logit - largest) for logit in logits))


def auroc(id_scores: list[float], ood_scores: list[float]) -> float:
    """Return the share of ID/OOD pairs in which OOD scores higher, ties half, pair by pair."""
    wins = 0.0
    for inside in id_scores:
        for outside in ood_scores:
            wins += 1.0 if outside > inside else 0.5 if outside == inside else 0.0
    return wins / (len(id_scores) * len(ood_scores))


def share_at_least(scores: list[float], threshold: float) -> float:
    """Return the share of scores at or above a threshold."""
    return sum(score >= threshold for score in scores) / len(scores)


def id_flagged_at_ood_caught(id_scores: list[float], ood_scores: list[float], level: float) -> float:
    """Return the share of ID at or above the first threshold, from the top, that catches enough OOD."""
    for threshold in sorted(id_scores + ood_scores, reverse=True):
        if share_at_least(ood_scores, threshold) >= level:
            return share_at_least(id_scores, threshold)
    raise AssertionError("the lowest score catches all")


def ood_passed_at_id_kept(id_scores: list[float], ood_scores: list[float], level: float) -> float:
    """Return the share of OOD at or below the first score, from the bottom, that keeps enough ID."""
    mirrored_id, mirrored_ood = [-score for score in id_scores], [-score for score in ood_scores]
    return id_flagged_at_ood_caught(mirrored_ood, mirrored_id, level)


def delong_variance(id_scores: list[float], ood_scores: list[float]) -> float:
    """Return the variance of AUROC from its structural components, pair by pair."""
    of_id = [auroc([inside], ood_scores) for inside in id_scores]
    of_ood = [auroc(id_scores, [outside]) for outside in ood_scores]
    return sample_variance(of_id) / len(of_id) + sample_variance(of_ood) / len(of_ood)


def delong_difference_variance(
    first_id: list[float], first_ood: list[float], second_id: list[float], second_ood: list[float]
) -> float:
    """Return the variance of the difference of two AUROCs on the same images, pair by pair."""
    of_id = [
        auroc([one], first_ood) - auroc([two], second_ood)
        for one, two in zip(first_id, second_id, strict=True)
    ]
    of_ood = [
        auroc(first_id, [one]) - auroc(second_id, [two])
        for one, two in zip(first_ood, second_ood, strict=True)
    ]
    return sample_variance(of_id) / len(of_id) + sample_variance(of_ood) / len(of_ood)


def sample_variance(values: list[float]) -> float:
    """Return the unbiased variance."""
    mean = sum(values) / len(values)
    return sum((value - mean) ** 2 for value in values) / (len(values) - 1)


def variance_of_exponential_scores(auroc: float, id_count: int, ood_count: int) -> float:
    """Return the variance of AUROC where both sides are exponential, from Hanley and McNeil's Q1 and Q2.

    Both shared terms count as for two sides of the mean size, as Newcombe has it.
    """
    first, second = auroc / (2 - auroc), 2 * auroc**2 / (1 + auroc)
    others = (id_count + ood_count) / 2 - 1
    terms = auroc * (1 - auroc) + others * (first - auroc**2) + others * (second - auroc**2)
    return terms / (id_count * ood_count)


def auroc_bounds(estimate: float, variance: float, id_count: int, ood_count: int) -> tuple[float, float]:
    """Return the lowest and highest of 5,001 true AUROCs that lie at most 1.96 standard errors away."""
    weight = 1 / (1 + min(id_count, ood_count) * min(estimate, 1 - estimate)) if variance else 1.0
    usual = variance_of_exponential_scores(estimate, id_count, ood_count)
    factor = weight + ((1 - weight) * variance / usual if variance else 0.0)
    held = [
        true
        for true in (step / 5_000 for step in range(5_001))
        if abs(true - estimate)
        <= 1.959964 * math.sqrt(max(0, factor * variance_of_exponential_scores(true, id_count, ood_count)))
    ]
    return min(held, default=estimate), max(held, default=estimate)


def drawn_id_flagged(
    id_scores: list[float], ood_scores: list[float], level: float, times: int, seed: int
) -> list[float]:
    """Return so many true shares of ID flagged as these scores leave possible, score by score."""
    draw = np.random.default_rng(seed)
    shares = []
    for _ in range(times):
        # Each OOD score reaches the true threshold with the level's probability; which ones is their order.
        reaching = sum(float(draw.random()) < level for _ in ood_scores)
        falling = sorted(ood_scores, reverse=True)
        least = share_at_least(id_scores, falling[reaching - 1]) if reaching else 0.0
        most = share_at_least(id_scores, falling[min(reaching, len(falling) - 1)])
        flagged = len(id_scores) * (least + float(draw.random()) * (most - least))
        shares.append(float(draw.beta(flagged + 0.5, len(id_scores) - flagged + 0.5)))
    return shares


def over_white(rgba: np.ndarray) -> np.ndarray:
    """Return RGB of an (H, W, 4) image over white, before rounding."""
    colour, alpha = rgba[..., :3].astype(float), rgba[..., 3:].astype(float) / 255
    return colour * alpha + 255 * (1 - alpha)


def cmyk_to_rgb(inks: np.ndarray) -> np.ndarray:
    """Return RGB of (..., 4) inks: each ink takes its share of the light that black leaves."""
    left = 1 - inks.astype(float) / 255
    return 255 * left[..., :3] * left[..., 3:]


def upright(stored: np.ndarray, orientation: int) -> np.ndarray:
    """Turn an (H, W) image as EXIF defines it: which side of the scene row 0 and column 0 are."""
    rows_first = {1: "tl", 2: "tr", 3: "br", 4: "bl", 5: "lt", 6: "rt", 7: "rb", 8: "lb"}[orientation]
    scene = stored.T if rows_first[0] in "lr" else stored
    vertical, horizontal = sorted(rows_first, key="tblr".index)
    scene = scene[::-1] if vertical == "b" else scene
    return scene[:, ::-1] if horizontal == "r" else scene


def png_rows(columns: int, rows: int, interlaced: bool) -> list[list[tuple[int, int]]]:
    """Return the rows of a PNG in the order they are stored, each as its (column, row) pixels."""
    if not interlaced:
        return [[(x, y) for x in range(columns)] for y in range(rows)]
    grid = ["1646264", "7777777", "5656565", "7777777", "3646364", "7777777", "5656565", "7777777"]
    passes = [line + ("6" if place % 2 == 0 else "7") for place, line in enumerate(grid)]
    stored = []
    for number in "1234567":
        for y in range(rows):
            pixels = [(x, y) for x in range(columns) if passes[y % 8][x % 8] == number]
            if pixels:
                stored.append(pixels)
    return stored


def topk_inner_product(
    queries: np.ndarray, bank: np.ndarray, k: int, absent: list[set[int]] | None = None
) -> tuple[list[list[float]], list[list[int]]]:
    """Return each query's k largest inner products and their bank rows, best first, ties by lower row.

    Rows and queries are taken in float32, products summed in float64 and rounded to float32 before they are
    compared. absent holds for each query the rows that do not count.
    """
    values, places = [], []
    rows = bank.astype(np.float32).astype(np.float64)
    for q, query in enumerate(queries.astype(np.float32).astype(np.float64)):
        with np.errstate(over="ignore"):
            products = (rows * query).sum(axis=1).astype(np.float32).tolist()
        missing = absent[q] if absent else set()
        ranked = sorted((-product, i) for i, product in enumerate(products) if i not in missing)[:k]
        values.append([-negative for negative, _ in ranked])
        places.append([i for _, i in ranked])
    return values, places


def alike(bank: list[int], queries: list[int]) -> list[tuple[str, str, int]]:
    """Return (query, bank image, differing bits) of every query's nearest alike look, nearest first."""
    found = []
    for q, query in enumerate(queries):
        candidates = [
            ((query ^ look).bit_count(), row)
            for row, look in enumerate(bank)
            if (query ^ look).bit_count() * 12 <= query.bit_count() + look.bit_count()
        ]
        if candidates:
            difference, row = min(candidates)
            found.append((f"q{q}", f"b{row}", difference))
    return sorted(found, key=lambda each: each[2])


def near_on_map(
    bank: list[tuple[float, float]], query: tuple[float, float], neighbours: list[int], within: int
) -> list[bool]:
    """Return which neighbours are at most as far on the map as the within-th nearest bank row there."""
    distances = [(row[0] - query[0]) ** 2 + (row[1] - query[1]) ** 2 for row in bank]
    reach = sorted(distances)[:within][-1]
    return [distances[row] <= reach for row in neighbours]


def nearest(
    bank: list[list[float]], bank_energies: list[float], query: list[float], k: int, absent: set[int]
) -> tuple[list[int], list[float]]:
    """Return the k bank rows of highest energy times cosine, best first, and these products."""
    found = [
        (-energy * cosine_similarity(query, row), place)
        for place, (row, energy) in enumerate(zip(bank, bank_energies, strict=True))
        if place not in absent
    ]
    ranked = sorted(found)[:k]
    return [place for _, place in ranked], [-negative for negative, _ in ranked]


def shapley(value: dict[tuple[bool, bool], float]) -> tuple[float, float]:
    """Return what each of two players adds on average over both orders of joining, from all coalitions."""
    first = (value[True, False] - value[False, False] + value[True, True] - value[False, True]) / 2
    second = (value[False, True] - value[False, False] + value[True, True] - value[True, False]) / 2
    return first, second
