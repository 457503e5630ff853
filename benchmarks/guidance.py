"""How much faster a whole figure of edits is in one batched call than one image, group and strength at a time. Prints ratios.

    python benchmarks/guidance.py [--mode selective] [--steps N] [--threads 1] [--device auto] [--run RUN] [--pairs 16] [--double] [--rows N]

1. The paper's Fig. 4: two originals, four groups, three strengths, T = 150, t' = 135. One call of an `Editor`, against 24 calls that make
   one image each with the same function and the same settings; after a check that both give the same images. The batched call is
   timed between the single ones, so that a change of the machine's speed meets both. Models are those of the demo preset with
   random weights (time does not depend on them), or those of a fitted run. With --double also in double precision, where rounding
   is too small to be amplified by 135 guided steps: there an edit is the same whatever is edited beside it.
2. With --rows, so many edits in one call: seconds and, on a GPU, memory.
3. With --run, a folder of `MIGVis.save` or `migvis demo`: 25 strided steps against all 135, on held-out pairs: time, and what the
   judge reads from both.
"""
import argparse
import copy
import time

import numpy as np
import torch

from migvis.ddim_guidance import Editor
from migvis.denoiser import build_denoiser
from migvis.measure.edits import _held_out_pairs, measure_edits
from migvis.support.encoders import DenoiserEncoder
from migvis.infonce import Critics
from migvis.model import MIGVis
from migvis.measure.readouts import geodesic_angle, load_readouts
from migvis.support.training import generator, resolve_device
from migvis.support.presets import EditSettings, get_preset

GAMMAS = {"paper": (2.0, 5.0, 10.0), "selective": (0.05, 0.1, 0.2)}


def random_models(device: torch.device) -> tuple:
    "Denoiser and critics of the demo preset, untrained."
    preset = get_preset("demo")
    denoiser = build_denoiser(preset.denoiser, data_std=0.34, data_mean=-0.88).to(device).eval()
    encoder = DenoiserEncoder(denoiser, preset.critic.width, 2 * preset.critic.features)
    critics = Critics(encoder, preset.vae.groups, n_features=preset.critic.features, alpha_bar=denoiser.schedule.alpha_bar).to(device).eval()
    return denoiser, critics


def cpu_or_wall(device: torch.device) -> float:
    "Processor time where the work is done by this process's threads; on a GPU, wall time once it is done."
    if device.type == "cpu": return time.process_time()
    torch.cuda.synchronize() if device.type == "cuda" else None
    return time.perf_counter()


def one_call_or_many(mode: str, device: torch.device, steps: int | None, models: tuple | None) -> None:
    denoiser, critics = models or random_models(device)
    images = torch.rand(2, 1, denoiser.image_size, denoiser.image_size, generator=generator(0, 1))
    z = torch.randn(131, critics.n_latents, generator=generator(0, 2))
    editor = Editor(critics, denoiser, denoiser.schedule, z[4:], EditSettings(mode, t_edit=135, steps=steps))

    def call(rows: slice, groups, gammas) -> torch.Tensor:
        return editor(images[rows], z[:2][rows], groups, gammas, z_originals=z[2:4][rows], paired=True)
    call(slice(0, 1), [0], GAMMAS[mode][:1])  # warm up
    single, alone, batched = {}, 0.0, []
    for number, (i, g, k) in enumerate(np.ndindex(2, 4, 3)):
        if number % 8 == 0:
            start = cpu_or_wall(device)
            whole = call(slice(0, 2), "all", GAMMAS[mode])
            batched.append(cpu_or_wall(device) - start)
        start = cpu_or_wall(device)
        single[i, g, k] = call(slice(i, i + 1), [g], GAMMAS[mode][k:k + 1])[0, 0, 0]
        alone += cpu_or_wall(device) - start
    worst = max((whole[at] - image).abs().max().item() for at, image in single.items())
    clock = f"processor time, {torch.get_num_threads()} thread(s)" if device.type == "cpu" else f"{device.type} time"
    print(f"Fig. 4, {mode}, {steps or 135} steps, {clock}: one call {np.mean(batched):.1f} s, 24 calls {alone:.1f} s: "
          f"{alone / np.mean(batched):.1f}x (largest difference of a pixel {worst:.1e})", flush=True)


def in_double(mode: str, device: torch.device, steps: int | None, models: tuple | None) -> None:
    "Edits of one batch against the same edits made alone, in double precision."
    denoiser, critics = (copy.deepcopy(model).double() for model in models or random_models(device))
    images = torch.rand(2, 1, denoiser.image_size, denoiser.image_size, generator=generator(0, 1))
    z = torch.randn(131, critics.n_latents, generator=generator(0, 2))
    editor = Editor(critics, denoiser, denoiser.schedule, z[4:], EditSettings(mode, t_edit=135, steps=steps))

    def call(rows: slice, groups) -> torch.Tensor:
        return editor(images[rows], z[:2][rows], groups, GAMMAS[mode][-1:], z_originals=z[2:4][rows], paired=True)
    start = cpu_or_wall(device)
    whole = call(slice(0, 2), "all")
    seconds = cpu_or_wall(device) - start
    worst = max((whole[i, g] - call(slice(i, i + 1), [g])[0, 0]).abs().max().item() for i, g in np.ndindex(2, 4))
    print(f"the 8 strongest edits of Fig. 4 in float64, one call ({seconds:.1f} s) and 8 calls: largest difference of a pixel {worst:.1e}", flush=True)


def many_rows(mode: str, device: torch.device, steps: int | None, models: tuple | None, n: int) -> None:
    "One call for n images, one group and one strength each."
    denoiser, critics = models or random_models(device)
    images = torch.rand(n, 1, denoiser.image_size, denoiser.image_size, generator=generator(0, 1))
    z = torch.randn(2 * n + 127, critics.n_latents, generator=generator(0, 2))
    editor, start = Editor(critics, denoiser, denoiser.schedule, z[2 * n:], EditSettings(mode, t_edit=135, steps=steps)), cpu_or_wall(device)
    if device.type == "cuda": torch.cuda.reset_peak_memory_stats()
    editor(images, z[:n], [1], GAMMAS[mode][-1:], z_originals=z[n:2 * n], paired=True)
    seconds = cpu_or_wall(device) - start
    memory = f", {torch.cuda.max_memory_allocated() / 2**30:.1f} GiB at most" if device.type == "cuda" else ""
    print(f"{n} edits in one call, {mode}, {steps or 135} steps, {device.type}: {seconds:.1f} s, {1e3 * seconds / n:.0f} ms each{memory}", flush=True)


def fewer_steps(run: str, mode: str, n_pairs: int, device: torch.device) -> None:
    "25 strided steps against 135, as the judge sees them."
    model, judge = MIGVis.load(run, device), load_readouts("demo", device)
    pairs, edits, seconds = _held_out_pairs(model, judge, n_pairs), {}, {}
    for steps in (135, 25):
        start = cpu_or_wall(device)
        edits[steps] = model.edit(*pairs.T.tolist(), settings=EditSettings(mode, steps=steps), progress=False)
        seconds[steps] = cpu_or_wall(device) - start
    guided = [k for k, gamma in enumerate(edits[25].gammas) if gamma > 0]
    flat = {steps: e.images[:, :, guided].reshape(-1, *e.images.shape[3:]) for steps, e in edits.items()}
    a, b = (judge.read(flat[steps]) for steps in (135, 25))
    both = a.rotation_known & b.rotation_known
    print(f"{n_pairs} pairs, {mode}: 135 steps {seconds[135]:.0f} s, 25 steps {seconds[25]:.0f} s: {seconds[135] / seconds[25]:.1f}x. Of {len(both)} "
          f"guided edits the judge reads the same category in {(a.category == b.category).mean():.0%}, the same object in {(a.object == b.object).mean():.0%}, "
          f"rotations {np.median(geodesic_angle(a.rotation, b.rotation)[both]):.1f} degrees apart (median of {both.sum()}); "
          f"RMSE {np.sqrt(((flat[135] - flat[25]) ** 2).mean()):.3f}")
    rest = model.recording.images[np.setdiff1d(model.split.test, pairs.ravel())]
    reports = {steps: measure_edits(e, judge, rest).summary().set_index(["group", "gamma", "criterion"])["value"] for steps, e in edits.items()}
    print(f"\n{'':70s}135 steps   25 steps")
    for (group, gamma, criterion), value in reports[135].items():
        print(f"{f'{group}, gamma {gamma:g}: {criterion}':70s}{value:9.3f}  {reports[25][group, gamma, criterion]:9.3f}")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--mode", nargs="+", default=["selective"], choices=sorted(GAMMAS))
    parser.add_argument("--steps", type=int, default=None, help="strided steps instead of all 135, for the first part")
    parser.add_argument("--threads", type=int, default=None)
    parser.add_argument("--device", default="auto")
    parser.add_argument("--run", default=None)
    parser.add_argument("--pairs", type=int, default=16)
    parser.add_argument("--double", action="store_true", help="also compare batches in double precision (slow)")
    parser.add_argument("--rows", type=int, help="also so many edits in one call")
    arguments = parser.parse_args()
    if arguments.threads: torch.set_num_threads(arguments.threads)
    device = resolve_device(arguments.device)
    models = None
    if arguments.run:
        fitted = MIGVis.load(arguments.run, device)
        models = fitted.denoiser, fitted.critics
    for mode in arguments.mode:
        one_call_or_many(mode, device, arguments.steps, models)
        if arguments.double: in_double(mode, device, arguments.steps, models)
        if arguments.rows: many_rows(mode, device, arguments.steps, models, arguments.rows)
        if arguments.run: fewer_steps(arguments.run, mode, arguments.pairs, device)
