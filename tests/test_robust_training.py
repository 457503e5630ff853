"""Training a denoiser through kills, and shared by two processes."""
import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace

import numpy as np
import pandas as pd
import pytest
import torch

from migvis import denoiser as dn
from migvis.training import generator, get_preset, list_checkpoints, load_tensors
from tests.conftest import ROOT

TINY = replace(get_preset("tiny").denoiser, steps=12, batch_size=8)
ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def images(n=64):
    return torch.rand(n, 1, 32, 32, generator=generator(0, 1))


def train(**kw):
    options = dict(config=TINY, images=images(), device="cpu", progress=False, log_every=1, validate_every=4) | kw
    return dn.train_denoiser(options.pop("images"), options.pop("config"), **options)


def weights(model): return torch.cat([p.detach().flatten() for p in model.parameters()])


def test_kills_at_random_moments_lose_little_and_change_nothing(tmp_path):
    out = tmp_path / "kills.json"
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_resume.py"), "--kills", "3", "--steps", "24", "--every", "2",
               "--writes", "0", "--full", "3", "--flips", "24", "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    found = json.loads(out.read_text())
    assert found["same"] and len(found["rows"]) >= 2
    for row in found["rows"]: assert row["unreadable"] == 0 and 0 <= row["steps lost"] <= 2 and row["checkpoints"] <= 3
    assert max(row["killed after step"] for row in found["rows"]) > 0, "at least one kill must come during training"


PROCESSES = """
import json, sys, torch
from accelerate import PartialState
from tests.test_robust_training import train, weights
torch.set_num_threads(1)
fitted = train(device="auto")
here = f"{sys.argv[1]}/{PartialState().process_index}.json"
open(here, "w").write(json.dumps({"processes": PartialState().num_processes, "weights": weights(fitted.model).tolist(),
                                  "history": fitted.history.to_dict("list")}))
"""


def with_mpi(folder): # `accelerate launch --cpu` leaves the starting of processes to MPI, and alone starts one
    if not any(map(shutil.which, ("mpirun", "mpiexec"))): pytest.skip("MPI is not installed")
    (folder / "hosts.txt").write_text("localhost:2\n")
    return ["--cpu", "--mpirun_hostfile", str(folder / "hosts.txt")]

def without_mpi(folder): return ["--multi_gpu", "--main_process_port", "0"]


@pytest.mark.parametrize("options, variables", [(without_mpi, {"ACCELERATE_USE_CPU": "true"}), (with_mpi, {})])
def test_two_processes_have_the_loss_curve_of_one(tmp_path, options, variables):
    script = tmp_path / "script.py"
    script.write_text(PROCESSES)
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--num_processes", "2", *options(tmp_path), str(script), str(tmp_path)]
    done = subprocess.run(launch, capture_output=True, text=True, timeout=300, env=ENVIRONMENT | variables)
    assert done.returncode == 0, done.stderr[-2000:]
    shares, alone = [json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1)], train()
    assert [s["processes"] for s in shares] == [2, 2]
    assert json.dumps(shares[0]["history"]) == json.dumps(shares[1]["history"]), "both log the loss of the whole batch"
    for share in shares:
        for column in ("loss", "eps_loss", "validation"):
            np.testing.assert_allclose(share["history"][column], alone.history[column], rtol=1e-3)
        np.testing.assert_allclose(share["weights"], weights(alone.model), atol=1e-3)


def test_nan_in_training_keeps_the_last_good_checkpoint(tmp_path):
    class Breaks(dn.Denoiser):
        calls = 0
        def forward(self, y, t, condition=None):
            self.calls += self.training
            return super().forward(y, t, condition) * (float("nan") if self.calls > 7 and self.training else 1)
    built = dn.build_denoiser(TINY, 0.5)
    breaking = Breaks(built.unet, built.schedule, built.patch, built.data_std, built.data_mean)
    with pytest.raises(FloatingPointError, match="step-00000006"): train(denoiser=breaking, checkpoint=tmp_path, checkpoint_every=3)
    assert [p.stem for p in list_checkpoints(tmp_path)] == ["step-00000003", "step-00000006"]
    for path in list_checkpoints(tmp_path): assert all(v.isfinite().all() for v in load_tensors(path, "checkpoint")[0].values())


def test_pictures_as_training_goes_do_not_change_it(tmp_path):
    watched = train(callback=dn.training_pictures(tmp_path, every=6, n=3, steps=3))
    assert sorted(p.name for p in tmp_path.iterdir()) == ["losses.csv", "losses.png", *(f"samples-{s:08d}.png" for s in (1, 6, 12))]
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "losses.csv"), watched.history, check_dtype=False)
    assert torch.equal(weights(watched.model), weights(train().model))


def test_a_resumed_run_continues_its_table_of_losses(tmp_path):
    class Stop(Exception): ...
    def stopping(pictures):
        def callback(step, model, row):
            pictures(step, model, row)
            if step == 8: raise Stop
        return callback
    pictures = lambda: dn.training_pictures(tmp_path / "seen", every=100, n=1, steps=2)
    kw = dict(checkpoint=tmp_path / "ckpt", checkpoint_every=5)
    with pytest.raises(Stop): train(callback=stopping(pictures()), **kw)
    resumed = train(callback=pictures(), **kw)
    assert resumed.resumed_from == 5
    pd.testing.assert_frame_equal(pd.read_csv(tmp_path / "seen" / "losses.csv"), resumed.history, check_dtype=False)
    with pytest.raises(ValueError, match="every"): dn.training_pictures(tmp_path, every=0)


def test_bytes_train_like_the_floats_they_stand_for():
    quantised = (images() * 255).round().to(torch.uint8)
    a, b = train(images=quantised), train(images=quantised.float() / 255)
    torch.testing.assert_close(weights(a.model), weights(b.model), atol=1e-4, rtol=0)
    torch.testing.assert_close(dn.check_images(quantised, 32), dn.check_images(quantised.float() / 255, 32), atol=1e-6, rtol=0)
    assert dn.check_images(quantised, 32, keep_bytes=True).dtype == torch.uint8
