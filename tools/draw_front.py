"""Draw the first picture of the front page: `python -m tools.draw_front RUN` (RUN: folder of a fitted `sharp` run; made if it is not there).

Six held-out originals and targets are taken by a rule: large objects in the middle, the first of each category in a random order, with the
first target of another category. The front page shows one of them, chosen by eye; the page of the edits shows all six. A quarter of an hour
on one processor core once the run is there.
"""
import hashlib
import re
import sys
from importlib.resources import files
from pathlib import Path

import numpy as np
import pandas as pd
from matplotlib.figure import Figure

IMAGES = Path(__file__).parents[1] / "nbs" / "images"
PICTURES = {"front.png": (2,), "front_all.png": range(6)}  # which of the six pairs each shows
GAMMA = 0.3


def weights_digest() -> str:
    "First digits of the SHA-256 of the shipped weights that the picture comes from."
    weights = files("migvis") / "weights" / "denoiser_sharp.safetensors"
    return hashlib.sha256(weights.read_bytes()).hexdigest()[:16]


def draw_pairs(labels: pd.DataFrame, held_out: np.ndarray, n_pairs: int = 6) -> list[tuple[int, int]]:
    "Originals and targets by the rule."
    central = [int(i) for i in held_out if labels.s[i] > 1.15 and abs(labels.ty[i]) < 0.25 and abs(labels.tz[i]) < 0.25]
    order, pairs, used = np.random.default_rng(0).permutation(central), [], set()
    for original in order:
        seen = {labels.category[a] for a, _ in pairs}
        if original in used or labels.category[original] in seen: continue
        target = next(t for t in order if t not in used and labels.category[t] != labels.category[original])
        pairs.append((int(original), int(target)))
        used |= {original, target}
        if len(pairs) == n_pairs: break
    return pairs


def draw(originals: np.ndarray, edits: np.ndarray, targets: np.ndarray, names: list[str]) -> Figure:
    "One row a pair: original (n, 1, H, W), one edit for each group (n, G, 1, H, W), target (n, 1, H, W)."
    from migvis.figures import plot_rows

    rows = [("", pictures) for pictures in np.concatenate([originals[:, None], edits, targets[:, None]], 1)]
    short = [re.sub(r"Group (\d+) \((.*)\)", r"\1: \2", name) for name in names]
    caption = f"simulated recording M1; preset sharp, γ = {GAMMA:g}, single draws; weights {weights_digest()}"
    return plot_rows(rows, ["original", *short, "target"], caption=caption)


def save(figure: Figure, name: str) -> Path:
    "Write a picture with the digest of the weights in its header."
    figure.savefig(IMAGES / name, dpi=144, metadata={"weights": weights_digest()})
    return IMAGES / name


def main() -> None:
    "Fit if need be, edit, draw."
    from migvis import MIGVis, simulate_hvm

    run = Path(sys.argv[1])
    model = MIGVis.load(run) if run.exists() else MIGVis("sharp").fit(simulate_hvm(subject="M1", size=128), out=run)
    pairs = np.array(draw_pairs(model.recording.labels, model.split.test))
    edits = model.edit(pairs[:, 0].tolist(), pairs[:, 1].tolist(), gammas=(GAMMA,))
    for name, shown in PICTURES.items():
        parts = (pictures[list(shown)] for pictures in (edits.originals, edits.images[:, :, 0], edits.targets))
        print(save(draw(*parts, list(edits.group_names)), name))


if __name__ == "__main__": main()
