"""Curves of a run as PNG files in memory, for the registry's artefacts."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.state import Floats
from training.metrics import Calibration

_DOTS_PER_INCH = 90


def calibration_curve(curve: Calibration, name: str) -> bytes:
    """Predicted against observed frequency, both on logarithmic axes: most of fraud's life is below 1 %."""
    figure, axes = _figure(f"Calibration of {name}", "predicted probability", "observed frequency")
    shown = curve.observed > 0
    axes.loglog(curve.predicted[shown], curve.observed[shown], "o-", label="bins of equal size")
    ends = [max(curve.predicted.min(), 1e-5), 1.0]
    axes.loglog(ends, ends, "--", color="grey", label="perfect")
    axes.legend()
    return _png(figure)


def cost_curve(thresholds: Floats, costs: Floats, levels: Mapping[str, float]) -> bytes:
    """What declining over each threshold costs, beside decisions that are not one threshold."""
    figure, axes = _figure("Cost on the test window", "decline over this probability", "money lost")
    axes.semilogx(thresholds, costs, label="one fixed threshold")
    for number, (name, cost) in enumerate(levels.items()):
        axes.axhline(cost, linestyle="--", color=f"C{number + 1}", label=f"{name}: {cost:,.0f}")
    axes.legend()
    return _png(figure)


def importance_bars(importance: Mapping[str, float], top: int = 25) -> bytes:
    """The features that matter most, as shares of all."""
    highest = sorted(importance.items(), key=lambda item: item[1])[-top:]
    total = sum(importance.values()) or 1.0
    figure, axes = _figure("Feature importance", "share of gain", "")
    axes.barh([name for name, _ in highest], np.array([value for _, value in highest]) / total)
    axes.tick_params(axis="y", labelsize=7)
    return _png(figure)


def slice_bars(slices: Mapping[str, Mapping[str, float]], figure_name: str) -> bytes:
    """One figure of every slice."""
    names: Sequence[str] = list(slices)
    figure, axes = _figure(f"{figure_name} by slice", figure_name, "")
    axes.barh(names, [slices[name][figure_name] for name in names])
    axes.tick_params(axis="y", labelsize=7)
    return _png(figure)


def shares_of_best(lines: Mapping[str, Sequence[Floats]], every: int) -> bytes:
    """What was earned of the best possible, quote by quote: the mean of several runs and their range.

    Args:
        lines: by name, one array of shares a run, one share for each `every` quotes.
        every: quotes.
    """
    figure, axes = _figure(
        "Earned of the best possible", "quotes", "share of the all-knowing seller's margin"
    )
    for number, (name, runs) in enumerate(lines.items()):
        across, each = np.arange(1, len(runs[0]) + 1) * every, np.array(runs)
        axes.plot(across, each.mean(axis=0), color=f"C{number}", label=name)
        axes.fill_between(across, each.min(axis=0), each.max(axis=0), color=f"C{number}", alpha=0.15)
    axes.axhline(0.96, linestyle="--", color="grey", label="0.96")
    axes.legend()
    return _png(figure)


def weekly_costs(lines: Mapping[str, Sequence[float]]) -> bytes:
    """Money lost in each week, by name."""
    figure, axes = _figure("Cost by the policy, week by week", "week", "money lost")
    for name, costs in lines.items():
        axes.plot(range(1, len(costs) + 1), costs, "o-", label=name)
    axes.legend()
    return _png(figure)


def _figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    """A figure without any global state or window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(7, 5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    axes.set_title(title)
    axes.set_xlabel(across)
    axes.set_ylabel(up)
    return figure, axes


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DOTS_PER_INCH)
    return out.getvalue()
