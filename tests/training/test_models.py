from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from infra.errors import UserError
from training import baselines, booster, models
from training.baselines import Linear
from training.booster import Model
from training.card import Card, Trained
from training.models import Scorer

CARD = Card("fraud", "", ("a", "b", "c"), "f00", Trained(1, 2, 3, 4_000))
DRAW = np.random.default_rng(5)
MATRIX = DRAW.normal(size=(4_000, 3))
MATRIX[DRAW.random(MATRIX.shape) < 0.1] = np.nan
TARGET = (np.nan_to_num(MATRIX[:, 0]) + 0.3 * DRAW.normal(size=4_000) > 1).astype(float)


def boosted() -> Model:
    return booster.train(MATRIX, TARGET, CARD, booster.CLASSIFIER)


def linear() -> Linear:
    return baselines.train(MATRIX, TARGET, CARD)


@pytest.fixture(params=[boosted, linear], ids=["lightgbm", "linear"])
def model(request: pytest.FixtureRequest) -> Scorer:
    return request.param()


def test_a_model_comes_back_bit_for_bit(model: Scorer, tmp_path: Path) -> None:
    model.save(tmp_path)
    again = models.load(tmp_path)
    assert np.array_equal(again.predict(MATRIX), model.predict(MATRIX))
    assert again.card == model.card
    assert again.card.kind in models.KINDS


def test_it_has_learned_something(model: Scorer) -> None:
    score = model.predict(MATRIX)
    assert score[TARGET > 0].mean() > score[TARGET == 0].mean() + 0.3


def test_one_row_is_scored_as_many_are(model: Scorer) -> None:
    each = np.concatenate([model.predict(MATRIX[row : row + 1]) for row in range(50)])
    assert np.array_equal(each, model.predict(MATRIX[:50]))


def test_contributions_add_up_to_the_log_odds(model: Scorer) -> None:
    score = model.predict(MATRIX)
    total = model.contributions(MATRIX).sum(axis=1)
    assert total == pytest.approx(np.log(score / (1 - score)), abs=1e-9)


def test_a_changed_file_is_refused(model: Scorer, tmp_path: Path) -> None:
    model.save(tmp_path)
    file = tmp_path / next(iter(model.card.files))
    file.write_bytes(file.read_bytes().replace(b"1", b"2", 1))
    with pytest.raises(UserError, match="expected SHA-256"):
        models.load(tmp_path)


def test_a_missing_card_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UserError, match="expected a model's card"):
        models.load(tmp_path)


@pytest.mark.parametrize(
    ("names", "feature_hash", "said"),
    [
        (("b", "a", "c"), "f00", "another order"),
        (("a", "b"), "f00", r"missing \['c'\]"),
        (("a", "b", "c"), "f01", "definitions f00, these are f01"),
    ],
)
def test_other_features_are_refused(names: tuple[str, ...], feature_hash: str, said: str) -> None:
    with pytest.raises(UserError, match=said):
        CARD.expect(names, feature_hash)


def test_training_again_gives_the_same_bytes() -> None:
    assert boosted().text == boosted().text


def test_the_reference_is_the_median_of_what_was_known() -> None:
    matrix = np.column_stack([MATRIX, np.full(len(MATRIX), np.nan)])
    card = replace(CARD, features=(*CARD.features, "never"))
    reference = booster.train(matrix, TARGET, card, booster.CLASSIFIER).card.reference
    assert reference[0] == np.nanmedian(MATRIX[:, 0])
    assert np.isnan(reference[3])


def test_weights_of_fraud_raise_what_is_expected() -> None:
    heavy = np.where(TARGET > 0, 20.0, 1.0)
    weighted = (
        booster.train(MATRIX, TARGET, CARD, booster.CLASSIFIER, heavy),
        baselines.train(MATRIX, TARGET, CARD, heavy),
    )
    for ours, plain in zip(weighted, (boosted(), linear()), strict=True):
        assert ours.predict(MATRIX).mean() > 1.3 * plain.predict(MATRIX).mean()
