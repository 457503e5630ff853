"""Planes: a fuselage with wings, a tail and engines."""

import numpy as np

from tools.objects.parts import Part, ellipsoid, loft, tube, plate, box, mirrored


def make_wing(
    x: float,
    y: float,
    z: float,
    root: float,
    span: float,
    tip: float,
    sweep: float,
    dihedral: float,
    thick: float,
    albedo: float,
) -> list[Part]:
    "Pair of wings: chord `root` at the body, `tip` at the end, swept back by `sweep`."
    outline = [
        (x + root / 2, y, z),
        (x - root / 2, y, z),
        (x - sweep - tip / 2, y + span, z + dihedral),
        (x - sweep + tip / 2, y + span, z + dihedral),
    ]
    return mirrored(plate(outline, (0, 0, thick), albedo=albedo))


def make_fin(
    x: float, z: float, root: float, height: float, tip: float, sweep: float, albedo: float, y: float = 0.0
) -> list[Part]:
    "Upright tail fin."
    return [
        plate(
            [
                (x + root / 2, y, z),
                (x - root / 2, y, z),
                (x - sweep - tip / 2, y, z + height),
                (x - sweep + tip / 2, y, z + height),
            ],
            (0, 0.035, 0),
            albedo=albedo,
        )
    ]


def make_propeller(x: float, y: float, z: float, radius: float) -> list[Part]:
    "Spinner with two blades."
    blades = [
        plate(
            [
                (x, y + s * 0.03, z - 0.04),
                (x, y + s * 0.03, z + 0.04),
                (x, y + s * radius, z + 0.05),
                (x, y + s * radius, z - 0.05),
            ],
            (0.025, 0, 0),
            albedo=0.25,
        )
        for s in (-1, 1)
    ]
    return [ellipsoid((x, y, z), (0.09, 0.06, 0.06), albedo=0.3), *blades]


def make_struts(wings: tuple) -> list[Part]:
    "Struts between the two wings of a biplane."
    ends = [((x, 0.7, wings[0][1]), (x, 0.7, wings[1][1])) for x in (0.15, 0.45)]
    return [part for pair in ends for part in mirrored(tube(pair, 0.022, k=6, albedo=0.3))]


def make_floats(body: float) -> list[Part]:
    "Two floats on struts."
    keel = [
        (-0.7, 0.03, 0, 0.08),
        (-0.2, 0.09, -0.08, 0.1),
        (0.5, 0.09, -0.08, 0.1),
        (0.85, 0.02, 0.06, 0.1),
    ]
    legs = [tube([(x, 0.1, -0.1), (x, 0.4, -0.5)], 0.025, k=6, albedo=0.4) for x in (-0.15, 0.45)]
    return [
        part
        for one in (loft(keel, albedo=body * 0.8).moved((0.1, 0.4, -0.55)), *legs)
        for part in mirrored(one)
    ]


def make_plane(
    length: float = 2.4,
    radius: float = 0.17,
    nose: float = 0.35,
    taper: float = 0.15,
    body: float = 0.8,
    wing_albedo: float = 0.6,
    fin_albedo: float = 0.5,
    wings: tuple = ((0.1, -0.06, 0.55, 1.15, 0.2, 0.5, 0.1),),  # (x, z, root, span, tip, sweep, dihedral)
    tail: tuple = (0.32, 0.42, 0.14, 0.28),  # chord, span, tip chord and sweep of the tailplane
    fin: tuple = (0.4, 0.45, 0.18, 0.28),  # chord, height, tip chord and sweep of the fin
    engines: tuple = (),  # (x, y, z, length, radius)
    propellers: tuple = (),  # (x, y, z, radius)
    windows: int = 0,
    canopy: tuple = (0.75, 0.28, 0.14),
    struts: bool = False,
    floats: bool = False,
    fins: int = 1,
) -> list[Part]:
    "Aeroplane from its fuselage, wings, tail and engines."
    front, back = length / 2, -length / 2
    x = np.array(
        [
            back,
            back + 0.25 * length,
            back + 0.4 * length,
            front - nose,
            front - 0.45 * nose,
            front - 0.12 * nose,
            front,
        ]
    )
    r = radius * np.array([taper, 0.72, 1.0, 1.0, 0.86, 0.5, 0.05])
    lift = radius * (1 - np.array([taper, 0.72, 1, 1, 1, 1, 1])) * 0.6
    parts = [tube(np.column_stack([x, 0 * x, lift]), r, k=18, albedo=body, gloss=0.3)]
    parts += [
        ellipsoid(
            (front - canopy[0] * nose * 1.3, 0, radius * 0.72),
            (canopy[1], radius * 0.7, canopy[2]),
            albedo=0.06,
            gloss=0.6,
        )
    ]
    for wx, z, root, span, tip, sweep, dihedral in wings:
        parts += make_wing(wx, radius * 0.3, z, root, span, tip, sweep, dihedral, 0.05, wing_albedo)
    chord, span, tip, sweep = tail
    parts += (
        make_wing(back + chord * 0.55, 0.02, lift[0], chord, span, tip, sweep, 0.02, 0.035, wing_albedo)
        if span
        else []
    )
    for y in (0.0,) if fins == 1 else (0.2, -0.2):
        parts += (
            make_fin(back + fin[0] * 0.55, lift[0] + radius * 0.1, *fin, fin_albedo, y) if fin[1] else []
        )
    for ex, y, z, long, er in engines:
        parts += [
            p
            for q in (
                tube(
                    [(ex - long / 2, y, z), (ex, y, z), (ex + long / 2, y, z)],
                    [er * 0.65, er, er * 0.95],
                    k=14,
                    albedo=0.45,
                ),
                tube(
                    [(ex + long / 2 - 0.01, y, z), (ex + long / 2 + 0.01, y, z)],
                    er * 0.8,
                    k=14,
                    albedo=0.05,
                ),
            )
            for p in (mirrored(q) if y else [q])
        ]
    parts += [p for row in propellers for p in make_propeller(*row)]
    parts += [
        p
        for i in range(windows)
        for p in mirrored(
            box(
                (0.32 * length - 0.62 * length * (i + 0.5) / windows, radius * 0.97, radius * 0.25),
                (0.045, 0.03, 0.06),
                albedo=0.05,
            )
        )
    ]
    parts += make_struts(wings) if struts else []
    return parts + (make_floats(body) if floats else [])


PLANES = {
    "airliner": dict(
        length=2.6,
        radius=0.17,
        windows=16,
        body=0.92,
        wing_albedo=0.6,
        fin_albedo=0.3,
        engines=((0.28, 0.42, -0.2, 0.34, 0.1),),
        canopy=(0.55, 0.12, 0.06),
    ),
    "jumbo": dict(
        length=2.9,
        radius=0.21,
        windows=20,
        body=0.85,
        wing_albedo=0.5,
        fin_albedo=0.75,
        nose=0.45,
        wings=((0.15, -0.1, 0.7, 1.35, 0.2, 0.75, 0.14),),
        engines=((0.3, 0.45, -0.26, 0.34, 0.1), (0.0, 0.85, -0.22, 0.32, 0.1)),
        canopy=(0.6, 0.16, 0.08),
    ),
    "fighter": dict(
        length=2.6,
        radius=0.15,
        nose=0.95,
        taper=0.75,
        body=0.5,
        wing_albedo=0.42,
        fin_albedo=0.4,
        wings=((-0.3, 0.0, 1.2, 0.75, 0.18, 0.5, 0.0),),
        tail=(0.4, 0.42, 0.16, 0.24),
        fin=(0.5, 0.5, 0.2, 0.32),
        engines=((-1.28, 0, 0.02, 0.2, 0.12),),
        canopy=(0.62, 0.36, 0.13),
        fins=2,
    ),
    "biplane": dict(
        length=1.7,
        radius=0.16,
        nose=0.25,
        taper=0.25,
        body=0.45,
        wing_albedo=0.85,
        fin_albedo=0.9,
        wings=((0.3, -0.14, 0.42, 1.05, 0.4, 0.0, 0.03), (0.32, 0.42, 0.42, 1.1, 0.4, 0.0, 0.03)),
        tail=(0.3, 0.4, 0.22, 0.05),
        fin=(0.28, 0.32, 0.2, 0.06),
        propellers=((0.88, 0, 0, 0.42),),
        canopy=(1.9, 0.12, 0.08),
        struts=True,
    ),
    "cessna": dict(
        length=1.9,
        radius=0.2,
        nose=0.45,
        taper=0.2,
        body=0.93,
        wing_albedo=0.85,
        fin_albedo=0.35,
        wings=((0.28, 0.26, 0.4, 1.25, 0.3, 0.03, 0.06),),
        tail=(0.3, 0.45, 0.2, 0.06),
        fin=(0.36, 0.4, 0.2, 0.16),
        propellers=((0.98, 0, 0, 0.4),),
        canopy=(1.15, 0.3, 0.16),
    ),
    "bomber": dict(
        length=2.2,
        radius=0.18,
        nose=0.3,
        taper=0.2,
        body=0.32,
        wing_albedo=0.28,
        fin_albedo=0.3,
        wings=((0.2, 0.0, 0.55, 1.35, 0.22, 0.12, 0.12),),
        tail=(0.34, 0.55, 0.2, 0.06),
        fin=(0.34, 0.34, 0.22, 0.1),
        engines=((0.42, 0.45, 0.03, 0.5, 0.12),),
        propellers=((0.7, 0.45, 0.03, 0.34), (0.7, -0.45, 0.03, 0.34)),
        canopy=(0.9, 0.26, 0.12),
        fins=2,
    ),
    "seaplane": dict(
        length=1.9,
        radius=0.19,
        nose=0.4,
        taper=0.2,
        body=0.7,
        wing_albedo=0.9,
        fin_albedo=0.6,
        wings=((0.25, 0.22, 0.42, 1.25, 0.34, 0.02, 0.08),),
        tail=(0.3, 0.45, 0.2, 0.06),
        fin=(0.36, 0.42, 0.2, 0.14),
        propellers=((0.98, 0, 0, 0.38),),
        canopy=(1.1, 0.26, 0.15),
        floats=True,
    ),
    "concorde": dict(
        length=3.2,
        radius=0.12,
        nose=1.1,
        taper=0.2,
        body=0.97,
        wing_albedo=0.9,
        fin_albedo=0.8,
        wings=((-0.35, -0.05, 2.0, 0.72, 0.2, 0.8, 0.0),),
        tail=(0.1, 0.0, 0.1, 0.0),
        fin=(0.7, 0.38, 0.2, 0.35),
        engines=((-0.95, 0.34, -0.1, 0.5, 0.08),),
        canopy=(0.62, 0.12, 0.05),
    ),
}
