"""Kill training, fill the disk, flip bits: is anything lost, unreadable, left behind or silently changed?

python benchmarks/kill_resume.py [--kills 20] [--writes 1] [--full 12] [--flips 500] [--steps 200] [--every 5] [--seed 0] [--json FILE]

Each part can be left out with 0. All is on the CPU, with the tiny preset, a smaller denoiser and few steps:

- kills: a denoiser is trained once without a break, and again by processes that are killed (SIGKILL) at random moments, each resumed by
  the next. At most the steps since the last checkpoint may be lost.
- writes: a whole run is fitted by processes that are killed at every file they write: just before it is put in its place, and just after.
- full: the same by processes that may write only so many bytes to a file (RLIMIT_FSIZE), a few more each time. Each must end with an
  OSError that says what to do.
- flips: one bit of a file of a finished run is flipped. Loading must refuse the run by name, or give the same networks, recording,
  report and edits. (The losses in .csv files are for people; nothing reads them.)

After every kill and every full disk all files are read. At the end weights and losses are compared with those of the unbroken run, bit
for bit, and nothing half-written may be left. Exit status 1 if anything of this does not hold.

Processes are forked, so this needs Linux or macOS.
"""
import argparse
import json
import multiprocessing
import os
import resource
import signal
import sys
import tempfile
import time
import warnings
from dataclasses import replace
from pathlib import Path

import numpy as np
import pandas as pd
import torch
from diffusers import UNet2DModel  # noqa: F401: loaded once, and not by every process that is forked

from migvis import EditSettings, MIGVis, Recording, simulate_hvm
from migvis.cli import _report_of
from migvis.support.files import digest_weights
from migvis.denoiser import save_denoiser, train_denoiser
from migvis.model import Edits
from migvis.data import _recording_fingerprint
from migvis.support import training
from migvis.support.training import generator, _list_checkpoints
from migvis.support.presets import get_preset
from migvis.support.files import load_tensors

FORK = multiprocessing.get_context("fork")
TINY = get_preset("tiny")
SMALL = replace(TINY, t_edit=5, vae=replace(TINY.vae, steps=6), critic=replace(TINY.critic, steps=4, batch_size=16),
                denoiser=replace(TINY.denoiser, steps=4, batch_size=8, patch=4))


def train(folder: Path, result: Path, steps: int, every: int, at) -> None:
    "One process's attempt; `at` is shared memory that always holds the last step done."
    torch.set_num_threads(1)
    images = torch.rand(256, 1, 32, 32, generator=generator(0, 1))
    config = replace(TINY.denoiser, steps=steps, batch_size=8, patch=4)
    def callback(step, model, row): at.value = step
    fitted = train_denoiser(images, config, device="cpu", progress=False, checkpoint=folder, checkpoint_every=every, log_every=1,
                            callback=callback)
    fitted.history.to_csv(result.with_suffix(".csv"), index=False)
    result.with_suffix(".json").write_text(json.dumps(fitted.resumed_from))
    save_denoiser(result, fitted.model)


def readable(path: Path) -> dict | None:
    "Header of a checkpoint, None if it cannot be read."
    try: return load_tensors(path, "checkpoint")[1]
    except ValueError: return None


def newest(folder: Path) -> int:
    "The step of the newest checkpoint."
    return max([readable(p)["step"] for p in _list_checkpoints(folder)], default=0)


def kill_once(arguments: tuple, target: int, jitter: float) -> dict | None: # None: training ended before it could be killed
    "Train until step `target` was done and `jitter` seconds more, kill, and look at what is there."
    folder, at = arguments[0], arguments[-1]
    at.value = resumed = newest(folder)
    process = FORK.Process(target=train, args=arguments)
    process.start()
    while process.is_alive() and at.value < target: time.sleep(0.0005)
    time.sleep(jitter)
    process.kill()
    process.join()
    if process.exitcode == 0: return None
    headers = [readable(p) for p in _list_checkpoints(folder)]
    kept = max((h["step"] for h in headers if h), default=0)
    return {"resumed from": resumed, "killed after step": at.value, "checkpoint kept": kept, "steps lost": at.value - kept,
            "checkpoints": len(headers), "unreadable": sum(h is None for h in headers), "half-written": len(list(folder.glob(".*")))}


def same(a: Path, b: Path) -> bool:
    "Whether two results hold the same weights and losses, bit for bit."
    (x, _), (y, _) = load_tensors(a), load_tensors(b)
    return x.keys() == y.keys() and all(torch.equal(x[k], y[k]) for k in x) and a.with_suffix(".csv").read_bytes() == b.with_suffix(".csv").read_bytes()


def kills(folder: Path, options: argparse.Namespace, rng: np.random.Generator) -> tuple[bool, dict]:
    "Training killed at random moments."
    targets, at = np.sort(rng.integers(0, max(1, options.steps - 5), options.kills)), FORK.Value("i", 0, lock=False)
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
    kept = newest(folder / "killed")
    finish("killed")
    resumed = json.loads((folder / "killed.json").read_text()) == kept
    table = pd.DataFrame([row for row in rows if row is not None])
    left, equal = len(list((folder / "killed").glob(".*"))), same(folder / "unbroken.safetensors", folder / "killed.safetensors")
    print(table.to_string(index=False))
    print(f"{len(table)} kills, checkpoints every {options.every} steps; at most {table['steps lost'].max()} steps lost; "
          f"{table['unreadable'].sum()} unreadable files; {left} half-written files at the end; the same weights and losses as without a break: {'yes' if equal else 'NO'}; "
          f"the last process went on from the newest checkpoint: {'yes' if resumed else 'NO'}")
    good = equal and resumed and not left and len(table) and not table["unreadable"].any() and table["steps lost"].max() <= options.every and table["checkpoints"].max() <= 3
    return bool(good), {"rows": table.to_dict("records"), "same": equal}


def fit(folder: Path, recording: Recording, limit: int | None, write: int | None, after: bool, told) -> None:
    "One process's attempt at a run; it is killed at its n-th write, or may write only `limit` bytes to a file."
    torch.set_num_threads(1)
    warnings.simplefilter("ignore")
    put, count = os.replace, [0]
    def replaced(a, b):
        if Path(b).exists() and Path(a).read_bytes() == Path(b).read_bytes(): return put(a, b) # a write that changes nothing
        count[0] += 1
        if count[0] == write and not after: os.kill(os.getpid(), signal.SIGKILL)
        put(a, b)
        if count[0] == write: os.kill(os.getpid(), signal.SIGKILL)
    os.replace = replaced
    training.fit.__kwdefaults__["checkpoint_every"] = 3
    if limit is not None: resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
    try: MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=folder, progress=False)
    except Exception as error:
        told.value = f"{type(error).__name__}: {error}".encode()[:500]
        os._exit(2)


def attempt(folder: Path, recording: Recording, limit: int | None = None, write: int | None = None, after: bool = False) -> tuple[int, str]:
    "Exit status of a process, and its error."
    told = FORK.Array("c", 501)
    process = FORK.Process(target=fit, args=(folder, recording, limit, write, after, told))
    process.start()
    process.join()
    return process.exitcode, told.value.decode(errors="replace")


def damaged(folder: Path) -> list[str]:
    "Files in the places of finished ones that cannot be read."
    bad = []
    for path in (p for p in folder.rglob("*") if p.is_file() and not p.name.startswith(".")):
        try:
            if path.suffix == ".safetensors": load_tensors(path)
            elif path.suffix == ".npz": Recording.load(path)
            elif path.suffix == ".json": json.loads(path.read_text())
            else: pd.read_csv(path)
        except ValueError: bad.append(path.name)
    return bad


def leftovers(folder: Path) -> list[str]:
    "What an ended run must not leave."
    return [p.name for p in folder.rglob("*") if p.name.startswith(".") or p.suffix == ".checkpoints"]


def contents(folder: Path) -> tuple:
    "What a run is, to be compared."
    model = MIGVis.load(folder, "cpu")
    weights = [digest_weights(part) for part in (model.vae.model, model.denoiser, model.critics)]
    return (*weights, _recording_fingerprint(model.recording), model.preset, model.seed, str(_report_of(folder)))


def interrupted(folder: Path, recording: Recording, unbroken: Path, plans: list[dict], says: str) -> tuple[bool, dict]:
    "A run by processes that do not end well, then by one that does; whether the result is that of the unbroken one."
    folder.mkdir()
    bad, errors = [], []
    for plan in plans:
        status, error = attempt(folder, recording, **plan)
        if status == 0: break
        errors.append(error)
        bad += damaged(folder)
    status, error = attempt(folder, recording)
    if status: raise RuntimeError(f"the run did not end: {error}")
    losses = lambda place: [(p.name, p.read_bytes()) for p in sorted(place.glob("*.csv"))]
    equal, left = contents(folder) == contents(unbroken) and losses(folder) == losses(unbroken), leftovers(folder)
    strange = [e for e in errors if e and not e.startswith("OSError: ") or e and "free some space" not in e]
    print(f"{len(errors)} {says}: {len(bad)} unreadable files; {len(left)} files left behind; {len(strange)} errors without a remedy; "
          f"the same networks and losses as without a break: {'yes' if equal else 'NO'}")
    for line in (*bad, *left, *strange): print(f"  {line}")
    good = equal and not bad and not left and not strange and bool(errors)
    return good, {"cases": len(errors), "unreadable": bad, "left": left, "strange": strange, "same": equal}


def flips(folder: Path, n: int, rng: np.random.Generator) -> tuple[bool, dict]:
    "One bit of one file at a time."
    model = MIGVis.load(folder, "cpu")
    model.edit(0, 1, gammas=[0.0, 1.0], groups=1, settings=EditSettings(steps=2), progress=False).save(folder / "edits.npz")
    files, before, edits = sorted(p for p in folder.iterdir() if p.suffix != ".csv"), contents(folder), Edits.load(folder / "edits.npz")
    rows = []
    for _ in range(n):
        path = files[rng.integers(len(files))]
        whole = path.read_bytes()
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << int(rng.integers(8))
        path.write_bytes(data)
        try:
            if path.name == "edits.npz": equal = np.array_equal(Edits.load(path).images, edits.images)
            else: equal = contents(folder) == before
            ended = "harmless" if equal else "CHANGED"
        except ValueError as error: ended = "refused" if path.name in str(error) else "refused without a name"
        except Exception as error: ended = f"{type(error).__name__}: {error}"
        path.write_bytes(whole)
        rows.append({"file": path.name, "ended": ended})
    table = pd.DataFrame(rows)
    print(f"{n} flipped bits:\n{pd.crosstab(table['file'], table['ended']).to_string()}")
    return set(table["ended"]) <= {"refused", "harmless"}, {"flips": table.value_counts().reset_index().to_dict("records")}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=20, help="at random moments of a training")
    parser.add_argument("--writes", type=int, default=1, help="0: without kills at every file write of a run")
    parser.add_argument("--full", type=int, default=12, help="runs that may write only so much")
    parser.add_argument("--flips", type=int, default=500, help="bits in files of a run")
    parser.add_argument("--steps", type=int, default=200, help="length of the training that is killed at random moments")
    parser.add_argument("--every", type=int, default=5, help="steps between its checkpoints")
    parser.add_argument("--seed", type=int, default=0, help="of the moments and bits")
    parser.add_argument("--json", type=Path, help="also write the tables and the verdict here")
    options = parser.parse_args()
    rng, good, found = np.random.default_rng(options.seed), [], {}
    warnings.simplefilter("ignore")
    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        folder, os.environ["MIGVIS_CACHE"] = Path(folder), folder
        parts = []
        if options.kills: parts.append(lambda: kills(folder, options, rng))
        if options.writes or options.full or options.flips:
            recording, unbroken = simulate_hvm(n_images=60, size=32, subject="M1", seed=3, progress=False), folder / "run"
            status, error = attempt(unbroken, recording)
            if status: raise RuntimeError(error)
            sizes = np.geomspace(100, max(p.stat().st_size for p in unbroken.iterdir()) - 1, max(options.full, 1)).astype(int)
            writes = [{"write": 1, "after": after} for _ in range(100) for after in (False, True)]
            limits = [{"limit": int(size)} for size in sizes]
            if options.writes: parts.append(lambda: interrupted(folder / "writes", recording, unbroken, writes, "kills at file writes"))
            if options.full: parts.append(lambda: interrupted(folder / "full", recording, unbroken, limits, "full disks"))
            if options.flips: parts.append(lambda: flips(unbroken, options.flips, rng))
        for part in parts:
            passed, told = part()
            good.append(passed)
            found |= told if "rows" in told else {f"part {len(good)}": told}
    if options.json: options.json.write_text(json.dumps(found))
    sys.exit(0 if all(good) else 1)


if __name__ == "__main__":
    main()
