import numpy as np
import pytest

from training import metrics


def test_card_precision_removes_a_detected_card_from_later_days() -> None:
    card = np.array(["a", "b", "c", "a", "d", "c"], object)
    day = np.array([1, 1, 1, 2, 2, 2])
    truth = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0])
    score = np.array([0.9, 0.8, 0.1, 0.9, 0.5, 0.4])
    assert metrics.card_precision(truth, score, card, day, top=1) == 1.0
    worse = np.array([0.9, 0.8, 0.1, 0.9, 0.3, 0.4])
    assert metrics.card_precision(truth, worse, card, day, top=1) == 0.5


def test_a_card_has_its_greatest_score_of_the_day() -> None:
    card = np.array(["a", "a", "b"], object)
    found = metrics.card_precision(
        np.array([1.0, 0.0, 0.0]), np.array([0.1, 0.9, 0.5]), card, np.zeros(3, int), top=1
    )
    assert found == 1.0


def test_honest_probabilities_are_calibrated_and_doubled_ones_are_not() -> None:
    draw = np.random.default_rng(3)
    probability = draw.uniform(0, 0.4, 200_000)
    truth = (draw.random(200_000) < probability).astype(float)
    assert metrics.expected_calibration_error(truth, probability) < 0.005
    assert metrics.expected_calibration_error(truth, 2 * probability) == pytest.approx(0.2, abs=0.01)


def test_figures_without_both_classes_are_not_numbers() -> None:
    assert np.isnan(metrics.auc_roc(np.zeros(3), np.arange(3.0)))
    assert np.isnan(metrics.average_precision(np.zeros(0), np.zeros(0)))


def test_slices_cover_every_value() -> None:
    truth, score = np.array([1.0, 0.0, 1.0, 0.0]), np.array([0.9, 0.1, 0.2, 0.8])
    found = metrics.by_slice(truth, score, {"channel": np.array(["web", "web", "pos", "pos"], object)})
    assert {name: figures["auc_roc"] for name, figures in found.items()} == {
        "channel:web": 1.0,
        "channel:pos": 0.0,
    }


def test_every_group_has_its_own_figures() -> None:
    groups = np.array(["a", "a", "a", "b", "b", "b"], object)
    truth, decision = np.array([1.0, 0.0, 0.0, 1.0, 1.0, 0.0]), np.array([2, 2, 0, 0, 1, 1], np.int8)
    score = np.array([0.9, 0.2, 0.1, 0.3, 0.4, 0.8])
    found = metrics.by_value(groups, truth, score, decision)
    assert set(found) == {"a", "b"}
    assert found["a"] == {
        "rows": 3.0,
        "frauds": 1.0,
        "false_declines": 1.0,
        "recall": 1.0,
        "false_decline_rate": 0.5,
        "average_precision": 1.0,
        "predicted": pytest.approx(0.4),
        "observed": pytest.approx(1 / 3),
    }
    assert (found["b"]["recall"], found["b"]["false_decline_rate"]) == (0.5, 0.0)
    weighed = metrics.by_value(groups, truth, score, decision, np.array([1.0, 3.0, 1.0, 1.0, 4.0, 1.0]))
    assert (weighed["a"]["false_decline_rate"], weighed["b"]["recall"]) == (0.75, 0.8)
    assert metrics.by_value(groups[:0], truth[:0], score[:0], decision[:0]) == {}


def test_a_row_of_weight_three_counts_as_three_rows() -> None:
    draw = np.random.default_rng(4)
    truth, score = (draw.random(300) < 0.3).astype(float), draw.random(300)
    weight = draw.integers(1, 4, 300)
    repeated = np.repeat(np.arange(300), weight)
    found = metrics.of_scores(truth, score, weight.astype(float))
    expected = metrics.of_scores(truth[repeated], score[repeated])
    for name in ("auc_roc", "average_precision", "brier"):
        assert found[name] == pytest.approx(expected[name]), name
    curve = metrics.calibration(truth, score, bins=1, weight=weight.astype(float))
    assert curve.observed[0] == pytest.approx(truth[repeated].mean())
    assert (curve.rows.tolist(), curve.weight.tolist()) == ([300], [len(repeated)])


def test_slices_keep_their_weights() -> None:
    truth, score = np.array([1.0, 0.0, 1.0]), np.array([0.5, 0.5, 0.5])
    channel = {"channel": np.array(["web", "web", "pos"], object)}
    found = metrics.by_slice(truth, score, channel, np.array([3.0, 1.0, 1.0]))
    assert found["channel:web"]["average_precision"] == 0.75
