"""Kill training at random moments: does it go on where it was, to the same end?

python benchmarks/kill_resume.py [--kills 20] [--steps 200] [--every 5] [--seed 0] [--json FILE]

A denoiser of the tiny preset is trained on the CPU once without a break. Then it is trained again, by processes that are killed
(SIGKILL) at random moments, each resumed by the next. After every kill all checkpoints are read: the table says how far training
had come, what the newest readable checkpoint holds, and what the kill left behind. At the end weights and losses are compared with the
unbroken run, bit for bit. Exit status 1 if a file cannot be read, more was lost than the steps since the last checkpoint, more
checkpoints were kept than two (and one more if the kill came between writing one and deleting the oldest), half-written files are
there at the end, or the results differ.

Processes are forked, so this needs Linux or macOS.
"""
import argparse
import json
import multiprocessing
import sys
import tempfile
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch

from migvis.denoiser import save_denoiser, train_denoiser
from migvis.training import generator, get_preset, list_checkpoints, load_tensors

FORK = multiprocessing.get_context("fork")


def train(folder: Path, result: Path, steps: int, every: int, at) -> None:
    "One process's attempt; `at` is shared memory that always holds the last step done."
    torch.set_num_threads(1)
    images = torch.rand(256, 1, 32, 32, generator=generator(0, 1))
    config = replace(get_preset("tiny").denoiser, steps=steps, batch_size=8)
    def callback(step, model, row): at.value = step
    fitted = train_denoiser(images, config, device="cpu", progress=False, checkpoint=folder, checkpoint_every=every, log_every=1,
                            validate_every=max(1, steps // 4), callback=callback)
    fitted.history.to_csv(result.with_suffix(".csv"), index=False)
    save_denoiser(result, fitted.model)


def readable(path: Path) -> dict | None:
    "Header of a checkpoint, None if it cannot be read."
    try: return load_tensors(path, "checkpoint")[1]
    except ValueError: return None


def kill_once(arguments: tuple, target: int, jitter: float) -> dict | None: # None: training ended before it could be killed
    "Train until step `target` was done and `jitter` seconds more, kill, and look at what is there."
    folder, at = arguments[0], arguments[-1]
    at.value = resumed = max([readable(p)["step"] for p in list_checkpoints(folder)], default=0)
    process = FORK.Process(target=train, args=arguments)
    process.start()
    while process.is_alive() and at.value < target: time.sleep(0.0005)
    time.sleep(jitter)
    process.kill()
    process.join()
    if process.exitcode == 0: return None
    headers = [readable(p) for p in list_checkpoints(folder)]
    kept = max((h["step"] for h in headers if h), default=0)
    return {"resumed from": resumed, "killed after step": at.value, "checkpoint kept": kept, "steps lost": at.value - kept,
            "checkpoints": len(headers), "unreadable": sum(h is None for h in headers), "half-written": len(list(folder.glob(".*")))}


def same(a: Path, b: Path) -> bool:
    "Whether two results hold the same weights and losses, bit for bit."
    (x, _), (y, _) = load_tensors(a), load_tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) and a.with_suffix(".csv").read_bytes() == b.with_suffix(".csv").read_bytes()


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--steps", type=int, default=200, help="length of the training")
    parser.add_argument("--every", type=int, default=5, help="steps between checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments")
    parser.add_argument("--json", type=Path, help="also write the table and the verdict here")
    options = parser.parse_args()
    rng = np.random.default_rng(options.seed)
    targets = np.sort(rng.integers(0, max(1, options.steps - 5), options.kills))
    with tempfile.TemporaryDirectory() as folder:
        folder, at = Path(folder), FORK.Value("i", 0, lock=False)
        attempt = lambda name: (folder / name, folder / f"{name}.safetensors", options.steps, options.every, at)
        def finish(name):
            process = FORK.Process(target=train, args=attempt(name))
            process.start()
            while process.is_alive() and at.value < 1: time.sleep(0.001)
            start = time.perf_counter()
            process.join()
            if process.exitcode: raise RuntimeError(f"training ended with {process.exitcode}")
            return (time.perf_counter() - start) / options.steps
        step = finish("unbroken")
        rows = [kill_once(attempt("killed"), int(target), float(rng.uniform(0, 3 * step))) for target in targets]
        finish("killed")
        table = pd.DataFrame([row for row in rows if row is not None])
        left = len(list((folder / "killed").glob(".*")))
        equal = same(folder / "unbroken.safetensors", folder / "killed.safetensors")
    print(table.to_string(index=False))
    print(f"{len(table)} kills, checkpoints every {options.every} steps; at most {table['steps lost'].max()} steps lost; "
          f"{table['unreadable'].sum()} unreadable files; {left} half-written files at the end; the same weights and losses as without a break: {'yes' if equal else 'NO'}")
    if options.json: options.json.write_text(json.dumps({"rows": table.to_dict("records"), "same": equal}))
    good = equal and not left and len(table) and not table["unreadable"].any() and table["steps lost"].max() <= options.every and table["checkpoints"].max() <= 3
    sys.exit(0 if good else 1)


if __name__ == "__main__":
    main()
