"""Parts of which the simulated objects are made: closed surfaces over stacks of rings."""

from collections.abc import Iterable
from dataclasses import dataclass, replace

import numpy as np

from migvis.simulate.renderer import _plane_rotation


@dataclass(frozen=True)
class Part:
    "A piece of an object: triangles that look outwards, with an albedo and a gloss at each vertex."

    vertices: np.ndarray  # (v, 3)
    faces: np.ndarray  # (f, 3) vertex indices
    albedo: np.ndarray  # (v,) reflectance, 0 to 1
    gloss: np.ndarray  # (v,) strength of the highlight, 0 to 1

    def moved(self, offset: tuple[float, float, float]) -> "Part":
        "The same part, somewhere else."
        return replace(self, vertices=self.vertices + np.asarray(offset))


def ring_faces(m: int, k: int) -> np.ndarray:
    "Triangles of a closed strip of quadrilaterals between m rings of k points."
    row, column = np.meshgrid(np.arange(m - 1), np.arange(k), indexing="ij")
    right = (column + 1) % k
    a, b, c, d = row * k + column, row * k + right, (row + 1) * k + column, (row + 1) * k + right
    return np.concatenate([np.stack([a, b, d], -1), np.stack([a, d, c], -1)]).reshape(-1, 3)


def make_lids(rings: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    "Lids over the first and the last ring, as fans around their centres, with vertices of their own."
    m, k = rings.shape[:2]
    points = np.concatenate([rings[0], rings[0].mean(0)[None], rings[-1], rings[-1].mean(0)[None]])
    this, following = np.arange(k), (np.arange(k) + 1) % k
    first = np.stack([this, np.full(k, k), following], 1)
    last = np.stack([this, following, np.full(k, k)], 1) + k + 1
    return points, np.concatenate([first, last]) + m * k


def skin(
    rings: np.ndarray,  # (m, k, 3) m closed rings of k points
    albedo: float | np.ndarray = 0.6,  # one value, or (m, k) a value per point
    gloss: float = 0.0,
    flat: bool = False,  # facets instead of smooth shading
) -> Part:
    "Closed surface over a stack of rings. Whichever way the rings run, the triangles look outwards."
    rings = np.asarray(rings, dtype=float)
    m, k = rings.shape[:2]
    lids, lid_faces = make_lids(rings)
    vertices = np.concatenate([rings.reshape(-1, 3), lids])
    faces = np.concatenate([ring_faces(m, k), lid_faces])
    colour = np.broadcast_to(np.asarray(albedo, dtype=float), (m, k))
    colour = np.concatenate([colour.ravel(), colour[0], colour[0, :1], colour[-1], colour[-1, :1]])
    corners = vertices[faces] - vertices.mean(0)
    if np.einsum("fi,fi->", corners[:, 0], np.cross(corners[:, 1], corners[:, 2])) < 0:
        faces = faces[:, ::-1]
    if flat:
        vertices, colour, faces = (
            vertices[faces.ravel()],
            colour[faces.ravel()],
            np.arange(faces.size).reshape(-1, 3),
        )
    return Part(vertices, faces, colour, np.full(len(vertices), float(gloss)))


def circle(k: int) -> tuple[np.ndarray, np.ndarray]:
    "Cosine and sine of k angles around a circle."
    angle = np.arange(k) * 2 * np.pi / k
    return np.cos(angle), np.sin(angle)


def lathe(
    profile: Iterable[tuple],  # (radius, height) from bottom to top; a repeated point makes a sharp edge
    centre: tuple[float, float, float] = (0, 0, 0),
    stretch: tuple[float, float] = (1, 1),  # of the circles along x and y
    k: int = 20,
    **look,  # albedo, gloss, flat
) -> Part:
    "Body of revolution around the z axis."
    radius, height = np.asarray(list(profile), dtype=float).T
    cos, sin = circle(k)
    rings = np.stack(
        [
            radius[:, None] * cos * stretch[0],
            radius[:, None] * sin * stretch[1],
            np.repeat(height[:, None], k, 1),
        ],
        -1,
    )
    return skin(rings + np.asarray(centre), **look)


def ellipsoid(
    centre: tuple[float, float, float],
    radii: float | tuple[float, float, float],
    turn: tuple[float, float, float] = (0, 0, 0),  # yaw (to the left), pitch (nose down), roll in degrees
    m: int = 11,
    k: int = 18,
    **look,
) -> Part:
    "Ellipsoid, or sphere if `radii` is a number."
    polar = np.linspace(-np.pi / 2, np.pi / 2, m)
    cos, sin = circle(k)
    unit = np.stack(
        [
            np.cos(polar)[:, None] * cos,
            np.cos(polar)[:, None] * sin,
            np.repeat(np.sin(polar)[:, None], k, 1),
        ],
        -1,
    )
    rings = unit * np.broadcast_to(np.asarray(radii, dtype=float), 3)
    rotate = (
        _plane_rotation(0, 1, turn[0]) @ _plane_rotation(2, 0, turn[1]) @ _plane_rotation(1, 2, turn[2])
    )
    return skin(rings @ rotate.T + np.asarray(centre), **look)


def loft(
    sections: Iterable[tuple],  # (x, half width, bottom z, top z) along x
    power: float = 2.0,  # 2 gives ellipses, 4 rounded boxes, 8 boxes
    k: int = 20,
    **look,
) -> Part:
    "Superelliptic cross-sections along the x axis: bodies of cars, planes, animals."
    x, width, low, high = np.asarray(list(sections), dtype=float).T
    cos, sin = circle(k)
    round_cos, round_sin = (np.sign(t) * np.abs(t) ** (2 / power) for t in (cos, sin))
    y = width[:, None] * round_cos
    z = (low + high)[:, None] / 2 + (high - low)[:, None] / 2 * round_sin
    return skin(np.stack([np.repeat(x[:, None], k, 1), y, z], -1), **look)


def tube(
    path: Iterable[tuple[float, float, float]],  # points of the middle line
    radii: float | Iterable[float],
    k: int = 10,
    **look,
) -> Part:
    "Round tube along a path: legs, tails, masts, bananas."
    path = np.asarray(list(path), dtype=float)
    radii = np.broadcast_to(np.asarray(radii, dtype=float), len(path))
    tangent = np.gradient(path, axis=0)
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True)
    side = np.cross(tangent[0], np.eye(3)[np.argmin(np.abs(tangent[0]))])
    cos, sin = circle(k)
    rings = []
    for point, along, radius in zip(path, tangent, radii):
        side = side - along * (side @ along)
        side = side / np.linalg.norm(side)
        rings.append(point + radius * (cos[:, None] * side + sin[:, None] * np.cross(along, side)))
    return skin(np.stack(rings), **look)


def plate(
    outline: Iterable[tuple[float, float, float]],  # corners of a plane, star-shaped outline
    thickness: tuple[float, float, float],  # vector from one face to the other
    **look,
) -> Part:
    "Flat slab of any outline: wings, fins, sails, table tops."
    outline, half = np.asarray(list(outline), dtype=float), np.asarray(thickness, dtype=float) / 2
    return skin(np.stack([outline - half, outline + half]), flat=True, **look)


def box(
    centre: tuple[float, float, float],
    size: tuple[float, float, float],
    taper: float = 1.0,  # size of the top relative to the bottom
    **look,
) -> Part:
    "Box with its sides along the axes."
    corners = np.array([(1, 1), (-1, 1), (-1, -1), (1, -1)]) / 2 * np.asarray(size)[:2]
    bottom = np.column_stack([corners, np.full(4, -size[2] / 2)])
    top = np.column_stack([corners * taper, np.full(4, size[2] / 2)])
    return skin(np.stack([bottom, top]) + np.asarray(centre), flat=True, **look)


def mirrored(part: Part) -> list[Part]:  # the part and its mirror image
    "A part and its counterpart on the other side of the object (y to -y)."
    flip = np.array([1.0, -1.0, 1.0])
    return [part, replace(part, vertices=part.vertices * flip, faces=part.faces[:, ::-1])]
