"""Curves of a run as PNG files in memory, for the registry's artefacts."""

import io
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from features.state import Floats, Ints
from training.metrics import Calibration

_DOTS_PER_INCH = 90
_LEAST_REGRET = 1e-3
"""The least that is drawn on a logarithmic axis."""


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


def regret(lines: Mapping[str, Sequence[Floats]], every: int, aim: float) -> bytes:
    """What was not earned of the best possible, quote by quote and in all: mean of several runs and range.

    Args:
        lines: by name, one array of shares of the best a run, one share for each `every` quotes.
        every: quotes.
        aim: share that the newest quotes should earn.
    """
    figure, (now, whole) = _figures(2, "quotes")
    now.set(title="Regret", ylabel="share of the best margin not earned", yscale="log")
    whole.set(title="Regret in all", ylabel="best margins of a quote not earned")
    for number, (name, runs) in enumerate(lines.items()):
        across, lost = np.arange(1, len(runs[0]) + 1) * every, 1.0 - np.array(runs)
        _range(now, across, np.maximum(lost, _LEAST_REGRET), f"C{number}", name)
        _range(whole, across, np.cumsum(lost * every, axis=1), f"C{number}", name)
    now.axhline(1.0 - aim, linestyle="--", color="grey", label=f"aim in the end: {1.0 - aim:.2f}")
    now.legend()
    return _png(figure)


def _range(axes: Any, across: Ints, runs: Floats, colour: str, name: str) -> None:
    axes.plot(across, runs.mean(axis=0), color=colour, label=name)
    axes.fill_between(across, runs.min(axis=0), runs.max(axis=0), color=colour, alpha=0.15)


def performance_over_time(
    days: Sequence[Mapping[str, float]], names: Sequence[str], alarms: Mapping[str, int], task: str
) -> bytes:
    """Figures of matured days one below the other, over event time, with alarms as vertical marks.

    Args:
        days: `day`, its number since 1970 UTC, and the figures of each; NaN leaves a gap.
        names: the figures to show.
        alarms: day on which each was raised, by what raised it.
        task: of the champion.
    """
    across = np.array([each["day"] for each in days], np.int64).astype("datetime64[D]")
    figure, all_axes = _stacked(f"Matured performance of {task}", len(names))
    for axes, name in zip(all_axes, names, strict=True):
        axes.plot(across, [each.get(name, np.nan) for each in days], "o-", markersize=3)
        axes.set_ylabel(name.replace("_", " "), fontsize=8)
        for number, (what, day) in enumerate(alarms.items()):
            raised = np.datetime64(day, "D")
            axes.axvline(raised, linestyle="--", color=f"C{number + 1}", label=what.replace("_", " "))
    if alarms:
        all_axes[0].legend(fontsize=8)
    all_axes[-1].tick_params(axis="x", labelsize=7, rotation=30)
    return _png(figure)


def weekly_costs(lines: Mapping[str, Sequence[float]]) -> bytes:
    """Money lost in each week, by name."""
    figure, axes = _figure("Cost by the policy, week by week", "week", "money lost")
    for name, costs in lines.items():
        axes.plot(range(1, len(costs) + 1), costs, "o-", label=name)
    axes.legend()
    return _png(figure)


def over_days(
    panels: Mapping[str, Mapping[str, Sequence[float]]], marks: Mapping[str, Sequence[float]], title: str
) -> bytes:
    """Figures of simulated days, one panel below the other, with marks across all of them.

    Args:
        panels: by what lies upwards, lines by name: one value a day from day 0, NaN leaves a gap.
        marks: days of each kind of mark, by its name; each kind has a colour of its own.
        title: above all panels.
    """
    figure, all_axes = _stacked(title, len(panels))
    for axes, (up, lines) in zip(all_axes, panels.items(), strict=True):
        for number, (name, values) in enumerate(lines.items()):
            axes.plot(range(len(values)), values, color=f"C{number}", label=name)
        axes.set_ylabel(up, fontsize=8)
        axes.legend(fontsize=7, loc="lower left")
    for number, (name, days) in enumerate(marks.items()):
        _marked(all_axes, days, f"C{number + 2}", name)
    all_axes[-1].set_xlabel("simulated day")
    figure.legend(*_mark_names(marks), fontsize=7, loc="outside lower center", ncols=len(marks))
    return _png(figure)


def stacked_series(title: str, across: str, at: Floats, values: Mapping[str, Floats]) -> bytes:
    """Each series in a panel of its own, one below the other; NaN leaves a gap."""
    figure, all_axes = _stacked(title, len(values))
    for axes, (name, line) in zip(all_axes, values.items(), strict=True):
        axes.plot(at, line, linewidth=0.8)
        axes.set_ylabel(name, fontsize=7)
        axes.tick_params(labelsize=7)
    all_axes[-1].set_xlabel(across)
    return _png(figure)


def _marked(all_axes: Any, days: Sequence[float], colour: str, name: str) -> None:
    style = "-" if name.startswith("begin") else ":"
    for axes in all_axes:
        for day in days:
            axes.axvline(day, color=colour, linestyle=style, linewidth=1.0)


def _mark_names(marks: Mapping[str, Sequence[float]]) -> tuple[list[Any], list[str]]:
    from matplotlib.lines import Line2D

    lines = [Line2D([], [], color=f"C{number + 2}", linestyle=":") for number in range(len(marks))]
    return lines, list(marks)


def _figure(title: str, across: str, up: str) -> tuple[Any, Any]:
    """A figure of one panel."""
    figure, (axes,) = _figures(1, across)
    axes.set(title=title, ylabel=up)
    return figure, axes


def _figures(panels: int, across: str) -> tuple[Any, Any]:
    """A figure of panels side by side."""
    figure = _empty(2.0 + 5.0 * panels, 5.0)
    axes = figure.subplots(1, panels, squeeze=False)[0]
    for each in axes:
        each.set_xlabel(across)
    return figure, axes


def _stacked(title: str, n: int) -> tuple[Any, Any]:
    """A figure of n panels one below the other that share what lies across."""
    figure = _empty(8.0, 1.9 * n + 0.8)
    figure.suptitle(title)
    return figure, figure.subplots(n, 1, sharex=True, squeeze=False)[:, 0]


def _empty(width: float, height: float) -> Any:
    """A figure without any global state or window."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def _png(figure: Any) -> bytes:
    out = io.BytesIO()
    figure.savefig(out, format="png", dpi=_DOTS_PER_INCH)
    return out.getvalue()
