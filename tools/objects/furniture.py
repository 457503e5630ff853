"""Chairs (a seat, a back, a base) and tables (a top and a base)."""

import numpy as np

from tools.objects.parts import Part, lathe, ellipsoid, loft, tube, plate, box, mirrored


def make_four_legs(
    depth: float,
    width: float,
    height: float,
    radius: float,
    albedo: float,
    splay: float = 0.06,
    foot: float = 0.8,
) -> list[Part]:
    "Four straight legs, spread a little."
    parts = []
    for x in (depth, -depth):
        parts += mirrored(
            tube(
                [(x, width, height), (x * (1 + splay), width * (1 + splay), 0)],
                [radius, radius * foot],
                albedo=albedo,
            )
        )
    return parts


def make_star_base(
    reach: float, height: float, radius: float, arms: int, albedo: float, castors: bool = False
) -> list[Part]:
    "Post on a star of feet."
    parts = [tube([(0, 0, 0.08), (0, 0, height)], radius, k=14, albedo=albedo)]
    for angle in np.arange(arms) * 2 * np.pi / arms + 0.3:
        tip = np.array([reach * np.cos(angle), reach * np.sin(angle), 0.06])
        parts += [tube([(0, 0, 0.16), tip], [radius * 1.1, radius * 0.7], albedo=albedo)] + (
            [ellipsoid(tuple(tip - [0, 0, 0.03]), 0.055, m=7, k=10, albedo=0.08)] if castors else []
        )
    return parts


def make_rockers(albedo: float) -> list[Part]:
    "Legs on two curved runners."
    runner = tube(
        [(0.6 * np.sin(a), 0.28, 0.62 - 0.62 * np.cos(a)) for a in np.linspace(-1.15, 1.15, 9)],
        0.035,
        albedo=albedo,
    )
    return mirrored(runner) + make_four_legs(0.24, 0.26, 0.5, 0.035, albedo)


def make_cantilever(albedo: float) -> list[Part]:
    "Bent steel tube: runners on the floor, uprights only in front."
    path = [
        (-0.28, 0.27, 0.03),
        (0.2, 0.27, 0.03),
        (0.29, 0.27, 0.06),
        (0.31, 0.27, 0.14),
        (0.29, 0.27, 0.44),
        (0.2, 0.27, 0.5),
        (-0.3, 0.27, 0.5),
        (-0.4, 0.27, 1.08),
    ]
    return mirrored(tube(path, 0.03, albedo=albedo, gloss=0.6))


def make_crossed(albedo: float) -> list[Part]:
    "Crossed legs of a folding chair."
    return mirrored(tube([(-0.32, 0.27, 0), (0.28, 0.27, 0.52)], 0.03, albedo=albedo)) + mirrored(
        tube([(0.34, 0.24, 0), (-0.24, 0.24, 0.52), (-0.36, 0.24, 1.05)], 0.03, albedo=albedo)
    )


def make_block(albedo: float) -> list[Part]:
    "Upholstered box on small feet."
    return [
        box((0, 0, 0.24), (0.66, 0.62, 0.3), albedo=albedo),
        *make_four_legs(0.28, 0.26, 0.1, 0.04, 0.15),
    ]


def make_chair_back(
    kind: str, width: float, low: float, high: float, depth: float, lean: float, albedo: float, frame: float
) -> list[Part]:
    "Back of a chair: a panel, horizontal slats, spindles or a cushion."
    x0, x1 = -depth, -depth - lean
    at = lambda y, t: (x0 + (x1 - x0) * t, y, low + (high - low) * t)
    posts = mirrored(tube([at(width * 0.92, 0), at(width * 0.95, 1)], 0.035, albedo=frame))
    curve = [at(width * np.cos(a) * 0.95, 0.75 + 0.25 * np.sin(a)) for a in np.linspace(0, np.pi, 9)]
    kinds = {
        "panel": lambda: [
            plate(
                [at(width, 0.25), at(-width, 0.25), at(-width * 0.95, 1), at(width * 0.95, 1)],
                (0.06, 0, 0),
                albedo=albedo,
            )
        ],
        "slats": lambda: (
            posts
            + [
                plate(
                    [
                        at(width * 0.9, t),
                        at(-width * 0.9, t),
                        at(-width * 0.9, t + 0.14),
                        at(width * 0.9, t + 0.14),
                    ],
                    (0.04, 0, 0),
                    albedo=albedo,
                )
                for t in (0.3, 0.58, 0.86)
            ]
        ),
        "spindles": lambda: (
            mirrored(tube([at(width * 0.9, 0), at(width * 0.95, 0.75)], 0.03, albedo=frame))
            + [tube(curve, 0.035, albedo=frame)]
            + [
                tube([at(y * width, 0), at(y * width, 0.93)], 0.018, k=6, albedo=albedo)
                for y in (-0.54, -0.18, 0.18, 0.54)
            ]
        ),
        "cushion": lambda: [
            loft(
                [
                    (x1 - 0.06, width, low - 0.05, high),
                    (x0, width * 1.05, low - 0.1, high + 0.02),
                    (x0 + 0.1, width * 0.95, low - 0.1, high - 0.03),
                ],
                power=4,
                albedo=albedo,
            )
        ],
    }
    return kinds[kind]()


def make_chair(
    base: str = "legs",
    back: str = "panel",
    height: float = 0.5,
    top: float = 1.1,
    width: float = 0.3,
    depth: float = 0.28,
    thick: float = 0.07,
    lean: float = 0.1,
    seat: float = 0.6,
    frame: float = 0.4,
    arms: float = 0.0,
    round_seat: bool = False,
    wings: bool = False,
) -> list[Part]:
    "Chair from its base, seat, back and arms."
    bases = {
        "legs": lambda: make_four_legs(depth * 0.85, width * 0.88, height, 0.04, frame),
        "star": lambda: make_star_base(0.34, height, 0.045, 5, frame, castors=True),
        "stool": lambda: (
            make_four_legs(depth * 0.7, width * 0.7, height, 0.035, frame, splay=0.4)
            + [
                p
                for z in (0.3,)
                for p in mirrored(tube([(0.25, 0.26, z), (-0.25, 0.26, z)], 0.02, albedo=frame))
            ]
            + [tube([(0.25, 0.26, 0.3), (0.25, -0.26, 0.3)], 0.02, albedo=frame)]
        ),
        "rockers": lambda: make_rockers(frame),
        "cantilever": lambda: make_cantilever(frame),
        "crossed": lambda: make_crossed(frame),
        "block": lambda: make_block(seat),
    }
    cushion = (
        [
            lathe(
                [(width * 0.94, -thick), (width, -thick * 0.5), (width * 0.97, 0)],
                (0, 0, height + thick / 2),
                albedo=seat,
            )
        ]
        if round_seat
        else [
            loft(
                [
                    (-depth, width * 0.94, height - thick / 2, height + thick / 2),
                    (0, width, height - thick / 2, height + thick * 0.55),
                    (depth, width, height - thick / 2, height + thick / 2),
                ],
                power=7,
                albedo=seat,
            )
        ]
    )
    parts = bases[base]() + cushion + make_chair_back(back, width, height, top, depth, lean, seat, frame)
    if arms and base == "block":
        parts += mirrored(
            loft(
                [
                    (-depth - 0.04, 0.09, 0.12, height + arms),
                    (depth, 0.09, 0.12, height + arms),
                    (depth + 0.05, 0.07, 0.14, height + arms - 0.05),
                ],
                power=4,
                albedo=seat * 0.9,
            ).moved((0, width + 0.04, 0))
        )
    elif arms:
        parts += mirrored(
            tube(
                [
                    (depth * 0.8, width, height),
                    (depth * 0.8, width * 1.05, height + arms),
                    (-depth, width * 1.05, height + arms),
                ],
                0.032,
                albedo=frame,
            )
        )
    return parts + (
        mirrored(
            ellipsoid(
                (-depth + 0.06, width, 0.5 * (height + top) + 0.12), (0.17, 0.07, 0.32), albedo=seat * 0.8
            )
        )
        + mirrored(ellipsoid((0, width, height + 0.13), (depth, 0.07, 0.12), albedo=seat * 0.8))
        if wings
        else []
    )


CHAIRS = {
    "dining": dict(back="slats", seat=0.7, frame=0.45, top=1.15),
    "office": dict(
        base="star",
        back="panel",
        height=0.52,
        top=1.12,
        width=0.3,
        thick=0.1,
        seat=0.2,
        frame=0.6,
        arms=0.24,
    ),
    "armchair": dict(
        base="block",
        back="cushion",
        height=0.46,
        top=0.98,
        width=0.34,
        depth=0.3,
        thick=0.16,
        seat=0.5,
        arms=0.2,
        lean=0.14,
    ),
    "bar_stool": dict(
        base="stool",
        back="spindles",
        height=0.8,
        top=1.14,
        width=0.26,
        depth=0.24,
        seat=0.85,
        frame=0.3,
        round_seat=True,
    ),
    "rocking": dict(
        base="rockers",
        back="spindles",
        height=0.52,
        top=1.3,
        width=0.3,
        lean=0.2,
        seat=0.4,
        frame=0.28,
        arms=0.24,
    ),
    "cantilever": dict(
        base="cantilever",
        back="panel",
        height=0.53,
        top=1.1,
        width=0.26,
        thick=0.05,
        lean=0.09,
        seat=0.15,
        frame=0.92,
    ),
    "folding": dict(
        base="crossed",
        back="panel",
        height=0.54,
        top=1.05,
        width=0.26,
        thick=0.04,
        lean=0.12,
        seat=0.92,
        frame=0.65,
    ),
    "wing_chair": dict(
        base="legs",
        back="cushion",
        height=0.48,
        top=1.28,
        width=0.32,
        depth=0.3,
        thick=0.18,
        lean=0.14,
        seat=0.78,
        frame=0.15,
        wings=True,
    ),
}


def make_trestles(length: float, width: float, height: float, albedo: float) -> list[Part]:
    "Two A-shaped trestles."
    parts = []
    for x in (length * 0.7, -length * 0.7):
        parts += mirrored(tube([(x, 0.05, height), (x, width * 0.95, 0)], 0.045, albedo=albedo)) + [
            tube([(x, width * 0.5, height * 0.45), (x, -width * 0.5, height * 0.45)], 0.03, albedo=albedo)
        ]
    return parts


def make_drawers(length: float, width: float, height: float, albedo: float) -> list[Part]:
    "Two pedestals of drawers with knobs."
    parts = []
    for x in (length * 0.7, -length * 0.7):
        parts += [box((x, 0, height / 2), (length * 0.52, width * 1.8, height), albedo=albedo)]
        for z in (0.2, 0.5, 0.8):
            parts += [
                box(
                    (x, width * 0.92, height * z),
                    (length * 0.42, 0.03, height * 0.22),
                    albedo=albedo * 1.45,
                ),
                ellipsoid((x, width * 0.95, height * z), 0.03, m=7, k=10, albedo=0.1),
            ]
    return parts


def make_benches(length: float, width: float, height: float, albedo: float) -> list[Part]:
    "Picnic table's crossed legs and its two benches."
    parts = mirrored(box((0, width * 2.05, height * 0.55), (length * 2, 0.26, 0.05), albedo=albedo))
    for x in (length * 0.65, -length * 0.65):
        parts += mirrored(
            tube([(x, width * 0.35, height), (x, width * 1.7, 0)], 0.045, albedo=albedo * 0.7)
        ) + [box((x, 0, height * 0.5), (0.06, width * 4.1, 0.09), albedo=albedo * 0.7)]
    return parts


def make_table(
    base: str = "legs",
    length: float = 0.8,
    width: float = 0.45,
    height: float = 0.7,
    thick: float = 0.07,
    leg: float = 0.05,
    top: float = 0.6,
    frame: float = 0.4,
    round_top: bool = False,
    shelf: float = 0.0,
    apron: float = 0.0,
    net: bool = False,
) -> list[Part]:
    "Table from its top and its base."
    bases = {
        "legs": lambda: make_four_legs(length * 0.88, width * 0.85, height, leg, frame, splay=0.03),
        "splayed": lambda: make_four_legs(
            length * 0.6, width * 0.6, height, leg, frame, splay=0.35, foot=0.5
        ),
        "pedestal": lambda: [
            lathe(
                [
                    (0.3, 0),
                    (0.27, 0.05),
                    (0.1, 0.1),
                    (leg, 0.25),
                    (leg * 1.5, 0.45),
                    (leg, height * 0.8),
                    (0.2, height),
                ],
                albedo=frame,
            )
        ],
        "star": lambda: make_star_base(length * 0.75, height, leg, 3, frame),
        "trestles": lambda: make_trestles(length, width, height, frame),
        "drawers": lambda: make_drawers(length, width, height, frame),
        "benches": lambda: make_benches(length, width, height, frame),
    }
    if round_top:
        parts = [
            lathe(
                [(length * 0.96, 0), (length, thick * 0.4), (length, thick * 0.7), (length * 0.97, thick)],
                (0, 0, height),
                stretch=(1, width / length),
                k=32,
                albedo=top,
                gloss=0.1,
            )
        ]
    else:
        parts = [box((0, 0, height + thick / 2), (2 * length, 2 * width, thick), taper=0.99, albedo=top)]
    parts += bases[base]()
    parts += [box((0, 0, shelf), (1.7 * length, 1.6 * width, 0.04), albedo=top * 0.8)] if shelf else []
    parts += (
        [box((0, 0, height - apron / 2), (1.75 * length, 1.7 * width, apron), albedo=frame * 0.9)]
        if apron
        else []
    )
    lines = [
        box((0, 0, height + thick), (2 * length, 0.03, 0.012), albedo=0.95),
        box((0, 0, height + thick + 0.08), (0.02, 2.1 * width, 0.16), albedo=0.85),
    ]
    return parts + (lines if net else [])


TABLES = {
    "dining": dict(apron=0.12, top=0.55, frame=0.4, length=0.85),
    "round": dict(
        base="pedestal", length=0.62, width=0.62, height=0.7, leg=0.08, top=0.85, frame=0.5, round_top=True
    ),
    "desk": dict(base="drawers", length=0.75, width=0.36, height=0.66, top=0.3, frame=0.42),
    "coffee": dict(length=0.75, width=0.42, height=0.38, top=0.75, frame=0.25, shelf=0.14, leg=0.045),
    "trestle": dict(base="trestles", length=0.95, width=0.42, height=0.7, top=0.9, frame=0.6, thick=0.05),
    "picnic": dict(base="benches", length=0.85, width=0.3, height=0.66, top=0.65, frame=0.58, thick=0.06),
    "bar": dict(
        base="star",
        length=0.4,
        width=0.4,
        height=1.12,
        leg=0.045,
        top=0.2,
        frame=0.8,
        thick=0.05,
        round_top=True,
    ),
    "ping_pong": dict(
        length=1.1, width=0.6, height=0.66, top=0.28, frame=0.7, thick=0.05, leg=0.035, net=True
    ),
}
