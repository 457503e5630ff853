"""How good a denoiser of the simulated HvM gets in a given time on this machine. Writes weights, card, losses and samples; prints scores.

    python benchmarks/pretrain.py --seconds 600 --out DIR [--batch 256] [--device auto] [--workers N] [--compile MODE]

Rendering and compilation are part of the time; judging comes after it. Beside the scores of the new weights
stand those of the shipped ones, on the same 1024 test renders and from the same noise. A snapshot of the weights is kept every 80 seconds.
On a GPU let PYTHONPYCACHEPREFIX name a folder that can be written, and do not pipe the output: compilation starts processes that keep pipes open.
"""
import argparse
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch

from migvis.denoiser import Denoiser, draw_losses, draw_sheet, sample_images, validation_loss, write_figure
from migvis.pretrained import load_pretrained, pool, train_by_the_clock
from migvis.readouts import Readouts, kid, load_readouts, precision_recall
from migvis.training import get_preset, resolve_device


def score(denoiser: Denoiser, judge: Readouts, tested: torch.Tensor, out: Path, name: str) -> dict:
    "Loss of eps, and how real 512 unguided samples look to the judge."
    place = next(denoiser.parameters()).device
    samples, real = sample_images(denoiser, 512, steps=50, seed=1), judge.read(tested).features
    fake = judge.read(samples).features
    write_figure(out / f"samples-{name}.png", draw_sheet(samples[:64], f"unguided samples, {name} (simulated HvM)"))
    precision, recall = map(float, precision_recall(real, fake))
    return {"weights": name, "parameters (M)": sum(p.numel() for p in denoiser.parameters()) / 1e6, "loss of eps": float(validation_loss(tested.to(place), denoiser.schedule, n=len(tested))(denoiser)),
            "KID": kid(real, fake)[0], "precision": precision, "recall": recall}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--seconds", type=float, required=True)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--lr", type=float, default=1.5e-3)
    parser.add_argument("--ema", type=float, default=0.9995)
    parser.add_argument("--n-images", type=int, help="renders; default: the whole large pool")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--workers", type=int)
    parser.add_argument("--compile", choices=["reduce-overhead", "default", "no"], help="mode of torch.compile; default: with CUDA graphs on a GPU")
    options = parser.parse_args()
    device, demo = resolve_device(options.device), get_preset("demo").denoiser
    config = replace(demo, flips=False, batch_size=options.batch, lr=options.lr, ema=options.ema)
    options.out.mkdir(parents=True, exist_ok=True)
    denoiser, run = train_by_the_clock(options.seconds, options.out / "denoiser.safetensors", config, options.n_images, device=device, workers=options.workers,
                                       compile=False if options.compile == "no" else options.compile, progress=False)
    print(f"{run.steps} steps of {config.batch_size} in {options.seconds:g} s on {device}: {run.steps * config.batch_size / options.seconds:.0f} images/s, all included", flush=True)
    run.history.to_csv(options.out / "losses.csv", index=False)
    write_figure(options.out / "losses.png", draw_losses(run.history))
    tested, judge = pool("test", config.image_size, 1024)[0], load_readouts("demo", device)
    weights = {"new": denoiser.to(device).eval(), "shipped": load_pretrained("demo", device)[0]}
    print(pd.DataFrame([score(d, judge, tested, options.out, name) for name, d in weights.items()]).round(4).to_string(index=False))


if __name__ == "__main__": # rendering starts processes that import this file
    main()
