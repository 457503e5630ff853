"""Training and sampling speed of our denoiser against denoising-diffusion-pytorch, at equal multiply-accumulate counts.

pip install denoising-diffusion-pytorch     # the peer; migvis does not need it
python benchmarks/denoiser_peer.py [--preset demo] [--device auto] [--batch 32] [--steps 4] [--repeats 5] [--threads N]
python benchmarks/denoiser_peer.py --preset paper --image-size 64 --batch 2   # without patches: networks of the same build

The peer is its `Unet` and `GaussianDiffusion` with their defaults (multipliers 1, 2, 4, 8, linear attention at high and full attention at
low resolution, float32), and a step as its `Trainer` makes it, only fed from memory instead of from files. Its width `dim` is the largest whose
forward pass has no more multiply-accumulates than ours; what difference is left is in its favour, and divided out in the last column. Ours is the preset
as `train_denoiser` runs it: through the project's training loop, logging at every step. Same images, same batch, same number of
time steps; the entries alternate, and ratios are taken within a repeat. Printed: images a second (median over repeats), the ratio to
the peer (median, smallest and largest over repeats), and the largest memory above what the imports take, measured in a process of its own
(on CUDA: above what is held before training). On CUDA ours is compiled, too.
"""
import argparse
import math
import re
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn
from torch.utils.flop_counter import FlopCounterMode

from migvis.denoiser import Denoiser, build_denoiser, sample_images, train_denoiser
from migvis.support.presets import DenoiserConfig, get_preset
from migvis.support.training import generator, resolve_device

MEAN, STD, SAMPLING_STEPS = -0.88, 0.34, 10
PEER = "denoising-diffusion-pytorch"
TRAINED = { # name: (is it ours, precision of training, without patches)
    PEER: (False, "float32"),
    f"{PEER}, bfloat16": (False, "bfloat16"),
    "migvis": (True, None),              # as the preset says
    "migvis, float32": (True, "float32"),
}


def macs(network: nn.Module, channels: int, size: int) -> float:
    "Multiply-accumulates of a forward pass of one image, in millions."
    x, t = torch.zeros(1, channels, size, size), torch.ones(1, dtype=torch.long)
    counter = FlopCounterMode(display=False)
    with counter, torch.no_grad(), torch.nn.attention.sdpa_kernel(torch.nn.attention.SDPBackend.MATH): network(x, t)
    return counter.get_total_flops() / 2e6


def build_peer(config: DenoiserConfig, dim: int) -> nn.Module:
    "The peer's diffusion model of some width."
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    return GaussianDiffusion(Unet(dim=dim, channels=1), image_size=config.image_size, timesteps=config.T, sampling_timesteps=SAMPLING_STEPS)


def equal_width(config: DenoiserConfig, budget: float) -> int:
    "The largest width at which the peer's network has at most `budget` million multiply-accumulates."
    count = lambda dim: macs(build_peer(config, dim).model, 1, config.image_size)
    low, high = 2, 128 # dim must be even
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (middle, high) if count(2 * middle) <= budget else (low, middle)
    return 2 * low


def peer_steps(diffusion: nn.Module, images: Tensor, config: DenoiserConfig, steps: int, precision: str) -> list[float]:
    "Seconds of each training step, made as the peer's Trainer makes it."
    from ema_pytorch import EMA

    device, taken = images.device, []
    optimizer, ema = torch.optim.Adam(diffusion.parameters(), lr=1e-4, betas=(0.9, 0.99)), EMA(diffusion, beta=0.995, update_every=10)
    for step in range(steps):
        start = now(device)
        batch = images[torch.randint(len(images), (config.batch_size,), device=device)]
        batch = torch.where(torch.rand(len(batch), 1, 1, 1, device=device) < 0.5, batch.flip(-1), batch)
        with torch.autocast(device.type, torch.bfloat16, enabled=precision == "bfloat16"): loss = diffusion(batch)
        loss.item()
        loss.backward()
        nn.utils.clip_grad_norm_(diffusion.parameters(), 1.0)
        optimizer.step(), optimizer.zero_grad()
        ema.update()
        taken.append(now(device) - start)
    return taken


def our_steps(denoiser: Denoiser, images: Tensor, config: DenoiserConfig, steps: int) -> list[float]:
    "Seconds of each training step of `train_denoiser` (its last one, which validates, and its first are left out)."
    stamps, device = [], images.device
    train_denoiser(images, replace(config, steps=steps + 2), denoiser=denoiser, validation=images[:1], device=device, progress=False, log_every=1,
                   compile=device.type == "cuda", callback=lambda *_: stamps.append(now(device)))
    return [b - a for a, b in zip(stamps[:-2], stamps[1:-1])]


def now(device: torch.device) -> float:
    "Seconds, once the device has done what it was asked; with one thread of processor time, which other work hardly changes."
    if device.type == "cuda": torch.cuda.synchronize(device)
    return time.process_time() if device.type == "cpu" and torch.get_num_threads() == 1 else time.perf_counter()


class Contest:
    "The models, and what is timed."
    def __init__(self, options: argparse.Namespace) -> None:
        preset = get_preset(options.preset).denoiser
        preset = replace(preset, image_size=options.image_size or preset.image_size)
        self.config, self.device = replace(preset, batch_size=options.batch), resolve_device(options.device)
        self.denoiser = build_denoiser(self.config, STD, MEAN)
        self.dim = options.dim or equal_width(self.config, macs(self.denoiser.eval(), 1, preset.image_size))
        self.peer = build_peer(self.config, self.dim)
        self.denoiser.to(self.device), self.peer.to(self.device)
        self.images = torch.rand(256, 1, preset.image_size, preset.image_size, generator=generator(0, 1)).to(self.device)

    def train(self, name: str, steps: int) -> float: # images a second, after two steps to warm up
        "Training speed of one entry."
        ours, precision = TRAINED[name]
        config = replace(self.config, precision=precision or self.config.precision)
        take = (lambda n: our_steps(self.denoiser, self.images, config, n)) if ours else (lambda n: peer_steps(self.peer, self.images, config, n, precision))
        return config.batch_size / statistics.median(take(steps + 2)[2:] or [math.inf])

    def sample(self, name: str) -> float: # images a second
        "Sampling speed of one entry, by DDIM."
        ours, precision = TRAINED[name]
        start, n = now(self.device), self.config.batch_size
        with torch.autocast(self.device.type, torch.bfloat16, enabled=(precision or self.config.precision) == "bfloat16"):
            if ours: sample_images(self.denoiser.eval(), n, SAMPLING_STEPS)
            else: self.peer.eval().sample(batch_size=n)
        return n / (now(self.device) - start)


def resident(entry: str) -> float: # MiB
    "Memory of this process: VmRSS now, or VmHWM, the largest since `clear_refs` (Linux)."
    return int(re.search(rf"{entry}:\s+(\d+) kB", Path("/proc/self/status").read_text())[1]) / 1024


def cuda_memory(contest: Contest, name: str) -> float: # MiB
    "Largest memory while an entry trains, above what is held before: both models' weights."
    torch.cuda.reset_peak_memory_stats()
    held = torch.cuda.memory_allocated()
    contest.train(name, 0)
    return (torch.cuda.max_memory_allocated() - held) / 2**20


def peak_memory(name: str, options: argparse.Namespace) -> float: # MiB
    "Largest memory while an entry trains two steps, above what the imports took, in this process on a CPU."
    before = resident("VmRSS")
    Contest(options).train(name, 0)
    return resident("VmHWM") - before


def compare(speeds: dict[str, list[float]], title: str, memory: dict[str, float], work: float) -> pd.DataFrame:
    "Table of speeds and of ratios to the peer within each repeat."
    rows = []
    for name, values in speeds.items():
        ratios = [v / p for v, p in zip(values, speeds[PEER])]
        rows.append({title: name, "images/s": f"{statistics.median(values):.1f}", "times the peer": f"{statistics.median(ratios):.2f}",
                     "from-to": f"{min(ratios):.2f}-{max(ratios):.2f}", **({"memory MiB": f"{memory[name]:.0f}"} if memory else {}),
                     "a multiply-accumulate": f"{statistics.median(ratios) * (work if TRAINED[name][0] else 1):.2f}"})
    return pd.DataFrame(rows)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="demo", choices=["tiny", "demo", "paper"])
    parser.add_argument("--image-size", type=int, help="default: the preset's")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--steps", type=int, default=4, help="timed training steps in each repeat")
    parser.add_argument("--repeats", type=int, default=5)
    parser.add_argument("--threads", type=int, default=torch.get_num_threads())
    parser.add_argument("--dim", type=int, help="width of the peer; default: for equal multiply-accumulates")
    parser.add_argument("--memory", metavar="ENTRY", help=argparse.SUPPRESS)
    options = parser.parse_args()
    try: import denoising_diffusion_pytorch, ema_pytorch  # noqa: F401
    except ImportError: sys.exit("the peer is missing: pip install denoising-diffusion-pytorch")
    torch.set_num_threads(options.threads)
    torch.manual_seed(0)
    if options.memory: return print(peak_memory(options.memory, options))
    contest = Contest(options)
    size = contest.config.image_size
    ours, theirs = (macs(network, 1, size) for network in (build_denoiser(contest.config).eval(), build_peer(contest.config, contest.dim).model))
    count = lambda model: sum(p.numel() for p in model.parameters()) / 1e6
    print(f"{options.preset} preset, {size} x {size}, batch {options.batch}, {contest.device}, {options.threads} threads, torch {torch.__version__}")
    print(f"multiply-accumulates of a forward pass: ours {ours:.0f} M ({count(contest.denoiser):.1f} M parameters), "
          f"peer {theirs:.0f} M (dim {contest.dim}, {count(contest.peer.model):.1f} M parameters)")
    own = [sys.executable, __file__, *(f"--{k}={getattr(options, k)}" for k in ("preset", "device", "batch", "threads")),
           f"--image-size={size}", f"--dim={contest.dim}"]
    separate = lambda name: float(subprocess.run([*own, "--memory", name], capture_output=True, text=True, check=True).stdout.split()[-1])
    memory = {name: cuda_memory(contest, name) if contest.device.type == "cuda" else separate(name) for name in TRAINED}
    work, training, sampling = ours / theirs, {name: [] for name in TRAINED}, {name: [] for name in TRAINED}
    for _ in range(options.repeats):
        for name in TRAINED: training[name].append(contest.train(name, options.steps))
        for name in TRAINED: sampling[name].append(contest.sample(name))
    print("\n" + compare(training, "training", memory, work).to_string(index=False))
    print("\n" + compare(sampling, f"sampling ({SAMPLING_STEPS} DDIM steps)", {}, work).to_string(index=False))


if __name__ == "__main__":
    main()
