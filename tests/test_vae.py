("Neural VAE: shapes, terms against distributions, labels, ensembles against single models, fitting, files, "
 "bad input.")
import warnings
from dataclasses import replace
from functools import partial

import numpy as np
import pandas as pd
import pytest
import torch
from torch.distributions import Categorical as CategoricalDistribution
from torch.distributions import Normal, Poisson, kl_divergence

from migvis import vae
from migvis.compare.ablations import ablation, term_ablation
from migvis.data import Recording, Standardizer
from migvis.partial_correlation import GroupPenalty, _is_weights, partial_correlation
from migvis.support.labels import POSE_AND_CATEGORY, Categorical, Continuous, _label_codes
from migvis.support.presets import VAEConfig
from migvis.vae import (PAPER, _PRIOR_ANCHOR, _WEIGHTS, FittedVAE, NeuralVAE,
                        _Targets, _config_weights, _dimension_pairs, _gaussian_kl, _leak, _log_likelihood,
                        _member_table, _negative_objective, _prior_kl,
                        _seeded_ensemble, _take_members, elbo_terms)

SMALL = VAEConfig(groups=(3, 3, 2), hidden=24, steps=300, batch_size=64, lr=5e-3, beta=0.5)


def fit_vae(*parts, penalty=GroupPenalty(), **options):
    return vae.fit_vae(*parts, penalty=penalty, **options)


def toy_recording(n=400, n_units=15, seed=0, counts=False) -> Recording:
    "Units that mix two angles and four categories."
    rng = np.random.default_rng(seed)
    category, angles = rng.integers(0, 4, n), rng.uniform(-90, 90, (n, 3))
    features = np.c_[np.eye(4)[category] * 2, angles / 50]
    drive = features @ np.random.default_rng(99).standard_normal((features.shape[1], n_units)) * 0.6
    responses = rng.poisson(np.exp(0.5 * drive
                                   + 1)) if counts else drive + 0.3 * rng.standard_normal((n, n_units))
    labels = pd.DataFrame({"category": [f"c{c}" for c in category], "rxy": angles[:, 0], "rxz": angles[:, 1],
                           "ryz": angles[:, 2]})
    return Recording(np.zeros((n, 1, 2, 2), np.float32), responses, labels, simulated=True)


@pytest.fixture(scope="module")
def fitted():
    return fit_vae(toy_recording(), toy_recording(100, seed=1), SMALL, seeds=2, variants=ablation(SMALL),
                   device="cpu", progress=False)


def test_single_model_of_the_paper():
    model = NeuralVAE(58, heads=((0, 3, True), (1, 8, False)))
    mean, log_var = model.encode(torch.randn(7, 58))
    assert mean.shape == log_var.shape == (7, 24)
    assert model.decode(mean).shape == (7, 58)
    assert [tuple(out.shape) for out in model.predict(mean)] == [(7, 3), (7, 8)]
    assert model.groups == (6, 6, 6, 6)


def test_log_variances_are_bounded():
    model = NeuralVAE(6, groups=(2, 2))
    with torch.no_grad():
        model.encoder[-1].bias[..., 4:] = torch.tensor([-50.0, 50.0, -11.5, 5.5])
    log_var = model.encode(torch.zeros(1, 6))[1]
    assert log_var[0, :2].tolist() == [-12, 6] and (log_var[0, 2:] > -12).all() and (log_var[0, 2:] < 6).all()


def test_heads_read_their_own_group_only():
    model = NeuralVAE(10, groups=(2, 3, 4), heads=((2, 5, False), (0, 1, False)))
    z = torch.randn(6, 9)
    other = z.clone()
    other[:, 2:5] += 1
    for before, after in zip(model.predict(z), model.predict(other)):
        assert torch.equal(before, after)
    other[:, 5:] += 1
    assert not torch.allclose(model.predict(z)[0], model.predict(other)[0])
    assert torch.equal(model.predict(z)[1], model.predict(other)[1])


def test_an_aligned_head_ties_each_target_to_one_dimension():
    model = NeuralVAE(10, groups=(4, 2), heads=((0, 3, True),), members=2)
    z = torch.randn(2, 5, 6)
    before = model.predict(z)[0]
    z[..., 1] += 1
    changed = (model.predict(z)[0] != before).any(1)
    assert changed.tolist() == [[False, True, False]] * 2


def test_an_ensemble_computes_what_its_members_compute():
    ensemble = _seeded_ensemble([3, 4, 5], 9, (2, 2), (8, 6), ((0, 3, False),))
    x = torch.randn(11, 9)
    mean, log_var = ensemble.encode(x)
    for member in range(3):
        single = _take_members(ensemble, member)
        assert torch.allclose(single.encode(x)[0], mean[member], atol=1e-5)
        assert torch.allclose(single.decode(mean[member]), ensemble.decode(mean)[member], atol=1e-5)
        assert torch.allclose(single.predict(mean[member])[0], ensemble.predict(mean)[0][member], atol=1e-5)
    assert torch.allclose(_take_members(ensemble, [2, 0]).encode(x)[0], mean[[2, 0]], atol=1e-5)


def test_the_same_seed_starts_alike_and_another_does_not():
    weights = _seeded_ensemble([7, 8, 7], 5).encoder[0].weight
    assert torch.equal(weights[0], weights[2])
    assert not torch.equal(weights[0], weights[1])


def test_seeding_leaves_the_global_generator_alone():
    torch.manual_seed(0)
    expected = torch.rand(3)
    torch.manual_seed(0)
    _seeded_ensemble([1, 2], 5)
    assert torch.equal(torch.rand(3), expected)


def test_terms_agree_with_torch_distributions():
    torch.manual_seed(0)
    output, target, log_noise = torch.randn(6, 4), torch.randn(6, 4), torch.randn(1, 4)
    expected = Normal(output, torch.exp(log_noise / 2)).log_prob(target).sum(-1)
    assert torch.allclose(_log_likelihood("gaussian", output, target, log_noise), expected, atol=1e-5)
    counts = torch.randint(0, 9, (6, 4)).float()
    assert torch.allclose(_log_likelihood("poisson", output, counts, log_noise),
                          Poisson(output.exp()).log_prob(counts).sum(-1), atol=1e-4)
    mean, log_var = torch.randn(6, 5), torch.randn(6, 5)
    expected = kl_divergence(Normal(mean, torch.exp(log_var / 2)), Normal(0.0, 1.0))
    assert torch.allclose(_gaussian_kl(mean, log_var), expected, atol=1e-5)


def test_elbo_terms_of_an_ensemble_against_single_models():
    recording = toy_recording(32)
    codes = _label_codes(recording.labels, POSE_AND_CATEGORY, 2)
    ensemble = _seeded_ensemble([0, 1], 15, (3, 3), 64, tuple(c.head for c in codes))
    x = torch.as_tensor(recording.responses)
    targets = _Targets(x, x, tuple(code.encode(recording.labels) for code in codes))
    noise = torch.randn(2, 32, 6)
    together = elbo_terms(ensemble, targets, noise, codes, n_data=200, penalty=GroupPenalty())
    assert set(together) == {"reconstruction", "label:rxy+rxz+ryz", "label:category", "kl", "kl_free",
                             "kl_prior", "pc", "leak"}
    for member in range(2):
        single = _take_members(ensemble, member)
        alone = elbo_terms(single, targets, noise[member], codes, n_data=200, penalty=GroupPenalty())
        for name, value in alone.items():
            assert value.shape == () and torch.allclose(value, together[name][member], atol=1e-3), name
        mean, log_var = single.encode(x)
        z = mean + torch.exp(log_var / 2) * noise[member]
        assert torch.allclose(alone["pc"], partial_correlation(z, mean, log_var, 2, n_data=200), atol=1e-4)
        category = CategoricalDistribution(logits=single.predict(z)[1]).log_prob(targets.labels[1]).mean()
        assert torch.allclose(alone["label:category"], category, atol=1e-4)


def plain_loss(model, targets, noise, codes, n_data, beta, label_weight):
    "Minus the paper's Eq. 2 of a single model, from the distributions of PyTorch and the plain log ratio."
    mean, log_var = model.encode(targets.x)
    scale = torch.exp(log_var / 2)
    z = mean + scale * noise
    loss = -Normal(model.decode(z), torch.exp(model.log_noise / 2)).log_prob(targets.response).sum(-1).mean()
    loss = loss + kl_divergence(Normal(mean, scale), Normal(0.0, 1.0)).sum(-1).mean()
    angles, category = model.predict(z)
    score = -0.5 * ((angles - targets.labels[0]) ** 2).sum(-1) + CategoricalDistribution(
        logits=category).log_prob(targets.labels[1])
    pairs = Normal(mean, scale).log_prob(z[:, None]).split(model.groups, -1)
    log_density = torch.stack([part.sum(-1) for part in pairs])
    log_weights = _is_weights(len(z), n_data).log()
    joint = torch.logsumexp(log_density.sum(-3) + log_weights, -1)
    ratio = joint - torch.logsumexp(log_density + log_weights, -1).sum(-2)
    return loss - label_weight * score.mean() + beta * ratio.mean()


def test_losses_and_gradients_of_an_ensemble_equal_those_of_single_models():
    recording = toy_recording(24)
    codes = _label_codes(recording.labels, POSE_AND_CATEGORY, 3)
    heads = tuple(c.head for c in codes)
    x = torch.as_tensor(recording.responses)
    targets = _Targets(x, x, tuple(code.encode(recording.labels) for code in codes))
    beta, label_weight = torch.tensor([0.0, 0.0, 0.4, 0.4]), torch.tensor([0.0, 2.0, 0.0, 2.0])
    ensemble = _seeded_ensemble([0, 1, 2, 0], 15, (3, 4, 2), 8, heads)
    noise = torch.randn(4, 24, 9, generator=torch.Generator().manual_seed(0))
    together = _negative_objective(elbo_terms(ensemble, targets, noise, codes, 200, pc_members=torch.tensor([2, 3]),
                                              penalty=GroupPenalty()), codes,
                                   PAPER | {"beta": beta, "label_weight": label_weight})
    together.sum().backward()
    for member in range(4):
        for method in ("ours", "plain"):
            single = _take_members(ensemble, member)
            if method == "plain":
                loss = plain_loss(single, targets, noise[member], codes, 200, beta[member],
                                  label_weight[member])
            else:
                weights = PAPER | {"beta": beta[member], "label_weight": label_weight[member]}
                loss = _negative_objective(elbo_terms(single, targets, noise[member], codes, 200,
                                                      penalty=GroupPenalty()), codes, weights)
            loss.backward()
            assert torch.allclose(loss, together[member], rtol=1e-5, atol=1e-4)
            for (name, found), expected in zip(single.named_parameters(), ensemble.parameters()):
                assert torch.allclose(found.grad, expected.grad[member], rtol=1e-4, atol=1e-5), (member,
                                                                                                 method, name)


@pytest.mark.parametrize("lead", [(), (3,)])
def test_gradient_of_the_gaussian_likelihood(lead):
    draw = lambda *shape: torch.randn(*lead, *shape, dtype=torch.float64,
                                      generator=torch.Generator().manual_seed(len(shape) + shape[0]))
    output, log_noise = draw(5, 4).requires_grad_(), draw(1, 4).requires_grad_()
    target = torch.randn(5, 4, dtype=torch.float64)
    assert torch.autograd.gradcheck(lambda o, s: _log_likelihood("gaussian", o, target, s),
                                    (output, log_noise))
    shared = torch.zeros(1, 4, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(lambda s: _log_likelihood("gaussian", output.detach(), target, s), shared)
    narrow = torch.full((1, 4), -9.0, dtype=torch.float64, requires_grad=True)
    floor = _log_likelihood("gaussian", output.detach(), target, torch.full_like(narrow, -6.0).detach())
    assert torch.allclose(_log_likelihood("gaussian", output.detach(), target, narrow), floor)


def test_partial_correlation_of_some_members_only():
    recording = toy_recording(16)
    ensemble = _seeded_ensemble([0, 1, 2], 15, (3, 3), 64, ())
    x = torch.as_tensor(recording.responses)
    noise = torch.randn(3, 16, 6)
    every = elbo_terms(ensemble, _Targets(x, x, ()), noise, (), 50, penalty=GroupPenalty())
    some = elbo_terms(ensemble, _Targets(x, x, ()), noise, (), 50, pc_members=torch.tensor([2]),
                      penalty=GroupPenalty())
    assert torch.isnan(some["pc"][:2]).all() and torch.allclose(some["pc"][2], every["pc"][2], atol=1e-4)
    for which in (torch.tensor([1, 2]), torch.tensor([2, 0])):
        part = elbo_terms(ensemble, _Targets(x, x, ()), noise, (), 50, pc_members=which,
                          penalty=GroupPenalty())["pc"]
        assert torch.allclose(part[which], every["pc"][which],
                              atol=1e-4) and int(torch.isnan(part).sum()) == 1
    assert torch.isnan(elbo_terms(ensemble, _Targets(x, x, ()), noise, (), 50, pc_members=torch.tensor([], dtype=torch.long),
                                  penalty=GroupPenalty())["pc"]).all()
    loss = _negative_objective(some, (), PAPER | {"beta": torch.tensor([0.0, 0.0, 2.0])})
    assert torch.allclose(loss[2],
                          -every["reconstruction"][2] + every["kl"][2] + 2 * every["pc"][2], atol=1e-3)
    assert torch.isfinite(loss).all()


def test_fit_learns_and_describes_its_members(fitted):
    assert fitted.members.shape[0] == 10 and fitted.members.variant.nunique() == 5
    assert np.isfinite(fitted.members.validation).all()
    test = toy_recording(200, seed=2)
    full = fitted.variant("full")
    x = fitted.standardizer.transform(test.responses)
    assert ((x - full.reconstruct(test)) ** 2).mean() < 0.6 * (x**2).mean()
    predicted = full.predict_labels(test)
    assert set(predicted) == {"rxy+rxz+ryz", "category"}
    assert (predicted["category"] == test.labels.category).mean() > 0.6
    assert full.best == full.members.validation.argmin()


def test_latents_are_the_mean_or_seeded_samples(fitted):
    test = toy_recording(20, seed=3)
    mean, log_var = fitted.posterior(test, 6)
    assert torch.equal(fitted.latents(test, 6), mean)
    assert torch.equal(fitted.latents(test.responses, 6), mean)
    first, again, other = (fitted.latents(test, 6, sample=True, seed=seed) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    assert ((first - mean) / torch.exp(log_var / 2)).std().item() == pytest.approx(1, abs=0.2)


def test_decoding_from_some_groups_averages_the_others_over_images(fitted):
    test = toy_recording(20, seed=3)
    z = fitted.latents(test, 0)
    expected = np.zeros((20, 15))
    for other in range(20):   # every image lends its latents of the other groups once
        mixed = z.clone()
        mixed[:, :3], mixed[:, 6:] = z[other, :3], z[other, 6:]
        expected += fitted.decode(mixed, 0) / 20
    found = fitted.reconstruct(test, 0, groups="category", draws=1000)
    assert np.abs(found - expected).max() < 0.15 * np.abs(expected).max()


def test_a_member_does_not_depend_on_its_company():
    train, validation = toy_recording(150), toy_recording(60, seed=1)
    config = VAEConfig(groups=(3, 3), hidden=8, steps=15, batch_size=50, beta=0.7)
    options = dict(device="cpu", progress=False)
    company = fit_vae(train, validation, config, seeds=[4], variants=ablation(config),
                      **options).variant("full")
    alone = fit_vae(train, validation, config, seeds=[4], variants={"full": PAPER}, **options)
    assert torch.allclose(company.latents(validation, 0), alone.latents(validation, 0), atol=1e-4)


def test_fitting_is_deterministic_and_resumes(tmp_path, monkeypatch):
    train, validation = toy_recording(150), toy_recording(60, seed=1)
    config = VAEConfig(groups=(3, 3), hidden=8, steps=20, batch_size=50)
    options = dict(seeds=2, device="cpu", progress=False)
    once, twice = (fit_vae(train, validation, config, **options) for _ in range(2))
    assert torch.equal(once.latents(validation, 1), twice.latents(validation, 1))

    class Stop(Exception):
        pass

    def stop(step, model, row):
        if step == 12:
            raise Stop
    monkeypatch.setattr(vae, "fit", partial(vae.fit, checkpoint_every=5))
    saved = dict(checkpoint=tmp_path)
    with pytest.raises(Stop):
        fit_vae(train, validation, config, **options, **saved, callback=stop)
    resumed = fit_vae(train, validation, config, **options, **saved)
    assert torch.equal(once.latents(validation, 1), resumed.latents(validation, 1))
    with pytest.raises(ValueError, match="another run"):
        fit_vae(toy_recording(150, seed=9), validation, config, **options, **saved)


def test_checkpoints_of_other_data_are_refused(tmp_path):
    ("Sums of squares of z-scored responses are alike in all recordings of a size; only the values tell them "
     "apart.")
    train, validation = toy_recording(150), toy_recording(60, seed=1)
    config = VAEConfig(groups=(3, 3), hidden=8, steps=2, batch_size=50)
    ask = lambda *parts: fit_vae(*parts, config, seeds=1, device="cpu", progress=False, checkpoint=tmp_path)
    ask(train, validation)
    ask(train, validation)
    order = np.random.default_rng(0).permutation(150)
    moved = lambda part: replace(part, labels=part.labels.assign(rxy=part.labels["rxy"].to_numpy()[::-1]))
    for parts in ((replace(train, responses=train.responses[order]), validation), (moved(train), validation),
                  (train, moved(validation)), (train, toy_recording(60, seed=2))):
        with pytest.raises(ValueError, match="another run"):
            ask(*parts)


def test_what_tells_data_apart_does_not_depend_on_sums(tmp_path, monkeypatch):
    "Reductions differ in their last digits between devices and numbers of threads."
    train, validation, config = (toy_recording(150), toy_recording(60, seed=1),
                                 VAEConfig(groups=(3, 3), hidden=8, steps=2, batch_size=50))
    ask = lambda: fit_vae(train, validation, config, seeds=1, device="cpu", progress=False,
                          checkpoint=tmp_path)
    ask()
    whole = torch.Tensor.sum
    monkeypatch.setattr(torch.Tensor, "sum", lambda x, *args, **kw: whole(x, *args, **kw) * (1 + 1e-9))
    ask()


def test_the_validation_split_may_be_the_larger_one():
    fitted = fit_vae(toy_recording(100), toy_recording(400, seed=1),
                     VAEConfig(groups=(3, 3), hidden=8, steps=2, batch_size=50, beta=0.5), seeds=1,
                     device="cpu", progress=False)
    assert np.isfinite(fitted.members.validation).all()


def test_save_and_load(fitted, tmp_path):
    test = toy_recording(20, seed=3)
    fitted.save(tmp_path / "vae.safetensors")
    loaded = FittedVAE.load(tmp_path / "vae.safetensors")
    assert torch.equal(loaded.latents(test, 5), fitted.latents(test, 5))
    assert loaded.codes == fitted.codes and loaded.groups == fitted.groups
    pd.testing.assert_frame_equal(loaded.members, fitted.members)
    for name, value in fitted.predict_labels(test, 7).items():
        assert np.array_equal(loaded.predict_labels(test, 7)[name], value)
    (tmp_path / "broken.safetensors").write_bytes((tmp_path / "vae.safetensors").read_bytes()[:100])
    with pytest.raises(ValueError, match="broken.safetensors is not a readable"):
        FittedVAE.load(tmp_path / "broken.safetensors")


def test_poisson_likelihood_fits_counts():
    train, test = toy_recording(400, counts=True), toy_recording(100, counts=True, seed=1)
    fitted = fit_vae(train, None, VAEConfig(groups=(4, 4), hidden=24, steps=300, batch_size=64, lr=5e-3),
                     likelihood="poisson", seeds=1, device="cpu", progress=False)
    x = fitted.standardizer.transform(test.responses)
    assert ((x - fitted.reconstruct(test)) ** 2).mean() < 0.8 * (x**2).mean()
    assert (fitted.standardizer.inverse(fitted.reconstruct(test)) > 0).all()
    with pytest.raises(ValueError, match="needs counts"):
        fit_vae(toy_recording(50), None, SMALL, likelihood="poisson", seeds=1, device="cpu", progress=False)


def test_unlabelled_recording_fits_and_says_so():
    recording = toy_recording(120)
    unlabelled = Recording(recording.images, recording.responses, pd.DataFrame({"category": ["none"] * 120}))
    with pytest.warns(UserWarning,
                      match="no column rxy, rxz, ryz.*only 1 class.*unsupervised groups: 1, 2, 3"):
        fitted = fit_vae(unlabelled, None, VAEConfig(groups=(2, 2, 2), hidden=8, steps=5, batch_size=32),
                         seeds=1, device="cpu", progress=False)
    assert fitted.codes == () and fitted.latents(unlabelled).shape == (120, 6)
    assert fitted.predict_labels(unlabelled) == {}


def test_declared_without_supervision_there_is_no_warning():
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        warnings.filterwarnings("ignore", "groups .* carry nothing")   # it was trained for two steps
        fit_vae(toy_recording(60), None, VAEConfig(groups=(3, 3), hidden=8, steps=2, batch_size=32),
                supervision=(), seeds=1, device="cpu", progress=False)


def test_validation_and_test_do_not_leak_into_the_standardizer(fitted):
    train = toy_recording()
    assert np.allclose(fitted.standardizer.mean, train.responses.mean(0), atol=1e-5)


def test_bad_input_is_refused(fitted):
    recording = toy_recording(40)
    options = dict(seeds=1, device="cpu", progress=False)
    with pytest.raises(ValueError, match="supervision names group 6"):
        fit_vae(recording, None, SMALL, supervision=(Categorical(6),), **options)
    with pytest.raises(ValueError, match="unknown likelihood"):
        fit_vae(recording, None, SMALL, likelihood="binomial", **options)
    with pytest.raises(ValueError, match="unknown estimator"):
        fit_vae(recording, None, SMALL, penalty=GroupPenalty("exact"), **options)
    with pytest.raises(ValueError, match=r"beta=0.5 and leak_weight=2 ask for a penalty: pass penalty=migvis.partial_correlation.GroupPenalty"):
        fit_vae(recording, None, SMALL, penalty=None, **options)
    with pytest.raises(ValueError, match="nothing to fit"):
        fit_vae(recording, None, SMALL, seeds=0, device="cpu", progress=False)
    with pytest.raises(ValueError, match="at least as many dimensions"):
        fit_vae(recording, None, VAEConfig(groups=(2, 2)), **options)
    with pytest.raises(ValueError, match="must be positive sizes"):
        NeuralVAE(5, groups=(2, 0))
    with pytest.raises(ValueError, match="several variants"):
        fitted.latents(recording)
    with pytest.raises(ValueError, match="no variant 'half'"):
        fitted.variant("half")
    with pytest.raises(ValueError, match="units"):
        fitted.latents(np.zeros((3, 4), np.float32), 0)


def test_member_table_pairs_every_variant_with_every_seed():
    table = _member_table(ablation(replace(SMALL, beta=2.0)), 5)
    assert len(table) == 25 and (table.groupby("variant").seed.nunique() == 5).all()
    assert table[table.variant == "PC"][["beta", "label_weight"]].drop_duplicates().values.tolist() == [
        [PAPER["beta"], 0.0]]
    own = table[table.variant == "migvis"][list(_WEIGHTS)].drop_duplicates()
    assert own.to_dict("records") == [_config_weights(replace(SMALL, beta=2.0))]
    with pytest.raises(ValueError, match="unknown weights"):
        _member_table({"migvis": {"gamma": 1.0}}, 2)


def test_terms_are_left_out_one_at_a_time():
    variants = term_ablation(VAEConfig())
    full = variants.pop("migvis")
    assert full == _config_weights(VAEConfig())
    assert all(sum(weights[name] != full[name] for name in _WEIGHTS) == 1 for weights in variants.values())


def labelled_batch(n=40, missing=()):
    "A model with label priors, posterior, codes and targets of a small batch."
    labels = toy_recording(n).labels
    labels.loc[list(missing), "category"] = None
    codes = _label_codes(labels, (Continuous(1, period=360), Categorical(2), Continuous(2, ("rxy",))), 3)
    torch.manual_seed(0)
    model = NeuralVAE(15, groups=(3, 3, 2), heads=[c.head for c in codes], priors=((0, 6), (1, 5)))
    return model, torch.randn(n, 8), torch.randn(n, 8), codes, [code.encode(labels) for code in codes]


def test_prior_kl_is_that_of_the_distributions():
    model, mean, log_var, codes, labels = labelled_batch()
    one_hot = torch.nn.functional.one_hot(labels[1], 4).float()
    expected = torch.zeros(40)
    for part, network, features in ((slice(0, 3), 0, labels[0]),
                                    (slice(3, 6), 1, torch.cat([one_hot, labels[2]], 1))):
        prior_mean, prior_log_var = model.priors[network](features).chunk(2, -1)
        prior = Normal(prior_mean, (prior_log_var.clamp(-3.0, 2.0) / 2).exp())
        expected += kl_divergence(Normal(mean[:, part], (log_var[:, part] / 2).exp()), prior).sum(1)
    assert torch.allclose(_prior_kl(model, mean, log_var, codes, labels), expected, atol=1e-4)


def test_images_without_a_label_have_the_standard_prior():
    model, mean, log_var, codes, labels = labelled_batch(missing=(3, 7))
    for row in (3, 7):
        labels[0][row] = float("nan")   # neither group has all of its labels
    standard = _gaussian_kl(mean, log_var)[:, :6].sum(1)
    found = _prior_kl(model, mean, log_var, codes, labels)
    assert torch.allclose(found[[3, 7]], standard[[3, 7]], atol=1e-5)
    assert torch.isfinite(found).all() and not torch.isclose(found, standard)[[0, 1, 2]].any()


def test_the_objective_with_label_priors_adds_up():
    terms = {"reconstruction": -5.0, "kl": 7.0, "kl_free": 3.0, "kl_prior": 2.0, "pc": 1.5, "leak": 0.5}
    terms = {name: torch.tensor(value) for name, value in terms.items()}
    weights = {"beta": 0.3, "label_weight": 1.0, "prior_weight": 3.0, "free_weight": 0.8, "leak_weight": 2.0}
    expected = 5 + 3 * 2 + _PRIOR_ANCHOR * 4 + 0.8 * 3 + 0.3 * 1.5 + 2 * 0.5
    assert _negative_objective(terms, (), weights).item() == pytest.approx(expected)


@pytest.mark.parametrize("kind", ["mean", "spread", "none", "supervised"])
def test_leak_sees_means_and_spreads_of_free_groups_only(kind):
    model, mean, _, codes, labels = labelled_batch(400)
    classes = labels[1].float()[:, None] - 1.5
    changed = {"mean": mean + classes * torch.tensor([0.0] * 6 + [1, 1]), "none": mean,
               "spread": mean * (1 + 0.6 * classes * torch.tensor([0.0] * 6 + [1, 1])),
               "supervised": mean + classes * torch.tensor([1.0] * 6 + [0, 0])}[kind]
    found = _leak(GroupPenalty(), changed, model.groups, codes, labels).item()
    assert found > 2 if kind in ("mean", "spread") else abs(found) < 1


def test_leak_leaves_out_images_without_the_label():
    model, mean, _, codes, labels = labelled_batch(60, missing=range(20))
    kept = [label[20:] for label in labels]
    whole = _leak(GroupPenalty(), mean, model.groups, codes[1:2], labels[1:2])
    some = _leak(GroupPenalty(), mean[20:], model.groups, codes[1:2], kept[1:2])
    assert torch.allclose(whole, some, atol=1e-4)


def test_active_dimensions_vary_with_the_images_and_survive_a_file(fitted, tmp_path):
    own = fitted.variant("migvis")
    mean, log_var = own.posterior(toy_recording())
    share = mean.var(0) / (mean.var(0) + log_var.exp().mean(0))
    assert np.allclose(own.activity[own.best], share, atol=1e-4)
    again = FittedVAE.load(own.save(tmp_path / "vae.safetensors"))
    assert again.active() == own.active() and "active" in repr(again)


def test_an_empty_group_is_said():
    recording = toy_recording()
    config = replace(SMALL, steps=150, free_weight=60.0, groups=(3, 3, 2))
    with pytest.warns(UserWarning, match=r"groups \[3\] carry nothing"):
        fit_vae(recording, None, config, seeds=1, device="cpu", progress=False)


def test_label_priors_keep_other_things_out_of_labelled_groups():
    rng = np.random.default_rng(0)
    category, other = rng.integers(0, 4, 1200), rng.standard_normal((1200, 2))
    features = np.c_[np.eye(4)[category] * 2, other]
    responses = features @ rng.standard_normal((6, 20)) + 0.2 * rng.standard_normal((1200, 20))
    recording = Recording(np.zeros((1200, 1, 2, 2), np.float32), responses,
                          pd.DataFrame({"category": category.astype(str)}))
    config = VAEConfig(groups=(3, 3), hidden=32, steps=450, batch_size=128, lr=5e-3)
    made = fit_vae(recording.select(images=range(1000)), recording.select(images=range(1000, 1200)),
                   config, seeds=1, device="cpu", supervision=(Categorical(1),), progress=False,
                   variants={"full": PAPER | {"beta": 0.0}, "migvis": _config_weights(config)})
    def explained(part):
        return 1 - np.linalg.lstsq(np.c_[part, np.ones(1200)], other,
                                   rcond=None)[1].sum() / ((other - other.mean(0)) ** 2).sum()
    own, paper = (made.variant(name).latents(recording).numpy() for name in ("migvis", "full"))
    assert explained(own[:, :3]) < 0.05 < explained(paper[:, :3])
    assert explained(own[:, 3:]) > 0.8


def test_real_v4_recording_fits(realdata):
    from migvis.recordings.sources import load_recording
    recording = load_recording("cowley-v4", realdata / "hvm_v4_session210325.npz", size=16)
    train, validation, test = recording.split(seed=0)
    supervision = (Continuous(1, ("ty", "tz")), Categorical(2))
    fitted = fit_vae(train, validation, VAEConfig(steps=300, batch_size=64, lr=3e-3, beta=0.3),
                     supervision=supervision, seeds=1, device="cpu", progress=False)
    x = fitted.standardizer.transform(test.responses)
    assert ((x - fitted.reconstruct(test)) ** 2).mean() < 0.9 * (x**2).mean()
    assert (fitted.predict_labels(test)["category"]
            == test.labels.category).mean() > 1.5 / recording.labels.category.nunique()


def test_steps_given_to_fit_vae_are_those_of_its_schedule():
    short = replace(SMALL, steps=4)
    a = fit_vae(toy_recording(60), toy_recording(30, seed=1), replace(SMALL, steps=4), seeds=1, device="cpu",
                progress=False)
    b = fit_vae(toy_recording(60), toy_recording(30, seed=1), replace(short, steps=50), seeds=1, steps=4,
                device="cpu", progress=False)
    assert all(torch.equal(p, q) for p, q in zip(a.model.parameters(), b.model.parameters()))


def test_reading_latents_leaves_the_global_generator_alone(fitted):
    torch.manual_seed(3)
    before = torch.random.get_rng_state()
    fitted.latents(toy_recording(10), 0)
    assert torch.equal(before, torch.random.get_rng_state())


def test_several_processes_are_refused_with_the_remedy(monkeypatch):
    from migvis import vae
    monkeypatch.setattr(vae, "PartialState", lambda: type("Two", (), {"num_processes": 2}))
    with pytest.raises(ValueError, match="one process"):
        fit_vae(toy_recording(60), config=SMALL, device="cpu", progress=False)


def test_a_member_whose_validation_is_nan_is_not_the_best():
    from types import SimpleNamespace
    table = lambda scores: SimpleNamespace(members=pd.DataFrame({"variant": "full", "validation": scores}))
    assert FittedVAE.best.fget(table([float("nan"), 3.0,
                                      2.0])) == 2 == FittedVAE.best.fget(table([None, 3.0, 2.0]))
    with pytest.raises(ValueError, match="no member's validation score is a number"):
        FittedVAE.best.fget(table([float("nan")] * 2))


@pytest.mark.parametrize("shares, expected", [((1, 1, 0, 1), [(0, 1), (1, 3)]),
                                              ((1, 1, 1, 1), [(0, 1), (2, 3)]), ((0, 1, 0, 1), [(1, 3)])])
def test_pairs_of_dimensions_are_of_active_ones(fitted, shares, expected):
    one = fitted.variant("migvis")
    model = NeuralVAE(15, groups=(4,), heads=(), members=1)
    few = replace(one, model=model, members=one.members.iloc[:1], codes=(),
                  activity=0.9 * np.array([shares], float))
    assert _dimension_pairs(few, 0) == expected
    with pytest.warns(UserWarning, match="1 active dimensions of 4"):
        assert _dimension_pairs(replace(few, activity=np.array([[0.9, 0, 0, 0]])), 0) == [(0, 1), (2, 3)]


def test_decoding_from_all_groups_is_decoding(fitted):
    test = toy_recording(20, seed=3)
    assert np.array_equal(fitted.reconstruct(test, 0), fitted.reconstruct(test, 0, groups=[3, 1, 2]))


def test_groups_are_named_by_numbers_from_1_and_by_labels(fitted):
    assert fitted.group_names == ("Group 1 (pose)", "Group 2 (category)", "Group 3 (no labels)")
    assert fitted.group_indices(None) == (0, 1, 2) and fitted.group_indices("rxy") == (0,)
    assert fitted.group_indices([3, "category"]) == (2, 1) and (fitted.labelled,
                                                                fitted.free) == ((0, 1), (2,))
    with pytest.raises(ValueError, match="no group is called 0"):
        fitted.group_index(0)


def test_r2_of_units_is_that_of_the_responses_and_its_mean_is_that_of_the_group(fitted):
    one, test = fitted.variant("migvis"), toy_recording(60, seed=3)
    x, table = one.standardized(test), one.unit_r2(test)
    expected = 1 - ((x - one.reconstruct(test)) ** 2).mean(0) / x.var(0)
    assert np.allclose(table["all"], expected, atol=1e-5) and list(table) == list(one.group_r2(test).index)
    assert np.allclose(table.mean(), one.group_r2(test))
    silent = test.responses.copy()
    silent[:, 4] = 1.0
    assert np.isnan(one.unit_r2(silent)["all"][4]) and np.isfinite(one.group_r2(silent)).all()


def test_loadings_and_contributions_against_finite_differences(fitted):
    one, test = fitted.variant("migvis"), toy_recording(30, seed=3)
    z, step, model = one.latents(test), 1e-2, one.single().double()
    change = []
    for d in range(z.shape[1]):
        nudge = step * torch.eye(z.shape[1])[d]
        with torch.no_grad():
            change.append((model.decode((z + nudge).double()) - model.decode((z - nudge).double())).mean(0)
                          / (2 * step))
    expected = torch.stack(change, 1) * z.std(0)
    loadings = one.loadings(test)
    assert list(loadings)[:4] == ["z1.1", "z1.2", "z1.3", "z2.1"] and loadings.shape == (15, 8)
    assert np.abs(loadings - expected.numpy()).max().max() < 0.05 * expected.abs().max()
    shares = one.contributions(test)
    assert tuple(shares) == one.group_names and np.allclose(shares.sum(), 1)
    ignored = one.single()
    with torch.no_grad():
        ignored.encoder[0].weight[3] = 0   # the encoder does not see unit 3
    blind = replace(one, model=_stack(ignored), members=one.members.iloc[:1])
    assert (blind.contributions(test).loc[3] == 0).all()


def _stack(model: NeuralVAE) -> NeuralVAE:
    "An ensemble of one."
    ensemble = NeuralVAE(**{**model.config, "members": 1})
    ensemble.load_state_dict({key: value[None] for key, value in model.state_dict().items()})
    return ensemble


def test_latents_beside_labels(fitted):
    one, test = fitted.variant("migvis"), toy_recording(10, seed=3)
    table = one.latent_table(test)
    assert list(table) == [*test.labels, "z1.1", "z1.2", "z1.3", "z2.1", "z2.2", "z2.3", "z3.1", "z3.2"]
    assert np.allclose(table.filter(regex="^z"), one.latents(test))


def test_orientation_is_learnt_with_its_own_period():
    rng = np.random.default_rng(0)
    orientation = rng.uniform(0, 180, 500)
    turn = 2 * np.pi * orientation[:, None] / 180 - np.linspace(0, 2 * np.pi, 12, endpoint=False)
    responses = np.exp(np.cos(turn)) + 0.2 * rng.standard_normal((500, 12))
    labels = pd.DataFrame({"category": "grating", "orientation": orientation})
    recording = Recording(np.zeros((500, 1, 2, 2), np.float32), responses, labels)
    config = VAEConfig(groups=(3, 2), hidden=24, steps=300, batch_size=64, lr=5e-3)
    made = fit_vae(recording, None, config, seeds=1, device="cpu", progress=False,
                   supervision=Continuous(1, "orientation", period=180))
    predicted = made.predict_labels(recording)["orientation"]
    assert made.group_names[0] == "Group 1 (orientation)" and predicted.shape == (500, 1)
    assert made.codes[0].score(recording.labels, predicted)["r2"] > 0.7
