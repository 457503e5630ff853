"""What the tests of explorers and gallery share: one tiny run, and frames that are drawn instead of edited."""

import numpy as np
import pandas as pd
import pytest

from migvis import MIGVis, simulate_hvm
from migvis.show.frames import Choices, FrameKey, _Manifold
from tests.made import SMALL



@pytest.fixture(scope="session")
def folder(tmp_path_factory):
    "Folder of the run."
    return tmp_path_factory.mktemp("show") / "run"


@pytest.fixture(scope="session")
def model(folder):
    "A fitted model; do not change it."
    recording = simulate_hvm(160, size=32, subject="M1", seed=3, progress=False)
    return MIGVis(SMALL, seed=1, device="cpu").fit(recording, out=folder, progress=False)


def drawn(keys):
    "A source whose pictures show their key: brightness from all of it, a bright column at the group."
    out = np.zeros((len(keys), 1, 16, 16))
    for picture, k in zip(out, keys):
        share = sum(s * (0.17 if d else 0.31) for d, s in zip(k.dims, k.strengths))
        picture += (0.1 * k.gamma + 0.013 * k.original + 0.029 * k.target + 0.05 * k.draw + share) % 0.9
        picture[:, :, k.group] = 1
    return out


def album(n=4):
    return {i: (f"image {i}", drawn([FrameKey(i, i, 9, 0)])[0]) for i in range(n)}


def manifold(n=50):
    rng = np.random.default_rng(0)
    labels = pd.DataFrame({"category": rng.choice(["a", "b"], n), "angle": rng.normal(size=n)})
    return _Manifold(rng.normal(size=(n, 6)), ((0, 1), (2, 3), (4, 5)), labels)


def choices(**changes):
    "Three pairs of images, two groups, three strengths."
    return Choices(**dict(album=album(), pairs=((0, 2), (0, 3), (1, 2)), groups=(0, 2), group_names=("first", "second"),
                          gammas=(0.0, 2.0, 5.0), caption="simulated: drawn") | changes)


def plane_choices(**changes):
    "The same for pairs of dimensions."
    plane = dict(dims=((0, 1), (1, 0)), strengths=(0.0, 0.5, 1.0), gammas=(2.0,), manifold=manifold())
    return choices(**plane | changes)
