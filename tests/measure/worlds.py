("Worlds whose truth is known: judges that read from labels, edits that hand out other images, and the "
 "smallest run.")
from dataclasses import fields
from types import SimpleNamespace

import numpy as np
import torch

from migvis.support.edits import Edits
from migvis.infonce import Critics
from migvis.measure.readouts import Readings
from migvis.simulate.it import object_features
from migvis.simulate.objects import CATEGORIES, object_names
from migvis.simulate.renderer import rotation_matrix
from migvis.support.encoders import ConvEncoder
from migvis.support.presets import EditSettings, _as_settings
from tests.made import SMALL

DESCRIPTORS = tuple(object_features().columns)
CATEGORY_NAMES, OBJECTS = tuple(CATEGORIES), tuple(object_names()["object"])
POSE, OBJECT = ["rxy", "rxz", "ryz"], ["category", "object"]
GROUPS = ("Group 1 (pose)", "Group 2 (category)", "Group 3 (no labels)", "Group 4 (no labels)")


class LabelJudge:
    ("Reads the row number that is hidden in an image's first pixel and answers from the labels, with noise "
     "if asked.")
    config, card = SimpleNamespace(descriptors=DESCRIPTORS), {"made": "by hand"}

    def __init__(self, labels, noise=0.0, abstain=0.0):
        self.labels, self.noise, self.abstain = labels, noise, abstain

    def read(self, images):
        rows = np.round(np.asarray(images)[:, 0, 0, 0] * 1e4).astype(int)
        shown, n, rng = self.labels.iloc[rows], len(rows), np.random.default_rng(len(rows))
        chance = lambda names, column: 0.1 / len(names) + 0.9 * (np.array(names)[None]
                                                                 == shown[column].to_numpy()[:, None])
        noisy = lambda x, scale=1.0: np.asarray(x,
                                                float) + self.noise * scale * rng.standard_normal(np.shape(x))
        angles = noisy(shown[POSE], 20.0).T
        features = np.c_[shown[POSE] / 60, chance(CATEGORY_NAMES,
                                                  "category"), shown[["ty", "tz"]]].astype(np.float32)
        read = dict(categories=CATEGORY_NAMES, objects=OBJECTS, features=features, textures=features[:, :3],
                    category_prob=chance(CATEGORY_NAMES, "category"), object_prob=chance(OBJECTS, "object"),
                    rotation=rotation_matrix(*angles), rotation_known=rng.random(n) >= self.abstain,
                    rotation_error=np.full(n, 10.0), position=noisy(shown[["ty", "tz"]]),
                    size=noisy(shown["s"], 0.1), descriptors=noisy(object_features().loc[shown["object"]]))
        return Readings(**{field.name: read[field.name] for field in fields(Readings)})


def pictures(rows):
    "Images that hide row numbers."
    images = np.zeros((*np.shape(rows), 1, 8, 8), np.float32)
    images[..., 0, 0, 0] = np.asarray(rows) / 1e4
    return images


def readings_of(labels, **kw): return LabelJudge(labels, **kw).read(pictures(np.arange(len(labels))))


def edits_of(images, originals, targets, gammas=(0.0, 0.5, 1.0), names=GROUPS, mode="selective"):
    "Edits that somebody made."
    return Edits(images, originals, targets, tuple(gammas), tuple(names), mode, "by hand",
                 group_index=tuple(range(len(names))))


class FakeModel:
    ("What the measures need of a model; counts how often it is asked for edits. `edited` says what its "
     "edits are.")
    gammas = {"selective": (0.0, 0.1, 0.2), "paper": (0.0, 1.0)}

    def __init__(self, labels, n_train=100):
        torch.manual_seed(0)
        self.recording, self.asked = SimpleNamespace(images=pictures(np.arange(len(labels))),
                                                     labels=labels), []
        self.split = SimpleNamespace(train=np.arange(n_train), test=np.arange(n_train, len(labels)))
        self.critics = Critics(ConvEncoder(8, width=8), groups=(2, 1), n_latents=3, n_features=8).eval()

    denoiser = None # no space but that of the pixels

    def latents(self): return torch.zeros(len(self.recording.images), 3)

    def edit_settings(self, settings=None):
        settings = _as_settings(settings)
        return settings.resolve(EditSettings(settings.mode, gammas=self.gammas[settings.mode]))

    def edit(self, original, target, groups="all", settings=None, progress=True):
        settings = self.edit_settings(settings)
        self.asked.append(settings)
        images = self.recording.images
        made = self.edited(original, target, settings)
        return edits_of(made, images[original], images[target], settings.gammas, GROUPS[:2], settings.mode)


class NeighbourJudge:
    "Reads from an image the labels of the recording's image that is nearest to it in pixels."
    config, card = SimpleNamespace(descriptors=()), {"made": "by hand"}

    def __init__(self, recording):
        self.images, self.labels = recording.images.reshape(len(recording), -1), recording.labels

    def read(self, images):
        x = np.asarray(images, np.float32).reshape(len(images), -1)
        near = ((x**2).sum(1)[:, None] - 2 * x @ self.images.T + (self.images**2).sum(1)).argmin(1)
        rows, names = self.labels.iloc[near], tuple(sorted(set(self.labels["category"])))
        features = x @ np.random.default_rng(0).standard_normal((x.shape[1], 8)).astype(np.float32) / 32
        chance = (np.array(names) == rows["category"].to_numpy()[:, None]).astype(float)
        known = dict(categories=names, objects=(), features=features, textures=features[:, :3],
                     category_prob=chance, position=rows[["ty", "tz"]].to_numpy(float),
                     size=rows["s"].to_numpy(float))
        return Readings(**{field.name: known.get(field.name) for field in fields(Readings)})
