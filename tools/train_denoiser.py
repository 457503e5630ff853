"""Train a denoiser of the simulated HvM for a given time, as the shipped one was, and compare the two.

    python -m tools.train_denoiser --seconds 600 --out DIR [--preset demo] [--go-on] [--batch 256] [--device auto] [--workers N]

Where time on a GPU is limited, rendering should not hold it up: training goes on while other processes still
render, on the images that are there. A quarter of them render until the first steps are done, so that compilation has
the processor to itself; then all do. The learning rate follows the clock, and a snapshot of the weights is kept
every 80 seconds (the shipped weaker denoiser is one). Rendering and compilation are part of the time; judging
comes after it. What a run ends with depends on the machine's speed, so it cannot be repeated to the bit.

Written to DIR: weights, card, losses, samples. Printed: scores of the new weights and of the shipped ones, on the
same 1024 test renders and from the same noise. On a GPU let PYTHONPYCACHEPREFIX name a folder that can be
written, and do not pipe the output: compilation starts processes that keep pipes open.
"""

import argparse
import math
import subprocess
import threading
import time
from collections.abc import Callable, Mapping
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import joblib
import numpy as np
import pandas as pd
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from torchvision.utils import save_image

from migvis.denoiser import (
    Denoiser,
    NoiseSchedule,
    _loss_weights,
    _pixel_statistics,
    build_denoiser,
    sample_images,
    save_denoiser,
    validation_loss,
)
from migvis.measure.readouts import Readouts, load_readouts
from migvis.measure.realism import kid, precision_recall
from migvis.simulate.images import render_labels
from migvis.simulate.objects import object_names
from migvis.simulate.pretrained import _POOLS, _fingerprint, _pool, _pool_labels, load_pretrained
from migvis.simulate.renderer import rotation_matrix
from migvis.support.presets import DenoiserConfig, get_preset
from migvis.support.training import Batch, Fit, fit, resolve_device


class WithLabelHead(nn.Module):
    "A denoiser with a linear head on the features in the middle of its U-Net, for training."
    def __init__(self, denoiser: Denoiser, n_outputs: int) -> None:
        super().__init__()
        config, levels = denoiser.unet.config, len(denoiser.unet.config.block_out_channels)
        width, side = config.block_out_channels[-1], config.sample_size // 2 ** (levels - 1)
        self.denoiser, self.norm = denoiser, nn.GroupNorm(8, width)
        self.head = nn.Linear(width * side**2, n_outputs)
        nn.init.zeros_(self.head.weight)
        nn.init.zeros_(self.head.bias)
        self.middle: Tensor | None = None
        denoiser.unet.mid_block.register_forward_hook(self._keep)

    def _keep(self, module: nn.Module, inputs: tuple, output: Tensor) -> None:
        "Hook: keep the features in the middle."
        self.middle = output

    def forward(self, y_t: Tensor, t: Tensor) -> tuple[Tensor, Tensor]:  # noise estimate, outputs of the head
        eps = self.denoiser(y_t, t)
        middle, self.middle = self.middle, None
        return eps, self.head(self.norm(middle).flatten(1)).float()


def label_targets(labels: pd.DataFrame) -> tuple[Tensor, Tensor]:  # (n,), (n, 12)
    "What the head learns: number of the object; rotation matrix, position and log size, standardised."
    objects = pd.Categorical(labels["object"], sorted(object_names()["object"])).codes
    rotation = rotation_matrix(*labels[["rxy", "rxz", "ryz"]].to_numpy().T).reshape(len(labels), 9)
    values = np.concatenate([rotation, labels[["ty", "tz"]].to_numpy(), np.log(labels[["s"]].to_numpy())], 1)
    values = (values - values.mean(0)) / values.std(0).clip(min=1e-6)
    return torch.as_tensor(objects.astype(np.int64)), torch.as_tensor(values).float()


def time_density(schedule: NoiseSchedule, even: float = 0.5) -> Tensor:  # (T,) of t = 1..T
    "Times at which the denoiser is trained: partly even, partly log-normal in the noise level."
    level = ((1 - schedule.alpha_bar[1:]) / schedule.alpha_bar[1:]).sqrt().double().log()
    density = torch.exp(-0.5 * ((level - math.log(0.5)) / 1.3) ** 2) * torch.gradient(level)[0]
    return even / schedule.T + (1 - even) * density / density.sum()


def labelled_loss(
    images: Tensor,
    labels: pd.DataFrame,
    schedule: NoiseSchedule,
    label_weight: float = 0.03,
    ready: Callable[[], int] | None = None,  # how many images are there; None: all
) -> Callable:
    "Loss for `fit`: v-weighted noise error and, where the image can be seen, the label head's."
    device, n_objects = images.device, len(object_names())
    objects, values = (x.to(device) for x in label_targets(labels))
    weights = _loss_weights(schedule, "v").float().to(device)
    cumulative = time_density(schedule).cumsum(0).float().to(device)

    def loss(model: WithLabelHead, batch: Batch) -> tuple[Tensor, Mapping[str, Tensor]]:
        index = batch.index if ready is None else batch.index % ready()
        y = images[index].float() / 127.5 - 1
        t = 1 + torch.searchsorted(cumulative, batch.rand()).clamp(max=schedule.T - 1)
        noise = batch.randn(*y.shape[1:])
        eps, outputs = model(schedule.add_noise(y, noise, t), t)
        error = (eps.float() - noise).square().flatten(1).mean(1)
        named = F.cross_entropy(outputs[:, :n_objects], objects[index], reduction="none")
        named = named / math.log(n_objects)
        placed = (outputs[:, n_objects:] - values[index]).square().mean(1)
        label_loss = (schedule.at("alpha_bar", t, error) * (named + placed)).mean()
        total = (error * schedule.at(weights, t, error)).mean() + label_weight * label_loss
        return total, {"eps_loss": error.mean(), "object": named.mean(), "pose": placed.mean()}
    return loss


def fit_labelled(
    denoiser: Denoiser,
    images: Tensor,  # (n, 1, size, size) uint8
    labels: pd.DataFrame,
    held_out: Tensor,
    config: DenoiserConfig,
    seed: int,
    ready: Callable[[], int],  # how many images are there
    options: Mapping[str, Any],  # of `fit`
) -> Fit:
    "Train a denoiser with a label head."
    check = validation_loss(held_out.to(images.device), denoiser.schedule)
    names = ("steps", "batch_size", "lr", "betas", "clip", "ema", "precision")
    return fit(
        WithLabelHead(denoiser, len(object_names()) + 12),
        labelled_loss(images, labels, denoiser.schedule, ready=ready),
        len(images),
        seed=seed,
        device=images.device,
        validate=lambda model: check(model.denoiser),
        **{name: getattr(config, name) for name in names},
        **options,
    )


def commit() -> str | None:
    "Commit of the source tree; None where it is not in git."
    root = Path(__file__).resolve().parents[1]
    done = subprocess.run(["git", "rev-parse", "HEAD"], cwd=root, capture_output=True, text=True)
    return done.stdout.strip() or None


def make_card(
    config: DenoiserConfig,
    n_renders: int,
    seed: int,
    run: Fit,
    test_loss: float,
    start: str | None = None,  # name of the shipped weights from which training went on
) -> dict[str, Any]:  # JSON-able
    "What there is to know about a pretrained denoiser: images, seeds, commit, settings, losses."
    rows = run.history.dropna(subset="validation")
    return {
        "what": "denoiser of the simulated HvM, without background",
        "images": _fingerprint(config.image_size),
        "commit": commit(),
        "data": f"{n_renders} renders (seed {_POOLS['large'][1]}), no standard views",
        "seeds": {"training": seed, **{name: number for name, (_, number) in _POOLS.items()}},
        "config": asdict(config),
        "start": start,
        "steps": run.steps,
        "images_seen": run.steps * config.batch_size,
        "test_eps_loss": test_loss,
        "history": {
            "step": rows["step"].tolist(),
            "held_out_eps_loss": rows["validation"].round(5).tolist(),
        },
    }


class GrowingPool:
    "Renders in the order of their labels, made by other processes; the first `ready()` are there."

    def __init__(
        self,
        labels: pd.DataFrame,  # n rows
        size: int,
        device: str | torch.device = "cpu",
        workers: int | None = None,  # processes; None: one for each core but one
        chunk: int = 1024,  # images that come at once
    ) -> None:
        self.images = torch.zeros(len(labels), 1, size, size, dtype=torch.uint8, device=device)
        self.made, self.moved, self.error = [], 0, None
        workers = max(1, joblib.cpu_count() - 1) if workers is None else workers
        self.hurry = threading.Event()  # set: all processes render; until then a quarter of them
        self.thread = threading.Thread(
            target=self._render, args=(labels, size, workers, chunk), daemon=True
        )
        self.thread.start()

    def _render(self, labels: pd.DataFrame, size: int, workers: int, chunk: int) -> None:
        "Make the images, some chunks at a time."
        parts = [labels.iloc[i : i + chunk] for i in range(0, len(labels), chunk)]
        few = max(1, workers // 4)
        try:
            while parts:
                n, share = (workers, 4 * workers) if self.hurry.is_set() else (few, few)
                now, parts = parts[:share], parts[share:]
                jobs = (joblib.delayed(render_labels)(part, size, workers=1, progress=False) for part in now)
                for images, _ in joblib.Parallel(n, return_as="generator")(jobs):
                    self.made.append(torch.from_numpy(images))
        except Exception as e:
            self.error = e  # raised by `wait`, in the thread that trains

    def ready(self) -> int:
        "Move what was rendered since the last call to `images`; how many images are there."
        while self.made:  # not in the other thread: only one may use a GPU while its work is being recorded
            new = self.made.pop(0)
            self.images[self.moved : self.moved + len(new), 0] = new.to(self.images.device)
            self.moved += len(new)
        return self.moved

    def wait(self, n: int) -> None:
        "Return once `n` images are there. Raises RuntimeError if rendering failed."
        while self.ready() < min(n, len(self.images)):
            if self.error is not None and not self.made:
                raise RuntimeError(f"rendering failed after {self.moved} images") from self.error
            time.sleep(0.05)


def begun(growing: GrowingPool, since: float) -> Callable[[], int]:
    "`ready` of a pool, called at every step; at the fourth all processes render, and the time so far is told."
    calls = []

    def ready() -> int:
        calls.append(1)
        if len(calls) == 4:
            growing.hurry.set()
            print(f"three steps done {time.monotonic() - since:.0f} s after the start", flush=True)
        return growing.ready()

    return ready


def clocked(
    seconds: float,  # until the rate is 0, from the third step on (the first ones may compile)
    warmup: int = 200,  # steps of linear increase
) -> Callable[[int], float]:  # factor of the learning rate at a step
    "Learning-rate schedule by the clock: linear warm-up, then a half cosine down to 0 when the time is over."
    begun, called = [], time.monotonic()

    def factor(step: int) -> float:
        warm = min(1.0, (step + 1) / max(1, warmup))
        if step < 2:
            return warm
        now = time.monotonic()
        if not begun:
            begun.append(now)
        done = (now - begun[0]) / max(called + seconds - begun[0], 1e-9)
        return warm * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))

    return factor


def snapshots_until(
    end: float,  # of `time.monotonic`
    path: Path,  # its name with the step at the end gets the denoiser's weights, in 8 bits
    every: float = 80.0,  # seconds
) -> Callable[[int, WithLabelHead, Mapping], bool]:
    "Callback of `fit` that keeps the weights now and then, and ends training when the time is over."
    last = [time.monotonic()]

    def callback(step: int, model: WithLabelHead, row: Mapping) -> bool:
        now = time.monotonic()
        if now - last[0] >= every:
            last[0] = now
            meta = {"step": step, "losses": dict(row)}
            save_denoiser(path.with_stem(f"{path.stem}-{step:06d}"), model.denoiser, meta, torch.int8)
            print(f"step {step}: loss of eps {row['eps_loss']:.4f}, object {row['object']:.2f}", flush=True)
        return now >= end

    return callback


def train_by_the_clock(
    seconds: float,  # rendering and compilation included
    path: Path,  # where to write weights and card; snapshots lie beside it
    config: DenoiserConfig,  # its `steps` do not count
    n_images: int | None = None,  # renders, None: all of the large pool
    seed: int = 0,
    device: str | torch.device = "auto",
    workers: int | None = None,  # processes that render; None: one for each core but one
    chunk: int = 256,  # images that each of them makes at once
    compile: bool | str | None = None,  # None: on CUDA, with CUDA graphs
    log_every: int = 50,  # steps; the clock is looked at as often
    snapshot_every: float = 80.0,  # seconds
    start: str | None = None,  # name of the shipped weights to go on from
) -> tuple[Denoiser, Fit]:
    "Train a denoiser of the simulated HvM for so long, on renders that are being made."
    began, device = time.monotonic(), resolve_device(device)
    end = began + seconds
    labels = _pool_labels("large", n_images)
    growing = GrowingPool(labels, config.image_size, device, workers, chunk)
    held_out = _pool("validation", config.image_size, 256, 1)[0]
    growing.wait(chunk)
    if start is None:
        statistics = _pixel_statistics(growing.images[: growing.ready()].cpu())
        denoiser = build_denoiser(config, *statistics, seed)
    else:
        denoiser = load_pretrained(start, device)[0]
    if compile is None:
        compile = "reduce-overhead" if device.type == "cuda" else False
    options = {
        "schedule": clocked(max(end - time.monotonic(), 1e-3)),
        "log_every": log_every,
        "validate_every": 500,
        "compile": compile,
        "callback": snapshots_until(end, path.with_suffix(".snapshot.safetensors"), snapshot_every),
        "progress": False,
    }
    ready, endless = begun(growing, began), replace(config, steps=10**9)
    run = fit_labelled(denoiser, growing.images, labels, held_out, endless, seed, ready, options)
    tests = _pool("test", config.image_size, 1024)[0]
    test_loss = float(validation_loss(tests.to(device), denoiser.schedule, n=1024)(denoiser.eval()))
    card = make_card(replace(config, steps=run.steps), growing.ready(), seed, run, test_loss, start)
    save_denoiser(path, denoiser, card, torch.float16)
    return denoiser, run


def score(denoiser: Denoiser, judge: Readouts, tests: torch.Tensor, out: Path, name: str) -> dict:
    "Loss of eps, and how real 512 unguided samples look to the judge."
    place = next(denoiser.parameters()).device
    samples, real = sample_images(denoiser, 512, steps=50, seed=1), judge.read(tests).features
    fake = judge.read(samples).features
    save_image(samples[:64], out / f"samples-{name}.png")
    precision, recall = map(float, precision_recall(real, fake))
    loss = float(validation_loss(tests.to(place), denoiser.schedule, n=len(tests))(denoiser))
    size = sum(p.numel() for p in denoiser.parameters()) / 1e6
    return {
        "weights": name,
        "parameters (M)": size,
        "loss of eps": loss,
        "KID": kid(real, fake)[0],
        "precision": precision,
        "recall": recall,
    }


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--preset", default="demo", choices=["demo", "sharp"], help="whose network is trained")
    parser.add_argument("--go-on", action="store_true", help="from the preset's shipped weights, not anew")
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--n-images", type=int, help="renders; default: the whole large pool")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument(
        "--compile",
        choices=["reduce-overhead", "default", "no"],
        help="mode of torch.compile; default: with CUDA graphs on a GPU",
    )
    options = parser.parse_args()
    device, preset = resolve_device(options.device), get_preset(options.preset).denoiser
    config = replace(preset, flips=False, batch_size=options.batch, lr=options.lr, ema=options.ema)
    options.out.mkdir(parents=True, exist_ok=True)
    denoiser, run = train_by_the_clock(
        options.seconds,
        options.out / "denoiser.safetensors",
        config,
        options.n_images,
        device=device,
        workers=options.workers,
        compile=False if options.compile == "no" else options.compile,
        start=options.preset if options.go_on else None,
    )
    speed = run.steps * config.batch_size / options.seconds
    print(
        f"{run.steps} steps of {config.batch_size} in {options.seconds:g} s on {device}: {speed:.0f} images/s"
    )
    run.history.to_csv(options.out / "losses.csv", index=False)
    tests, judge = _pool("test", config.image_size, 1024)[0], load_readouts("demo", device)
    weights = {"new": denoiser.to(device).eval(), "shipped": load_pretrained(options.preset, device)[0]}
    table = pd.DataFrame([score(d, judge, tests, options.out, name) for name, d in weights.items()])
    print(table.round(4).to_string(index=False))


if __name__ == "__main__":  # rendering starts processes that import this file
    main()
