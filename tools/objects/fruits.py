"""Fruits: bodies of revolution, berries and leaves."""

from collections.abc import Callable, Iterable
from dataclasses import replace

import numpy as np

from migvis.simulate.renderer import _plane_rotation
from tools.objects.parts import Part, skin, circle, lathe, ellipsoid, tube


def make_stem(base: tuple, lean: float = 0.1, length: float = 0.3, leaf: bool = True) -> list[Part]:
    "Stem, with a leaf."
    x, y, z = base
    parts = [
        tube(
            [(x, y, z), (x, y + lean * 0.4, z + length * 0.6), (x, y + lean, z + length)],
            [0.035, 0.03, 0.04],
            albedo=0.18,
        )
    ]
    return parts + (
        [ellipsoid((x, y - 0.24, z + length * 0.75), (0.1, 0.25, 0.03), turn=(0, 0, 155), albedo=0.35)]
        if leaf
        else []
    )


def make_round_fruit(
    profile: Iterable[tuple],
    albedo: float,
    stretch: tuple = (1, 1),
    gloss: float = 0.35,
    stem: "dict | None" = None,
    blush: float = 0.0,
) -> list[Part]:
    "Fruit turned on a lathe, with a lighter side (`blush`) and a stem."
    profile = list(profile)
    cos, _ = circle(24)
    colour = np.clip(albedo + blush * cos[None, :] * np.ones((len(profile), 1)), 0.02, 1)
    return [lathe(profile, stretch=stretch, k=24, albedo=colour, gloss=gloss)] + (
        make_stem(**stem) if stem else []
    )


def smooth_curve(points: Iterable[tuple], n: int = 24) -> np.ndarray:
    "Smooth curve through points (radius, height), by cubic interpolation over arc length."
    from scipy.interpolate import PchipInterpolator

    points = np.asarray(list(points), dtype=float)
    t = np.concatenate([[0], np.cumsum(np.linalg.norm(np.diff(points, axis=0), axis=1))])
    curve = PchipInterpolator(t, points)(np.linspace(0, t[-1], n))
    return np.column_stack([np.maximum(curve[:, 0], 0), curve[:, 1]])


def make_seeds(
    profile: np.ndarray,
    rows: int,
    per_row: int,
    size: tuple,
    albedo: float,
    lift: float,
    low: float = 0.05,
    high: float = 0.9,
) -> list[Part]:
    "Small ellipsoids laid over a lathe shape in staggered rows: seeds, drupelets, eyes of a pineapple."
    parts = []
    for i, t in enumerate(np.linspace(low, high, rows)):
        radius, z = (np.interp(t, np.linspace(0, 1, len(profile)), profile[:, j]) for j in (0, 1))
        for a in (np.arange(per_row) + 0.5 * (i % 2)) * 2 * np.pi / per_row:
            parts.append(
                ellipsoid(
                    (radius * lift * np.cos(a), radius * lift * np.sin(a), z),
                    size,
                    turn=(np.rad2deg(a), 0, 0),
                    m=5,
                    k=7,
                    albedo=albedo,
                )
            )
    return parts


def make_leaf_crown(
    n: int, base: float, length: float, spread: float, albedo: float, width: float = 0.09
) -> list[Part]:
    "Crown of pointed leaves."
    parts = []
    for i in range(n):
        a, out = i * 2.4, spread * (0.35 + 0.65 * i / n)
        tip = (out * np.cos(a), out * np.sin(a), base + length * (1.15 - 0.6 * i / n))
        mid = (0.55 * out * np.cos(a), 0.55 * out * np.sin(a), base + length * 0.5)
        parts.append(
            tube(
                [(0, 0, base), mid, tip],
                [width, width * 0.8, 0.005],
                k=6,
                albedo=albedo * (0.8 + 0.4 * (i % 2)),
            )
        )
    return parts


def make_apple() -> list[Part]:
    return make_round_fruit(
        smooth_curve(
            [
                (0, -0.68),
                (0.2, -0.78),
                (0.5, -0.72),
                (0.78, -0.35),
                (0.9, 0.1),
                (0.8, 0.5),
                (0.5, 0.68),
                (0.2, 0.62),
                (0, 0.45),
            ]
        ),
        0.42,
        blush=0.16,
        stem=dict(base=(0, 0, 0.42), length=0.5),
    )


def make_pear() -> list[Part]:
    return make_round_fruit(
        smooth_curve(
            [
                (0, -0.92),
                (0.3, -0.95),
                (0.62, -0.72),
                (0.72, -0.35),
                (0.6, 0.08),
                (0.38, 0.45),
                (0.3, 0.75),
                (0.2, 0.95),
                (0, 0.98),
            ]
        ),
        0.72,
        blush=0.08,
        gloss=0.2,
        stem=dict(base=(0, 0, 0.9), lean=0.14, length=0.4),
    )


def make_strawberry() -> list[Part]:
    shape = smooth_curve(
        [(0, -1.0), (0.2, -0.9), (0.5, -0.45), (0.7, 0.1), (0.68, 0.42), (0.45, 0.62), (0, 0.62)]
    )
    return (
        make_round_fruit(shape, 0.3, gloss=0.3)
        + make_seeds(shape, 8, 11, (0.03, 0.035, 0.05), 0.92, 1.0, 0.12, 0.74)
        + [tube([(0, 0, 0.6), (0, 0.05, 0.9)], [0.04, 0.035], albedo=0.5)]
        + [
            tube(
                [(0, 0, 0.62), (0.4 * c, 0.4 * s, 0.66), (0.66 * c, 0.66 * s, 0.48)],
                [0.06, 0.11, 0.01],
                k=6,
                albedo=0.55,
            )
            for c, s in zip(*circle(8))
        ]
    )


def make_banana() -> list[Part]:
    angle = np.linspace(-1.25, 1.15, 13)
    path = np.column_stack([0 * angle, 1.15 * np.sin(angle), -1.15 * np.cos(angle) + 0.6])
    radius = 0.27 * np.sqrt(np.clip(1 - (angle / 1.42) ** 6, 0.03, 1))
    radius[-2:], radius[0] = (0.1, 0.075), 0.05
    colour = np.full((13, 6), 0.88)
    colour[0], colour[-1], colour[-2] = 0.1, 0.2, 0.55
    return [
        skin(tube(path, radius, k=6).vertices[: 13 * 6].reshape(13, 6, 3), albedo=colour, gloss=0.1)
    ] + [tube(path[3:10], radius[3:10] * 0.2, k=5, albedo=0.35)]


def make_pineapple() -> list[Part]:
    shape = smooth_curve(
        [(0, -0.9), (0.35, -0.88), (0.55, -0.5), (0.58, -0.1), (0.5, 0.3), (0.3, 0.5), (0, 0.52)]
    )
    return (
        make_round_fruit(shape, 0.35, gloss=0.0)
        + make_seeds(shape, 9, 12, (0.09, 0.12, 0.085), 0.62, 1.0, 0.12, 0.84)
        + make_leaf_crown(22, 0.45, 0.95, 0.55, 0.4)
    )


def make_watermelon() -> list[Part]:
    cos, _ = circle(40)
    stripes = np.where(np.arange(40) % 5 < 2, 0.14, 0.55)
    profile = np.column_stack(
        [0.78 * np.cos(t := np.linspace(-np.pi / 2, np.pi / 2, 17)), 1.02 * np.sin(t)]
    )
    melon = lathe(profile, k=40, albedo=np.tile(stripes, (17, 1)), gloss=0.3)
    lie = _plane_rotation(2, 1, 80)
    return [
        replace(melon, vertices=melon.vertices @ lie.T),
        tube([(0, 0.98, 0.2), (0, 1.15, 0.3), (0, 1.2, 0.42)], 0.035, albedo=0.3),
    ]


def make_grapes() -> list[Part]:
    rng = np.random.default_rng(3)
    parts = []
    for row, n in enumerate([6, 8, 7, 6, 4, 3, 1]):
        for c, s in zip(*circle(n)):
            r = 0.1 * n * (0.9 if n > 1 else 0)
            parts.append(
                ellipsoid(
                    (r * c + 0.04 * rng.normal(), r * s + 0.04 * rng.normal(), 0.55 - 0.27 * row),
                    0.23,
                    m=9,
                    k=14,
                    albedo=0.2 + 0.08 * rng.random(),
                    gloss=0.6,
                )
            )
    return (
        parts
        + [ellipsoid((0, 0, 0.2), (0.45, 0.45, 0.6), albedo=0.1)]
        + make_stem((0, 0, 0.6), lean=0.15, length=0.6)
    )


def make_cherries() -> list[Part]:
    parts = []
    for y, z, albedo in ((0.46, -0.5, 0.22), (-0.42, -0.62, 0.27)):
        parts += [
            ellipsoid((0, y, z), 0.4, m=13, k=20, albedo=albedo, gloss=0.8),
            tube([(0, y, z + 0.34), (0, y * 0.75, z + 0.8), (0, 0.05, 0.95)], 0.035, albedo=0.6),
        ]
    return parts + [ellipsoid((0, 0.4, 0.98), (0.2, 0.42, 0.03), turn=(0, 0, 12), albedo=0.5)]


FRUITS = {
    name: {"make": make}
    for name, make in {
        "apple": make_apple,
        "pear": make_pear,
        "strawberry": make_strawberry,
        "banana": make_banana,
        "pineapple": make_pineapple,
        "watermelon": make_watermelon,
        "grapes": make_grapes,
        "cherries": make_cherries,
    }.items()
}


def make_fruit(make: Callable[[], list[Part]]) -> list[Part]:
    "Fruits have little in common: each has a function of its own."
    return make()
