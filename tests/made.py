"""Small recordings for tests."""

from dataclasses import replace

import numpy as np
import pandas as pd

from migvis.data import Recording
from migvis.support.presets import get_preset

TINY = get_preset("tiny")
SMALL = replace(  # a run in a second: all stages, nothing learnt
    TINY, vae=replace(TINY.vae, steps=8), critic=replace(TINY.critic, steps=4),
    denoiser=replace(TINY.denoiser, steps=2, batch_size=16, patch=4), t_edit=10)

N_IMAGES, N_UNITS, REPEATS = 96, 7, 6
IDS = [f"im{i}" for i in range(4)]


def make_recording(seed=0, **changes):
    "96 images of 8 categories and 32 objects, 7 units, 6 repeats; any field may be another."
    rng = np.random.default_rng(seed)
    signal = rng.normal(size=(N_IMAGES, N_UNITS))
    trials = signal[:, None] + rng.normal(size=(N_IMAGES, REPEATS, N_UNITS))
    category = np.repeat(list("abcdefgh"), N_IMAGES // 8)
    labels = pd.DataFrame(
        {
            "category": category,
            "object": [f"{c}{i % 4}" for i, c in enumerate(category)],
            "variation": np.tile(["V0", "V3", "V6"], N_IMAGES // 3),
            "rxy": rng.normal(size=N_IMAGES),
            "image_id": [f"im{i}" for i in range(N_IMAGES)],
        }
    )
    truth = {
        "noiseless": signal.astype(np.float32),
        "gain": np.arange(N_UNITS),
        "pose": np.arange(N_IMAGES * 3).reshape(-1, 3),
        "note": np.ones(3),
    }
    fields = dict(
        images=rng.integers(0, 256, (N_IMAGES, 12, 12), dtype=np.uint8),
        responses=trials.astype(np.float32).mean(1),
        labels=labels,
        sites=pd.DataFrame({"site_id": [f"s{i}" for i in range(N_UNITS)], "depth": np.arange(N_UNITS)}),
        trials=trials.astype(np.float32),
        name="made",
        truth=truth,
        simulated=True,
    )
    return Recording(**(fields | changes))


def four(responses=None, labels=None, **fields):
    "Four images, three units."
    responses = np.arange(12.0).reshape(4, 3) if responses is None else responses
    labels = {"category": list("aabb")} if labels is None else labels
    return Recording(np.random.default_rng(0).random((4, 5, 5)), responses, labels, **fields)


def named(index, **columns):
    "Labels of four images with an index."
    return pd.DataFrame({"category": list("aabb")} | columns, index=index)


def seen(*_):
    "A callback, for processes that look it up by name."
