"""Rendering speed of `migvis.simulate`: images per second, and how much several processes gain.

    python benchmarks/rendering.py [--images 2000] [--workers 2] [--alone]

With --alone one process, in its processor time: for a machine that is busy with other things.
"""
import argparse
import time

import numpy as np

from migvis.simulate.objects import make_object, object_names
from migvis.simulate.images import render_labels, sample_labels


def speed(n_images: int, size: int, workers: int, background: str = "none", clock=time.perf_counter) -> float:
    "Images per second for fresh pictures, with the processes already started."
    render_labels(sample_labels(64 * workers), 16, workers=workers, progress=False)
    start = clock()
    render_labels(sample_labels(n_images, seed=1), size, background, workers=workers, progress=False)
    return n_images / (clock() - start)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--images", type=int, default=2000, help="images at 64 x 64; a quarter as many at 128 x 128")
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--alone", action="store_true", help="one process, in processor time")
    arguments = parser.parse_args()

    start = time.perf_counter()
    faces = [len(make_object(name).faces) for name in object_names()["object"]]
    print(f"64 objects read in {time.perf_counter() - start:.1f} s, {np.median(faces):.0f} triangles in the median, {max(faces)} at most")
    kinds = ((64, arguments.images, "none"), (64, arguments.images, "natural"), (128, arguments.images // 4, "none"))
    if arguments.alone:
        for size, n_images, background in kinds:
            print(f"{size:>5} {background:>11} {speed(n_images, size, 1, background, time.process_time):>8.0f} images a second of processor time", flush=True)
        return
    print(f"{'size':>5} {'background':>11} {'1 process':>14} {f'{arguments.workers} processes':>16} {'ratio':>6}")
    for size, n_images, background in kinds:
        one, many = (speed(n_images, size, workers, background) for workers in (1, arguments.workers))
        print(f"{size:>5} {background:>11} {one:>8.0f} img/s {many:>10.0f} img/s {many / one:>6.2f}")


if __name__ == "__main__":
    main()
