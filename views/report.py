"""The report: one HTML file with figures, metrics and misflagged images; it needs no network."""

from collections.abc import Callable, Sequence
from html import escape

import numpy as np
import plotly.graph_objects as go
from numpy.typing import NDArray
from plotly.offline import get_plotlyjs

from nnguide_core.curves import Curve as Rates
from nnguide_core.curves import Histogram, histogram, pr_curve, roc_curve
from nnguide_core.evaluation import NNGUIDE
from nnguide_core.evaluation.comparison import MetricsRow
from views import resources
from views.charts import Curve, ScoreRow, metric_over_k, precision_recall, roc, score_histogram
from views.classified import wrongly_classified
from views.current import View
from views.frame import missing_side, number, rule_in_words
from views.metrics_view import lines_over_k, metrics_frame
from views.neighbours import bank_image
from views.pictures import as_address
from views.queries import Query, hardest
from views.text import literal
from views.theme import Theme

__all__ = ["figure_page", "figures", "html_report"]

_MOST_IMAGES = 100  # misflagged images shown, those closest to the threshold
_NEIGHBOURS = 5  # shown for each
_HEADINGS = {
    "scores": "Scores of every dataset",
    "roc": "OOD caught against ID flagged (ROC)",
    "precision-recall": "Precision and recall",
    "over-k": "Every k",
}
_POLICY = "default-src 'none'; img-src data:; style-src 'unsafe-inline'; script-src 'unsafe-inline'"


def html_report(view: View, theme: Theme) -> str:
    """Return the report as an HTML page; every name in it is shown literally."""
    drawn = "".join(
        f"<h2>{_HEADINGS[name]}</h2>{_figure(figure)}" for name, figure in figures(view, theme).items()
    )
    body = f"{_run(view)}{drawn}{_metrics(view)}{_misflagged(view)}"
    return _page("NNGuide report", body, view, theme)


def figure_page(figure: go.Figure, name: str, view: View, theme: Theme) -> str:
    """Return one figure as an HTML page that needs no network, with its run."""
    return _page(f"NNGuide: {name}", _figure(figure) + _run(view), view, theme)


def _page(title: str, body: str, view: View, theme: Theme) -> str:
    return (
        "<!doctype html><html lang='en'><head><meta charset='utf-8'>"
        f'<meta http-equiv="Content-Security-Policy" content="{_POLICY}">'
        f"<title>{title}</title><style>{_style(theme)}</style>"
        f"<script>{get_plotlyjs()}</script></head><body><h1>{title}</h1>{body}"
        f"<h2>The run</h2><pre>{escape(view.run.to_json())}</pre></body></html>"
    )


def figures(view: View, theme: Theme) -> dict[str, go.Figure]:
    """Return the figures of the scores page by name; without curves where a side has no score."""
    if view.threshold is None:
        return {}
    drawn = {"scores": _histogram(view, view.threshold, theme)}
    if missing_side(view.evaluation, ""):
        return drawn
    sweep = resources.sweep(view.run.question)
    return drawn | {
        "roc": _threshold_last(roc(_curves(view, roc_curve, view.threshold), theme)),
        "precision-recall": _threshold_last(precision_recall(_curves(view, pr_curve, view.threshold), theme)),
        "over-k": metric_over_k(sweep.ks, lines_over_k(sweep), view.k, theme),
    }


def _histogram(view: View, threshold: float, theme: Theme) -> go.Figure:
    groups = {}
    for judged in view.evaluation.queries:
        finite = judged.neighbors.finite
        scores, wrong = judged.neighbors.score_at(view.k), wrongly_classified(judged)
        groups[judged.dataset.name] = scores[finite]
        groups[f"{judged.dataset.name}/wrong"] = scores[finite & wrong]
    found = histogram(groups)
    rows = [
        ScoreRow(judged.dataset.name, judged in view.evaluation.ood, *_counts(found, place))
        for place, judged in enumerate(view.evaluation.queries)
    ]
    return score_histogram(found.edges, rows, threshold, theme)


def _counts(found: Histogram, place: int) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    return found.counts[2 * place], found.counts[2 * place + 1]


def _threshold_last(figure: go.Figure) -> go.Figure:
    """Put what the mark at the threshold means behind the datasets in the legend."""
    figure.update_traces(legendrank=2000, selector={"legendgroup": "operating"})
    return figure


def _curves(view: View, make: Callable[..., Rates], threshold: float) -> list[Curve]:
    """Return the curve of every OOD dataset that has a score."""
    id_scores = view.evaluation.id_scores(NNGUIDE, view.k)
    curves = []
    for judged in view.evaluation.ood:
        scores = judged.neighbors.score_at(view.k)
        finite = scores[scores.isfinite()]
        if len(finite):
            found = make(id_scores, finite, keep=[threshold])
            curves.append(Curve(judged.dataset.name, found.x, found.y, _operating_point(found, threshold)))
    return curves


def _operating_point(curve: Rates, threshold: float) -> tuple[float, float] | None:
    """Return the point of a curve at a threshold that was kept; None where nothing is flagged there."""
    flagging = np.flatnonzero(curve.thresholds >= threshold)
    return (float(curve.x[flagging[-1]]), float(curve.y[flagging[-1]])) if flagging.size else None


def _figure(figure: go.Figure) -> str:
    drawn: str = figure.to_html(full_html=False, include_plotlyjs=False)
    return drawn


def _run(view: View) -> str:
    run = view.run
    facts = [
        ("model", run.model_name),
        ("bank", f"{run.bank.name} ({view.evaluation.bank.size:,} images, scoring {run.settings.scoring})"),
        ("queries", ", ".join(f"{each.name} ({each.role}, {each.size:,})" for each in run.queries)),
        ("k", str(run.k)),
        ("threshold", f"{number(view.threshold)} ({rule_in_words(run.threshold)})"),
        ("verdicts", f"{len(view.verdicts):,}"),
        ("features computed on", run.device or "an unknown device"),
        ("made", f"{run.created:%Y-%m-%d %H:%M} UTC"),
    ]
    rows = "".join(f"<tr><th>{name}</th><td>{_text(value)}</td></tr>" for name, value in facts)
    return f"<table>{rows}</table>{_sentences(view.evaluation.cautions)}"


def _metrics(view: View) -> str:
    title = "<h2>NNGuide beside the baselines</h2>"
    if missing := missing_side(view.evaluation, "curves, AUROC, AUPR and both FPRs"):
        return f"{title}<p>{missing}</p>"
    rows = resources.metrics(view.run.question, view.k)
    blocks = [
        f"<h3>{_text(name)}</h3>{_table([row for row in rows if row.dataset == name])}"
        for name in dict.fromkeys(row.dataset for row in rows)
    ]
    convention = "OOD is the positive class; higher score = more OOD; flagged when score ≥ threshold."
    compared = resources.compared(view.run.question)
    said = [f"{name} is not shown: {reason}" for name, reason in compared.without.items()]
    return f"{title}<p>{convention}</p>{''.join(blocks)}{_sentences([*compared.baseline_cautions, *said])}"


def _sentences(said: Sequence[str]) -> str:
    return f"<ul>{''.join(f'<li>{_text(sentence)}</li>' for sentence in said)}</ul>" if said else ""


def _table(rows: Sequence[MetricsRow]) -> str:
    frame = metrics_frame(rows)
    head = "".join(f"<th>{_text(name)}</th>" for name in frame.columns)
    body = "".join(
        "<tr>" + "".join(f"<td>{_text(str(value))}</td>" for value in line) + "</tr>"
        for line in frame.itertuples(index=False)
    )
    return f"<table><tr>{head}</tr>{body}</table>"


def _misflagged(view: View) -> str:
    wrong = [query for query in hardest(view, _MOST_IMAGES) if query.is_wrong]
    pictures = resources.thumbnails((query.judged.dataset, query.image) for query in wrong)
    cards = "".join(_card(view, query, pictures.get(query.image.id)) for query in wrong)
    return (
        f"<h2>Misflagged images</h2><p>The {len(wrong):,} closest to the threshold, each with the first "
        f"{_NEIGHBOURS} of its bank images.</p>{cards}"
    )


def _card(view: View, query: Query, picture: bytes | None) -> str:
    rows = query.neighbors.indices[0, :_NEIGHBOURS].tolist()
    images = [bank_image(view, row) for row in rows if row >= 0]
    dataset = view.evaluation.question.bank.dataset
    found = resources.thumbnails((dataset, image) for image in images)
    neighbours = "".join(
        f"<figure>{_picture(found.get(image.id))}<figcaption>{_text(image.label or image.path)}<br>"
        f"cosine {number(float(query.neighbors.cosines[0, place]))}</figcaption></figure>"
        for place, image in enumerate(images)
    )
    remark = view.remarks.get(query.image.id)
    said = f"<br>verdict: {_text(remark.decision or 'none')} {_text(remark.note)}" if remark else ""
    return (
        f"<section><figure>{_picture(picture)}<figcaption>{_text(query.image.path)}<br>"
        f"{_text(query.judged.dataset.name)}: {query.group}<br>score {number(query.score)}{said}</figcaption>"
        f"</figure><div>{neighbours}</div></section>"
    )


def _picture(data: bytes | None) -> str:
    if data is None:
        return "<div class='none'>no picture</div>"
    return f'<img alt="" src="{as_address(data)}">'


def _text(text: str) -> str:
    return escape(literal(text))


def _style(theme: Theme) -> str:
    return (
        f"body{{font-family:system-ui,sans-serif;max-width:1100px;margin:2rem auto;padding:0 1rem;"
        f"background:{theme.background};color:{theme.text}}}"
        "table{border-collapse:collapse}td,th{padding:.3rem .6rem;text-align:left;"
        f"border:1px solid {theme.grid}}}"
        f"section{{display:flex;gap:1rem;border-top:1px solid {theme.grid};padding:1rem 0}}"
        "section div{display:flex;flex-wrap:wrap}"
        "figure{margin:0;width:8rem;overflow-wrap:anywhere;font-size:.8rem}"
        "img{width:6rem;height:6rem;object-fit:contain;image-rendering:pixelated}pre{white-space:pre-wrap;overflow-wrap:anywhere}"
    )
