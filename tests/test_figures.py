"""Figures: what is drawn, where, and what is refused."""
import matplotlib
import matplotlib.pyplot as plt
import numpy as np
import pandas as pd
import pytest

matplotlib.use("Agg")
from migvis import figures
from migvis.figures import _colour, _join_pictures, plot_guidance, plot_table, style

SIDE = 8
rng = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def closed():
    yield
    plt.close("all")


def example(n=2, groups=3, gammas=(0.0, 1.0, 2.0)):
    "Arguments of `plot_guidance`: random pictures."
    return dict(originals=rng.random((n, 1, SIDE, SIDE)), targets=rng.random((n, 1, SIDE, SIDE)), gammas=gammas,
                images=rng.random((n, groups, len(gammas), 1, SIDE, SIDE)), caption="random pixels",
                groups=[f"g{i}" for i in range(groups)])


def pictures(figure, side=SIDE):
    "All pictures of a figure: grids are cut apart, empty places left out."
    found, step = [], side + max(1, side // 24)
    for array in (np.asarray(image.get_array()) for ax in figure.axes for image in ax.images):
        cells = [array[y:y + side, x:x + side] for y in range(0, array.shape[0], step) for x in range(0, array.shape[1], step)]
        found += [cell for cell in cells if np.isfinite(cell).all()]
    return found


def written(figure):
    "All texts of a figure that are not empty, those in cells of tables too."
    cells = [cell.get_text() for ax in figure.axes for table in ax.tables for cell in table.get_celld().values()]
    return [text for text in figure.findobj(matplotlib.text.Text) + cells if text.get_text().strip()]


def texts(figure): return [text.get_text() for text in written(figure)]


@pytest.mark.parametrize("shape", [(5, 1, 8, 8), (1, 1, 8, 8), (4, 3, 8, 8)])
def test_joined_pictures_can_be_cut_apart(shape):
    images = rng.random(shape).astype(np.float32)
    joined = _join_pictures(images, 2)
    assert joined.ndim == (3 if shape[1] == 3 else 2)
    for k, image in enumerate(images):
        row, column = divmod(k, 2)
        part = joined[9 * row:9 * row + 8, 9 * column:9 * column + 8]
        np.testing.assert_array_equal(part, np.moveaxis(image, 0, -1).squeeze())


@pytest.mark.parametrize("n, groups, gammas", [(1, 1, (1.0,)), (3, 4, (0.0, 1.0, 5.0)), (1, 2, (0.0,)), (2, 3, (-1.0, 0.0, 1.0))])
def test_guidance_figure_shows_every_picture_once(n, groups, gammas):
    data = example(n, groups, gammas)
    figure = plot_guidance(**data)
    guided = [k for k, gamma in enumerate(gammas) if gamma] or [0]
    wanted = [*data["originals"], *data["targets"], *data["images"][:, :, guided].reshape(-1, 1, SIDE, SIDE)]
    if 0.0 in gammas: wanted += list(data["images"][:, 0, gammas.index(0.0)])
    shown = pictures(figure)
    assert len(shown) == len(wanted) and {"random pixels", "g0", "original", "target"} <= set(texts(figure))
    for picture in wanted: assert min(np.abs(picture[0] - other).max() for other in shown) < 1e-6


def test_guidance_figure_along_a_direction_has_no_targets():
    figure = plot_guidance(**example(2, 3, (-1.0, 0.0, 1.0)) | {"targets": None})
    assert "target" not in texts(figure) and len(pictures(figure)) == 2 * (1 + 1 + 3 * 2)


def test_pictures_keep_their_shape_and_do_not_overlap():
    figure = plot_guidance(**example(3, 4))
    figure.canvas.draw()
    boxes = [ax.get_window_extent() for ax in figure.axes]
    for i, (ax, box) in enumerate(zip(figure.axes, boxes)):
        height, width = np.asarray(ax.images[0].get_array()).shape[:2]
        assert box.width / box.height == pytest.approx(width / height, rel=1e-3)
        assert min(box.x0, box.y0) >= 0 and box.x1 <= figure.bbox.x1 and box.y1 <= figure.bbox.y1
        for other in boxes[:i]: assert not box.overlaps(other)


def test_wrong_shapes_are_refused():
    data = example()
    with pytest.raises(ValueError, match=r"\(2, 3, 3\).*got \(2, 2, 3"): plot_guidance(**data | {"images": data["images"][:, :2]})
    with pytest.raises(ValueError, match="each of the 2 columns, got \\[3\\]"):
        figures.plot_rows([("row", data["images"][0, 0])], ["a", "b"])


def test_style_is_local_and_colours_outlast_it():
    before = plt.rcParams["axes.spines.top"]
    with style():
        assert plt.rcParams["axes.spines.top"] is False
        wanted = plt.rcParams["axes.prop_cycle"].by_key()["color"]
    assert plt.rcParams["axes.spines.top"] == before
    assert [_colour(k).lower().lstrip("#") for k in range(8)] == [c.lower().lstrip("#") for c in wanted]
    assert len({_colour(k) for k in range(20)}) == 20 and _colour(20) == _colour(0)


def test_groups_have_distinct_colours():
    figure = plot_guidance(**example(1, 4))
    labels = [label for ax in figure.axes for label in ax.get_yticklabels() if label.get_text().startswith("g")]
    assert [label.get_color() for label in labels] == [_colour(k) for k in range(4)]


def test_table_holds_every_entry_and_nothing_overlaps():
    columns = pd.MultiIndex.from_tuples([("score", "run"), ("score", "paper"), ("other", "run")])
    rows = pd.MultiIndex.from_tuples([("M1", "a long name of a row"), ("M1", "b"), ("M2", "b")])
    table = pd.DataFrame([["1.00 ± 0.10", "2.00", 0.123], ["3.00", "4.00", 4.5], ["5.00", "6.00", 7.0]], rows, columns)
    figure = plot_table(table, "Title", "a caption")
    shown = texts(figure)
    assert {"Title", "a caption", "1.00 ± 0.10", "0.12", "4.50", "a long name of a row", "score\npaper", "other\nrun"} <= set(shown)
    assert shown.count("M1") == 1 and shown.count("b") == 2, "what is shared stands once"
    figure.canvas.draw()
    renderer, entries = figure.canvas.get_renderer(), figure.axes[0].tables[0].get_celld().values()
    boxes = [(e.get_text().get_text(), e.get_text().get_window_extent(renderer)) for e in entries if e.get_text().get_text()]
    for i, (name, box) in enumerate(boxes):
        for other, second in boxes[:i]: assert not box.overlaps(second), (name, other)
    with pytest.raises(ValueError, match="empty"): plot_table(table[:0])


def test_pixel_information_has_a_scale_for_each_row_and_refuses_other_images():
    images, maps = rng.random((2, 1, SIDE, SIDE)), rng.random((2, 1, SIDE, SIDE))
    total = maps.sum((1, 2, 3))
    figure = figures.plot_pixel_information(images, {"a": (maps, total), "b": (maps / 100, total / 100)})
    shown = pictures(figure)
    for a, b in zip(shown, [*images, *maps, *maps / 100]): np.testing.assert_allclose(a, b[0], rtol=1e-6)
    tops = [ax.images[0].get_clim()[1] for ax in figure.axes]
    assert tops[1] == pytest.approx(100 * tops[2]) and f"{total[0]:.2f} nats" in texts(figure)
    for bad in [(maps[:1], np.zeros(1)), (maps[..., :4], np.zeros(2)), (maps, np.zeros(3))]:
        with pytest.raises(ValueError, match="'a': maps"): figures.plot_pixel_information(images, {"a": bad})


def test_cells_whose_interval_includes_0_are_faded():
    values = pd.DataFrame([[0.8, 0.1], [0.2, 0.9]], ["g1", "g2"], ["pose", "category"])
    faded = np.array([[False, True], [False, False]])
    ax = figures.plot_matrix({"all": values}, "share", faded={"all": faded}).axes[0]
    alpha = np.reshape(ax.collections[0].get_alpha(), (2, 2))
    assert alpha[0, 1] < 0.5 and (alpha[~faded] == 1).all()
    assert [t.get_text() for t in ax.texts] == ["0.80", "0.10", "0.20", "0.90"] and ax.texts[1].get_color() == "0.55"


ODD = r"a $\frac{ b$"


def every_figure():
    "Each figure once, with a name that would be a formula."
    images = rng.random((4, 1, SIDE, SIDE))
    intervals = pd.DataFrame({"group": [ODD] * 2, "value": [1.0, 0.5], "low": 0.1, "high": 1.2})
    table = pd.DataFrame({ODD: rng.random(6), "b": rng.random(6), "kind": [ODD, "x"] * 3, "angle": rng.normal(size=6)})
    z = pd.DataFrame(5 * rng.random((6, 2)), columns=[ODD, "b"])
    shares = intervals.assign(versions=ODD, attribute="together", quantity="common")
    null = pd.concat([intervals.assign(attribute=a, fit=f) for a in ("bound", "size") for f in ("real", "permuted")])
    yield "guidance", plot_guidance(**example(1, 2) | {"groups": [ODD, "b"], "caption": ODD})
    yield "examples", figures.plot_examples(images, [ODD, ODD, "x", "y"], 1, caption=ODD)
    yield "mixed", figures.plot_mixed_selectivity(z, ODD)
    yield "rows", figures.plot_rows([(ODD, images)], [ODD] * 4, [("a", images[0])], [("b", images[0])], ODD, ODD)
    yield "manifolds", figures.plot_manifolds(table, [(ODD, "b")], ["kind", "angle"], ODD)
    yield "reconstructions", figures.plot_reconstructions(images[:1, 0, 0], images[1:2, 0, 0], [ODD], ODD)
    yield "matrix", figures.plot_matrix({ODD: pd.DataFrame([[0.1]], index=[ODD], columns=[ODD])}, ODD, caption=ODD)
    yield "table", plot_table(pd.DataFrame({ODD: [ODD]}, index=[ODD]), ODD, ODD)
    yield "pixels", figures.plot_pixel_information(images, {ODD: (images, np.ones(4))}, caption=ODD)
    yield "method", figures.plot_method(images, images, range(4), rng.random((9, 9)), 2.0, rng.random((2, 2)), (ODD, "b"), ODD)
    yield "consistency", figures.plot_consistency(shares, intervals.assign(gamma=[0, 1]), ODD)
    yield "null", figures.plot_null(null, ODD)
    yield "recorded", figures._plot_recorded(images, rng.normal(size=(4, 9)), [ODD] * 4, ODD)
    yield "bars", figures._plot_bars(intervals.assign(method=[ODD, "b"], quantity="reached"), "method", ODD)


def test_every_figure_fits_a_page_is_legible_and_draws_names_as_text(tmp_path):
    for name, figure in every_figure():
        assert figure.get_figwidth() <= 7.2 and figure.dpi == 144, name
        figure.canvas.draw()
        assert [t.get_text() for t in written(figure) if t.get_fontsize() < 8] == [], name
        for kind in ("png", "pdf"): figure.savefig(tmp_path / f"{name}.{kind}") # outside the style, too
        odd = [text for text in written(figure) if "frac" in text.get_text()]
        assert odd and not any(text.get_parse_math() for text in odd), name
        plt.close(figure)


def test_units_are_joined_to_what_they_tell_most_about():
    z = pd.DataFrame({"a": [20.0, 9.0, 4.0, 0.0], "b": [0.0, 5.0, 2.9, 10.0]})
    figure = figures.plot_mixed_selectivity(z, "made up")
    joined = {(round(3 * line.get_xdata()[0]), "ab"[int(line.get_xdata()[1] > 0.5)]) for line in figure.axes[0].lines}
    assert joined == {(0, "a"), (1, "b"), (3, "b")}, "half of the best unit's score or more"
    widths = sorted(line.get_linewidth() for line in figure.axes[0].lines)
    assert widths == pytest.approx([2.5 / 4, 2.5, 2.5])
    assert any("4 units; 1 tell about more than one attribute" in text and "made up" in text for text in (t.replace("\n", " ") for t in texts(figure)))


def test_responses_stand_below_their_images():
    images, responses = rng.random((3, 1, SIDE, SIDE)), rng.normal(size=(3, 5))
    figure = figures._plot_recorded(images, responses, list("abc"))
    heat = next(ax for ax in figure.axes if ax.images and np.shape(ax.images[0].get_array()) == (5, 3))
    np.testing.assert_array_equal(heat.images[0].get_array(), responses.T)
    grid = figure.axes[0].get_position()
    assert grid.x0 == pytest.approx(heat.get_position().x0) and grid.x1 == pytest.approx(heat.get_position().x1)
    for a, b in zip(pictures(figure), images): np.testing.assert_allclose(a, b[0], rtol=1e-6)


def test_bars_are_as_long_as_their_values_and_do_not_overlap():
    keys = [(g, m, q) for g in ("g1", "g2") for m in ("one", "two") for q in ("reached", "kept")]
    table = pd.DataFrame(keys, columns=["group", "method", "quantity"]).assign(value=rng.random(8))
    figure = figures._plot_bars(table.assign(low=table["value"] - 0.1, high=table["value"] + 0.2), "method")
    for ax, (group, rows) in zip(figure.axes, table.groupby("group")):
        bars = [bar for container in ax.containers if hasattr(container, "patches") for bar in container.patches]
        assert sorted(bar.get_width() for bar in bars) == pytest.approx(sorted(rows["value"]))
        edges = sorted((bar.get_y(), bar.get_y() + bar.get_height()) for bar in bars)
        assert all(a[1] <= b[0] + 1e-9 for a, b in zip(edges, edges[1:]))
    assert {"one", "two", "reached", "kept", "g1", "g2"} <= set(texts(figure))


def test_methods_of_other_lengths_are_refused():
    images = rng.random((4, 1, SIDE, SIDE))
    with pytest.raises(ValueError, match="got 3, 4, 4"):
        figures.plot_method(images[:3], images, range(4), rng.random((9, 9)), 2.0, rng.random((2, 2)))


def test_every_style_of_the_library_draws_names_as_text():
    from migvis.compare.methods import _draw_blocks
    with figures.style(): assert not matplotlib.rcParams["text.parse_math"]
    figure = _draw_blocks({ODD: [[(rng.random((1, SIDE, SIDE)), ODD)]]}, [ODD], ODD)
    figure.canvas.draw()
