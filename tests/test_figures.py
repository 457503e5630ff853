"""Figures: what is drawn, and what is refused."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pytest

matplotlib.use("Agg")
from migvis.figures import Grid, plot_guidance, style

rng = np.random.default_rng(0)


def example(n=2, groups=3, gammas=(0.0, 1.0, 2.0)):
    return dict(originals=rng.random((n, 1, 8, 8)), targets=rng.random((n, 1, 8, 8)), images=rng.random((n, groups, len(gammas), 1, 8, 8)),
                gammas=gammas, groups=[f"g{i}" for i in range(groups)], caption="random pixels")


def pictures(figure): return [ax for ax in figure.axes if ax.images]


@pytest.mark.parametrize("n, groups, gammas", [(1, 1, (1.0,)), (2, 3, (0.0, 1.0, 2.0)), (3, 4, (0.0, 5.0)), (1, 2, (0.0,))])
def test_guidance_figure_shows_every_picture_once(n, groups, gammas):
    data = example(n, groups, gammas)
    figure = plot_guidance(**data)
    guided, trips = sum(g > 0 for g in gammas), min(1, sum(g == 0 for g in gammas))
    assert len(pictures(figure)) == n * (1 + trips + groups * guided + 1)
    shown = [ax.images[0].get_array() for ax in pictures(figure)]
    for wanted in [*data["originals"], *data["targets"], *(data["images"][:, :, k].reshape(-1, 1, 8, 8) for k, g in enumerate(gammas) if g > 0)]:
        for picture in np.reshape(wanted, (-1, 8, 8)): assert any(np.allclose(picture, s) for s in shown)
    texts = " ".join(t.get_text() for t in figure.texts)
    assert "random pixels" in texts and "g0" in texts
    plt.close(figure)


def test_pictures_are_square_and_do_not_overlap():
    figure = plot_guidance(**example(3, 4))
    boxes = [ax.get_position() for ax in pictures(figure)]
    width, height = figure.get_size_inches()
    for box in boxes: assert box.width * width == pytest.approx(box.height * height, rel=1e-6) and 0 <= box.x0 and box.x1 <= 1 and box.y0 >= 0
    for i, a in enumerate(boxes):
        for b in boxes[:i]: assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    plt.close(figure)


def test_wrong_shapes_are_refused():
    data = example()
    with pytest.raises(ValueError, match=r"\(2, 3, 3, 1, H, W\), got \(2, 2, 3"): plot_guidance(**data | {"images": data["images"][:, :2]})


def test_style_is_local():
    before = plt.rcParams["axes.spines.top"]
    with style(): assert plt.rcParams["axes.spines.top"] is False
    assert plt.rcParams["axes.spines.top"] == before


def test_grid_columns_follow_each_other():
    grid = Grid(1, (2, 3))
    edges = [grid.left(0, 0), grid.left(0, 1), grid.left(1, 0), grid.left(1, 2)]
    assert edges == sorted(edges) and edges[2] - edges[1] > grid.cell + grid.gap and edges[3] + grid.cell < grid.size[0]
