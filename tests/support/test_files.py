"""Whole files, damaged files, and JSON."""

import errno
import json
import os

import numpy as np
import pandas as pd
import pytest
import torch
from safetensors.torch import save_file
from torch import nn

from migvis.support import files
from migvis.support.files import (
    _as_json,
    _building_from,
    _load_arrays,
    atomic_write,
    load_tensors,
    read_csv,
    save_tensors,
    write_csv,
)
from tests.conftest import ROOT


def test_atomic_write_leaves_the_old_file_when_it_fails(tmp_path):
    path = tmp_path / "f.txt"
    for before in ([], ["f.txt"]):
        with pytest.raises(RuntimeError), atomic_write(path) as temporary:
            temporary.write_text("half")
            raise RuntimeError
        assert [p.name for p in tmp_path.iterdir()] == before
        if before:
            assert path.read_text() == "old"
        path.write_text("old")


def test_atomic_write_makes_folders_and_an_ordinary_file(tmp_path):
    (beside := tmp_path / "ordinary.txt").write_text("x")
    with atomic_write(path := tmp_path / "deep" / "f.txt") as temporary:
        assert temporary.suffix == ".txt" and temporary.name.startswith(".f-") and not path.exists()
        temporary.write_text("whole")
    assert path.read_text() == "whole" and path.stat().st_mode == beside.stat().st_mode


def test_files_and_their_folder_reach_the_disk_before_going_on(tmp_path, monkeypatch):
    order, replaced = [], os.replace
    monkeypatch.setattr(files, "_sync", lambda path: order.append(path.name))
    monkeypatch.setattr(os, "replace", lambda a, b: (order.append("replace"), replaced(a, b)))
    with atomic_write(tmp_path / "a.txt") as temporary:
        temporary.write_text("x")
    assert order == [temporary.name, "replace", tmp_path.name]


def test_every_tenth_bit_of_an_archive_counts_or_is_harmless(tmp_path):
    arrays = {"a": np.arange(40.0), "b": np.zeros((3, 4), np.uint8)}
    np.savez_compressed(tmp_path / "x.npz", **arrays)
    whole = (tmp_path / "x.npz").read_bytes()
    for bit in range(0, 8 * len(whole), 10):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / "x.npz").write_bytes(damaged)
        try:
            found = _load_arrays(tmp_path / "x.npz", "make it again")
        except ValueError as e:
            assert "x.npz is damaged" in str(e) and "make it again" in str(e)
        else:
            assert (
                all(np.array_equal(found.get(k), v) for k, v in arrays.items())
                or found.keys() != arrays.keys()
            )


def test_json_is_what_every_reader_takes():
    text = _as_json(
        {"a": float("nan"), "b": [np.float64("inf"), np.int64(2), (1.5, None)], "c": {"d": -float("inf")}}
    )
    assert json.loads(text, parse_constant=pytest.fail) == {
        "a": None,
        "b": [None, 2, [1.5, None]],
        "c": {"d": None},
    }


def test_save_and_load_tensors(tmp_path):
    shared = torch.arange(4.0)
    path = save_tensors(
        tmp_path / "deep" / "x.safetensors",
        {"a": shared, "b": shared.view(2, 2).T},
        {"kind": "thing", "n": 3},
    )
    tensors, meta = load_tensors(path, "thing")
    assert torch.equal(tensors["b"], shared.view(2, 2).T) and meta == {"kind": "thing", "n": 3}
    with pytest.raises(ValueError, match="should hold a 'other'"):
        load_tensors(path, "other")
    with pytest.raises(FileNotFoundError):
        load_tensors(tmp_path / "none")
    save_file({"a": shared}, tmp_path / "foreign.safetensors")
    with pytest.raises(ValueError, match="migvis did not write it"):
        load_tensors(tmp_path / "foreign.safetensors")


def test_text_that_a_spreadsheet_would_run_is_written_as_text(tmp_path):
    names = [
        "=1+1",
        "@x",
        "-1+cmd|' /C calc'!A0",
        "+x",
        "\t=1",
        "'=1",
        "plain",
        "-",
        "-0.50 [-0.61, 0.02] (7 read)",
        "-3.5",
    ]
    table = pd.DataFrame({"name": names, "=head": np.arange(10), "value": [-1.5, np.nan] * 5})
    written = write_csv(table, tmp_path / "a.csv").read_text()
    cells = [line.split(",")[0].strip('"') for line in written.splitlines()]
    assert cells[1:7] == [f"'{name}" for name in names[:6]] and "name,'=head,value" in written
    assert (
        "plain,6,-1.5" in written
        and "-,7," in written
        and '"-0.50 [-0.61, 0.02] (7 read)"' in written
        and "-3.5,9," in written
    )
    pd.testing.assert_frame_equal(read_csv(tmp_path / "a.csv", dtype={"name": str}), table)
    assert (
        "'=row"
        in write_csv(table[:1].set_index(pd.Index(["=row"])), tmp_path / "b.csv", index=True).read_text()
    )
    assert write_csv(table[:0], tmp_path / "c.csv").read_text() == "name,'=head,value\n"


def test_every_bit_of_a_file_counts(tmp_path):
    path = save_tensors(
        tmp_path / "x.safetensors",
        {"a": torch.arange(5.0), "b": torch.tensor(3), "c": torch.ones(2, 2).half()},
        {"kind": "thing", "steps": 12, "note": float("nan")},
    )
    whole = path.read_bytes()
    for bit in range(0, 8 * len(whole), 11):
        damaged = bytearray(whole)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(ValueError, match=path.name):
            load_tensors(path, "thing")
    path.write_bytes(whole)
    assert load_tensors(path)[1] == {"kind": "thing", "steps": 12, "note": None}
    again = save_tensors(tmp_path / "y.safetensors", *load_tensors(path))
    assert again.read_bytes() == whole


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EDQUOT])
@pytest.mark.parametrize("where", ["write", "fsync"])
def test_a_full_disk_leaves_nothing_and_names_the_remedy(tmp_path, monkeypatch, where, number):
    path = save_tensors(tmp_path / "x.safetensors", {"a": torch.zeros(3)}, {"kind": "thing"})
    before = path.read_bytes()

    def full(*_, **__):
        raise OSError(number, os.strerror(number))

    monkeypatch.setattr(*((os, "fsync") if where == "fsync" else (files.Path, "write_bytes")), full)
    with pytest.raises(OSError, match="x.safetensors was not written.*free some space") as caught:
        save_tensors(path, {"a": torch.ones(3)}, {"kind": "thing"})
    assert (
        caught.value.errno == number
        and path.read_bytes() == before
        and [p.name for p in tmp_path.iterdir()] == ["x.safetensors"]
    )


def test_networks_far_larger_than_their_file_are_refused_before_they_are_made(tmp_path):
    path = save_tensors(tmp_path / "w.safetensors", {"w": torch.zeros(4)}, {"kind": "x"})
    for make in (
        lambda: nn.Linear(10**9, 10**9),
        lambda: nn.ModuleList(nn.Linear(1000, 1000) for _ in range(10**9)),
        lambda: torch.linspace(0, 1, 10**9),
        lambda: torch.zeros(size=(10**5, 10**5)),
        lambda: torch.linspace(0, 1, steps=10**9),
        lambda: torch.arange(10**12),
    ):
        with pytest.raises(ValueError, match="far larger than the file"), _building_from(path):
            make()
    with _building_from(path):
        assert nn.Linear(1000, 1000)(torch.ones(1, 1000)).shape == (1, 1000)


def huge_files(folder):
    "Files of every kind whose header describes a network that no memory holds, each with its loader."
    from migvis.denoiser import load_denoiser
    from migvis.support.encoders import ConvEncoder
    from migvis.infonce import Critics, load_critics, save_critics
    from migvis.simulate.pretrained import _weights_file
    from migvis.measure.readouts import load_readouts
    from migvis.vae import FittedVAE, NeuralVAE

    n = 10**9

    def changed(name, source, change):
        tensors, meta = load_tensors(source)
        change(meta)
        return save_tensors(folder / f"{name}.safetensors", tensors, meta)

    yield (
        changed("unet", _weights_file("demo"), lambda m: m["unet"].update(block_out_channels=[n, n, n])),
        load_denoiser,
    )
    yield (
        changed("layers", _weights_file("demo"), lambda m: m["unet"].update(layers_per_block=n)),
        load_denoiser,
    )
    judge = ROOT / "migvis" / "weights" / "readouts_demo.safetensors"
    yield (
        changed("readouts", judge, lambda m: m["outputs"].update({k: n for k in m["outputs"]})),
        load_readouts,
    )
    small = save_critics(Critics(ConvEncoder(8, 2, 4), (2, 2), n_features=3), folder / "small.safetensors")
    yield changed("critics", small, lambda m: m["config"].update(n_features=n)), load_critics
    model = NeuralVAE(3, (2, 2), hidden=4)
    yield (
        save_tensors(
            folder / "vae.safetensors",
            model.state_dict(),
            {"kind": "vae", "config": model.config | {"hidden": n}},
        ),
        FittedVAE.load,
    )


def test_no_loader_makes_a_network_that_its_file_could_not_hold(tmp_path):
    for path, load in huge_files(tmp_path):
        with pytest.raises(ValueError, match="far larger than the file"):
            load(path)
