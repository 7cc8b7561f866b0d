"""The processes that the stack starts from here."""

import threading
from typing import Annotated

import typer
from prometheus_client import CollectorRegistry, start_http_server

from infra import logs, ready, settings
from infra.settings import Settings
from infra.signals import stop_signal
from training.alerts import Alerts
from training.history_lag import HistoryLag
from training.retrainer import Retrainer
from training.runs import Desk
from training.shadow import Shadow
from training.tasks import TASKS, Task, task
from training.watch_measures import WatchMeasures
from training.watcher import Looker, Watcher

ENDING_S = 10.0
"""Longest wait for a look of the watcher's or the shadow's to end."""


def retrainer(
    only: Annotated[str, typer.Option(help="Tasks to look after, by comma; default: all.")] = ",".join(TASKS),
    metrics_port: Annotated[int, typer.Option(help="For Prometheus; 0: none.")] = 0,
    metrics_host: Annotated[str, typer.Option(help="Address of it; 0.0.0.0: all of this machine's.")] = (
        "127.0.0.1"
    ),
) -> None:
    """Retrain when labels, outcomes, age, drift or performance ask for it; watch, and judge challengers.

    Example: tollgate run retrainer --only fraud
    """
    logs.setup()
    chosen, stop = settings.load(), stop_signal()
    tasks = [task(name) for name in only.split(",")]
    for each in tasks:
        each.check(chosen)
    metrics = CollectorRegistry()
    if metrics_port:
        start_http_server(metrics_port, metrics_host, metrics)
    looking = Retrainer(chosen, tasks, Desk.of(chosen))
    aside = (watcher(chosen, tasks, metrics).run, Shadow(chosen, tasks, Desk.of(chosen)).run)
    threads = [threading.Thread(target=each, args=(stop,), daemon=True) for each in aside]
    for thread in threads:
        thread.start()
    ready.tell()
    looking.run(stop)
    for thread in threads:
        thread.join(ENDING_S)


def watcher(chosen: Settings, tasks: list[Task], metrics: CollectorRegistry) -> Watcher:
    """A watcher of these tasks, as the settings say."""
    wanted = chosen.watching
    alerts = Alerts.of(chosen.findings / "alerts.json", wanted.webhook, wanted.alertmanager, wanted.resend_s)
    waiting = HistoryLag(chosen.addresses.kafka, chosen.history)
    return Watcher(Looker(chosen, waiting), tasks, alerts, WatchMeasures(metrics))
