"""Which small denoiser gives most for a few minutes of CPU? Trains variants for the same time and compares them.

python benchmarks/denoiser_variants.py --minutes 1 [--only NAME ...] [--out table.csv]

For every variant: parameters, milliseconds a step, steps taken, the unweighted loss of eps on held-out images, the RMSE of the
clean estimate at several times (in units of [-1, 1]), and the kernel distance (KID, cubic kernel) between 256 unguided samples and
held-out images in the features of a small category classifier, which is trained first. Two halves of the held-out images
give the KID that no sample can beat. Sample sheets are written beside the table.
"""
import argparse
import time
from dataclasses import replace
from pathlib import Path

import pandas as pd
import torch
from torch import Tensor, nn

from migvis.denoiser import build_denoiser, _check_images, sample_images, train_denoiser
from migvis.simulate.it import simulate_hvm
from migvis.support.training import fit, generator
from migvis.support.presets import get_preset

DEMO = get_preset("demo").denoiser
PLAIN, V = "plain", "v"  # preconditioning: the U-Net's output is eps; v-prediction. "data": by the images' mean and s.d.
VARIANTS = { # name: (changes to the demo preset, preconditioning); a plain network has the loss of eps, others that of v
    "demo": ({}, "data"),
    "plain, eps (paper)": ({}, PLAIN),
    "v-prediction": ({}, V),
    "patch 2, width 32": (dict(patch=2, width=32, multipliers=(1, 2, 4)), "data"),
    "width 96": (dict(width=96), "data"),
    "two blocks": (dict(layers=2), "data"),
    "batch 16": (dict(batch_size=16), "data"),
    "lr x 2": (dict(lr=2 * DEMO.lr), "data"),
    "lr / 2": (dict(lr=DEMO.lr / 2), "data"),
    "float32": (dict(precision="float32"), "data"),
}


def variant(name: str, y0: Tensor):
    "Configuration and denoiser of a variant."
    changes, precondition = VARIANTS[name]
    config = replace(DEMO, **changes)
    std, mean = {PLAIN: (None, 0.0), V: (1.0, 0.0), "data": (y0.std().item(), y0.mean().item())}[precondition]
    return config, build_denoiser(config, std, mean)


def seconds_a_step(name: str, images: Tensor) -> float:
    "Median of twelve training steps, after three to warm up."
    config, denoiser = variant(name, _check_images(images, DEMO.image_size))
    stamps = []
    train_denoiser(images[:256], replace(config, steps=15), denoiser=denoiser, progress=False, log_every=1,
                   validation=images[:1], callback=lambda *_: stamps.append(time.perf_counter()))
    gaps = torch.tensor(stamps[2:14]).double().diff()
    return gaps.median().item()


def classifier(images: Tensor, labels: Tensor) -> nn.Sequential:
    "A small convolutional classifier of the category; all but its last layer are the features."
    torch.manual_seed(0)
    conv = lambda a, b: [nn.Conv2d(a, b, 4, 2, 1), nn.GroupNorm(8, b), nn.SiLU()]
    net = nn.Sequential(*conv(1, 32), *conv(32, 64), *conv(64, 128), *conv(128, 128), nn.Flatten(), nn.Linear(16 * 128, 128), nn.SiLU(), nn.Linear(128, 8))

    def loss(model, batch):
        noisy = images[batch.index] + 0.05 * batch.randn(*images.shape[1:])
        return nn.functional.cross_entropy(model(noisy), labels[batch.index]), {}
    return fit(net, loss, len(images), steps=600, batch_size=64, lr=1e-3, device="cpu", desc="classifier").model.eval()


def kid(a: Tensor, b: Tensor) -> float: # b: real images, whose statistics standardise the features
    "Unbiased squared maximum mean discrepancy with the kernel (a . b / d + 1)^3 (Binkowski et al. 2018)."
    a, b = (a - b.mean(0)) / b.std(0).clamp(min=1e-6), (b - b.mean(0)) / b.std(0).clamp(min=1e-6)
    kernel = lambda x, y: (x @ y.T / x.shape[1] + 1) ** 3
    within = lambda k: (k.sum() - k.diagonal().sum()) / (len(k) * (len(k) - 1))
    return (within(kernel(a, a)) + within(kernel(b, b)) - 2 * kernel(a, b).mean()).item()


@torch.no_grad()
def clean_rmse(denoiser, y0: Tensor, times=(15, 75, 120, 135, 145)) -> dict[str, float]:
    "RMSE of the clean estimate at some times."
    s, out = denoiser.schedule, {}
    for t in times:
        y_t = s.add_noise(y0, torch.randn(y0.shape, generator=generator(0, t)), t)
        out[f"rmse t={t}"] = (s.y0_hat(y_t, denoiser(y_t, t), t) - y0).square().mean().sqrt().item()
    return out


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=1.0, help="training time of each variant")
    parser.add_argument("--only", nargs="*", default=list(VARIANTS), choices=list(VARIANTS), metavar="NAME")
    parser.add_argument("--out", type=Path, default=Path("denoiser_variants.csv"))
    options = parser.parse_args()
    train, test = simulate_hvm(5760, DEMO.image_size, seed=0), simulate_hvm(1024, DEMO.image_size, seed=77)
    images, held_out = torch.as_tensor(train.images), torch.as_tensor(test.images)
    net = classifier(images, torch.as_tensor(train.labels["category"].astype("category").cat.codes.to_numpy().copy()).long())
    with torch.no_grad(): real = net[:-1](held_out)
    rows = [{"variant": "held-out images", "kid": kid(real[:512], real[512:])}]
    for name in options.only:
        config, denoiser = variant(name, _check_images(images, DEMO.image_size))
        step = seconds_a_step(name, images)
        config = replace(config, steps=max(10, round(60 * options.minutes / step)))
        run = train_denoiser(images, config, validation=held_out, denoiser=denoiser, desc=name)
        samples = sample_images(run.model, 256, progress=True)
        with torch.no_grad(): fake = net[:-1](samples)
        rows.append({"variant": name, "parameters (M)": sum(p.numel() for p in denoiser.parameters()) / 1e6, "ms/step": 1e3 * step, "steps": config.steps,
                     "loss of eps": run.history["validation"].iloc[-1], **clean_rmse(run.model, _check_images(held_out[:256], 64)), "kid": kid(fake, real)})
        print(pd.DataFrame(rows).round(4).to_string(index=False), flush=True)
        pd.DataFrame(rows).to_csv(options.out, index=False)
        sheet = samples[:64].reshape(4, 16, 64, 64).permute(0, 2, 1, 3).reshape(256, 1024)
        from PIL import Image
        Image.fromarray((255 * sheet).byte().numpy()).save(options.out.with_name(f"{options.out.stem}_{name.replace(' ', '_').replace('/', '')}.png"))


if __name__ == "__main__":
    main()
