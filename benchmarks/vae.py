"""How much faster the batched ensemble and the matrix form of the partial correlation are. Prints ratios measured in one run.

    python benchmarks/vae.py [--repeats 3] [--threads 2]

1. Neural VAEs (two subjects of 58 and 110 units, the variants of the paper's Table 1, five seeds), trained by the same function in three ways: one
   batched model for each subject, one subject after the other; the two batched models side by side, in as many processes of one
   thread each; one model after another. Ways alternate within each repeat.
2. The partial correlation of a batch with its gradient: matrix products against the difference tensor (B, B, D) and against
   a loop over samples and groups.
3. Where pythae is installed (`pip install pythae pydantic cloudpickle`): our total correlation against the one in its BetaTCVAE,
   after a check that both give the same number.
"""
import argparse
import importlib.util
import time
import warnings
from types import SimpleNamespace

import numpy as np
import pandas as pd
import torch
from joblib import Parallel, delayed

from migvis.data import Recording
from migvis.partial_correlation import GroupPenalty, _is_weights, partial_correlation
from migvis.support.presets import VAEConfig, get_preset
from migvis.compare.ablations import ablation
from migvis.vae import fit_vae


def random_recording(n_units: int, n: int = 4608, seed: int = 0) -> Recording:
    "Responses of the right shape; their content does not matter for timing."
    rng = np.random.default_rng(seed)
    labels = pd.DataFrame(rng.uniform(-90, 90, (n, 3)), columns=["rxy", "rxz", "ryz"]).assign(category=rng.integers(0, 8, n))
    return Recording(np.zeros((n, 1, 2, 2), np.float32), rng.standard_normal((n, n_units)), labels, simulated=True)


def clock() -> float:
    "Processor time with one thread, which other work on the machine hardly changes; else wall time."
    return time.process_time() if torch.get_num_threads() == 1 else time.perf_counter()


def seconds(task, repeats: int = 3) -> float:
    "Shortest of some runs."
    times = []
    for _ in range(repeats):
        start = clock()
        task()
        times.append(clock() - start)
    return min(times)


EVERY = 150   # steps between validations: the twentieth part of the 3000 steps of the `demo` preset


def fit(n_units: int, steps: int, batch: int, seeds, variants, threads: int | None = None) -> float:
    "Train with the proportions of the preset: 4032 training and 576 validation images, one validation every 150 steps. Seconds taken."
    if threads:
        torch.set_num_threads(threads)
    train, validation = random_recording(n_units, 4032), random_recording(n_units, 576, seed=1)
    start = clock()
    fit_vae(train, validation, VAEConfig(steps=steps, batch_size=batch), seeds=seeds, variants=variants,
            penalty=GroupPenalty(), device="cpu", progress=False, validate_every=EVERY)
    return clock() - start


def one_after_another(batch: int, steps: int) -> float:
    "Seconds for all models, each alone. The five seeds take the same time, so one of each variant and subject is trained."
    return 5 * sum(fit(n_units, steps, batch, [0], {name: variant}) for n_units in UNITS for name, variant in VARIANTS.items())


def batched(batch: int, steps: int) -> float:
    "Seconds for two ensembles, one after the other."
    return sum(fit(n_units, steps, batch, 5, VARIANTS) for n_units in UNITS)


def side_by_side(batch: int, steps: int) -> float:
    "Seconds for two ensembles at once, one thread each; the slower one counts."
    return max(Parallel(n_jobs=2)(delayed(fit)(n_units, steps, batch, 5, VARIANTS, 1) for n_units in UNITS))


UNITS, VARIANTS = (58, 110), ablation(get_preset("demo").vae)


def ensembles(batch: int, repeats: int) -> None:
    "Time for a step of all models, from the difference between long and short runs, so that starting up does not count."
    ways = {"batched": batched, "side by side": side_by_side, "one after another": one_after_another}
    for way in ways.values():
        way(batch, 2)   # warm up
    times = {name: [] for name in ways}
    for _ in range(repeats):
        for name, way in ways.items():
            times[name].append((way(batch, 2 * EVERY) - way(batch, EVERY)) / EVERY)
    single = np.array(times["one after another"])
    steps = get_preset("demo").vae.steps
    for name, values in times.items():
        ratio = single / np.array(values)
        told = "" if name == "one after another" else f", {np.median(ratio):.1f}x as fast ({ratio.min():.1f} to {ratio.max():.1f})"
        print(f"{5 * len(UNITS) * len(VARIANTS)} models, batch of {batch}, {name:17s}: {1e3 * np.median(values):5.1f} ms a step, "
              f"{steps} steps {steps * np.median(values):4.0f} s{told}", flush=True)


def with_differences(z, mean, log_var, groups, n_data):
    "The usual form: a tensor of all differences."
    density = torch.distributions.Normal(mean, torch.exp(log_var / 2)).log_prob(z[:, None]).unflatten(-1, (groups, -1)).sum(-1)
    weights = _is_weights(len(z), n_data).log()
    return (torch.logsumexp(density.sum(-1) + weights, 1) - torch.logsumexp(density + weights[..., None], 1).sum(-1)).mean()


def with_loops(z, mean, log_var, groups, n_data):
    "A loop over samples and groups."
    weights, total = _is_weights(len(z), n_data).log(), 0.0
    normal = torch.distributions.Normal(mean, torch.exp(log_var / 2))
    for b in range(len(z)):
        parts = normal.log_prob(z[b]).chunk(groups, -1)
        total = total + torch.logsumexp(sum(part.sum(-1) for part in parts) + weights[b], 0)
        for part in parts:
            total = total - torch.logsumexp(part.sum(-1) + weights[b], 0)
    return total / len(z)


def partial_correlations() -> None:
    for batch in (128, 256, 512):
        torch.manual_seed(0)
        mean, log_var = torch.randn(batch, 24, requires_grad=True), torch.full((batch, 24), -1.0, requires_grad=True)
        noise = torch.randn(batch, 24)

        def run(method):
            z = mean + noise * torch.exp(log_var / 2)
            value = method(z, mean, log_var, 4, n_data=4032)
            value.backward()
            return value.item()
        methods = {"matrix products": partial_correlation, "differences": with_differences, "loop": with_loops}
        values = {name: run(method) for name, method in methods.items()}
        assert max(values.values()) - min(values.values()) < 1e-2, values
        times = {name: seconds(lambda: run(method), 2 if name == "loop" else 20) for name, method in methods.items()}
        told = ", ".join(f"{name} {1e3 * t:.1f} ms ({t / times['matrix products']:.0f}x)" for name, t in times.items())
        print(f"partial correlation and gradient, B={batch}, D=24, G=4: {told}")


def total_correlations() -> None:
    if importlib.util.find_spec("pythae") is None:
        print("total correlation: pythae is not installed, no comparison")
        return
    from pythae.models.beta_tc_vae.beta_tc_vae_model import BetaTCVAE
    weights = SimpleNamespace(model_config=SimpleNamespace(reconstruction_loss="mse"), use_mss=False, alpha=0, beta=1, gamma=0)
    weights._compute_log_gauss_density = lambda *tensors: BetaTCVAE._compute_log_gauss_density(weights, *tensors)
    blank = torch.zeros(1, 1)
    for batch in (128, 256, 512):
        torch.manual_seed(0)
        mean, log_var = torch.randn(batch, 24, requires_grad=True), torch.full((batch, 24), -1.0, requires_grad=True)
        noise = torch.randn(batch, 24)

        def ours(z): return partial_correlation(z, mean, log_var, z.shape[-1], "mws", n_data=4032)
        def theirs(z): return BetaTCVAE.loss_function(weights, blank, blank, mean, log_var, z, 4032)[0]
        def run(method):
            value = method(mean + noise * torch.exp(log_var / 2))
            value.backward()
            return value.item()
        values, times = [run(m) for m in (ours, theirs)], [seconds(lambda: run(m), 20) for m in (ours, theirs)]
        assert abs(values[0] - values[1]) < 1e-2 * abs(values[0]), values
        print(f"total correlation and gradient, B={batch}, D=24: ours {1e3 * times[0]:.1f} ms, pythae {1e3 * times[1]:.1f} ms ({times[1] / times[0]:.1f}x)")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--batches", type=int, nargs="*", default=[64, 128])
    arguments = parser.parse_args()
    warnings.simplefilter("ignore")
    if arguments.threads:
        torch.set_num_threads(arguments.threads)
    partial_correlations()
    total_correlations()
    for batch in arguments.batches:
        ensembles(batch, arguments.repeats)
