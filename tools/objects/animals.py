"""Animals: a body on four legs, told apart by proportions and by what they carry."""

from collections.abc import Callable

import numpy as np

from tools.objects.parts import Part, circle, lathe, ellipsoid, tube, mirrored


def make_legs(
    length: float, width: float, ground: float, radius: float, body: float, foot: float
) -> list[Part]:
    "Four legs from the belly to the ground, with feet."
    parts = []
    for x, bend in ((0.38 * length, 0.02), (-0.38 * length, -0.06)):
        top, knee, low = (
            (x, width, 0.0),
            (x + bend * length, width * 1.02, -0.5 * ground),
            (x, width, -ground),
        )
        leg = tube([top, knee, low], [radius * 1.2, radius, radius * 0.85], albedo=body)
        haunch = ellipsoid(
            (x, width * 0.95, -0.12 * ground), (radius * 1.7, radius * 1.25, ground * 0.36), albedo=body
        )
        hoof = ellipsoid(
            (x + radius * 0.4, width, -ground), (radius * 1.35, radius * 1.1, radius * 0.7), albedo=foot
        )
        parts += mirrored(leg) + mirrored(haunch) + mirrored(hoof)
    return parts


def make_head(
    at: np.ndarray,
    size: float,
    snout: float,
    drop: float,
    body: float,
    muzzle: float,
    ears: tuple,
    ear_albedo: float,
) -> list[Part]:
    "Head with snout, nose, eyes and ears (length, width, thickness, height up the head)."
    x, _, z = at
    tip = np.array([x + size * (0.6 + snout), 0, z - size * drop])
    parts = [ellipsoid(tuple(at), (size, size * 0.82, size * 0.9), albedo=body)]
    parts += [
        tube(
            [
                (x + 0.2 * size, 0, z - 0.15 * size),
                tip * 0.5 + np.array([x + size, 0, z - 0.2 * size]) * 0.5,
                tip,
            ],
            [size * 0.7, size * 0.55, size * 0.42],
            albedo=muzzle,
        )
    ]
    parts += [
        ellipsoid(tuple(tip), (size * 0.18, size * 0.42, size * 0.4), albedo=muzzle),
        ellipsoid(tuple(tip + [size * 0.15, 0, size * 0.14]), size * 0.18, albedo=0.08, gloss=0.3),
    ]
    parts += mirrored(
        ellipsoid((x + size * 0.66, size * 0.52, z + size * 0.32), size * 0.17, albedo=0.05, gloss=0.6)
    )
    length, width, thick, up = ears
    ear = ellipsoid(
        (x - 0.15 * size, size * (0.62 + 0.45 * width), z + size * up),
        (thick * size, width * size, length * size),
        turn=(0, 0, -28),
        albedo=ear_albedo,
    )
    return parts + mirrored(ear)


def make_animal(
    length: float = 1.6,
    girth: float = 0.34,
    chest: float = 1.0,
    hips: float = 1.0,
    ground: float = 0.75,
    leg: float = 0.1,
    neck: float = 0.35,
    rise: float = 0.35,
    neck_radius: float = 0.2,
    head: float = 0.24,
    snout: float = 0.5,
    drop: float = 0.3,
    ears: tuple = (0.4, 0.25, 0.15, 0.8),
    tail: float = 0.6,
    tail_radius: float = 0.04,
    tail_lift: float = -0.6,
    tail_tip: float = 0.0,
    body: float = 0.5,
    muzzle: float | None = None,
    foot: float = 0.2,
    ear_albedo: float | None = None,
    extras: Callable[[np.ndarray], list[Part]] | None = None,  # parts added, given where the head is
) -> list[Part]:
    "Four-legged animal from lengths, radii and albedos."
    muzzle, ear_albedo = (body if value is None else value for value in (muzzle, ear_albedo))
    spine = np.array(
        [(-0.5, 0.55), (-0.44, 0.86), (-0.25, 1.0), (0.0, 0.97), (0.25, 1.02), (0.42, 0.9), (0.5, 0.6)]
    )
    swell = np.interp(spine[:, 0], [-0.5, 0, 0.5], [hips, 0.5 * (hips + chest), chest])
    torso = tube(
        np.column_stack([spine[:, 0] * length, 0 * swell, 0.05 * swell]),
        girth * spine[:, 1] * swell,
        k=18,
        albedo=body,
    )
    root = np.array([0.4 * length, 0, 0.25 * girth])
    at = root + np.array([neck, 0, rise])
    swan = [root - [0.3, 0, 0.25 * girth], root - [0.12, 0, 0.1], root + [neck * 0.4, 0, rise * 0.45], at]
    neck_part = tube(
        swan, [girth * chest * 0.4, girth * chest * 0.9, neck_radius * 1.15, neck_radius], k=14, albedo=body
    )
    back = np.array([-0.5 * length, 0, 0.25 * girth])
    end = back + tail * np.array(
        [-np.cos(np.deg2rad(60 * tail_lift)), 0, np.sin(np.deg2rad(60 * tail_lift))]
    )
    parts = [
        torso,
        neck_part,
        tube(
            [back + [0.08, 0, 0], back * 0.6 + end * 0.4 + [-0.1 * tail, 0, 0.05], end],
            [tail_radius * 1.4, tail_radius, tail_radius * 0.7],
            albedo=body,
        ),
    ]
    parts += [ellipsoid(tuple(end), tail_tip, albedo=foot)] if tail_tip else []
    parts += make_legs(length, 0.55 * girth, ground, leg, body, foot) + make_head(
        at, head, snout, drop, body, muzzle, ears, ear_albedo
    )
    return parts + (extras(at) if extras else [])


def make_trunk(at: np.ndarray) -> list[Part]:
    "Trunk, tusks and great ears of an elephant."
    x, _, z = at
    trunk = tube(
        [
            (x + 0.2, 0, z),
            (x + 0.42, 0, z - 0.2),
            (x + 0.46, 0, z - 0.55),
            (x + 0.5, 0, z - 0.85),
            (x + 0.62, 0, z - 0.98),
        ],
        [0.18, 0.14, 0.11, 0.08, 0.07],
        albedo=0.42,
    )
    tusk = tube(
        [(x + 0.25, 0.14, z - 0.2), (x + 0.45, 0.17, z - 0.4), (x + 0.68, 0.17, z - 0.38)],
        [0.05, 0.045, 0.02],
        albedo=0.95,
    )
    ear = ellipsoid((x - 0.12, 0.36, z - 0.05), (0.3, 0.06, 0.42), turn=(-24, 0, 0), albedo=0.34)
    return [trunk] + mirrored(tusk) + mirrored(ear)


def make_horns(at: np.ndarray) -> list[Part]:
    "Horns, udder and dark patches of a cow."
    x, _, z = at
    horn = tube(
        [(x, 0.12, z + 0.18), (x, 0.28, z + 0.3), (x + 0.05, 0.32, z + 0.45)],
        [0.05, 0.04, 0.015],
        albedo=0.85,
    )
    spots = [
        (-0.5, 0.2, 0.22, 0.3, 0.18, 0.2),
        (0.05, 0.26, 0.08, 0.22, 0.17, 0.24),
        (0.42, 0.2, 0.2, 0.16, 0.2, 0.18),
    ]
    patches = [
        p for a, b, c, i, j, k in spots for p in mirrored(ellipsoid((a, b, c), (i, j, k), albedo=0.1))
    ]
    return mirrored(horn) + patches + [ellipsoid((-0.42, 0, -0.36), (0.18, 0.15, 0.12), albedo=0.7)]


def make_mane(at: np.ndarray) -> list[Part]:
    "Mane of a lion: a wreath of tufts around the head."
    angle = np.arange(14) * 2 * np.pi / 14
    tufts = [
        ellipsoid(
            (at[0] - 0.12, 0.3 * np.cos(a), at[2] + 0.3 * np.sin(a) - 0.03),
            (0.17, 0.16, 0.16),
            m=7,
            k=10,
            albedo=0.17,
        )
        for a in angle
    ]
    return tufts + [ellipsoid((at[0] - 0.2, 0, at[2] - 0.08), (0.22, 0.36, 0.4), albedo=0.17)]


def make_spots(at: np.ndarray) -> list[Part]:
    "Dark spots on the body and neck of a giraffe, and its horns."
    rng, parts = np.random.default_rng(1), []
    for x, z, reach in [(x, z, 0.25) for x in (-0.42, -0.18, 0.08, 0.3) for z in (-0.12, 0.14)] + [
        (0.45 + 0.42 * t, 0.2 + 1.1 * t, 0.2 - 0.11 * t) for t in (0.1, 0.3, 0.5, 0.7)
    ]:
        parts += mirrored(
            ellipsoid(
                (x + 0.03 * rng.normal(), reach, z),
                (0.09 + 0.02 * rng.random(), 0.07, 0.09),
                m=7,
                k=10,
                albedo=0.3,
            )
        )
    return parts + mirrored(
        tube(
            [(at[0] - 0.04, 0.07, at[2] + 0.1), (at[0] - 0.05, 0.08, at[2] + 0.32)],
            [0.025, 0.045],
            albedo=0.2,
        )
    )


def make_spines(at: np.ndarray) -> list[Part]:
    "Coat of spines of a hedgehog."
    golden, parts = np.pi * (3 - np.sqrt(5)), []
    for i in range(120):
        z, turn = 1 - (i + 0.5) / 100, golden * i
        out = np.array(
            [np.sqrt(max(0.0, 1 - z * z)) * np.cos(turn), np.sqrt(max(0.0, 1 - z * z)) * np.sin(turn), z]
        )
        if out[0] < 0.72:
            root = np.array([-0.06, 0, 0.06]) + out * [0.6, 0.42, 0.42]
            parts.append(
                tube(
                    [root, root + (out + [-0.5, 0, 0.1]) * 0.17],
                    [0.04, 0.004],
                    k=5,
                    albedo=0.2 + 0.35 * (i % 2),
                )
            )
    return parts + [ellipsoid((-0.06, 0, 0.06), (0.62, 0.44, 0.44), albedo=0.2)]


def make_shell(at: np.ndarray) -> list[Part]:
    "Shell of a turtle: a patterned dome over a pale rim."
    height = np.array([0, 0.06, 0.16, 0.27, 0.36, 0.42, 0.44])
    radius = np.array([0.72, 0.74, 0.68, 0.56, 0.38, 0.18, 0.0])
    dome = lathe(zip(radius, height), stretch=(1.1, 0.86), k=24, albedo=0.3, gloss=0.2)
    plates = [
        ellipsoid(
            (0.8 * r * c, 0.62 * r * s, z),
            (0.17, 0.15, 0.07),
            turn=(np.degrees(np.arctan2(s, c)), lean, 0),
            m=7,
            k=12,
            albedo=0.14,
        )
        for r, z, n, lean in ((0.72, 0.19, 9, 55), (0.36, 0.36, 4, 22), (0, 0.41, 1, 0))
        for c, s in zip(*circle(n))
    ]
    return [dome, *plates, ellipsoid((0, 0, 0), (0.7, 0.55, 0.14), albedo=0.75)]


ANIMALS = {
    "bear": dict(
        length=1.5,
        girth=0.42,
        chest=1.0,
        hips=1.1,
        ground=0.66,
        leg=0.15,
        neck=0.38,
        rise=0.14,
        neck_radius=0.28,
        head=0.29,
        snout=0.45,
        drop=0.35,
        ears=(0.28, 0.28, 0.12, 0.85),
        tail=0.08,
        body=0.27,
        muzzle=0.5,
        foot=0.15,
    ),
    "cow": dict(
        length=1.7,
        girth=0.38,
        ground=0.82,
        leg=0.09,
        neck=0.42,
        rise=0.22,
        neck_radius=0.2,
        head=0.24,
        snout=0.85,
        drop=0.6,
        ears=(0.2, 0.45, 0.12, 0.45),
        tail=0.75,
        tail_lift=-1.4,
        tail_tip=0.08,
        body=0.85,
        muzzle=0.65,
        extras=make_horns,
    ),
    "dog": dict(
        length=1.15,
        girth=0.25,
        chest=1.15,
        hips=0.8,
        ground=0.62,
        leg=0.075,
        neck=0.24,
        rise=0.42,
        neck_radius=0.15,
        head=0.23,
        snout=0.75,
        drop=0.3,
        ears=(0.75, 0.28, 0.2, 0.1),
        tail=0.5,
        tail_radius=0.05,
        tail_lift=0.9,
        body=0.6,
        muzzle=0.75,
        ear_albedo=0.15,
        foot=0.75,
    ),
    "elephant": dict(
        length=1.7,
        girth=0.55,
        ground=0.95,
        leg=0.19,
        neck=0.36,
        rise=0.22,
        neck_radius=0.3,
        head=0.38,
        snout=0.1,
        drop=0.2,
        ears=(0.3, 0.2, 0.1, 0.1),
        tail=0.6,
        tail_lift=-1.3,
        tail_tip=0.05,
        body=0.4,
        foot=0.3,
        extras=make_trunk,
    ),
    "giraffe": dict(
        length=1.05,
        girth=0.28,
        chest=1.15,
        hips=0.9,
        ground=1.15,
        leg=0.08,
        neck=0.5,
        rise=1.4,
        neck_radius=0.12,
        head=0.17,
        snout=0.95,
        drop=0.6,
        ears=(0.2, 0.5, 0.15, 0.6),
        tail=0.5,
        tail_lift=-1.3,
        tail_tip=0.06,
        body=0.82,
        muzzle=0.6,
        extras=make_spots,
    ),
    "hedgehog": dict(
        length=1.0,
        girth=0.34,
        ground=0.4,
        leg=0.07,
        neck=0.2,
        rise=-0.04,
        neck_radius=0.24,
        head=0.25,
        snout=0.95,
        drop=0.4,
        ears=(0.3, 0.3, 0.15, 0.8),
        tail=0.05,
        body=0.6,
        muzzle=0.72,
        foot=0.5,
        extras=make_spines,
    ),
    "lion": dict(
        length=1.55,
        girth=0.3,
        chest=1.2,
        hips=0.9,
        ground=0.72,
        leg=0.1,
        neck=0.3,
        rise=0.4,
        neck_radius=0.22,
        head=0.27,
        snout=0.42,
        drop=0.35,
        ears=(0.3, 0.3, 0.15, 0.85),
        tail=0.85,
        tail_lift=-0.2,
        tail_tip=0.1,
        body=0.66,
        muzzle=0.8,
        foot=0.3,
        extras=make_mane,
    ),
    "turtle": dict(
        length=0.9,
        girth=0.2,
        ground=0.3,
        leg=0.12,
        neck=0.42,
        rise=0.1,
        neck_radius=0.12,
        head=0.2,
        snout=0.2,
        drop=0.1,
        ears=(0.01, 0.01, 0.01, 0),
        tail=0.25,
        tail_radius=0.05,
        tail_lift=-0.2,
        body=0.72,
        foot=0.65,
        extras=make_shell,
    ),
}
