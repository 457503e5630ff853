"""How long a preset's denoiser would train: so many steps are timed, the others are taken to last as long.

    python benchmarks/training_time.py [--preset paper] [--steps 1000] [--precision bfloat16] [--compile] [--device auto] [--batch N]

Random images of the preset's size, through `train_denoiser`. The rule: seconds until the first tenth of the steps is done (starting,
compiling), and then the median of a step times the preset's number of steps. With --batch another batch than the preset's is timed, and
a step is taken to last in proportion to its images; that is fair on a CPU, and too short on a GPU that a small batch does not fill.
"""
import argparse
import statistics
import time
from dataclasses import replace

import torch

from migvis.denoiser import build_denoiser, train_denoiser
from migvis.support.presets import get_preset
from migvis.support.training import generator, resolve_device


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--preset", default="paper", choices=["tiny", "demo", "sharp", "paper"])
    parser.add_argument("--steps", type=int, default=1000)
    parser.add_argument("--precision", choices=["float32", "bfloat16"], help="default: the preset's")
    parser.add_argument("--compile", action="store_true")
    parser.add_argument("--device", default="auto")
    parser.add_argument("--batch", type=int, help="default: the preset's")
    options = parser.parse_args()
    device, preset = resolve_device(options.device), get_preset(options.preset).denoiser
    config = replace(preset, steps=options.steps, batch_size=options.batch or preset.batch_size, precision=options.precision or preset.precision)
    clock = time.process_time if device.type == "cpu" else time.perf_counter
    images = torch.rand(2 * config.batch_size, 1, config.image_size, config.image_size, generator=generator(0, 1))
    denoiser, start, stamps = build_denoiser(config, 0.34, -0.88), clock(), []

    def stamp(*_: object) -> None:
        if device.type == "cuda": torch.cuda.synchronize(device)
        stamps.append(clock())

    train_denoiser(images, config, denoiser=denoiser, validation=images[:1], device=device, compile=options.compile, log_every=1, callback=stamp, progress=False)
    first = max(1, options.steps // 10)
    step = statistics.median(b - a for a, b in zip(stamps[first - 1:-2], stamps[first:-1]))  # the last one validates
    whole = step * preset.steps * preset.batch_size / config.batch_size
    memory = f", {torch.cuda.max_memory_allocated(device) / 2**30:.1f} GiB" if device.type == "cuda" else f", {torch.get_num_threads()} threads, processor time"
    print(f"{options.preset} preset, {device}{memory}, {config.precision}{', compiled' if options.compile else ''}: first {first} of {options.steps} steps of {config.batch_size} "
          f"after {stamps[first - 1] - start:.1f} s, then {step:.3f} s a step; {preset.steps:,} steps of {preset.batch_size}: {whole / 3600:.1f} h")


if __name__ == "__main__":
    main()
