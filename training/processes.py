"""The processes that the stack starts from here."""

import threading
from typing import Annotated

import typer

from infra import logs, ready, settings
from infra.signals import stop_signal
from training.retrainer import Retrainer
from training.runs import Desk
from training.shadow import Shadow
from training.tasks import TASKS, task


def retrainer(
    only: Annotated[str, typer.Option(help="Tasks to look after, by comma; default: all.")] = ",".join(TASKS),
) -> None:
    """Retrain when new labels, outcomes or age ask for it; beside it, judge challengers on live traffic.

    Example: tollgate run retrainer --only fraud
    """
    logs.setup()
    chosen, stop = settings.load(), stop_signal()
    tasks = [task(name) for name in only.split(",")]
    for each in tasks:
        each.check(chosen)
    looking = Retrainer(chosen, tasks, Desk.of(chosen))
    shadow = Shadow(chosen, tasks, Desk.of(chosen))
    aside = threading.Thread(target=shadow.run, args=(stop,), name="shadow", daemon=True)
    aside.start()
    ready.tell()
    looking.run(stop)
