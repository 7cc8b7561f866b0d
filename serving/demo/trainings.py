"""Trainings side by side, each in a process of its own that need not import first what it needs.

Feast and MLflow take a training 13 s to import, as long as LightGBM takes to learn from a demonstration.
"""

from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from contextlib import contextmanager
from multiprocessing import forkserver, get_context
from typing import Any

from infra import settings
from infra.progress import Silent
from training import runs, tasks
from training.dataset import Span

IMPORTED = (
    "serving.demo.trainings",
    "training.fraud",
    "training.pricing",
    "features.asof_store",
    "mlflow.lightgbm",
    "matplotlib.backends.backend_agg",
    "sklearn.linear_model",
    "sklearn.metrics",
)
"""What every training imports; a process that has done so is copied for each."""

REASON = runs.Reason("demo", "asked for by `tollgate demo`")


class Trainings:
    """Trains tasks as `tollgate train` does, but a winner of the trial takes over at once, without a shadow.

    Labels take a week to mature, and the demonstration's live days after a training are fewer. The stack that
    it leaves running shadows challengers as the settings say.
    """

    def __init__(self, pool: ProcessPoolExecutor) -> None:
        self._pool = pool

    def __call__(self, names: Sequence[str]) -> Mapping[str, dict[str, Any]]:
        """Train all at once; gives each one's report. UserError if one can't."""
        running = {name: self._pool.submit(_train, name) for name in names}
        return {name: each.result() for name, each in running.items()}


@contextmanager
def trainings(at_once: int) -> Iterator[Trainings]:
    """Begin to import at once, in the background; needs the settings that the trainings are to have."""
    context = get_context("forkserver")
    context.set_forkserver_preload(list(IMPORTED))
    forkserver.ensure_running()
    with ProcessPoolExecutor(at_once, context, max_tasks_per_child=1) as pool:
        yield Trainings(pool)


def _train(name: str) -> dict[str, Any]:
    chosen = settings.load()
    gate = chosen.gate.model_copy(update={"shadow_labels": 0})
    chosen = chosen.model_copy(update={"gate": gate})
    span = Span(None, chosen.retraining.window_days)
    return runs.train_newest(tasks.task(name), chosen, span, REASON, True, Silent()).as_json()
