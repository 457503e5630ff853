"""Figures: what is drawn, and what is refused."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
from migvis import figures
from migvis.figures import Grid, colour, plot_guidance, plot_overview, plot_pixel_information, plot_table, style

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


def test_guidance_figure_along_a_direction_has_no_targets():
    data = example(2, 3, (-1.0, 0.0, 1.0)) | {"targets": None}
    figure = plot_guidance(**data)
    assert len(pictures(figure)) == 2 * (1 + 1 + 3 * 2) and not any(ax.get_title() == "target" for ax in figure.axes)
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


def test_colours_are_those_of_the_style_after_it_ended():
    with style(): wanted = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert [colour(k).lower() for k in range(8)] == ["#" + c.lower().lstrip("#") for c in wanted] and colour(8) == colour(0)
    figure = plot_guidance(**example(1, 2))
    assert {line.get_color() for line in figure.artists if hasattr(line, "get_color")} >= {colour(0), colour(1)}
    plt.close(figure)


def test_table_holds_every_entry_and_nothing_overlaps():
    columns = pd.MultiIndex.from_tuples([("score", "run"), ("score", "paper"), ("other", "run")])
    rows = pd.MultiIndex.from_tuples([("M1", "a long name of a row"), ("M1", "b"), ("M2", "b")])
    table = pd.DataFrame([["1.00 ± 0.10", "2.00", 0.123], ["3.00", "4.00", 4.5], ["5.00", "6.00", 7.0]], rows, columns)
    figure = plot_table(table, "Title", "a caption")
    shown = [t.get_text() for t in figure.axes[0].texts]
    assert {"Title", "a caption", "1.00 ± 0.10", "0.12", "4.50", "a long name of a row", "score", "other"} <= set(shown)
    assert shown.count("score") == 1 and shown.count("M1") == 1 and shown.count("b") == 2, "what is shared stands once"
    renderer = figure.canvas.get_renderer()
    boxes = [t.get_window_extent(renderer) for t in figure.axes[0].texts if t.get_text()]
    for i, a in enumerate(boxes):
        for b in boxes[:i]: assert not a.overlaps(b), (a, b)
    assert min(b.x0 for b in boxes) >= 0 and max(b.x1 for b in boxes) <= figure.bbox.width
    with pytest.raises(ValueError, match="empty"): plot_table(table[:0])
    assert {t.get_text() for t in plot_table(pd.DataFrame({"x": [1.0]}, ["r"])).axes[0].texts} >= {"x", "r", "1.00"}
    plt.close("all")


def test_pixel_information_refuses_other_images():
    images, maps = rng.random((2, 1, 8, 8)), rng.random((2, 1, 8, 8))
    assert len(pictures(plot_pixel_information(images, {"a": (maps, maps.sum((1, 2, 3)))}))) == 4
    for bad in [(maps[:1], np.zeros(1)), (maps[..., :4], np.zeros(2)), (maps, np.zeros(3))]:
        with pytest.raises(ValueError, match="'a': maps"): plot_pixel_information(images, {"a": bad})
    plt.close("all")


def test_overview_has_everything_in_its_place():
    recorded = [(rng.random((1, 8, 8)), rng.normal(size=20), f"label {i}") for i in range(3)]
    figure = plot_overview(recorded, rng.random((1, 8, 8)), rng.random((1, 8, 8)), rng.random((4, 2, 1, 8, 8)), (0.0, 1.0), list("abcd"), "random pixels")
    assert len(pictures(figure)) == 3 + 2 + 8
    boxes = [ax.get_position() for ax in figure.axes]
    for i, a in enumerate(boxes):
        assert 0 <= a.x0 and a.x1 <= 1 and 0 <= a.y0 and a.y1 <= 1
        for b in boxes[:i]: assert a.x1 <= b.x0 or b.x1 <= a.x0 or a.y1 <= b.y0 or b.y1 <= a.y0
    assert {"responses of 20 units", "label 2", "d", "random pixels"} <= {t.get_text() for t in figure.texts}
    plt.close(figure)


ODD = r"a $\frac{ b$"


def odd_figures():
    images, bounds = rng.random((4, 1, 8, 8)), pd.DataFrame({"group": [ODD] * 2, "t": [0, 5], "value": [1.0, 0.5], "low": 0.1, "high": 1.2})
    table = pd.DataFrame({ODD: rng.random(6), "b": rng.random(6), "kind": [ODD, "x"] * 3})
    yield "guidance", plot_guidance(**example(1, 2) | {"groups": [ODD, "b"], "caption": ODD})
    yield "examples", figures.plot_examples(images, [ODD, ODD, "x", "y"], 1, caption=ODD)
    yield "mixed", figures.plot_mixed_selectivity(pd.DataFrame(5 * rng.random((6, 2)), columns=[ODD, "b"]), ODD)
    yield "rows", figures.plot_rows([(ODD, images)], [ODD] * 4, [("a", images[0])], [("b", images[0])], ODD, ODD)
    yield "manifolds", figures.plot_manifolds(table, [(ODD, "b")], ["kind"], ODD)
    yield "matrix", figures.plot_matrix(pd.DataFrame([[0.1]], index=[ODD], columns=[ODD]), ODD, caption=ODD)
    yield "table", plot_table(pd.DataFrame({ODD: [ODD]}, index=[ODD]), ODD, ODD)
    yield "information", figures.plot_information(bounds, ODD)
    yield "pixels", plot_pixel_information(images, {ODD: (images, np.ones(4))}, caption=ODD)
    yield "overview", plot_overview([(images[0], rng.random(5), ODD)], images[0], images[1], images[None, :2], (0.0, 1.0), [ODD], ODD)


def test_names_are_drawn_as_text_and_not_as_formulas(tmp_path):
    for name, figure in odd_figures():
        for kind in ("png", "pdf"): figure.savefig(tmp_path / f"{name}.{kind}") # outside the style, too
        assert not any(text.get_parse_math() for text in figure.findobj(matplotlib.text.Text) if ODD in text.get_text()), name
        assert any(ODD in text.get_text() for text in figure.findobj(matplotlib.text.Text)), name
        plt.close(figure)


def test_every_style_of_the_library_draws_names_as_text():
    from migvis.comparison import house_style, picture_table
    with house_style(): assert not matplotlib.rcParams["text.parse_math"]
    figure = picture_table([(ODD, [[(rng.random((1, 8, 8)), ODD)]])], [ODD], ODD)
    figure.canvas.draw()
    plt.close(figure)
