"Partial correlation: fast form against loops, exact mixtures, closed forms, gradients and bad input."
import math

import numpy as np
import pytest
import torch

from migvis.partial_correlation import (_ESTIMATORS, GroupPenalty, _centre_gram, _density_factors, _dependence,
                                        _gaussian_gram, _group_sizes, _is_weights, _mss_weights,
                                        _mws_weights, partial_correlation)


def pairwise_log_density(z, mean, log_var, n_groups):
    "Log density of each sample under each posterior, per group."
    samples, components = _density_factors(z, mean, log_var, n_groups)
    return samples.mT @ components


def log_ratio(log_density, log_weights=0.0):
    "log q(z) - sum_g log q(z_g) of each sample."
    joint = torch.logsumexp(log_density.sum(-3) + log_weights, -1)
    return joint - torch.logsumexp(log_density + log_weights, -1).sum(-2)


def mixture_log_ratio(z, mean, log_var, n_groups):
    "Exact log ratio of samples (S, D) under the whole mixture."
    return log_ratio(pairwise_log_density(z, mean, log_var, n_groups), -math.log(len(mean)))


def mixture_partial_correlation(z, mean, log_var, n_groups):
    return mixture_log_ratio(z, mean, log_var, n_groups).mean()


def gaussian_partial_correlation(cov, sizes):
    "Closed form for a Gaussian."
    blocks = [rows.split(sizes, -1)[g] for g, rows in enumerate(cov.split(sizes, -2))]
    return 0.5 * (sum(map(torch.logdet, blocks)) - torch.logdet(cov))


def posteriors(n, sizes, width=0.5, shared=0.0, seed=0, dtype=torch.float32):
    "Samples, means and log variances; all dimensions share one factor."
    generator = torch.Generator().manual_seed(seed)
    draw = lambda *shape: torch.randn(*shape, generator=generator, dtype=torch.float64)
    d = sum(sizes)
    mean = math.sqrt(1 - shared) * draw(n, d) + math.sqrt(shared) * draw(n, 1)
    log_var = 2 * math.log(width) + 0.3 * draw(n, d)
    z = mean + torch.exp(log_var / 2) * draw(n, d)
    return z.to(dtype), mean.to(dtype), log_var.to(dtype)


def log_normal(z, mean, log_var):
    return -0.5 * ((z - mean) ** 2 / math.exp(log_var) + log_var + math.log(2 * math.pi))


def loop_pairs(z, mean, log_var, sizes):
    "Plain loops over samples, posteriors, groups and dimensions."
    out = torch.zeros(len(sizes), len(z), len(mean), dtype=torch.float64)
    for b in range(len(z)):
        for m in range(len(mean)):
            d = 0
            for g, size in enumerate(sizes):
                for _ in range(size):
                    out[g, b, m] += log_normal(z[b, d].item(), mean[m, d].item(), log_var[m, d].item())
                    d += 1
    return out


def loop_weight(name, b, other, n_batch, n_data):
    own = other == b
    if name == "mws":
        return 1 / (n_data * n_batch)
    if own:
        return 1 / n_data
    if name == "is":
        return (n_data - 1) / (n_data * (n_batch - 1))
    m = n_batch - 1
    return (n_data - m) / (n_data * m) if other == (b + 1) % n_batch else 1 / m


def loop_partial_correlation(z, mean, log_var, sizes, name, n_data):
    pairs, total = loop_pairs(z, mean, log_var, sizes), 0.0
    n_batch = len(z)
    for b in range(n_batch):
        weight = [loop_weight(name, b, m, n_batch, n_data) for m in range(n_batch)]
        total += math.log(sum(w * math.exp(pairs[:, b, m].sum()) for m, w in enumerate(weight)))
        for g in range(len(sizes)):
            total -= math.log(sum(w * math.exp(pairs[g, b, m]) for m, w in enumerate(weight)))
    return total / n_batch


@pytest.mark.parametrize("sizes", [(2, 2, 2), (3, 1, 2)])
@pytest.mark.parametrize("name", sorted(_ESTIMATORS))
def test_estimators_equal_the_plain_loop(name, sizes):
    z, mean, log_var = posteriors(9, sizes, shared=0.4)
    fast = partial_correlation(z, mean, log_var, sizes, name, n_data=50)
    assert fast.item() == pytest.approx(loop_partial_correlation(z, mean, log_var, sizes, name, 50), abs=1e-4)


def test_equal_groups_by_number_and_by_sizes_agree():
    z, mean, log_var = posteriors(32, (2, 2, 2))
    assert torch.allclose(partial_correlation(z, mean, log_var, 3), partial_correlation(z, mean, log_var, (2, 2, 2)))


@pytest.mark.parametrize("width, tolerance", [(1.0, 1e-4), (0.1, 1e-3), (0.01, 0.1)])
def test_float32_pairs_against_float64_differences_far_from_the_origin(width, tolerance):
    z, mean, log_var = posteriors(64, (6, 6), width)
    z, mean = z + 100, mean + 100
    difference = z.double()[:, None] - mean.double()
    exact = -0.5 * (difference**2 / log_var.double().exp() + log_var.double() + math.log(2 * math.pi))
    exact = exact.unflatten(-1, (2, 6)).sum(-1).permute(2, 0, 1)
    fast = pairwise_log_density(z, mean, log_var, 2)
    assert (fast - exact).abs().diagonal(dim1=1, dim2=2).max() < tolerance


def test_float32_partial_correlation_is_stable_for_narrow_posteriors():
    for width in (0.3, 0.1, 0.03, 0.01):
        z, mean, log_var = posteriors(128, (6, 6, 6, 6), width)
        single = partial_correlation(z, mean, log_var, 4, n_data=4000)
        double = partial_correlation(z.double(), mean.double(), log_var.double(), 4, n_data=4000)
        assert single.item() == pytest.approx(double.item(), abs=1e-2)


@pytest.mark.parametrize("n_batch, n_data", [(2, 2), (5, 5), (5, 40), (16, 1000)])
def test_weights_add_up(n_batch, n_data):
    ones = torch.ones(n_batch)
    assert torch.allclose(_is_weights(n_batch, n_data).sum(1), ones)
    assert torch.allclose(_mss_weights(n_batch, n_data).sum(1), ones)
    assert torch.allclose(_mws_weights(n_batch, n_data).sum(1), ones / n_data)
    assert torch.allclose(_is_weights(n_batch, n_data).diagonal(), ones / n_data)


def test_is_weights_are_plain_when_the_batch_is_the_data_set():
    assert torch.allclose(_is_weights(7, 7), torch.full((7, 7), 1 / 7))


def test_is_and_mss_estimate_the_density_without_bias():
    "Averaged over random batches that contain the sample's own posterior, the weighted mean of densities is q(z)."
    z, mean, log_var = posteriors(40, (2,), width=0.7, dtype=torch.float64)
    density = pairwise_log_density(z[:1], mean, log_var, 1)[0, 0].exp()
    for weights in (_is_weights, _mss_weights):
        row = weights(5, 40)[0].double()
        generator = torch.Generator().manual_seed(0)
        others = torch.stack([1 + torch.randperm(39, generator=generator)[:4] for _ in range(4000)])
        estimate = row[0] * density[0] + (row[1:] * density[others]).sum(1)
        error = estimate.std() / 4000**0.5
        assert abs(estimate.mean() - density.mean()) < 4 * error


def test_mws_is_the_plain_average_up_to_a_constant():
    z, mean, log_var = posteriors(20, (2, 2, 2))
    plain = partial_correlation(z, mean, log_var, 3)
    assert (partial_correlation(z, mean, log_var, 3, "mws", 500) - plain).item() == pytest.approx(2 * math.log(500), abs=1e-4)


def test_full_batch_equals_the_exact_mixture():
    z, mean, log_var = posteriors(300, (3, 3), shared=0.5)
    exact = mixture_partial_correlation(z, mean, log_var, 2)
    assert torch.allclose(partial_correlation(z, mean, log_var, 2), exact, atol=1e-5)


def test_estimator_agrees_with_the_exact_mixture_within_its_error():
    "Overlapping posteriors in few dimensions, where the remaining bias of the logarithm is small."
    z, mean, log_var = posteriors(2000, (1, 1), width=1.0, shared=0.6)
    exact = mixture_partial_correlation(z, mean, log_var, 2)
    generator = torch.Generator().manual_seed(1)
    picks = [torch.randperm(2000, generator=generator)[:250] for _ in range(40)]
    values = torch.stack([partial_correlation(z[p], mean[p], log_var[p], 2, n_data=2000) for p in picks])
    assert abs(values.mean() - exact) < 4 * values.std() / 40**0.5 + 0.01


def test_is_is_closer_to_the_exact_value_than_the_plain_average():
    z, mean, log_var = posteriors(2000, (6,) * 4, width=1.0)
    exact = mixture_partial_correlation(z, mean, log_var, 4)
    p = torch.arange(256)
    is_error = partial_correlation(z[p], mean[p], log_var[p], 4, n_data=2000) - exact
    plain_error = partial_correlation(z[p], mean[p], log_var[p], 4) - exact
    assert is_error.abs() < plain_error.abs()


def test_large_mixture_approaches_the_gaussian_closed_form():
    z, mean, log_var = posteriors(4000, (1, 1), width=0.6, shared=0.7)
    cov = torch.cov(z.T)
    ratio = mixture_log_ratio(z, mean, log_var, 2)
    assert ratio.mean().item() == pytest.approx(gaussian_partial_correlation(cov, (1, 1)).item(), abs=0.04)


def test_dependence_between_groups_and_within_them_adds_up():
    z, mean, log_var = posteriors(30, (1,) * 5, shared=0.5)
    def pc(part, sizes):
        return partial_correlation(z[:, part], mean[:, part], log_var[:, part], sizes, n_data=100)
    whole = slice(0, 5)
    parts = pc(whole, (2, 3)) + pc(slice(0, 2), 2) + pc(slice(2, 5), 3)
    assert torch.allclose(pc(whole, 5), parts, atol=1e-4)


def test_an_ensemble_is_treated_member_by_member():
    members = [posteriors(16, (2, 2), seed=seed) for seed in range(3)]
    stacked = [torch.stack(parts) for parts in zip(*members)]
    together = partial_correlation(*stacked, 2, n_data=99)
    assert torch.allclose(together, torch.stack([partial_correlation(*m, 2, n_data=99) for m in members]), atol=1e-5)


@pytest.mark.parametrize("name", sorted(_ESTIMATORS))
@pytest.mark.parametrize("sizes", [(2, 2), (1, 2)])
def test_gradients(name, sizes):
    z, mean, log_var = posteriors(5, sizes, shared=0.3, dtype=torch.float64)
    noise = (z - mean) / torch.exp(log_var / 2)

    def loss(mean, log_var):
        return partial_correlation(mean + noise * torch.exp(log_var / 2), mean, log_var, sizes, name, n_data=20)

    torch.autograd.gradcheck(loss, (mean.requires_grad_(), log_var.requires_grad_()))


def test_groups_that_were_shuffled_share_less():
    z, mean, log_var = posteriors(400, (2, 2), width=0.8, shared=0.8)
    other = torch.randperm(400, generator=torch.Generator().manual_seed(3))
    shuffled = [torch.cat([part[:, :2], part[other, 2:]], 1) for part in (z, mean, log_var)]
    before = mixture_partial_correlation(z, mean, log_var, 2)
    assert mixture_partial_correlation(*shuffled, 2) < before - 0.2


def test_bad_input_is_refused():
    z, mean, log_var = posteriors(8, (2, 2))
    with pytest.raises(ValueError, match="cannot be cut into 3"):
        partial_correlation(z, mean, log_var, 3)
    with pytest.raises(ValueError, match="add up to 4"):
        partial_correlation(z, mean, log_var, (2, 3))
    with pytest.raises(ValueError, match="positive"):
        _group_sizes((4, 0), 4)
    with pytest.raises(ValueError, match="unknown estimator 'mc'"):
        partial_correlation(z, mean, log_var, 2, "mc")
    with pytest.raises(ValueError, match="smaller than the batch"):
        partial_correlation(z, mean, log_var, 2, n_data=4)
    with pytest.raises(ValueError, match="share a shape"):
        partial_correlation(z, mean[:4], log_var, 2)


def test_one_group_has_no_partial_correlation():
    z, mean, log_var = posteriors(50, (4,))
    assert partial_correlation(z, mean, log_var, 1, n_data=100).abs() < 1e-5
    assert log_ratio(pairwise_log_density(z, mean, log_var, 1)).abs().max() < 1e-4


def plain_partial_correlation(z, mean, log_var, sizes, name, n_data):
    "The formula as it stands, differentiated automatically."
    log_weights = _ESTIMATORS[name](z.shape[-2], n_data).to(z).log()
    difference = z.unsqueeze(-2) - mean.unsqueeze(-3)
    density = -0.5 * (difference**2 * torch.exp(-log_var).unsqueeze(-3) + log_var.unsqueeze(-3) + math.log(2 * math.pi))
    groups = torch.stack([part.sum(-1) for part in density.split(sizes, -1)], -3)
    return log_ratio(groups, log_weights).mean(-1)


@pytest.mark.parametrize("name", sorted(_ESTIMATORS))
@pytest.mark.parametrize("lead, sizes, pairs_at_once", [((), (2, 2), 2**18), ((5,), (2, 1, 3), 2 * 3 * 7**2), ((2, 3), (3, 3), 1)])
def test_value_and_gradient_equal_the_plain_formula_whatever_the_chunks(name, lead, sizes, pairs_at_once):
    draw = [torch.stack(parts).reshape(*lead, 7, sum(sizes)) for parts in
            zip(*(posteriors(7, sizes, shared=0.3, seed=seed, dtype=torch.float64) for seed in range(math.prod(lead))))]
    upstream = torch.randn(lead, dtype=torch.float64, generator=torch.Generator().manual_seed(0))
    results = []
    for method in (lambda *t: partial_correlation(*t, sizes, name, 30, pairs_at_once), lambda *t: plain_partial_correlation(*t, sizes, name, 30)):
        leaves = [t.clone().requires_grad_() for t in draw]
        value = method(*leaves)
        results.append((value.detach(), *torch.autograd.grad((value * upstream).sum(), leaves)))
    assert results[0][0].shape == lead
    for found, expected in zip(*results):
        assert torch.allclose(found, expected, atol=1e-9)


def test_value_without_gradient_and_gradient_of_one_input_alone():
    z, mean, log_var = posteriors(12, (2, 2), shared=0.3, dtype=torch.float64)
    with torch.no_grad():
        value = partial_correlation(z, mean, log_var, 2, n_data=40)
    for which in range(3):
        inputs = [t.clone().requires_grad_(i == which) for i, t in enumerate((z, mean, log_var))]
        alone = partial_correlation(*inputs, 2, n_data=40)
        assert torch.allclose(alone, value)
        expected, = torch.autograd.grad(plain_partial_correlation(*inputs, (2, 2), "is", 40), inputs[which])
        assert torch.allclose(torch.autograd.grad(alone, inputs[which])[0], expected, atol=1e-9)


def test_factors_multiply_to_the_pairs():
    z, mean, log_var = posteriors(6, (3, 1, 2))
    samples, components = _density_factors(z, mean, log_var, (3, 1, 2))
    assert samples.shape == components.shape == (3, 7, 6)
    assert torch.allclose((samples.mT @ components).double(), loop_pairs(z, mean, log_var, (3, 1, 2)), atol=1e-4)


# --- dependence on a label -----------------------------------------------------------------------------------------------


def slow_dependence(x, y):
    "HSIC with Gaussian kernels of three widths, one pair of samples at a time, over the product of its traces."
    def gram(a):
        return np.array([[np.mean([np.exp(-((p - q) ** 2).sum() / (2 * w * len(p))) for w in (0.25, 1, 4)]) for q in a] for p in a])
    n = len(x)
    centre = np.eye(n) - 1 / n
    k, m = centre @ gram(x) @ centre, centre @ gram(y) @ centre
    return n * np.trace(k @ m) / (np.trace(k) * np.trace(m))


def test_dependence_is_the_criterion_of_gretton():
    rng = np.random.default_rng(0)
    x = rng.standard_normal((12, 3))
    y = x[:, :2] + 0.5 * rng.standard_normal((12, 2))
    grams = [_gaussian_gram(torch.as_tensor(a)) for a in (x, y)]
    assert _dependence(grams[0], _centre_gram(grams[1])).item() == pytest.approx(slow_dependence(x, y))


def test_dependence_is_one_for_independent_samples_and_batches_over_members():
    torch.manual_seed(0)
    label = _centre_gram((torch.arange(200)[:, None] % 5 == torch.arange(200) % 5).double())
    z = torch.randn(40, 200, 4, dtype=torch.float64)
    found = _dependence(_gaussian_gram(z), label)
    assert found.shape == (40,) and found.mean().item() == pytest.approx(1, abs=0.05)
    assert torch.allclose(found[3], _dependence(_gaussian_gram(z[3]), label))
    assert torch.allclose(_centre_gram(_gaussian_gram(z[0])).sum(0), torch.zeros(200, dtype=torch.float64), atol=1e-9)


def test_the_penalty_adds_dependence_over_free_groups_and_labels():
    z = torch.randn(2, 80, 5, generator=torch.Generator().manual_seed(0))
    classes, values = torch.eye(4)[torch.arange(80) % 4], torch.randn(80, 2, generator=torch.Generator().manual_seed(1))
    known = torch.arange(80) >= 10
    labels, groups = [(classes, torch.ones(80, dtype=torch.bool), True), (values, known, False)], z.split((2, 3), -1)
    def standard(x):
        return (x - x.mean(-2, keepdim=True)) / x.std(-2, keepdim=True)
    expected = 0
    for group in groups:
        expected = expected + _dependence(_gaussian_gram(standard(group)), _centre_gram(classes @ classes.T)) - 1
        gram = _centre_gram(_gaussian_gram(values[10:]))
        expected = expected + _dependence(_gaussian_gram(standard(group[:, 10:])), gram) - 1
    assert torch.allclose(GroupPenalty().leak(groups, labels), expected, atol=1e-5)
    alone = (classes, torch.arange(80) % 4 == 0, True)   # the only class that is known says nothing
    assert GroupPenalty().leak(groups, [alone]) == 0


def test_the_penalty_has_the_estimator_that_was_asked_for():
    z, mean, log_var = posteriors(12, (2, 2))
    value = GroupPenalty("mws").partial_correlation(z, mean, log_var, (2, 2), 50)
    assert value == partial_correlation(z, mean, log_var, 2, "mws", 50)
