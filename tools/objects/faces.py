"""Faces: a head with eyes, brows, nose, mouth, ears and hair."""

import numpy as np

from tools.objects.parts import Part, skin, circle, ellipsoid, tube, mirrored


def make_skull(width: float, jaw: float, depth: float, skin_albedo: float) -> list[Part]:
    "Head from crown to chin, on a neck."
    z = np.array([-1.0, -0.95, -0.82, -0.6, -0.3, 0.0, 0.3, 0.55, 0.76, 0.91, 0.98, 1.0])
    wide = np.array([0.1, 0.28, 0.46, 0.62, 0.74, 0.81, 0.84, 0.8, 0.66, 0.42, 0.2, 0.0]) * width
    wide[:5] *= np.linspace(jaw, 1, 5)
    front = np.array([0.62, 0.74, 0.79, 0.8, 0.82, 0.83, 0.84, 0.79, 0.64, 0.4, 0.19, 0.0]) * depth
    back = np.array([-0.05, -0.1, -0.2, -0.45, -0.72, -0.86, -0.92, -0.9, -0.75, -0.48, -0.22, 0.0]) * depth
    cos, sin = circle(28)
    rings = np.stack(
        [
            (front + back)[:, None] / 2 + (front - back)[:, None] / 2 * cos,
            wide[:, None] * sin,
            np.repeat(z[:, None], 28, 1),
        ],
        -1,
    )
    neck = tube(
        [(-0.25 * depth, 0, -0.4), (-0.28 * depth, 0, -1.0), (-0.3 * depth, 0, -1.4)],
        [0.45 * width, 0.42 * width, 0.5 * width],
        k=18,
        albedo=skin_albedo * 0.95,
    )
    return [skin(rings, albedo=skin_albedo), neck]


def make_features(
    width: float,
    depth: float,
    nose: float,
    lips: float,
    eyes: float,
    brow: float,
    brow_albedo: float,
    lip_albedo: float,
    tone: float,
) -> list[Part]:
    "Eyes, brows, nose, mouth and ears."
    x = 0.8 * depth
    eye = ellipsoid((x - 0.06, 0.3 * width, 0.1), (0.1, 0.145 * eyes, 0.085 * eyes), albedo=0.97, gloss=0.3)
    pupil = ellipsoid(
        (x + 0.02, 0.29 * width, 0.1), (0.04, 0.08 * eyes, 0.082 * eyes), albedo=0.03, gloss=0.8
    )
    lid = tube(
        [(x - 0.02, 0.15 * width, 0.16), (x + 0.04, 0.3 * width, 0.2), (x - 0.08, 0.46 * width, 0.14)],
        0.028,
        k=6,
        albedo=tone * 0.55,
    )
    eyebrow = tube(
        [(x + 0.02, 0.12 * width, 0.27), (x + 0.04, 0.3 * width, 0.34), (x - 0.1, 0.5 * width, 0.27)],
        [0.045 * brow, 0.05 * brow, 0.02],
        k=8,
        albedo=brow_albedo,
    )
    ear = ellipsoid(
        (-0.05 * depth, 0.84 * width, 0.0), (0.14, 0.07, 0.24), turn=(20, 0, 0), albedo=tone * 0.9
    )
    ridge = tube(
        [(x - 0.02, 0, 0.2), (x + 0.1 * nose, 0, 0.0), (x + 0.24 * nose, 0, -0.2), (x + 0.04, 0, -0.28)],
        [0.06, 0.075, 0.115 * nose, 0.1],
        k=12,
        albedo=tone,
    )
    wings = mirrored(ellipsoid((x + 0.06, 0.1 * nose, -0.23), (0.1, 0.065, 0.06), albedo=tone * 0.88))
    upper = tube(
        [
            (x - 0.14, 0.32 * width, -0.52),
            (x + 0.03, 0.12, -0.5),
            (x + 0.07, 0, -0.52),
            (x + 0.03, -0.12, -0.5),
            (x - 0.14, -0.32 * width, -0.52),
        ],
        [0.015, 0.04 * lips, 0.04 * lips, 0.04 * lips, 0.015],
        k=8,
        albedo=lip_albedo,
    )
    lower = tube(
        [(x - 0.13, 0.3 * width, -0.535), (x + 0.05, 0.0, -0.61), (x - 0.13, -0.3 * width, -0.535)],
        [0.015, 0.06 * lips, 0.015],
        k=8,
        albedo=lip_albedo * 1.15,
    )
    gap = tube(
        [(x - 0.12, 0.32 * width, -0.53), (x + 0.085, 0.0, -0.55), (x - 0.12, -0.32 * width, -0.53)],
        0.014,
        k=6,
        albedo=0.05,
    )
    chin = ellipsoid((0.66 * depth, 0, -0.84), (0.16, 0.2 * width, 0.12), albedo=tone)
    return [ridge, *wings, upper, lower, gap, chin] + [
        p for part in (eye, pupil, lid, eyebrow, ear) for p in mirrored(part)
    ]


def make_cap(
    width: float,
    depth: float,
    albedo: float,
    brow: float,
    nape: float,
    puff: float,
    steep: float = 0.72,
    k: int = 40,
) -> Part:
    "Hair over the skull, down to `brow` in front and `nape` behind; `steep` sides hang beside the face."
    cos, sin = circle(k)
    edge = nape + (brow - nape) * np.clip(0.5 + steep * (cos - 0.22 * (steep > 1)), 0, 1) ** 1.5
    rings = []
    for t in np.linspace(0, 1, 9):
        z = edge + (1.06 + 0.6 * puff - edge) * np.sin(t * np.pi / 2)
        h = np.clip(z / (1.0 + 0.6 * puff + 0.07), -1, 1)
        r = np.sqrt(np.clip(1 - np.clip(h, 0, 1) ** 2.6, 0, 1)) + 0.0 * h
        rings.append(
            np.stack([(-0.05 + (0.87 + puff) * r * cos) * depth, (0.86 + puff) * width * r * sin, z], 1)
        )
    strands = np.clip(albedo * (1 + 0.22 * np.random.default_rng(k).uniform(-1, 1, k)), 0, 1)
    return skin(np.stack(rings), albedo=np.tile(strands, (len(rings), 1)))


def make_hair(style: str, width: float, depth: float, albedo: float) -> list[Part]:
    "Hair in one of six styles."
    curls = [
        ellipsoid(
            (-0.1 + 0.9 * depth * c * np.cos(e), 0.9 * width * s * np.cos(e), 0.25 + 0.85 * np.sin(e)),
            0.24,
            m=7,
            k=10,
            albedo=albedo,
        )
        for e in (0.1, 0.5, 0.9, 1.35)
        for c, s in zip(*circle(11))
        if c * np.cos(e) < 0.35 + 0.5 * np.sin(e)
    ]
    styles = {
        "bald": lambda: [],
        "short": lambda: [make_cap(width, depth, albedo, 0.62, -0.2, 0.08)],
        "full": lambda: [make_cap(width, depth, albedo, 0.52, -0.3, 0.14)],
        "long": lambda: [make_cap(width, depth, albedo, 0.56, -1.25, 0.14, steep=3.0)],
        "bob": lambda: [make_cap(width, depth, albedo, 0.42, -0.6, 0.18, steep=3.0)],
        "bun": lambda: [
            make_cap(width, depth, albedo, 0.66, -0.3, 0.08),
            ellipsoid((-0.35 * depth, 0, 1.22), 0.33, albedo=albedo),
        ],
        "curly": lambda: [make_cap(width, depth, albedo, 0.6, -0.1, 0.05), *curls],
    }
    return styles[style]()


def make_face(
    width: float = 1.0,
    jaw: float = 1.0,
    depth: float = 1.0,
    nose: float = 1.0,
    lips: float = 1.0,
    eyes: float = 1.0,
    brow: float = 1.0,
    tone: float = 0.6,
    hair: str = "short",
    hair_albedo: float = 0.15,
    lip_albedo: float = 0.3,
    beard: float = 0.0,
    moustache: bool = False,
    glasses: bool = False,
) -> list[Part]:
    "Face from widths, lengths and albedos."
    width = 0.92 * width
    parts = (
        make_skull(width, jaw, depth, tone)
        + make_features(width, depth, nose, lips, eyes, brow, hair_albedo, lip_albedo, tone)
        + make_hair(hair, width, depth, hair_albedo)
    )
    x = 0.8 * depth
    if beard:
        jawline = [
            (x * np.cos(a) * 0.96 - 0.02, 0.62 * width * np.sin(a), -0.74 + 0.42 * abs(np.sin(a)) ** 2)
            for a in np.linspace(-1.4, 1.4, 11)
        ]
        parts += [
            tube(jawline, [0.02, 0.1, 0.17, 0.22, 0.25, 0.26, 0.25, 0.22, 0.17, 0.1, 0.02], albedo=beard)
        ]
    if moustache:
        parts += mirrored(
            tube(
                [(x + 0.1, 0.0, -0.4), (x + 0.06, 0.16, -0.42), (x - 0.06, 0.32, -0.52)],
                [0.07, 0.07, 0.02],
                albedo=hair_albedo,
            )
        )
    if glasses:
        ring = [(x + 0.12, 0.32 * width + 0.2 * c, 0.1 + 0.16 * s) for c, s in zip(*circle(16))]
        parts += (
            mirrored(tube(ring + ring[:1], 0.028, k=6, albedo=0.05))
            + mirrored(tube([(x + 0.1, 0.5 * width, 0.12), (0, 0.9 * width, 0.1)], 0.025, k=6, albedo=0.05))
            + [tube([(x + 0.13, 0.1, 0.12), (x + 0.13, -0.1, 0.12)], 0.025, k=6, albedo=0.05)]
        )
    return parts


FACES = {
    "adam": dict(jaw=1.25, brow=1.2, tone=0.66, hair="short", hair_albedo=0.12),
    "bella": dict(
        width=0.93,
        jaw=0.85,
        eyes=1.2,
        lips=1.3,
        nose=0.8,
        brow=0.7,
        tone=0.8,
        hair="long",
        hair_albedo=0.3,
        lip_albedo=0.3,
    ),
    "carl": dict(width=1.04, jaw=1.3, nose=1.3, brow=1.4, tone=0.55, hair="bald", hair_albedo=0.15),
    "dora": dict(
        width=1.0,
        jaw=0.95,
        eyes=1.15,
        lips=1.2,
        nose=0.85,
        tone=0.42,
        hair="curly",
        hair_albedo=0.08,
        lip_albedo=0.22,
    ),
    "emil": dict(
        width=0.97,
        jaw=1.15,
        nose=1.15,
        brow=1.3,
        tone=0.7,
        hair="full",
        hair_albedo=0.3,
        beard=0.2,
        moustache=True,
    ),
    "fay": dict(
        width=0.95,
        jaw=0.85,
        eyes=1.25,
        lips=1.1,
        nose=0.75,
        brow=0.7,
        tone=0.74,
        hair="bob",
        hair_albedo=0.07,
        lip_albedo=0.2,
    ),
    "gus": dict(
        width=1.1,
        jaw=1.3,
        nose=1.2,
        lips=0.8,
        tone=0.52,
        hair="short",
        hair_albedo=0.95,
        glasses=True,
        moustache=True,
    ),
    "hana": dict(
        width=0.98,
        jaw=0.95,
        eyes=1.1,
        lips=1.0,
        nose=0.85,
        tone=0.86,
        hair="bun",
        hair_albedo=0.18,
        lip_albedo=0.4,
    ),
}
