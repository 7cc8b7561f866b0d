"""The processes that the stack starts from here."""

from typing import Annotated

import typer

from infra import logs, ready, settings
from infra.signals import stop_signal
from training.retrainer import Retrainer
from training.runs import Desk
from training.tasks import TASKS, task


def retrainer(
    only: Annotated[str, typer.Option(help="Tasks to look after, by comma; default: all.")] = ",".join(TASKS),
) -> None:
    """Retrain when new labels, outcomes or age ask for it.

    Example: tollgate run retrainer --only fraud
    """
    logs.setup()
    chosen, stop = settings.load(), stop_signal()
    tasks = [task(name) for name in only.split(",")]
    for each in tasks:
        each.check(chosen)
    looking = Retrainer(chosen, tasks, Desk.of(chosen))
    ready.tell()
    looking.run(stop)
