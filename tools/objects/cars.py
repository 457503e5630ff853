"""Cars: a body, a glass house with a roof on pillars, and four wheels."""

import numpy as np

from tools.objects.parts import Part, skin, circle, ellipsoid, loft, tube, plate, box, mirrored


def make_wheels(
    front: float, rear: float, track: float, radius: float, width: float, hub: float
) -> list[Part]:
    "Four tyres with bright hubs."
    cos, sin = circle(24)
    parts = []
    for x in (front, rear):
        for r, y0, y1, albedo in (
            (radius, -width, width * 0.2, 0.1),
            (radius * 0.6, 0, width * 0.28, hub),
            (radius * 0.16, 0, width * 0.36, 0.15),
        ):
            rings = [np.stack([x + r * cos, np.full(24, track + y), radius + r * sin], 1) for y in (y0, y1)]
            parts += mirrored(skin(np.stack(rings), albedo=albedo, gloss=0.2))
    return parts


def make_greenhouse(
    rear: float,
    back: float,
    front: float,
    nose: float,
    belt: float,
    roof: float,
    width: float,
    top: float,
    body: float,
    roof_albedo: float,
) -> list[Part]:
    "Windows between the belt line (rear to nose) and the roof (back to front), with pillars."

    def ring(x0: float, x1: float, half: float, z: float) -> np.ndarray:
        return np.array([(x1, half, z), (x0, half, z), (x0, -half, z), (x1, -half, z)])

    glass = skin(
        np.stack([ring(rear, nose, width, belt), ring(back, front, top, roof)]),
        albedo=0.07,
        gloss=0.5,
        flat=True,
    )
    lid = loft(
        [
            (back - 0.02, top * 0.9, roof - 0.01, roof + 0.03),
            (0.5 * (back + front), top * 1.02, roof - 0.03, roof + 0.07),
            (front + 0.02, top * 0.9, roof - 0.01, roof + 0.03),
        ],
        power=5,
        albedo=roof_albedo,
        gloss=0.3,
    )
    posts = [
        ((rear, belt), (back, roof)),
        ((nose, belt), (front, roof)),
        ((0.45 * rear + 0.55 * nose, belt), (0.5 * (back + front), roof)),
    ]
    pillars = [
        p
        for (x0, z0), (x1, z1) in posts
        for p in mirrored(tube([(x0, width, z0), (x1, top, z1)], 0.032, k=6, albedo=body))
    ]
    return [glass, lid, *pillars]


def make_car(
    length: float = 2.3,
    width: float = 0.46,
    floor: float = 0.14,
    belt: float = 0.5,
    bonnet: float = 0.46,
    boot: float = 0.5,
    roof: float = 0.8,
    cabin: tuple = (-0.75, -0.45, 0.22, 0.55),  # rear window's foot and top, windscreen's top and foot
    wheel: float = 0.2,
    axles: tuple = (0.72, -0.7),
    power: float = 4.0,
    body: float = 0.6,
    roof_albedo: float | None = None,
    hub: float = 0.8,
    lower: float = 0.2,
    fenders: bool = False,
    open_top: bool = False,
    bed: tuple | None = None,
    spare: bool = False,
    spoiler: bool = False,
) -> list[Part]:
    "Car from the heights and lengths of its outline."
    nose, tail, half = length / 2, -length / 2, width
    line = [
        (tail, 0.82, 0.8 * boot),
        (tail + 0.05, 0.95, 0.97 * boot),
        (cabin[0], 1.0, boot),
        (0.0, 1.02, belt),
        (cabin[3], 1.0, belt),
        (nose - 0.35, 0.97, bonnet),
        (nose - 0.06, 0.9, bonnet * 0.9),
        (nose, 0.78, bonnet * 0.78),
    ]
    parts = [
        loft(
            [(x, half * w, floor + 0.06, z) for x, w, z in line], power=power, k=28, albedo=body, gloss=0.35
        )
    ]
    parts += [
        loft(
            [
                (tail - 0.02, half * 0.9, floor, floor + 0.13),
                (0, half * 1.03, floor - 0.02, floor + 0.12),
                (nose + 0.02, half * 0.86, floor, floor + 0.13),
            ],
            power=6,
            albedo=lower,
        )
    ]
    parts += make_wheels(axles[0], axles[1], half, wheel, 0.16, hub)
    parts += mirrored(
        ellipsoid((nose - 0.03, half * 0.6, bonnet * 0.74), (0.05, 0.09, 0.06), albedo=0.98)
    ) + mirrored(ellipsoid((tail + 0.02, half * 0.68, boot * 0.74), (0.04, 0.08, 0.05), albedo=0.85))
    parts += (
        [
            p
            for x in axles
            for p in mirrored(
                ellipsoid(
                    (x, half * 0.8, wheel * 1.1),
                    (wheel * 1.75, half * 0.3, wheel * 1.3),
                    albedo=body,
                    gloss=0.35,
                )
            )
        ]
        if fenders
        else []
    )
    parts += [box((nose, 0, bonnet * 0.66), (0.03, half * 0.8, 0.07), albedo=0.1)]
    if open_top:
        screen = plate(
            [
                (cabin[3], half * 0.85, belt),
                (cabin[3], -half * 0.85, belt),
                (cabin[2], -half * 0.7, roof),
                (cabin[2], half * 0.7, roof),
            ],
            (0.03, 0, 0.0),
            albedo=0.35,
            gloss=0.5,
        )
        seats = [
            box((-0.1, y, belt + 0.06), (0.12, 0.24, 0.28), taper=0.8, albedo=0.15) for y in (-0.2, 0.2)
        ]
        parts += [screen, box((-0.05, 0, belt), (0.75, half * 1.5, 0.05), albedo=0.08), *seats]
    else:
        parts += make_greenhouse(
            *cabin,
            belt - 0.02,
            roof,
            half * 0.93,
            half * 0.76,
            body,
            body if roof_albedo is None else roof_albedo,
        )
    if bed:
        parts += [
            box(
                (0.5 * (bed[0] + bed[1]), 0, boot + 0.005), (bed[1] - bed[0], half * 1.6, 0.03), albedo=0.06
            ),
            *mirrored(
                box(
                    (0.5 * (bed[0] + bed[1]), half * 0.93, boot + 0.05),
                    (bed[1] - bed[0], 0.07, 0.12),
                    albedo=body,
                )
            ),
        ]
    parts += [ellipsoid((tail - 0.06, 0, 0.42), (0.09, 0.21, 0.21), albedo=0.06)] if spare else []
    return parts + (
        [
            box((tail + 0.08, 0, boot + 0.16), (0.2, half * 2.0, 0.03), albedo=body),
            *mirrored(box((tail + 0.1, half * 0.7, boot + 0.08), (0.08, 0.03, 0.16), albedo=body)),
        ]
        if spoiler
        else []
    )


CARS = {
    "sedan": dict(body=0.55),
    "hatchback": dict(
        length=1.9,
        belt=0.54,
        boot=0.56,
        bonnet=0.5,
        roof=0.9,
        cabin=(-0.9, -0.72, 0.15, 0.48),
        axles=(0.6, -0.6),
        wheel=0.19,
        body=0.85,
    ),
    "sports": dict(
        length=2.3,
        width=0.5,
        floor=0.1,
        belt=0.42,
        boot=0.46,
        bonnet=0.38,
        roof=0.64,
        cabin=(-0.8, -0.35, 0.05, 0.5),
        wheel=0.18,
        axles=(0.76, -0.72),
        power=3,
        body=0.3,
        hub=0.9,
        spoiler=True,
        fenders=True,
    ),
    "roadster": dict(
        length=2.1,
        belt=0.46,
        boot=0.46,
        bonnet=0.44,
        roof=0.68,
        cabin=(-0.6, -0.4, 0.22, 0.36),
        axles=(0.66, -0.64),
        power=3,
        body=0.92,
        open_top=True,
    ),
    "jeep": dict(
        length=1.95,
        width=0.5,
        floor=0.26,
        belt=0.66,
        boot=0.66,
        bonnet=0.64,
        roof=1.08,
        cabin=(-0.92, -0.88, 0.2, 0.3),
        wheel=0.27,
        axles=(0.62, -0.6),
        power=9,
        body=0.4,
        lower=0.12,
        hub=0.6,
        spare=True,
    ),
    "van": dict(
        length=2.3,
        width=0.5,
        floor=0.16,
        belt=0.66,
        boot=0.66,
        bonnet=0.6,
        roof=1.18,
        cabin=(-1.12, -1.08, 0.72, 0.96),
        axles=(0.74, -0.72),
        power=7,
        body=0.78,
        roof_albedo=0.95,
        lower=0.5,
    ),
    "pickup": dict(
        length=2.6,
        width=0.5,
        floor=0.22,
        belt=0.6,
        boot=0.58,
        bonnet=0.57,
        roof=0.98,
        cabin=(-0.2, -0.14, 0.34, 0.58),
        wheel=0.25,
        axles=(0.84, -0.78),
        power=7,
        body=0.7,
        hub=0.5,
        bed=(-1.24, -0.26),
    ),
    "beetle": dict(
        length=1.95,
        width=0.42,
        belt=0.5,
        boot=0.46,
        bonnet=0.46,
        roof=0.86,
        cabin=(-0.75, -0.35, 0.12, 0.42),
        wheel=0.22,
        axles=(0.62, -0.62),
        power=2.2,
        body=0.24,
        roof_albedo=0.24,
        hub=0.95,
        lower=0.5,
        fenders=True,
    ),
}
