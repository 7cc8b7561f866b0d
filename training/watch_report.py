"""A champion's drift and performance as one HTML page that needs nothing else, for MLflow's artefacts."""

import base64
from collections.abc import Iterable, Mapping
from html import escape

from ingestion.tables import day_of
from training import plots
from training.drift import Drift
from training.findings import Findings, wire_time

FOLDER = "watching"
"""Artefact folder of a run."""
SHOWN = {
    "fraud": (
        "observed_to_expected", "average_precision", "expected_calibration_error", "cost_per_payment",
        "recall",
    ),
    "pricing": ("observed_to_expected", "log_loss", "forecast_error", "margin_to_forecast"),
}  # fmt: skip
"""Figures of each task that are drawn over event time; of another task all that its days have."""

_STYLE = """
body { font: 14px/1.5 system-ui, sans-serif; margin: 2em auto; max-width: 72em; padding: 0 1em; }
table { border-collapse: collapse; margin: 0 0 2em; } td, th { padding: .2em .8em; text-align: right; }
td:first-child, th:first-child { text-align: left; } tr:nth-child(even) { background: #f4f4f4; }
.bad { color: #b00020; font-weight: 600; } .bar { background: #4c78a8; display: inline-block; height: .7em; }
"""


def plot(found: Findings) -> bytes:
    """Matured performance over event time, with what raised alarms as marks; PNG."""
    names = SHOWN.get(found.task) or tuple(sorted(found.matured or {}))
    raised = {
        name: each.raised_day
        for name, each in (found.declines or {}).items()
        if each.alarm and each.raised_day is not None
    }
    return plots.performance_over_time(found.days, names, raised, found.task)


def page(found: Findings) -> bytes:
    """The whole page."""
    parts = [
        f"<h1>{escape(found.task)}: version {escape(found.version or 'none')}</h1>",
        f"<p>At {wire_time(found.at_us)}.</p>",
        _alerts(found),
        "<h2>Performance</h2>",
        _performance(found),
        _picture(found),
        f"<h2>Drift of {found.sampled:,} rows against the training reference</h2>",
        _drift(found.drift),
    ]
    head = f"<meta charset='utf-8'><title>Tollgate: {escape(found.task)}</title><style>{_STYLE}</style>"
    return f"<!doctype html><html lang='en'><head>{head}</head><body>{''.join(parts)}</body></html>".encode()


def _alerts(found: Findings) -> str:
    if not found.alerts:
        return "<p>Nothing is wrong.</p>"
    items = (
        f"<li><span class='bad'>{escape(each.severity)}: {escape(each.name)}</span>: {escape(each.summary)}."
        f" {escape(each.action)}.</li>"
        for each in found.alerts
    )
    return f"<ul>{''.join(items)}</ul>"


def _performance(found: Findings) -> str:
    """Tested, matured and estimated side by side."""
    tested = found.standard.figures if found.standard else {}
    columns: tuple[Mapping[str, float], ...] = (tested, found.matured or {}, found.estimated or {})
    names = dict.fromkeys(name for each in columns for name in each)
    rows = ((name.replace("_", " "), *(_number(each.get(name)) for each in columns)) for name in names)
    return _table(("", "test window", "matured", "estimated, no labels yet"), rows)


def _picture(found: Findings) -> str:
    if not found.days:
        return ""
    data = base64.b64encode(plot(found)).decode()
    first, last = (day_of(int(found.days[at]["day"]) * 86_400_000_000) for at in (0, -1))
    return f"<img alt='matured performance from {first} to {last}' src='data:image/png;base64,{data}'>"


def _drift(columns: Iterable[Drift]) -> str:
    rows = (
        (
            each.name,
            f"<span class='bar' style='width:{min(each.psi, 1.0) * 10:.1f}em'></span> {each.psi:.3f}",
            _number(each.statistic),
            f"{each.adjusted:.2g}",
            "<span class='bad'>drifted</span>" if each.drifted else "",
        )
        for each in columns
    )
    return _table(("", "stability index", "KS distance", "p, corrected", ""), rows)


def _table(head: tuple[str, ...], rows: Iterable[tuple[str, ...]]) -> str:
    """Cells are HTML already."""
    top = "".join(f"<th>{each}</th>" for each in head)
    body = "".join(f"<tr>{''.join(f'<td>{cell}</td>' for cell in row)}</tr>" for row in rows)
    return f"<table><tr>{top}</tr>{body}</table>"


def _number(value: float | None) -> str:
    return "" if value is None or value != value else f"{value:,.4g}"
