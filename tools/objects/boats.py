"""Boats: a hull, pointed at the bow, and something on it."""

import numpy as np

from tools.objects.parts import Part, skin, lathe, tube, plate, box, mirrored


def make_hull(
    length: float, beam: float, depth: float, sheer: float, topside: float, bottom: float, deck: float
) -> list[Part]:
    "Hull, dark below the waterline, with a deck."
    x = np.array([-0.5, -0.46, -0.25, 0.0, 0.22, 0.37, 0.46, 0.5])
    wide = np.array([0.72, 0.82, 0.96, 1.0, 0.88, 0.55, 0.22, 0.02]) * beam / 2
    rail = depth * 0.5 + sheer * np.clip(x + 0.1, 0, None) ** 2 * 4
    levels = [(1.0, 1.0), (0.92, 0.5), (0.82, 0.0), (0.55, -0.6), (0.1, -1.0)]
    half = [
        [
            (
                xi * length - 0.12 * beam * (1 - up) * (xi > 0.3),
                share * w,
                r * up if up > 0 else 0.5 * depth * up,
            )
            for share, up in levels
        ]
        for xi, w, r in zip(x, wide, rail)
    ]
    rings = np.array([ring + [(a, -b, c) for a, b, c in ring[::-1]] for ring in half])
    paint = np.array(
        [topside, topside, bottom, bottom, bottom] + [bottom, bottom, bottom, topside, topside]
    )
    lid = np.array(
        [
            [(a, b * 0.93, r * 1.005) for a, b in ((xi * length, w), (xi * length, -w))]
            for xi, w, r in zip(x, wide, rail)
        ]
    )
    outline = np.concatenate([lid[:, 0], lid[::-1, 1]])
    return [
        skin(rings, albedo=np.tile(paint, (len(x), 1)), gloss=0.15),
        skin(np.stack([outline, outline - [0, 0, 0.04]]), albedo=deck, flat=True),
    ]


def make_mast(x: float, base: float, height: float, boom: float, jib: float, sail: float) -> list[Part]:
    "Mast with a mainsail behind it (length `boom`) and a jib before it (length `jib`)."
    top = base + height
    parts = [tube([(x, 0, base - 0.1), (x, 0, top)], [0.035, 0.02], albedo=0.5)]
    if boom:
        curve = [
            (x - boom * (1 - t) ** 1.3 - 0.03, 0, base + 0.14 + (height - 0.2) * t)
            for t in np.linspace(0, 1, 7)
        ]
        parts += [
            plate([(x - 0.03, 0, base + 0.14), *curve], (0, 0.02, 0), albedo=sail),
            tube([(x, 0, base + 0.12), (x - boom, 0, base + 0.12)], 0.025, albedo=0.45),
        ]
    if jib:
        parts += [
            plate(
                [(x + 0.04, 0, top - 0.12), (x + 0.06, 0, base + 0.2), (x + jib, 0, base + 0.12)],
                (0, 0.02, 0),
                albedo=sail * 0.88,
            )
        ]
    return parts


def make_cabin(
    x: float, base: float, size: tuple, albedo: float, windows: int, taper: float = 0.9
) -> list[Part]:
    "Deck house with a row of dark windows on each side and in front."
    length, width, height = size
    parts = [box((x, 0, base + height / 2), size, taper=taper, albedo=albedo)]
    share = 1 - (1 - taper) * 0.62
    for i in range(windows):
        at = x + length * share * ((i + 0.5) / windows - 0.5) * 0.86
        parts += mirrored(
            box(
                (at, width / 2 * share, base + height * 0.62),
                (length * 0.5 / windows, 0.03, height * 0.34),
                albedo=0.07,
            )
        )
    return parts + [
        box(
            (x + length / 2 * share, 0, base + height * 0.62),
            (0.03, width * 0.7, height * 0.34),
            albedo=0.07,
        )
    ] * bool(windows)


def make_boat(
    length: float = 2.4,
    beam: float = 0.7,
    depth: float = 0.4,
    sheer: float = 0.12,
    topside: float = 0.8,
    bottom: float = 0.25,
    deck: float = 0.55,
    masts: tuple = (),  # (x, base, height, boom, jib, sail albedo)
    cabins: tuple = (),  # (x, base, (length, width, height), albedo, windows)
    funnels: tuple = (),  # (x, base, height, radius, albedo)
    cargo: tuple = (),  # (centre, size, albedo)
    guns: tuple = (),  # (x, base, direction)
) -> list[Part]:
    "Boat: a hull with masts, cabins, funnels, cargo or guns."
    parts = make_hull(length, beam, depth, sheer, topside, bottom, deck)
    parts += [p for row in masts for p in make_mast(*row)] + [p for row in cabins for p in make_cabin(*row)]
    for x, base, height, radius, albedo in funnels:
        parts += [
            lathe([(radius * 1.1, 0), (radius, height * 0.75)], (x, 0, base), albedo=albedo),
            lathe([(radius, 0), (radius * 0.97, height * 0.25)], (x, 0, base + height * 0.75), albedo=0.1),
        ]
    parts += [box(centre, size, albedo=albedo) for centre, size, albedo in cargo]
    for x, base, way in guns:
        barrels = [
            tube([(x, y, base + 0.09), (x + 0.4 * way, y, base + 0.16)], 0.025, albedo=0.3)
            for y in (-0.06, 0.06)
        ]
        parts += [lathe([(0.15, 0), (0.15, 0.08), (0.11, 0.16)], (x, 0, base), albedo=0.5), *barrels]
    return parts


CONTAINERS = tuple(
    ((-0.35 + 0.36 * i, 0, 0.4 + 0.17 * j), (0.33, 0.5, 0.15), (0.3, 0.75, 0.5, 0.88, 0.2)[(2 * i + j) % 5])
    for i in range(4)
    for j in range(3 if i < 3 else 2)
)


BOATS = {
    "sailboat": dict(
        length=2.0,
        beam=0.62,
        depth=0.36,
        topside=0.9,
        bottom=0.3,
        masts=((0.1, 0.2, 1.9, 0.95, 0.8, 0.95),),
        cabins=((-0.15, 0.18, (0.7, 0.36, 0.16), 0.8, 3),),
    ),
    "schooner": dict(
        length=2.5,
        beam=0.6,
        depth=0.44,
        sheer=0.2,
        topside=0.14,
        bottom=0.4,
        deck=0.6,
        masts=((0.35, 0.24, 1.35, 0.7, 0.85, 0.8), (-0.45, 0.24, 1.55, 0.75, 0, 0.8)),
    ),
    "yacht": dict(
        length=2.5,
        beam=0.74,
        depth=0.5,
        sheer=0.14,
        topside=0.95,
        bottom=0.2,
        deck=0.6,
        cabins=((-0.1, 0.26, (1.3, 0.56, 0.26), 0.95, 4), (-0.25, 0.5, (0.8, 0.46, 0.22), 0.9, 3)),
        masts=((-0.45, 0.7, 0.4, 0, 0, 0),),
    ),
    "liner": dict(
        length=3.2,
        beam=0.6,
        depth=0.5,
        sheer=0.16,
        topside=0.12,
        bottom=0.45,
        deck=0.5,
        cabins=(
            (-0.05, 0.26, (2.2, 0.5, 0.16), 0.95, 9),
            (-0.05, 0.42, (1.9, 0.44, 0.15), 0.9, 8),
            (0.1, 0.57, (1.4, 0.38, 0.13), 0.95, 6),
        ),
        funnels=(
            (0.35, 0.68, 0.36, 0.12, 0.6),
            (-0.05, 0.68, 0.36, 0.12, 0.6),
            (-0.45, 0.68, 0.36, 0.12, 0.6),
        ),
    ),
    "freighter": dict(
        length=3.2,
        beam=0.62,
        depth=0.52,
        sheer=0.12,
        topside=0.35,
        bottom=0.18,
        deck=0.4,
        cabins=((-1.2, 0.26, (0.4, 0.52, 0.62), 0.92, 2), (-1.2, 0.86, (0.3, 0.58, 0.16), 0.92, 2)),
        funnels=((-1.42, 0.3, 0.8, 0.09, 0.5),),
        cargo=CONTAINERS,
    ),
    "tugboat": dict(
        length=1.7,
        beam=0.78,
        depth=0.56,
        sheer=0.3,
        topside=0.2,
        bottom=0.4,
        deck=0.5,
        cabins=((0.1, 0.3, (0.75, 0.5, 0.32), 0.75, 3), (0.2, 0.62, (0.42, 0.42, 0.3), 0.95, 2)),
        funnels=((-0.35, 0.3, 0.75, 0.13, 0.65),),
        masts=((0.05, 0.9, 0.5, 0, 0, 0),),
    ),
    "trawler": dict(
        length=1.9,
        beam=0.68,
        depth=0.5,
        sheer=0.34,
        topside=0.55,
        bottom=0.2,
        deck=0.45,
        cabins=((0.38, 0.3, (0.42, 0.42, 0.46), 0.92, 2),),
        masts=((0.05, 0.25, 1.25, 0, 0, 0), (-0.7, 0.25, 0.95, 0, 0, 0)),
        cargo=(((-0.3, 0, 0.32), (0.4, 0.34, 0.16), 0.7), ((-0.33, 0, 1.2), (0.8, 0.04, 0.04), 0.5)),
    ),
    "warship": dict(
        length=3.3,
        beam=0.5,
        depth=0.4,
        sheer=0.16,
        topside=0.5,
        bottom=0.2,
        deck=0.42,
        cabins=(
            (0.15, 0.2, (0.9, 0.4, 0.22), 0.55, 0),
            (0.25, 0.42, (0.45, 0.32, 0.28), 0.58, 3),
            (-0.5, 0.2, (0.5, 0.36, 0.3), 0.5, 0),
        ),
        funnels=((-0.2, 0.4, 0.4, 0.11, 0.45),),
        masts=((0.2, 0.66, 0.75, 0, 0, 0), (-0.5, 0.5, 0.5, 0, 0, 0)),
        guns=((0.82, 0.26, 1), (-1.05, 0.2, -1)),
    ),
}
