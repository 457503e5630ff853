"""Distances between sets of features: against the definitions written out, other libraries and closed forms; bad input."""
import math

import numpy as np
import pytest
import torch
from scipy.spatial import cKDTree

from migvis.measure.realism import kid, nearest, precision_recall, within_manifold, _mmd2
from migvis.support.training import generator

def slow_mmd2(a, b):
    "Unbiased squared MMD, term by term."
    k = lambda x, y: (float(x @ y) / len(x) + 1) ** 3
    n, m = len(a), len(b)
    within = lambda s: sum(k(s[i], s[j]) for i in range(len(s))
                           for j in range(len(s)) if i != j) / (len(s) * (len(s) - 1))
    return within(a) + within(b) - 2 * sum(k(x, y) for x in a for y in b) / (n * m)


def test_mmd_is_the_definition_written_out():
    a, b = np.random.default_rng(2).normal(size=(2, 12, 5))
    assert _mmd2(a, b) == pytest.approx(slow_mmd2(a, b), abs=1e-10)


def test_mmd_is_that_of_torchmetrics():
    peer = pytest.importorskip("torchmetrics.image.kid")
    a, b = torch.randn(2, 40, 8, generator=generator(7), dtype=torch.float64)
    assert _mmd2(a.numpy(), b.numpy() * 1.2) == pytest.approx(float(peer.poly_mmd(a, b * 1.2)), abs=1e-9)


def test_kid_is_unbiased_and_grows_with_the_difference():
    rng = np.random.default_rng(3)
    same = [_mmd2(rng.normal(size=(60, 4)), rng.normal(size=(60, 4))) for _ in range(200)]
    assert abs(np.mean(same)) < 3 * np.std(same) / math.sqrt(200)
    a, b = rng.normal(size=(2, 400, 4))
    values = [kid(a, b + shift)[0] for shift in (0, 0.3, 0.6)]
    assert values[0] < values[1] < values[2] and values[0] < 0.05
    assert kid(a, b, seed=1) == kid(a, b, seed=1)


def test_mmd_of_point_masses_is_a_closed_form():
    a, b = np.zeros((5, 2)), np.full((5, 2), 1.0)       # k(a, a) = 1, k(b, b) = 2^3, k(a, b) = 1
    assert _mmd2(a, b) == pytest.approx(1 + 8 - 2)


def slow_coverage(points, centres, k):
    "Share of points in at least one ball, point by point."
    inside = 0
    for p in points:
        for i, c in enumerate(centres):
            others = sorted(np.linalg.norm(c - o) for j, o in enumerate(centres) if j != i)
            if np.linalg.norm(p - c) <= others[k - 1]:
                inside += 1
                break
    return inside / len(points)


@pytest.mark.parametrize("k", [1, 3])
def test_precision_and_recall_are_the_definition_written_out(k):
    rng = np.random.default_rng(4)
    real, fake = rng.normal(size=(40, 3)), 0.7 * rng.normal(size=(30, 3)) + 0.8
    assert precision_recall(real, fake, k) == (pytest.approx(slow_coverage(fake, real, k)),
                                               pytest.approx(slow_coverage(real, fake, k)))


def test_precision_and_recall_of_known_cases():
    rng = np.random.default_rng(5)
    real = rng.normal(size=(300, 8))
    assert precision_recall(real, real) == (1.0, 1.0)
    assert precision_recall(real, real + 100) == (0.0, 0.0)
    two = np.concatenate([real, real + 100])
    precision, recall = precision_recall(two, rng.normal(size=(300, 8)))
    assert precision > 0.8 and 0.3 < recall <= 0.5                       # a good half of the distribution
    precision, recall = precision_recall(rng.normal(size=(300, 8)), two)
    assert precision <= 0.5 and recall > 0.8


def test_nearest_is_that_of_a_tree():
    rng = np.random.default_rng(6)
    a, b = rng.normal(size=(50, 6)) + 30, rng.normal(size=(2000, 6)) + 30
    distance = nearest(a, b)
    expected = cKDTree(b).query(a)[0]
    np.testing.assert_allclose(distance, expected, rtol=1e-10)
    assert np.array_equal(nearest(b[:7], b), np.zeros(7))


def test_within_manifold_against_loops():
    rng = np.random.default_rng(0)
    real, fake = rng.standard_normal((40, 3)), rng.standard_normal((25, 3)) * 2
    slow = []
    radii = [sorted(np.linalg.norm(real - r, axis=1))[3] for r in real]
    for f in fake: slow.append(any(np.linalg.norm(f - r) <= radius for r, radius in zip(real, radii)))
    assert within_manifold(real, fake, k=3).tolist() == slow and 0 < sum(slow) < 25
    assert within_manifold(real, fake, k=3).mean() == pytest.approx(precision_recall(real, fake, k=3)[0])
    assert within_manifold(real, real).all() and not within_manifold(real, fake + 100).any()
    for k in (0, 40):
        with pytest.raises(ValueError, match="k must be between 1 and 39"): within_manifold(real, fake, k)


@pytest.mark.parametrize("real, fake, message", [(np.zeros((5, 3)), np.zeros((5, 4)), "same judge"),
                                                 (np.zeros((5, 3)), np.zeros(5), "must be"),
                                                 (np.zeros((5, 3)), np.zeros((2, 3)), "at least"),
                                                 (np.zeros((5, 3)), np.full((5, 3), np.nan), "finite"),])
def test_features_that_cannot_be_compared(real, fake, message):
    for score in (kid, precision_recall):
        with pytest.raises(ValueError, match=message): score(real, fake)


def test_settings_of_scores_that_cannot_be_meant():
    a = np.random.default_rng(7).normal(size=(6, 2))
    with pytest.raises(ValueError, match="k must"): precision_recall(a, a, 0)
