"""Stimulus-wise information: exact toys and axioms without networks, sampling within its errors, trained denoisers on a small toy."""
import copy
import math
import warnings
from functools import partial

import numpy as np
import pytest
import torch
from scipy.linalg import logm

from migvis.beyond import group_information
from migvis.beyond.group_information import (_group_bounds, _group_subsets, _LatentDenoiser, _posterior_draws,
                                             _used_latents, fit_groups, information_table,
                                             shared_information)
from migvis.beyond.response_models import (GainNet, ResponseDenoiser, _check_conditional,
                                           _halved_ridge, _learned_gains, _level_errors,
                                           _LinearCorrection, denoiser_gain, information_bound, train_gain,
                                           train_responses)
from migvis.beyond.stimulus_information import (
    InformationResult, _check_resolution, _draw_recorded, _even_times,
    _information_sets, _level_weights, _levels_of, _schedule_levels, _time_of_level, diffusion_posterior,
    gaussian_information_map, information, integrate, noise_levels)
from migvis.denoiser import NoiseSchedule, build_denoiser, train_denoiser
from migvis.support.presets import DenoiserConfig
from migvis.support.files import load_record, save_record
from migvis.support.training import generator

from .exact import (Line, _both, _denoiser_estimates, _draw_from_estimate, _draw_from_posterior,
                    _draw_from_stimulus, _line_curve, _line_estimates,
                    _line_information_given, _response_gain, line_information, retinotopic_population)

QUIET = {"progress": False}
LEVELS = noise_levels(2e-3, 1e3, 20)
X = torch.linspace(-4, 4, 161, dtype=torch.float64)


def share(p): return p / p.sum(0)


def normal(mean, sd): return torch.exp(-0.5 * ((X - mean) / sd) ** 2) / sd


def yes_no(p): return torch.stack([1 - p, p])


def bimodal(slope=3.0, at=0.0):
    return Line(X, share(normal(-1, 0.4) + normal(1, 0.4)), yes_no(torch.sigmoid(slope * (X - at))))


def poisson():
    k, rate = torch.arange(25, dtype=torch.float64)[:, None], 0.5 + 6 * torch.sigmoid(3 * X)
    return Line(X, share(normal(0, 1)), share((k * rate.log() - rate - torch.lgamma(k + 1)).exp()))


def random_line(seed, n=4):
    return Line(X, share(normal(-1, 0.5) + normal(0.8, 0.7)),
                share(torch.rand(n, 1, generator=generator(seed)).double()
                      + torch.sin(torch.arange(n)[:, None] + 2 * X
                                  * torch.rand(n, 1, generator=generator(seed, 1)).double()).square()))


# Quadrature

@pytest.mark.parametrize("variance, noise, exact",
                         [(1.0, 0.5, 0.5493), (1.0, 0.05, 1.5223), (0.12, 0.01, 1.2825)])
def test_gaussian_integrals(variance, noise, exact):
    curve = lambda c: 0.5 * (1 / (1 + c / variance) - 1 / (1 + c / variance + c / noise))
    for levels, tolerance in ((noise_levels(), 1e-3), (_schedule_levels(NoiseSchedule(150)), 2e-2)):
        got = integrate(curve(levels), levels)
        assert abs(float(got.value) - exact) < tolerance
    # without its tails the schedule's range loses several per cent: they are needed
    got = integrate(curve(levels), levels)
    assert exact - float(got.value - got.tails.sum()) > abs(float(got.value) - exact)


def test_the_error_estimate_covers_the_error_of_coarse_grids():
    exact = 0.5 * math.log(3)
    for n in (5, 6, 8, 12):
        levels = noise_levels(1e-4, 1e3, n)
        got = integrate(0.5 * (1 / (1 + levels) - 1 / (1 + 3 * levels)), levels)
        assert abs(float(got.value) - exact) < 3 * float(got.error) + 1e-3


def test_weights_of_both_grids_measure_the_same_range():
    for n in (5, 8, 9):
        whole, halved = (float(_level_weights(noise_levels(n=n), every).sum()) for every in (1, 2))
        assert whole == pytest.approx(halved)
    assert float(_level_weights(LEVELS).sum()) - 2 == pytest.approx(math.log(1e3 / 2e-3))


def test_levels_and_times():
    schedule = NoiseSchedule(50)
    assert torch.allclose(1 / (1 + _levels_of(schedule)), schedule.alpha_bar[1:])
    levels = _schedule_levels(schedule, 12)
    times = [_time_of_level(c, schedule) for c in levels.tolist()]
    assert torch.allclose(_levels_of(schedule)[torch.tensor(times) - 1], levels)
    assert len(_schedule_levels(schedule, 4096, high=1e9)) == 50
    counts = torch.bincount(_even_times(schedule, high=100.0, n=2000))
    # rare times of large steps in ln c are drawn more often
    assert counts[1:].sum() == 2000 and counts[-1] > 0
    with pytest.raises(ValueError, match="no noise level"): _time_of_level(0.123, schedule)


@pytest.mark.parametrize("make", [lambda: noise_levels(1.0, 1.0), lambda: noise_levels(
                                      0.0, 1.0), lambda: noise_levels(n=4), lambda: _schedule_levels(
                                      NoiseSchedule(50), high=1e-9), lambda: _level_weights(torch.tensor([1.0, 2, 2, 3, 4]))])
def test_empty_ranges_are_refused(make):
    with pytest.raises(ValueError, match="range of integration|ascending"): make()


def test_a_curve_must_fit_its_levels():
    with pytest.raises(ValueError, match="20 levels"): integrate(torch.ones(3, 7), LEVELS)


# Exact toys and the axioms

def slow_local(line, at, c, draw="posterior"):
    "Integrand at one stimulus and level, by plain loops and a dense trapezoid over x_c."
    z = np.linspace(-6, 6, 121)
    weights = np.exp(-z**2 / 2) / np.exp(-z**2 / 2).sum()
    x, prior, likelihood = (v.numpy() for v in (line.x, line.prior, line.likelihood))
    total = 0.0
    for w, x_c in zip(weights, x[at] + math.sqrt(c) * z):
        p = prior * np.exp(-((x_c - x) ** 2 - ((x_c - x) ** 2).min()) / (2 * c))
        p /= p.sum()
        for r in range(len(likelihood)):
            p_r = (p * likelihood[r]).sum()
            guess_r = (p * likelihood[r] * x).sum() / p_r
            total += w * (p_r if draw == "posterior" else likelihood[r, at]) * (guess_r - (p * x).sum()) ** 2
    return total / (2 * c)


@pytest.mark.parametrize("draw", ["posterior", "stimulus"])
def test_exact_curves_agree_with_plain_loops(draw):
    line = bimodal()
    curve = _line_curve(line, LEVELS, draw)
    for at, k in ((53, 3), (80, 8), (100, 12), (120, 17)):
        assert float(curve[at, k]) == pytest.approx(slow_local(line, at, float(LEVELS[k]), draw),
                                                    rel=1e-4, abs=1e-9)


@pytest.mark.parametrize("line", [bimodal(), poisson(), random_line(1), random_line(2)],
                         ids=["bimodal", "Poisson", "random 1", "random 2"])
def test_completeness_and_positivity(line):
    for draw in ("posterior", "stimulus"):
        local = line_information(line, LEVELS, draw)
        assert float(local @ line.prior) == pytest.approx(line.mutual_information(), rel=5e-3)
        assert (local >= 0).all()


@pytest.mark.parametrize("line", [bimodal(), poisson()], ids=["bimodal", "Poisson"])
def test_the_shortcut_loses_information(line):
    assert float(line_information(line, LEVELS, "estimate") @ line.prior) < 0.85 * line.mutual_information()


def test_gaussian_line_is_the_same_everywhere():
    edges = torch.linspace(-6, 6, 81, dtype=torch.float64)
    cdf = torch.special.ndtr((edges[:, None] - X) / 0.5**0.5)
    line = Line(X, share(normal(0, 1)), torch.cat([cdf[:1], cdf.diff(dim=0), 1 - cdf[-1:]]))
    middle = X.abs() < 1.5
    assert torch.allclose(line_information(line, LEVELS)[middle],
                          torch.full((int(middle.sum()),), 0.5493, dtype=torch.float64), atol=0.01)
    kong = line_information(line, LEVELS, "stimulus")
    # Kong's variant favours the outer ones
    assert kong[X.abs().argmin()] < 0.9 * kong[(X - 1.5).abs().argmin()]


def test_additivity_holds_for_the_posterior_and_fails_for_kong():
    first, second = bimodal(4, -0.8), bimodal(4, 0.3)
    seen = first.prior > 1e-4 * first.prior.max()
    deviation = {}
    for draw in ("posterior", "stimulus"):
        parts = line_information(first, LEVELS, draw) + _line_information_given(second, first, LEVELS, draw)
        deviation[draw] = float((line_information(_both(first, second), LEVELS,
                                                  draw) - parts)[seen].abs().max())
    assert deviation["posterior"] < 1e-9 < 0.05 < deviation["stimulus"]


def test_data_processing_for_every_stimulus():
    line = poisson()
    coarse = Line(X, line.prior, torch.stack([line.likelihood[:2].sum(0), line.likelihood[2:5].sum(0),
                                              line.likelihood[5:].sum(0)]))
    assert (line_information(coarse, LEVELS) <= line_information(line, LEVELS) + 1e-9).all()
    assert torch.allclose(line_information(Line(X, line.prior, yes_no(torch.full_like(X, 0.3))), LEVELS),
                          torch.zeros_like(X), atol=1e-12)


def test_locality_of_the_integrand():
    "A change beyond a distance d leaves the integrand alone at levels far below d^2."
    near, far = torch.sigmoid(5 * (X + 1)), (X > 1.5).double()
    changed = [Line(X, share(normal(-1, 0.4) + normal(2, 0.4)),
                    yes_no(near * (1 - far) + far * torch.sigmoid(s * (X - 2)))) for s in (1.0, 6.0)]
    before, after = (_line_curve(line, LEVELS) for line in changed)
    at, fine = int((X + 1).abs().argmin()), LEVELS < (2.5 / 7) ** 2
    assert torch.allclose(before[at, fine], after[at, fine], rtol=1e-3, atol=1e-6)
    assert (before[int((X - 2).abs().argmin())] - after[int((X - 2).abs().argmin())]).abs().max() > 0.01


def test_bad_lines():
    with pytest.raises(ValueError, match="add up to 1"):
        Line(X, torch.ones_like(X), yes_no(torch.full_like(X, 0.5)))
    with pytest.raises(ValueError, match="likelihood"): Line(X, share(normal(0, 1)), torch.ones(2, 3))
    with pytest.raises(ValueError, match="finer than the grid"):
        _line_curve(bimodal(), noise_levels(1e-6, 1, 10))
    with pytest.raises(ValueError, match="draw must be"): _line_curve(bimodal(), LEVELS, "thin air")
    with pytest.raises(ValueError, match="different stimuli"):
        _both(bimodal(), Line(X, share(normal(0, 1)), yes_no(torch.full_like(X, 0.5))))


# Gaussian closed form

def random_cov(d, seed):
    a = torch.randn(d, d, generator=generator(seed), dtype=torch.float64)
    return a @ a.T + 0.3 * torch.eye(d, dtype=torch.float64)


def test_gaussian_map_against_logm_and_against_the_integral():
    cov, w = random_cov(4, 1), torch.randn(2, 4, generator=generator(2), dtype=torch.float64)
    fisher = w.T @ w / 0.3
    got = gaussian_information_map(cov, fisher)
    oracle = 0.5 * np.diag(logm(np.linalg.inv(cov.numpy()) + fisher.numpy()) + logm(cov.numpy()))
    assert np.allclose(got, oracle.real) and (got > 0).all()
    assert float(got.sum()) == pytest.approx(0.5 * float(torch.logdet(torch.eye(4) + cov @ fisher)))
    levels, eye = noise_levels(1e-5, 1e5, 80), torch.eye(4)
    curve = torch.stack([(torch.linalg.inv(torch.linalg.inv(cov) + eye / c)
                          - torch.linalg.inv(torch.linalg.inv(cov) + fisher + eye / c)).diagonal() / (2 * c)
                         for c in levels], 1)
    assert torch.allclose(integrate(curve, levels).value, got, atol=2e-3)


def test_gaussian_map_gives_nothing_to_independent_features_and_refuses_singular_covariances():
    cov = torch.block_diag(random_cov(2, 3), random_cov(2, 4))
    fisher = torch.zeros(4, 4, dtype=torch.float64)
    fisher[0, 0] = 5.0
    assert torch.allclose(gaussian_information_map(cov, fisher)[2:],
                          torch.zeros(2, dtype=torch.float64), atol=1e-12)
    with pytest.raises(ValueError, match="positive definite"):
        gaussian_information_map(torch.ones(3, 3), torch.eye(3))
    with pytest.raises(ValueError, match="cov must be"): gaussian_information_map(torch.eye(3), torch.eye(4))


# Sampling with exact guesses

def linear_gaussian(cov, w, noise):
    "Exact guesses, encoder and posterior sampler of a Gaussian stimulus with a linear response."
    d = len(cov)
    prior, fisher = torch.linalg.inv(cov), w.T @ w / noise**2
    def guess(x_c, c, r=None):
        precision = prior + torch.eye(d) / c + (0 if r is None else fisher)
        return (x_c.double() / c
                + (0 if r is None else r.double() @ w / noise**2)) @ torch.linalg.inv(precision)
    encoder = lambda x, stream: x.double() @ w.T + noise * torch.randn(len(x), len(w), generator=stream,
                                                                       dtype=torch.float64)
    def posterior(x_c, c, stream):
        covariance = torch.linalg.inv(prior + torch.eye(d) / c)
        return guess(x_c, c) + torch.randn(x_c.shape, generator=stream,
                                           dtype=torch.float64) @ torch.linalg.cholesky(covariance).T
    return guess, guess, encoder, posterior


@pytest.fixture(scope="module")
def gaussian():
    cov = torch.block_diag(torch.tensor([[1.0, 0.6], [0.6, 1.0]]), torch.tensor([[0.5]])).double()
    w = torch.tensor([[1.0, 0.0, 0.0]], dtype=torch.float64)
    x = torch.randn(24, 3, generator=generator(7), dtype=torch.float64) @ torch.linalg.cholesky(cov).T
    return cov, w, x, linear_gaussian(cov, w, 0.5), gaussian_information_map(cov, w.T @ w / 0.25)


def test_sampled_information_lies_within_its_errors(gaussian):
    _, _, x, (estimate, conditional, encoder, posterior), exact = gaussian
    result = information(x, _response_gain(estimate, conditional, _draw_from_posterior(encoder, posterior)),
                         noise_levels(1e-3, 1e3, 24), 64, **QUIET)
    assert np.abs((result.map - exact.numpy()) / (result.map_error + 1e-9))[:, :2].max() < 5
    assert np.abs(result.map[:, 2]).max() < 1e-20  # the independent feature gets nothing
    z = (result.total - float(exact.sum())) / result.total_error
    assert abs(z.mean()) < 1 and 0.6 < z.std() < 1.5  # errors are as large as they say
    value, low, high = result.average()
    assert low < float(exact.sum()) < high and high - low < 0.1
    assert np.allclose(result.map.sum(1), result.total)


def test_other_draws_are_as_expected(gaussian):
    cov, _, x, (estimate, conditional, encoder, posterior), exact = gaussian
    ask = lambda draw: information(x, _response_gain(estimate, conditional, draw),
                                   noise_levels(1e-3, 1e3, 16), 64, **QUIET)
    assert ask(_draw_from_estimate(encoder, estimate)).average()[0] < 0.8 * float(exact.sum())
    kong = ask(_draw_from_stimulus(encoder, x))
    # different for every stimulus, where the proper one is constant
    assert kong.total.std() > 2 * np.median(kong.total_error)
    many = torch.randn(600, 3, generator=generator(8), dtype=torch.float64) @ torch.linalg.cholesky(cov).T
    recorded = _response_gain(estimate, conditional, _draw_recorded(encoder(many, generator(9))))
    value, low, high = information(many, recorded, noise_levels(1e-3, 1e3, 16), 4, batch_size=4000,
                                   **QUIET).average()
    assert low < float(exact.sum()) < high and high - low < 0.25


@pytest.mark.parametrize("line", [bimodal(), poisson()], ids=["bimodal", "Poisson"])
def test_sampled_information_on_lines(line):
    points, levels = torch.linspace(-1.5, 1.5, 5)[:, None], noise_levels(2e-3, 1e3, 16)
    estimate, conditional, encoder, posterior = _line_estimates(line)
    result = information(points,
                         _response_gain(estimate, conditional, _draw_from_posterior(encoder, posterior)),
                         levels, 200, batch_size=4000, **QUIET)
    exact = np.interp(points[:, 0], X, line_information(line, levels))
    assert np.abs((result.total - exact) / result.total_error).max() < 4.5
    assert (result.total_error < 0.15 * exact + 0.02).all()


def test_diffusion_posterior_samples_the_posterior(gaussian):
    cov, _, _, (estimate, *_), _ = gaussian
    sampler = diffusion_posterior(estimate, noise_levels(1e-4, 1e2, 120))
    x_c, c = torch.tensor([[0.7, -0.4, 1.0]], dtype=torch.float64), 0.8
    draws = sampler(x_c.expand(4000, 3), c, generator(3))
    exact_cov = torch.linalg.inv(torch.linalg.inv(cov) + torch.eye(3) / c)
    assert torch.allclose(draws.mean(0), estimate(x_c, c)[0], atol=0.05)
    assert torch.allclose(torch.cov(draws.T), exact_cov, atol=0.06)


# The loop and its result

def flat(x_c, c, index, stream): return torch.full_like(x_c, 2 * c / (1 + c) ** 2 * c)


def test_bad_input_to_the_loop(gaussian):
    _, _, x, (estimate, conditional, encoder, _), _ = gaussian
    nan = lambda *a: torch.full((len(a[0]), 1), math.nan)
    with pytest.raises(ValueError, match="responses must be finite"):
        information(x, _response_gain(estimate, conditional, nan), LEVELS, **QUIET)
    with pytest.raises(ValueError, match="one response for each"):
        information(x, _response_gain(estimate, conditional, lambda *a: torch.zeros(3, 1)), LEVELS, **QUIET)
    with pytest.raises(FloatingPointError, match="not finite"):
        information(x, lambda x_c, *a: x_c * math.nan, LEVELS, **QUIET)
    with pytest.raises(ValueError, match="shape of the blurred"):
        information(x, lambda x_c, *a: x_c[:, :1], LEVELS, **QUIET)
    with pytest.raises(ValueError, match="even and at least 4"): information(x, flat, LEVELS, 5, **QUIET)
    with pytest.raises(ValueError, match="stimuli must be finite"):
        information(x * math.inf, flat, LEVELS, **QUIET)
    with pytest.raises(ValueError, match="stimuli must have shape"):
        information(torch.zeros(5), flat, LEVELS, **QUIET)


def test_a_grid_that_is_too_coarse_or_too_short_says_so(gaussian):
    x = gaussian[2]
    with pytest.warns(UserWarning, match="levels are too few"):
        information(x, flat, noise_levels(1e-6, 1e6, 7), **QUIET)
    with pytest.warns(UserWarning, match="lies above the range.*take larger c"):
        information(x, flat, noise_levels(1e-4, 1, 20), **QUIET)
    with pytest.warns(UserWarning, match="lies below the range.*take smaller c"):
        information(x, flat, noise_levels(1, 1e4, 20), **QUIET)


def test_the_same_seed_gives_the_same_numbers(gaussian):
    _, _, x, (estimate, conditional, encoder, posterior), _ = gaussian
    ask = lambda seed: information(x[:3], _response_gain(estimate, conditional,
                                                         _draw_from_posterior(encoder, posterior)), LEVELS, 8,
                                   seed=seed, **QUIET).total
    assert np.array_equal(ask(1), ask(1)) and not np.allclose(ask(1), ask(2))


@pytest.fixture(scope="module")
def picture_result():
    x = torch.rand(3, 1, 6, 6, generator=generator(4))
    return information(x, lambda x_c, c, *a: x_c.square() * flat(x_c, c, *a), LEVELS, 8,
                       method="made up", **QUIET)


def test_results_change_units_and_are_saved(picture_result, tmp_path):
    bits = picture_result.to("bits")
    assert (bits.unit == "bits" and np.allclose(bits.total * math.log(2), picture_result.total)
            and np.allclose(bits.to("nats").map, picture_result.map))
    assert bits.to("bits").total is not None and np.allclose(bits.to("bits").total, bits.total)
    with pytest.raises(ValueError, match="unit must be"): bits.to("bananas")
    loaded = load_record(save_record(tmp_path / "r.npz", bits), InformationResult)
    assert loaded.unit == "bits" and loaded.method == "made up"
    for name in ("map", "map_error", "total", "total_error", "levels", "curve", "step_error"):
        assert np.array_equal(getattr(loaded, name), getattr(bits, name))
    assert picture_result.select([2, 0]).total.tolist() == picture_result.total[[2, 0]].tolist()


# Networks

CPU = {"device": "cpu", "progress": False}
CONFIG = DenoiserConfig(image_size=8, width=16, multipliers=(1, 2), layers=1, patch=2, attention=False, T=60,
                        steps=200, batch_size=64, lr=3e-3, ema=0.98, flips=False)


def four_patches(pixel):
    w = (-(pixel - torch.cartesian_prod(torch.tensor([2.0, 5.0]),
                                        torch.tensor([2.0, 5.0]))[:, None]).square().sum(-1) / 4).exp()
    return w / w.sum(1, keepdim=True)


@pytest.fixture(scope="module")
def world():
    "Gaussian 8 x 8 images, four neurons that average patches, a trained denoiser with a trained correction."
    pixel = torch.cartesian_prod(torch.arange(8), torch.arange(8)).double()
    cov = 0.0625 * (0.97 * (-(pixel[:, None] - pixel).square().sum(-1) / 8).exp() + 0.03 * torch.eye(64))
    w, noise = four_patches(pixel), 0.08
    draw = lambda n, seed: (torch.randn(n, 64, generator=generator(seed), dtype=torch.float64)
                            @ torch.linalg.cholesky(cov).T).float().reshape(n, 1, 8, 8).clamp(-1, 1)
    answer = lambda x, stream: x.flatten(1) @ w.T.float() + noise * torch.randn(len(x), 4, generator=stream)
    train, test = draw(4000, 1), draw(128, 2)
    base = train_denoiser((train + 1) / 2, CONFIG, device="cpu", progress=False).model
    r = answer(test, generator(3))
    fitted = train_responses(ResponseDenoiser(base, 4, width=16),
                             (train + 1) / 2, lambda rows, s: answer(train[rows], s), steps=80,
                             validate_every=40, subsets=torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(),
                             validation=((test + 1) / 2, r), device="cpu", progress=False)
    exact = gaussian_information_map(cov, w.T @ w / noise**2).reshape(8, 8)
    half = gaussian_information_map(cov, w[:2].T @ w[:2] / noise**2).reshape(8, 8)
    return base, fitted, train, test, r, exact, half


def test_trained_denoisers_come_near_the_closed_form(world):
    base, fitted, _, test, r, exact, half = world
    levels = _schedule_levels(base.schedule, 10)
    ask = lambda known: information(test, denoiser_gain(fitted.model, _draw_recorded(r), known),
                                    levels, 4, **QUIET)
    whole = ask(None)
    assert 0.8 < whole.average()[0] / float(exact.sum()) < 1.2
    assert np.corrcoef(whole.map.mean((0, 1)).ravel(), exact.ravel())[0, 1] > 0.8
    some = ask(torch.tensor([1, 1, 0, 0]).bool())
    assert 0.7 < some.average()[0] / float(half.sum()) < 1.3
    assert -fitted.history.validation.dropna().iloc[-1] > 0.5 * float(exact.sum())


def test_the_correction_is_nothing_at_first_and_without_a_response(world):
    base, fitted, _, test, r, *_ = world
    fresh, y, t = ResponseDenoiser(base, 4, width=16), test[:5], torch.tensor([1, 5, 20, 40, 60])
    assert torch.allclose(fresh(y, t, r[:5]), base(y, t))
    model, unknown = fitted.model, torch.full((5, 4), math.nan)
    assert torch.allclose(model(y, t, None), model(y, t, unknown))
    assert not any(p.requires_grad for p in model.base.parameters())


def fit(linear, k, e, missed):
    linear.spread[k], linear.cross[k] = _halved_ridge(e, missed)


def test_linear_correction_is_the_regression_on_what_is_known():
    schedule, stream = NoiseSchedule(60), generator(11)
    e = torch.randn(4000, 3, generator=stream) @ torch.tensor([[1.0, 0.5, 0.0], [0.0, 1.0, -0.3],
                                                               [0.0, 0.0, 0.7]])
    missed = e @ torch.randn(3, 4, generator=stream) + 0.1 * torch.randn(4000, 4, generator=stream)
    linear = _LinearCorrection(schedule, 3, 4, n=5)
    for k in range(len(linear.times)): fit(linear, k, e, missed * (k + 1))
    some = torch.arange(6)
    for known in torch.cartesian_prod(*3 * [torch.tensor([False, True])])[1:]:
        weights = torch.linalg.lstsq(e[:, known], missed).solution  # a regression of its own for every subset
        got = linear(e[some], known.expand(6, 3), linear.times[2].expand(6))
        assert torch.allclose(got, 3 * e[some][:, known] @ weights, rtol=0.01, atol=0.05)
    assert torch.equal(linear(e[some], torch.zeros(6, 3, dtype=torch.bool), linear.times[some.clamp(max=4)]),
                       torch.zeros(6, 4))
    everything, between = torch.ones(6, 3, dtype=torch.bool), int(linear.times[1]) + 1
    ends = [linear(e[some], everything, linear.times[k].expand(6)) for k in (1, 2)]
    mixed = linear(e[some], everything, torch.full((6,), between))
    part = ((mixed - ends[0]) / (ends[1] - ends[0])).flatten()
    assert torch.allclose(part, part[0].expand_as(part), atol=1e-3) and 0 < part[0] < 1
    fit(linear, 0, e, torch.randn(4000, 4, generator=stream))  # nothing to find
    assert linear(e, torch.ones(4000, 3, dtype=torch.bool), linear.times[0].expand(4000)).std() < 0.05


def test_the_linear_start_alone_knows_gaussian_images(world):
    base, _, train, _, _, exact, half = world
    model = ResponseDenoiser(base, 4, width=16)
    w = four_patches(torch.cartesian_prod(torch.arange(8), torch.arange(8)).double())
    r = train.flatten(1) @ w.T.float() + 0.08 * torch.randn(len(train), 4, generator=generator(5))
    model.start(train[:2000], r[:2000])
    for known, wanted in ((None, exact), (torch.tensor([1, 1, 0, 0]).bool(), half)):
        result = information(train[2000:2064], denoiser_gain(model, _draw_recorded(r[2000:2064]), known),
                             _schedule_levels(base.schedule, 14), 4, **QUIET)
        assert 0.8 < result.average()[0] / float(wanted.sum()) < 1.2


def test_a_checkpoint_of_another_base_is_refused(world, tmp_path):
    base, _, train, test, r, *_ = world
    ask = lambda frozen: train_responses(ResponseDenoiser(frozen, 4, width=16), (test + 1) / 2, r, steps=2,
                                         checkpoint=tmp_path, device="cpu", progress=False)
    ask(base)
    assert ask(base).resumed_from == 2
    other = copy.deepcopy(base)
    with torch.no_grad(): next(other.parameters()).mul_(1.01)
    with pytest.raises(ValueError, match="another run"): ask(other)


@pytest.mark.parametrize("other", ["images", "responses", "subsets", "validation"])
def test_checkpoints_of_other_data_are_refused(world, tmp_path, other):
    base, _, _, test, r, *_ = world
    given = {"images": (test + 1) / 2, "responses": r,
             "subsets": torch.tensor([[1, 1, 1, 1], [1, 1, 0, 0]]).bool(), "validation": None}
    def ask(images, responses, **options):
        return train_responses(ResponseDenoiser(base, 4, width=16), images, responses, steps=1, n_start=64,
                               checkpoint=tmp_path, **options, **CPU)
    ask(**given)
    assert ask(**given).resumed_from == 1
    changed = {"images": given["images"].flip(-1), "responses": r.flip(0),
               "subsets": ~given["subsets"][:, [2, 3, 0, 1]], "validation": (given["images"], r)}
    with pytest.raises(ValueError, match=f"another run.*{other}"): ask(**given | {other: changed[other]})


def test_checkpoints_of_regressions_on_other_data_are_refused(world, tmp_path):
    base, fitted, _, test, r, *_ = world
    given = {"images": (test + 1) / 2, "responses": r, "subsets": torch.tensor([[1, 1, 0, 0]]).bool()}
    ask = lambda images, responses, subsets: train_gain(GainNet(base, width=16), fitted.model, images,
                                                        responses, subsets=subsets, steps=1,
                                                        checkpoint=tmp_path, **CPU)
    ask(**given)
    assert ask(**given).resumed_from == 1
    for other, changed in {"images": given["images"].flip(-1), "responses": r.flip(0),
                           "subsets": ~given["subsets"]}.items():
        with pytest.raises(ValueError, match=f"another run.*{other}"): ask(**given | {other: changed})


def test_drawn_responses_are_told_apart_by_what_they_are_like(world, tmp_path):
    base, _, _, test, r, *_ = world
    def ask(gain):
        draw = lambda rows, stream: gain * r[rows] + 0.1 * torch.randn(len(rows), 4, generator=stream)
        return train_responses(ResponseDenoiser(base, 4, width=16), (test + 1) / 2, draw, steps=1, n_start=64,
                               checkpoint=tmp_path, **CPU)
    ask(1.0)
    assert ask(1.0 + 1e-8).resumed_from == 1  # last digits, as they differ with the number of threads
    with pytest.raises(ValueError, match="another run.*responses"): ask(1.1)


def test_the_start_happens_on_the_device_of_the_training(world):
    base, _, _, test, r, *_ = world
    class Started(Exception): ...
    class Spy(ResponseDenoiser):
        def start(self, y0, responses, seed=0):
            raise Started({v.device.type for v in (y0, responses, *self.parameters(), *self.buffers())})
    with pytest.raises(Started, match="{'meta'}"):
        train_responses(Spy(base, 4, width=16), (test + 1) / 2, r, steps=1, device="meta")


@pytest.mark.parametrize("make", [lambda base: ResponseDenoiser(base, 4, width=16), lambda base: GainNet(
                                      base, width=16)], ids=["responses", "gain"])
def test_the_base_that_was_given_stays_as_it_was(make):
    base = build_denoiser(CONFIG, 0.3).train()
    own = make(base).to("meta").base
    assert base.training and all(p.requires_grad and p.device.type == "cpu" for p in base.parameters())
    assert not own.training and not any(p.requires_grad for p in own.parameters())


def test_errors_of_the_unconditional_denoiser_add_to_the_information_seen():
    ("Gaussian pixels, everything exact but the variance that the unconditional denoiser believes: no lower "
     "bound.")
    schedule, noise, stream = NoiseSchedule(), 4.37, generator(12)
    class Pixels(torch.nn.Module):
        def __init__(self, believed): super().__init__(); self.believed, self.schedule = believed, schedule
        def forward(self, y_t, t, r):
            mean, var = (0, self.believed) if r is None else (r.view_as(y_t) / (1 + noise**2),
                                                              noise**2 / (1 + noise**2))
            ab = schedule.at(schedule.alpha_bar, t, y_t)
            return (1 - ab).sqrt() / (ab * var + 1 - ab) * (y_t - ab.sqrt() * mean)
    x = torch.randn(8192, 1, 8, 8, generator=stream)
    r, exact = (x + noise * torch.randn(x.shape, generator=stream)).flatten(1), 32 * math.log(1 + noise**-2)
    right, wrong = (float(information_bound(x, r, n=len(x))(Pixels(believed))) for believed in (1.0, 1.2))
    assert right == pytest.approx(exact, rel=0.1) and wrong > 1.15 * exact


def test_noise_beyond_the_range_is_no_reason_to_warn():
    levels, noisy = noise_levels(1e-2, 1e2, 12), torch.zeros(4, 12, dtype=torch.float64)
    noisy[:, [0, 5]] = 1.0
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        _check_resolution(noisy, torch.full((4, 12), 100.0, dtype=torch.float64), levels, 0.02)
    with pytest.warns(UserWarning, match="lies below the range"):
        _check_resolution(noisy, torch.full((4, 12), 1e-6, dtype=torch.float64), levels, tolerance=0.4)


def test_frozen_means_frozen(world):
    base, fitted, *_ = world
    before, model = {k: v.clone() for k, v in base.state_dict().items()}, ResponseDenoiser(base, 4, width=16)
    trained = train_responses(model, (world[3] + 1) / 2, world[4], steps=3, device="cpu",
                              progress=False).model
    assert all(torch.equal(v, before[k]) for k, v in trained.base.state_dict().items())
    assert any(p.grad is not None for p in trained.unet.parameters())
    assert not fitted.model.train().base.training and not fitted.model.eval().training


def test_regression_network_keeps_the_mean(world):
    base, fitted, train, test, r, exact, _ = world
    answer_rows = r.repeat(5, 1)
    net = GainNet(base, 2, width=16)
    subsets = torch.tensor([[1, 1, 1, 1], [0, 0, 1, 1]]).bool()
    images = ((test + 1) / 2).repeat(5, 1, 1, 1)
    train_gain(net, fitted.model, images, answer_rows, subsets=subsets, steps=40, device="cpu",
               progress=False)
    levels = _schedule_levels(base.schedule, 10)
    maps = _information_sets(test[:64], _learned_gains(net), levels, ("all", "half"), 4, **QUIET)
    for name, known in zip(("all", "half"), subsets):
        direct = information(test[:64], denoiser_gain(fitted.model, _draw_recorded(r), known),
                             levels, 4, **QUIET)
        assert maps[name].average()[0] == pytest.approx(direct.average()[0], rel=0.25)
        assert (maps[name].map > 0).all()
    assert maps["half"].average()[0] < maps["all"].average()[0]
    # Gaussian: the same for every image, once the single responses are averaged over
    assert maps["all"].total.std() < direct.total.std()
    with pytest.raises(ValueError, match="shape of the blurred"):
        _information_sets(test, _learned_gains(net), levels, ("all",), 4, **QUIET)
    with pytest.raises(ValueError, match="subsets must be"):
        train_gain(net, fitted.model, images, answer_rows, steps=1)


def test_a_conditional_denoiser_will_do():
    denoiser = build_denoiser(CONFIG, 0.3, n_condition=3)
    x, levels = torch.rand(2, 1, 8, 8) * 2 - 1, _schedule_levels(denoiser.schedule, 8)
    estimate, conditional = _denoiser_estimates(denoiser)
    c, r = float(levels[3]), torch.randn(2, 3)
    with torch.no_grad():
        assert torch.allclose(estimate(x, c), conditional(x, c, r))  # ignores its condition until trained
        t, y = _time_of_level(c, denoiser.schedule), x / (1 + c) ** 0.5
        assert torch.allclose(estimate(x, c), denoiser.schedule.y0_hat(y, denoiser(y, t), t), atol=1e-4)
    result = information(x, denoiser_gain(denoiser, _draw_recorded(r)), levels, 4, **QUIET)
    assert np.allclose(result.total, 0)


def test_networks_refuse_what_does_not_fit(world):
    base, fitted, train, test, r, *_ = world
    images = (test + 1) / 2
    with pytest.raises(ValueError, match="takes no response"): denoiser_gain(base, _draw_recorded(r))
    with pytest.raises(ValueError, match="takes no resp"): _check_conditional(torch.nn.Linear(2, 2))
    other = build_denoiser(DenoiserConfig(image_size=8, width=16, multipliers=(1, 2), layers=1, patch=2,
                                          attention=False, T=40))
    with pytest.raises(ValueError, match="different schedules"):
        train_gain(GainNet(other, width=16), fitted.model, images, r, steps=1)
    with pytest.raises(ValueError, match="takes 4 responses, got 2"):
        train_responses(ResponseDenoiser(base, 4, width=16), images, r[:, :2], steps=1)
    with pytest.raises(ValueError, match="one row for each image"):
        train_responses(ResponseDenoiser(base, 4, width=16), images, r[:5], steps=1)
    with pytest.raises(ValueError, match="responses must be finite"):
        train_responses(ResponseDenoiser(base, 4, width=16), images, r * math.nan, steps=1)
    with pytest.raises(ValueError, match="n_condition must be"): ResponseDenoiser(base, 0)
    with pytest.raises(ValueError, match="condition must have shape"): fitted.model(test[:3], 5, r[:2])
    with pytest.raises(ValueError, match="cannot be halved"):
        ResponseDenoiser(build_denoiser(DenoiserConfig(image_size=6, width=16, multipliers=(1,), layers=1, patch=2,
                                                       attention=False)), 4)
    with pytest.raises(ValueError, match="no noise level"):
        information(test[:2], denoiser_gain(fitted.model, _draw_recorded(r)), LEVELS, 4, **QUIET)


# Neurons and groups

def test_lnp_rates_counts_and_fisher_information():
    neurons = retinotopic_population(size=8, side=2, width=1.0)
    x = torch.rand(3, 1, 8, 8, generator=generator(5)) * 2 - 1
    assert torch.allclose(neurons.rates(x), neurons.gain
                          * torch.log1p(torch.exp(x.flatten(1) @ neurons.filters.flatten(1).T)), atol=1e-5)
    counts = torch.stack([neurons(x, generator(6, i)) for i in range(800)])
    assert torch.allclose(counts.mean(0), neurons.rates(x), rtol=0.12) and torch.equal(counts, counts.round())
    jacobian = torch.autograd.functional.jacobian(lambda v: neurons.rates(v)[0], x[:1])[:, 0].flatten(1)
    slow = sum(torch.outer(j, j) / rate for j, rate in zip(jacobian, neurons.rates(x[:1])[0]))
    assert torch.allclose(neurons.fisher(x[:1])[0], slow, atol=1e-4)
    with pytest.raises(ValueError, match="look at images"): neurons.rates(torch.zeros(1, 1, 9, 9))


def test_a_lattice_covers_the_image_and_longer_counting_is_less_noisy():
    neurons, longer = retinotopic_population(gain=8.0), retinotopic_population(gain=32.0)
    peaks = neurons.filters.flatten(1).argmax(1)
    assert neurons.n_units == 49 and len(set(peaks.tolist())) == 49
    x = torch.zeros(400, 1, 32, 32)
    short, long = neurons(x, generator(2)) / 8, longer(x, generator(1)) / 32
    assert short.shape == (400, 49) and torch.allclose(8 * short.mean(0), neurons.rates(x[:1])[0], rtol=0.15)
    assert long.var(0).mean() == pytest.approx(float(short.var(0).mean()) / 4, rel=0.15)


def test_subsets():
    names, known = _group_subsets((2, 3), pairs=True)
    assert names == ("group 1", "group 2", "all", "groups 2+1")
    assert known.tolist() == [[True, True, False, False, False], [False, False, True, True, True],
                              [True] * 5, [True] * 5]
    with pytest.raises(ValueError, match="not positive|positive"): _group_subsets((2, 0))


def test_latents_are_drawn_from_their_posterior():
    mean, log_var = torch.zeros(3, 2) + 5, torch.full((3, 2), math.log(4.0))
    draws = torch.stack([_posterior_draws(mean, log_var)(torch.tensor([0, 2]), generator(1, i))
                         for i in range(600)])
    assert draws.shape == (600, 2, 2) and torch.allclose(draws.mean(0), torch.full((2, 2), 5.0), atol=0.35)
    assert torch.allclose(draws.std(0), torch.full((2, 2), 2.0), atol=0.25)
    with pytest.raises(ValueError, match="must both be"): _posterior_draws(mean, log_var[:, :1])


def made_up(total):
    return InformationResult(np.zeros((4, 1, 2, 2)), np.zeros((4, 1, 2, 2)), np.asarray(total, float),
                             np.zeros(4), np.ones(5), np.zeros((4, 5)), np.zeros(4))


def test_tables_of_groups():
    results = {"group 1": made_up([1, 1, 3, 3]), "group 2": made_up([2, 2, 2, 2]),
               "all": made_up([3, 3, 4, 4]), "groups 2+1": made_up([3, 3, 4, 4])}
    table = information_table(results, ["b", "b", "a", "a"])
    assert table.loc["group 1"].to_dict() == {"a": 3.0, "b": 1.0, "every image": 2.0}
    shared = shared_information(results, 2)
    assert shared.to_numpy().tolist() == [[2.0, 0.5], [0.5, 2.0]]
    with pytest.raises(ValueError, match="same length"): information_table(results, ["a"] * 3)
    with pytest.raises(ValueError, match="groups 3"): shared_information(results, 3)


def test_a_latent_denoiser_starts_as_its_base_and_ignores_what_is_unknown(world):
    base, _, _, test, *_ = world
    before, model = copy.deepcopy(base.state_dict()), _LatentDenoiser(base, 3)
    y, t, z = test[:4], torch.tensor([1, 5, 20, 40]), torch.randn(4, 3, generator=generator(0, 1))
    model.start(y, 5 + 2 * torch.randn(200, 3, generator=generator(0, 2)))
    assert torch.allclose(model.mean, torch.full((3,), 5.0),
                          atol=0.6) and torch.allclose(model.std, torch.full((3,), 2.0), atol=0.4)
    with torch.no_grad(): assert torch.allclose(model(y, t), base(y, t), atol=1e-5)
    torch.manual_seed(0)
    for p in model.base.embedding.parameters(): torch.nn.init.normal_(p, std=0.5)
    half = torch.where(torch.tensor([True, False, True]), z, math.nan)
    with torch.no_grad():
        assert torch.equal(model(y, t), model(y, t, torch.full_like(z, math.nan)))
        assert (model(y, t, half) - model(y, t, z)).abs().max() > 1e-4 < (model(y, t, half)
                                                                          - model(y, t)).abs().max()
    assert all(torch.equal(v, base.state_dict()[k]) for k, v in before.items())
    with pytest.raises(ValueError, match=r"shape \(4, 3\), got \(4, 2\)"): model(y, t, z[:, :2])


def test_errors_of_every_level_are_those_of_a_known_denoiser():
    schedule = NoiseSchedule(60)
    # of images that are 0 it knows the noise, but for a share of sqrt(1 - alpha_bar)
    class Partly(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.schedule = schedule
        def forward(self, y_t, t, condition=None):
            left = float(1 - schedule.alpha_bar[t]) ** 0.5
            return (1 - left) * y_t / left
    errors = _level_errors(Partly(), torch.zeros(200, 1, 16, 16), seed=1)
    assert errors.shape == (61,) and torch.allclose(errors[1:],
                                                    (1 - schedule.alpha_bar[1:]).float(), rtol=0.05)


def test_unused_latents_are_those_whose_posterior_is_the_prior():
    mean, log_var = (torch.randn(500, 3, generator=generator(0, 4)) * torch.tensor([0.9, 0.0, 0.02]),
                     torch.tensor([math.log(0.19), 0.0, 0.0]).expand(500, 3))
    assert _used_latents(mean, log_var).tolist() == [True, False, False] and _used_latents(
        mean, log_var, least=1e-5).tolist() == [True, False, True]


def test_what_a_group_is_seen_to_carry_comes_from_its_own_latents(world):
    base, _, _, test, *_ = world
    model, z = _LatentDenoiser(base, 2), torch.randn(64, 2, generator=generator(0, 3))
    sets = {"group 1": torch.tensor([True, False]), "all": torch.tensor([True, True]),
            "groups 2+1": torch.tensor([True, True])}
    images = (test[:64] + 1) / 2
    # not trained: nothing is carried
    assert _group_bounds(model, images, z, sets, n=64) == {"group 1": 0.0, "all": 0.0}
    torch.manual_seed(0)
    for p in model.base.embedding.parameters(): torch.nn.init.normal_(p, std=0.5)
    told, other = (_group_bounds(model, images, v, sets, n=64) for v in (z, z * torch.tensor([1.0, -1.0])))
    assert told["group 1"] == pytest.approx(other["group 1"]) and abs(told["all"] - other["all"]) > 1e-6


def test_groups_of_a_recording_end_to_end(world, tmp_path, monkeypatch):
    monkeypatch.setattr(group_information, "_group_bounds", partial(_group_bounds, n=128))
    base, _, train, test, r, *_ = world
    mean = train[:300].flatten(1)[:, [18, 45]] * 3
    log_var, image = torch.full_like(mean, -3.0), (train[:300] + 1) / 2
    part = lambda rows: (image[rows], mean[rows], log_var[rows])
    ask = lambda: fit_groups(base, part(slice(0, 200)), part(slice(200, 300)), (1, 1), pairs=False,
                             steps=(20, 5), checkpoint=tmp_path, device="cpu", progress=False)
    told = ask()
    assert told.names == ("group 1", "group 2", "all") == tuple(
        told.bounds) and told.bound == told.bounds["all"] and math.isfinite(told.bound)
    maps = told.maps(image[:2], n_samples=4, progress=False)
    assert set(maps) == set(told.names) and maps["all"].map.shape == (2, 1, 8, 8)
    again = ask().maps(image[:2], n_samples=4, progress=False)  # from the checkpoints
    assert np.allclose(again["all"].map, maps["all"].map, rtol=1e-4)
    with pytest.raises(ValueError, match="make 3 latents, got 2"):
        fit_groups(base, part(slice(0, 200)), part(slice(200, 300)), (1, 2))


def test_a_linear_correction_computes_under_autocast():
    correction = _LinearCorrection(NoiseSchedule(30), 3, 16, n=4)
    e, d = torch.randn(40, 3), torch.randn(40, 16)
    for k in range(len(correction.times)): fit(correction, k, e, d)
    known, t = torch.ones(5, 3, dtype=torch.bool), torch.tensor([1, 9, 15, 22, 30])
    plain = correction(e[:5], known, t)
    with torch.autocast("cpu", torch.bfloat16): rough = correction(e[:5], known, t)
    torch.testing.assert_close(rough.float(), plain, atol=0.05, rtol=0.05)
