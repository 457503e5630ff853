"""What a recording is made of: arrays, names of rows, columns of tables."""

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.data import Recording
from tests.made import IDS, four, make_recording, named

ROWS = pd.DataFrame(np.arange(12.0).reshape(4, 3), index=IDS)


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"responses": np.zeros((95, 7))}, "96 images but 95 rows of responses.*transpose"),
        ({"responses": np.zeros(96)}, r"\(images, units\)"),
        ({"responses": np.zeros((96, 0))}, r"\(images, units\)"),
        (
            {"responses": np.where(np.arange(96 * 7).reshape(96, 7) == 10, np.nan, 0)},
            "1 NaN or infinite values, first at image 1, unit 3",
        ),
        ({"responses": np.full((96, 7), np.inf)}, "672 NaN or infinite"),
        ({"labels": pd.DataFrame({"category": list("ab")})}, "96 images but 2 rows of labels"),
        ({"labels": pd.DataFrame({"kind": ["a"] * 96})}, r"column 'category'; the columns are \['kind'\]"),
        ({"labels": pd.DataFrame({"category": [0.5] * 96})}, "whole numbers, but holds 0.5"),
        (
            {"labels": pd.DataFrame({"category": [None] + ["a"] * 95})},
            "missing for 1 images, first for image 0",
        ),
        ({"labels": pd.DataFrame({"category": [1.0, np.nan] * 48})}, "missing for 48 images"),
        ({"trials": np.zeros((96, 7))}, "trials must be"),
        ({"trials": np.zeros((96, 6, 8))}, "trials must be"),
        ({"trials": np.full((96, 6, 7), np.inf)}, "infinite"),
        ({"sites": pd.DataFrame({"site_id": [1, 2]})}, "7 units but 2 rows"),
    ],
)
def test_bad_fields_are_refused(changes, message):
    with pytest.raises(ValueError, match=message):
        make_recording(**changes)


def test_whole_number_categories_are_ints():
    assert make_recording(labels={"category": np.arange(96.0) % 8}).labels["category"].dtype == np.int64


@pytest.mark.parametrize(
    "fields, message",
    [
        (dict(responses=np.ones((4, 3)) * 1j), "real numbers, not complex128; take the real part"),
        (dict(trials=np.ones((4, 2, 3)) * 1j), "trials must be real numbers"),
        (dict(responses=np.full((4, 3), "x")), "responses must be real numbers, not <U1"),
        (dict(responses=np.array([[None] * 3] * 3 + [["x"] * 3])), "responses must be real numbers.*convert"),
        (
            dict(responses=pd.DataFrame({"a": pd.array([1, None, 2, 3], "Int64"), "b": 0.5})),
            "1 NaN or infinite values, first at image 1, unit 0",
        ),
        (dict(labels={"category": [0, 1, np.inf, 1]}), "whole numbers, but holds inf"),
        (
            dict(truth={"what": np.array([{}, 1], object)}),
            r"truth\['what'\] holds Python objects.*give an array",
        ),
        (
            dict(sites=pd.DataFrame(np.ones((3, 2)), columns=["d", "d"])),
            "sites have several columns 'd'; rename",
        ),
        (
            dict(labels=pd.DataFrame(np.ones((4, 2)), columns=["s", "s"]).assign(category=0)),
            "labels have several columns 's'",
        ),
    ],
)
def test_what_a_recording_cannot_hold_is_refused(fields, message):
    with pytest.raises(ValueError, match=message):
        four(**fields)


def test_responses_that_are_missing_are_named():
    with pytest.raises(ValueError, match="responses are missing; .*np.nanmean"):
        make_recording(responses=None)


def test_masked_values_are_missing():
    responses = np.ma.array(np.arange(12.0).reshape(4, 3))
    np.testing.assert_array_equal(four(responses).responses, responses.data)
    responses[3, 2] = np.ma.masked
    responses.data[3, 2] = 9.96921e36
    with pytest.raises(ValueError, match="1 NaN"):
        four(responses)


def test_bfloat16_is_read():
    values = torch.arange(12.0).reshape(4, 3)
    np.testing.assert_array_equal(four(values.bfloat16()).responses, values.numpy())


def test_responses_that_32_bits_would_round_away_are_refused():
    x = np.random.default_rng(0).normal(size=(4, 3))
    with pytest.raises(ValueError, match=r"units \[1\] vary too little around their mean for 32-bit.*subtract"):
        four(x + [0, 1e8, 0])
    np.testing.assert_allclose(four(x + [0, 1e3, 0]).responses, x + [0, 1e3, 0], rtol=1e-6)


def test_what_the_caller_changes_later_does_not_change_a_recording():
    images, responses, truth = np.full((4, 1, 5, 5), 0.5, np.float32), np.ones((4, 3), np.float32), np.ones(3)
    trials = torch.ones(4, 2, 3)
    made = Recording(images, responses, {"category": list("aabb")}, trials=trials, truth={"gain": truth})
    for array in (images, responses, trials, truth):
        array[:] = 7
    assert (
        made.images.max() == 0.5
        and made.responses.max() == made.trials.max() == made.truth["gain"].max() == 1
    )


# ---------------------------------------------------------------- rows that have names


@pytest.mark.parametrize(
    "responses, labels, sites, message",
    [
        (ROWS, named(range(4))[::-1], None, "numbered 0 to 3, but begin with 3.*sort_index.*reset_index"),
        (ROWS, named(IDS)[::-1], None, "number 0 is 'im3' in labels but 'im0' in responses"),
        (ROWS, named(None, image_id=IDS[::-1]), None, "number 0 is 'im3' in labels"),
        (ROWS.set_axis(range(4))[::-1], named(None), None, "the rows of responses are numbered"),
        (
            ROWS.set_axis(list("xyz"), axis=1),
            named(IDS),
            pd.DataFrame({"depth": [1, 2, 3]}, index=list("xzy")),
            "number 1 is 'z' in sites but 'y'",
        ),
        (ROWS, named(IDS), pd.DataFrame({"depth": [1, 2, 3]})[::-1], "rows of sites are numbered"),
        (
            ROWS,
            named(pd.Index(IDS, name="image_id"), image_id=IDS[::-1]),
            None,
            "an index and a column 'image_id' that differ",
        ),
    ],
)
def test_tables_that_name_their_rows_otherwise_are_refused(responses, labels, sites, message):
    with pytest.raises(ValueError, match=message):
        four(responses, labels, sites=sites)


@pytest.mark.parametrize(
    "responses, labels",
    [
        (ROWS, named(pd.Index(IDS, name="image_id"))),
        (ROWS, named(IDS)),
        (ROWS, named(None, image_id=IDS)),
        (ROWS, named(None)),
        (ROWS.to_numpy(), named(pd.Index(IDS, name="image_id"))),
        (ROWS.to_numpy(), named(IDS)),
        (ROWS.set_axis(range(7, 11)), named(range(7, 11), image_id=IDS)),
    ],
)
def test_an_index_of_names_is_kept(responses, labels):
    made = four(responses, labels, sites=pd.DataFrame({"depth": [1, 2, 3]}, index=list("xyz")))
    assert (
        list(made.labels["image_id"]) == IDS
        and list(made.labels["category"]) == list("aabb")
        and list(made.labels.index) == [0, 1, 2, 3]
    )
    assert list(made.sites["site_id"]) == list("xyz")
    part = made.select(images=[3, 1, 0, 2], sites=[1, 2, 0])
    assert list(part.labels["image_id"]) == ["im3", "im1", "im0", "im2"] and list(
        part.sites["site_id"]
    ) == list("yzx")


def test_arrays_with_named_dimensions_are_transposed_or_refused():
    xarray = pytest.importorskip("xarray")
    square, trials = np.arange(16.0).reshape(4, 4), np.arange(24.0).reshape(3, 2, 4)

    def array(values, *dims):
        return xarray.DataArray(values, dims=dims)

    np.testing.assert_array_equal(four(array(square, "neuroid", "presentation")).responses, square.T)
    np.testing.assert_array_equal(four(array(square, "image", "unit")).responses, square)
    made = four(trials=array(trials, "neuroid", "repetition", "presentation"))
    np.testing.assert_array_equal(made.trials, trials.transpose(2, 1, 0))
    with pytest.raises(
        ValueError, match=r"dimensions \('a', 'b'\), but \('image', 'unit'\) are expected; rename"
    ):
        four(array(square, "a", "b"))
    rows = xarray.DataArray(square, dims=("neuroid", "presentation"), coords={"presentation": IDS[::-1]})
    with pytest.raises(ValueError, match="number 0 is 'im0' in labels but 'im3'"):
        four(rows, named(IDS))


# ---------------------------------------------------------------- columns


def test_numbers_held_as_objects_are_numbers_and_numbered_classes_stay_classes():
    values = np.linspace(-90, 90, 4)
    labels = four(
        labels=dict(
            category=list("aabb"),
            a=values.astype(object),
            b=pd.Categorical([2, 0, 1, 0]),
            c=[1.5, None] * 2,
            d=list("xy") * 2,
            e=[True, "no"] * 2,
        )
    ).labels
    assert labels["a"].dtype == np.float64 and np.allclose(labels["a"], values)
    assert labels["b"].dtype == "category" and list(labels["b"]) == [2, 0, 1, 0]
    assert labels["c"].isna().sum() == 2 and labels["c"].dtype == np.float64
    assert list(labels["d"][:2]) == ["x", "y"] and labels["e"][1] == "no"


def test_numbered_classes_are_classes():
    from migvis.measure.latents import _bin_factor, _is_numeric

    kind = four(labels={"category": list("aabb"), "kind": pd.Categorical([30, 10, 30, 20])}).labels["kind"]
    many = pd.concat([kind.astype(int) + k for k in range(6)]).astype("category")
    assert not _is_numeric(many) and len(set(_bin_factor(many))) == many.nunique() > 10


def test_columns_may_be_numbered():
    labels = pd.DataFrame({"category": list("aabb"), 0: range(4)})
    assert list(four(labels=labels).labels) == ["category", 0]
