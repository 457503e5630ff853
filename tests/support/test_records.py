"""Frozen dataclasses as files."""

import json
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import pandas as pd
import pytest
import torch

from migvis.support.files import Result, load_record, save_record


@dataclass(frozen=True)
class Inner:
    strength: float
    names: tuple[str, ...]


@dataclass(frozen=True, eq=False)
class Outer(Result):
    values: np.ndarray
    table: pd.DataFrame
    inner: tuple[Inner, ...] = ()
    best: Inner | None = None
    settings: dict[str, Any] = field(default_factory=dict)
    cache: int = field(default=7, init=False)


@dataclass(frozen=True)
class Other:
    value: int


@pytest.fixture
def record():
    index = pd.MultiIndex.from_product([["a", "b"], [1, 2]], names=["letter", None])
    table = pd.DataFrame(
        {
            "x": [1.5, np.nan, np.inf, 0],
            "text": ["=1", None, "é", ""],
            7: [True, False] * 2,
            "7": range(4),
            "kind": pd.Categorical([3, 1, 3, 2]),
            "mixed": [True, "no", None, 2],
        },
        index=index,
    )
    settings = {
        "none": None,
        "nan": np.nan,
        "low": -np.inf,
        3: [1, (2, "x"), {"deep": np.float32(0.5)}],
        "tensor": torch.arange(3),
        "flag": np.True_,
        "complex": np.array([1j]),
        "scalar": np.array(2.0),
    }
    return Outer(
        np.arange(6).reshape(2, 3),
        table,
        (Inner(0.1, ("z1",)), Inner(np.inf, ())),
        Inner(2.0, ("a", "b")),
        settings,
    )


def test_everything_comes_back(record, tmp_path):
    back = load_record(save_record(tmp_path / "new" / "r.npz", record), Outer)
    np.testing.assert_array_equal(back.values, record.values)
    assert (
        back.values.dtype == record.values.dtype and back.inner == record.inner and back.best == record.best
    )
    pd.testing.assert_frame_equal(back.table, record.table)
    assert back.table.columns.tolist() == [
        "x",
        "text",
        7,
        "7",
        "kind",
        "mixed",
    ] and back.table.index.names == ["letter", None]
    one, two = back.settings, record.settings
    assert (
        one.keys() == two.keys()
        and np.isnan(one["nan"])
        and one[3] == [1, (2, "x"), {"deep": 0.5}]
        and one["flag"] is True
    )
    assert (
        torch.equal(one["tensor"], two["tensor"])
        and one["low"] == -np.inf
        and one["complex"][0] == 1j
        and one["scalar"].shape == ()
    )
    assert [p.name for p in (tmp_path / "new").iterdir()] == ["r.npz"]


@pytest.mark.parametrize("levels, stored", [(255, np.uint8), (65535, np.uint16), (1000, np.float32)])
def test_pictures_are_stored_small_where_nothing_is_lost(tmp_path, levels, stored):
    images = np.random.default_rng(0).integers(0, levels + 1, (3, 1, 8, 8)).astype(np.float32) / np.float32(
        levels
    )
    path = save_record(tmp_path / "r.npz", Outer(images, pd.DataFrame()))
    assert np.load(path)["values"].dtype == stored
    np.testing.assert_array_equal(load_record(path, Outer).values, images)


@pytest.mark.parametrize(
    "change, error, message",
    [
        (dict(values=np.array([{}], object)), TypeError, "values holds Python objects.*give an array"),
        (
            dict(settings={"f": print}),
            TypeError,
            "settings/f is a builtin_function_or_method, which a record cannot hold",
        ),
        (
            dict(table=pd.DataFrame(np.ones((2, 2)), columns=["d", "d"])),
            ValueError,
            "table have several columns 'd'",
        ),
    ],
)
def test_what_cannot_be_kept_is_refused_and_the_old_file_stays(record, tmp_path, change, error, message):
    before = save_record(tmp_path / "r.npz", record).read_bytes()
    with pytest.raises(error, match=message):
        save_record(tmp_path / "r.npz", replace(record, **change))
    assert (tmp_path / "r.npz").read_bytes() == before


def test_only_what_was_asked_for_is_read(record, tmp_path):
    path = save_record(tmp_path / "r.npz", record)
    with pytest.raises(ValueError, match="r.npz is not a Other saved by migvis: it holds a Outer"):
        load_record(path, Other)
    np.savez(tmp_path / "foreign.npz", x=np.ones(3))
    with pytest.raises(ValueError, match="foreign.npz is not a Outer saved by migvis; fetch it again"):
        load_record(tmp_path / "foreign.npz", Outer, "fetch it again")
    with pytest.raises(FileNotFoundError, match="no file .*nothing.npz"):
        load_record(tmp_path / "nothing.npz", Outer)


def test_a_record_of_another_version_is_refused(tmp_path):
    @dataclass(frozen=True)
    class Inner:  # the same name, other fields
        strength: float

    path = save_record(tmp_path / "r.npz", Inner(1.0))
    with pytest.raises(ValueError, match="of this version.*names"):
        load_record(path, globals()["Inner"])


def test_a_value_that_changed_in_the_file_is_noticed(tmp_path):
    path = save_record(tmp_path / "r.npz", Other(3))
    stored = dict(np.load(path))
    text = stored["migvis.json"].tobytes().decode()
    assert json.loads(text)["record"] == ["Other", [["value", 3]]]
    np.savez(
        path, **{"migvis.json": np.frombuffer(text.replace('"value", 3', '"value", 4').encode(), np.uint8)}
    )
    with pytest.raises(ValueError, match="r.npz is damaged: its checksum"):
        load_record(path, Other)


def test_a_result_is_a_folder_for_people(record, tmp_path):
    plain = replace(record, settings={"seed": 3, "rate": np.nan}, table=record.table.reset_index(drop=True))
    folder = plain.save(tmp_path / "out")
    assert sorted(p.name for p in folder.iterdir()) == ["record.npz", "settings.json", "table.csv"]
    assert json.loads((folder / "settings.json").read_text()) == {"seed": 3, "rate": None}
    assert pd.read_csv(folder / "table.csv")["text"][0] == "'=1"
    pd.testing.assert_frame_equal(Outer.load(folder).table, plain.table)
