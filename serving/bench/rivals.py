"""What the scoring API is measured against: the framework's floor, and the way tutorials do it.

Each is a program of its own: `python -m serving.bench.rivals floor|tutorial PORT`.
"""

import sys
from typing import Any

import numpy as np
import pandas as pd
import uvicorn
from fastapi import FastAPI
from pydantic import ConfigDict

from features.fraud import CUSTOMER, FRAUD, TERMINAL, codes_of_payments, request_columns
from features.state import MICROSECONDS, Entity, Floats
from features.store import FeatureStore
from infra.settings import Settings, load
from ingestion.events import Transaction, microseconds
from training.tracking import pyfunc

ANSWER = {"transaction_id": "t", "decision": "approve", "score": 0.01, "risk_score": 12}


class Body(Transaction):
    """The same transaction; FastAPI hands over times as text, which is not taken strictly here."""

    model_config = ConfigDict(strict=False)


def floor() -> FastAPI:
    """FastAPI parses the same transaction with pydantic and gives a constant answer."""
    app = FastAPI()

    @app.post("/v1/fraud/score")
    async def score(event: Body) -> dict[str, Any]:
        return {**ANSWER, "transaction_id": event.transaction_id}

    return app


def tutorial(settings: Settings) -> FastAPI:
    """Feast's SDK reads the states, a DataFrame carries the features, `mlflow.pyfunc` predicts.

    Nothing is published: the comparison favours it.
    """
    app = FastAPI()
    feast = FeatureStore.of(settings).open()
    model = pyfunc(settings.addresses.mlflow, FRAUD.domain)
    fields = [f"{entity.view}:{column}" for entity in FRAUD.entities for column in entity.columns]

    @app.post("/v1/fraud/score")
    def score(event: Body) -> dict[str, Any]:
        row = {"customer_id": event.customer_id, "terminal_id": event.terminal_id}
        found = feast.get_online_features(features=fields, entity_rows=[row], full_feature_names=True).to_df()
        features = pd.DataFrame(_matrix(event, found), columns=list(FRAUD.names))
        return {**ANSWER, "transaction_id": event.transaction_id, "score": float(model.predict(features)[0])}

    return app


def _matrix(event: Transaction, found: pd.DataFrame) -> Floats:
    states = {entity.name: _state(entity, found) for entity in (CUSTOMER, TERMINAL)}
    amount = np.array([event.amount])
    at_s = np.array([microseconds(event.event_time) / MICROSECONDS])
    return FRAUD.matrix(
        states, request_columns(amount, [event.channel], codes_of_payments([vars(event)])), at_s
    )


def _state(entity: Entity, found: pd.DataFrame) -> Floats:
    names = [f"{entity.view}__{column}" for column in entity.columns]
    values: Floats = found[names].to_numpy(float)
    cold = pd.isna(values)
    values[cold] = entity.cold(1)[cold]
    return values


def main() -> None:
    """Serve one of them until told to stop."""
    name, port = sys.argv[1], int(sys.argv[2])
    app = floor() if name == "floor" else tutorial(load())
    uvicorn.run(app, port=port, loop="uvloop", http="httptools", access_log=False, log_level="warning")


if __name__ == "__main__":
    main()
