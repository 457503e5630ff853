"""Build the meshes of the 64 simulated objects and write them into the package.

    python -m tools.build_objects [FILE]

FILE is `migvis/simulate/objects.npz` by default. What an object looks like stands in `tools/objects`, one
module for each kind of object; `tools/objects/parts.py` holds the shapes that all of them are made of. After a
change raise `_RENDERER` in `nbs/simulate/02_images.ipynb`, so that older pictures are not used any more.
"""

import sys
from importlib.resources import files

import numpy as np
from tqdm.auto import tqdm

from migvis.simulate.objects import _vertex_normals, object_names
from migvis.simulate.renderer import _embree, _standard_size, _trace, rotation_matrix
from tools.objects import animals, boats, cars, faces, fruits, furniture, planes
from tools.objects.parts import Part

BUILDERS = {  # category: function, its arguments for each object, yaw and pitch of the canonical view
    "Animals": (animals.make_animal, animals.ANIMALS, (58, 10)),
    "Boats": (boats.make_boat, boats.BOATS, (62, 14)),
    "Cars": (cars.make_car, cars.CARS, (52, 16)),
    "Chairs": (furniture.make_chair, furniture.CHAIRS, (38, 14)),
    "Faces": (faces.make_face, faces.FACES, (0, 0)),
    "Fruits": (fruits.make_fruit, fruits.FRUITS, (0, 14)),
    "Planes": (planes.make_plane, planes.PLANES, (48, 26)),
    "Tables": (furniture.make_table, furniture.TABLES, (32, 20)),
}


def sky_directions(n: int) -> np.ndarray:
    "n directions around +z, spread by the cosine law (Fibonacci spiral)."
    angle, height = np.arange(n) * np.pi * (3 - np.sqrt(5)), np.sqrt(1 - (np.arange(n) + 0.5) / n)
    side = np.sqrt(1 - height**2)
    return np.stack([side * np.cos(angle), side * np.sin(angle), height], 1)


def ambient_occlusion(vertices: np.ndarray, normals: np.ndarray, faces: np.ndarray,
                       n_rays: int = 20) -> np.ndarray:
    # -> (v,) 1 where the whole hemisphere is open, 0 where nothing is
    "Share of the hemisphere above each vertex from which light can come."
    size = np.ptp(vertices, axis=0).max()
    across = np.where(np.abs(normals[:, :1]) < 0.6, [[1.0, 0, 0]], [[0, 1.0, 0]])
    side = np.cross(normals, across)
    side /= np.maximum(np.linalg.norm(side, axis=1, keepdims=True), 1e-9)
    frame = np.stack([side, np.cross(normals, side), normals], 1)
    rays = np.einsum("rk,vkj->vrj", sky_directions(n_rays), frame)
    start = np.repeat((vertices + 4e-3 * size * normals)[:, None], n_rays, 1)
    hit = _trace(_embree(vertices, faces), start.reshape(-1, 3), rays.reshape(-1, 3), output=1)
    distance = np.where(hit["primID"] >= 0, hit["tfar"], np.inf).reshape(-1, n_rays)
    return np.minimum(distance / (0.6 * size), 1.0).mean(1) ** 0.8


def assemble(parts: list[Part], view: tuple[float, float]) -> dict[str, np.ndarray]:
    "One mesh from parts (x forward, y left, z up), in the canonical view and of standard size."
    starts = np.cumsum([0] + [len(part.vertices) for part in parts])
    faces = np.concatenate([part.faces + start for part, start in zip(parts, starts)])
    turn = rotation_matrix(*view) @ np.diag([-1.0, -1.0, 1.0])
    vertices = _standard_size(np.concatenate([part.vertices for part in parts]) @ turn.T)
    normals = np.concatenate([_vertex_normals(part.vertices, part.faces) for part in parts]) @ turn.T
    return {
        "vertices": vertices,  # in full precision: what simulated units respond to is measured on them
        "faces": faces.astype(np.uint16),
        "albedo": np.concatenate([part.albedo for part in parts]),
        "gloss": np.concatenate([part.gloss for part in parts]).astype(np.float32),
        "occlusion": ambient_occlusion(vertices, normals, faces).astype(np.float32),
    }


def build_object(category: str, name: str) -> dict[str, np.ndarray]:
    "The arrays of one object, as `migvis.simulate.objects.make_object` reads them."
    build, table, view = BUILDERS[category]
    return assemble(build(**table[name.removesuffix(f"_{category[:-1].lower()}")]), view)


def main() -> None:
    path = sys.argv[1] if len(sys.argv) > 1 else files("migvis") / "simulate" / "objects.npz"
    arrays = {}
    for category, name in tqdm(list(object_names().itertuples(index=False))):
        arrays |= {f"{name}/{key}": array for key, array in build_object(category, name).items()}
    np.savez_compressed(path, **arrays)


if __name__ == "__main__":
    main()
