"""Our protocol gives the Fraud Detection Handbook's models the figures that the book published for them."""

from typing import Any

import numpy as np
import pandas as pd
import pytest

from features.state import Floats
from tests.payments import HANDBOOK, HANDBOOK_FEATURES, data_folder
from tests.training import book
from training import metrics
from training.handbook import Fold

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(not (data_folder() / HANDBOOK).exists(), reason="the Handbook's data are not at hand"),
]

BOOK_WEEK = 17_737
"""2018-07-25 in days since 1970."""


@pytest.fixture(scope="module")
def payments() -> pd.DataFrame:
    return book.payments(data_folder() / HANDBOOK)


@pytest.fixture(scope="module")
def matrix(payments: pd.DataFrame) -> Floats:
    return book.features(payments)


def test_the_features_are_the_published_ones(payments: pd.DataFrame, matrix: Floats) -> None:
    ids, values = book.published(data_folder() / HANDBOOK_FEATURES)
    at = payments.set_index("TRANSACTION_ID").index.get_indexer(ids)
    np.testing.assert_allclose(matrix[at], values, rtol=1e-6, atol=1e-6)


def logistic_regression() -> Any:
    from sklearn.linear_model import LogisticRegression
    from sklearn.pipeline import make_pipeline
    from sklearn.preprocessing import StandardScaler

    return make_pipeline(StandardScaler(), LogisticRegression(random_state=0))


def random_forest() -> Any:
    from sklearn.ensemble import RandomForestClassifier

    return RandomForestClassifier(random_state=0, n_jobs=-1)


@pytest.mark.parametrize(
    ("model", "expected"),
    [(logistic_regression, (0.871, 0.606, 0.291)), (random_forest, (0.867, 0.658, 0.287))],
)
def test_the_figures_are_the_published_ones(
    model: Any, expected: tuple[float, ...], payments: pd.DataFrame, matrix: Floats
) -> None:
    """AUC ROC, average precision and card precision@100 of the book's week, to 0.005."""
    fold = Fold(BOOK_WEEK)
    day = payments["at_s"].to_numpy() // book.DAY_S
    card = payments["CUSTOMER_ID"].to_numpy().astype(object)
    fraud = payments["TX_FRAUD"].to_numpy() > 0
    learned, examined = fold.learns(day), fold.examines(day, card, fraud)
    fitted = model().fit(matrix[learned], fraud[learned])
    score, truth = fitted.predict_proba(matrix[examined])[:, 1], fraud[examined].astype(float)
    found = (
        metrics.auc_roc(truth, score),
        metrics.average_precision(truth, score),
        metrics.card_precision(truth, score, card[examined], day[examined]),
    )
    assert found == pytest.approx(expected, abs=0.005)
