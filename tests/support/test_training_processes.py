"""Training in processes that are killed, and shared by two processes."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time

import numpy as np
import pytest
import torch
from torch import nn

from migvis.support.files import load_tensors
from migvis.support.training import _list_checkpoints, _make_batch, fit
from tests.conftest import ROOT
from tests.support.test_training import X, run, weights

ENVIRONMENT = os.environ | {"PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}


def test_kills_at_random_moments_lose_little_and_change_nothing(tmp_path):
    out = tmp_path / "kills.json"
    parts = "--kills 1 --steps 8 --every 2 --writes 0 --full 1 --flips 0".split()
    command = [sys.executable, str(ROOT / "benchmarks" / "kill_resume.py"), *parts, "--json", str(out)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=300, env=ENVIRONMENT)
    assert done.returncode == 0, done.stdout + done.stderr[-2000:]
    report = json.loads(out.read_text())
    assert report["same"] and report["rows"]
    for row in report["rows"]:
        assert row["unreadable"] == 0 and 0 <= row["steps lost"] <= 2 and row["checkpoints"] <= 3


SLOW = """
import sys, time
from tests.support.test_training import noisy_loss, run
def slow(model, batch):
    time.sleep(0.01)
    if batch.step == 5: print("started", flush=True)
    return noisy_loss(model, batch)
run(300, sys.argv[1], loss=slow, checkpoint_every=10)
"""


def test_a_terminated_process_keeps_its_last_step_and_is_resumed_exactly(tmp_path):
    command = [sys.executable, "-c", SLOW, str(tmp_path)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=ENVIRONMENT
    )
    assert process.stdout.readline().strip() == "started"
    time.sleep(0.1)
    process.send_signal(signal.SIGTERM)
    process.communicate(timeout=60)
    step = load_tensors(_list_checkpoints(tmp_path)[-1], "checkpoint")[1]["step"]
    assert process.returncode != 0 and 6 <= step < 300
    resumed = run(300, tmp_path, checkpoint_every=10)
    assert resumed.resumed_from == step and torch.equal(weights(resumed), weights(run(300)))
    assert not list(tmp_path.glob(".*")), "no temporary file may be left by a run that ended"


SHARED = """
import json, sys
from accelerate import PartialState
from tests.support.test_training_processes import shared
fitted, state = shared(), PartialState()
report = {"processes": state.num_processes, "device": state.device.type, "history": fitted.history.to_dict("list")}
report["weights"] = fitted.model[0].weight.flatten().tolist()
open(f"{sys.argv[1]}/{state.process_index}.json", "w").write(json.dumps(report))
"""


def shared():
    "A run with random numbers, but none of the model's own, and logs of two shapes."
    torch.manual_seed(1)

    def loss_fn(model, batch):
        wrong = (model(X[batch.index]) - torch.sin(3 * X[batch.index]) - 0.1 * batch.randn(1)).square()
        members = torch.stack([wrong.mean(), 2 * wrong.mean()])
        return wrong.mean(), {"members": members, "first_row": float(batch.index[0])}

    network = nn.Sequential(nn.Linear(1, 16), nn.ReLU(), nn.Linear(16, 1))
    return fit(
        network,
        loss_fn,
        len(X),
        steps=20,
        batch_size=16,
        lr=1e-2,
        ema=0.9,
        clip=0.1,
        device="cpu",
        validate=lambda m: (m(X) - torch.sin(3 * X)).square().mean(),
        validate_every=10,
        progress=False,
        log_every=1,
    )


def with_mpi(
    folder,
):  # `accelerate launch --cpu` leaves the starting of processes to MPI, and alone starts one
    if not any(map(shutil.which, ("mpirun", "mpiexec"))):
        pytest.skip("MPI is not installed")
    (folder / "hosts.txt").write_text("localhost:2\n")
    return ["--cpu", "--mpirun_hostfile", str(folder / "hosts.txt")]


def without_mpi(folder):  # device="cpu" itself must bring the processes together on the CPU
    return ["--multi_gpu", "--main_process_port", "0"]


@pytest.mark.parametrize("options", [without_mpi, with_mpi])
def test_two_processes_have_the_history_and_the_weights_of_one(tmp_path, options):
    (script := tmp_path / "script.py").write_text(SHARED)
    launch = [
        sys.executable,
        "-m",
        "accelerate.commands.launch",
        "--num_processes",
        "2",
        *options(tmp_path),
    ]
    done = subprocess.run(
        [*launch, str(script), str(tmp_path)], capture_output=True, text=True, timeout=120, env=ENVIRONMENT
    )
    assert done.returncode == 0, done.stderr[-2000:]
    first, second = (json.loads((tmp_path / f"{i}.json").read_text()) for i in (0, 1))
    assert (first["processes"], first["device"]) == (2, "cpu")
    assert json.dumps(first) == json.dumps(second), (
        "both log the whole batch"
    )  # as text, because NaN is not NaN
    alone = shared()
    for name in ("loss", "validation"):
        np.testing.assert_allclose(first["history"][name], alone.history[name], rtol=1e-4)
    np.testing.assert_allclose(first["history"]["members"], np.stack(alone.history["members"]), rtol=1e-4)
    np.testing.assert_allclose(first["weights"], alone.model[0].weight.detach().flatten(), atol=1e-4)
    rows = [
        [float(_make_batch(len(X), 16, s, process=p, n_processes=2).index[0]) for p in (0, 1)]
        for s in range(20)
    ]
    assert first["history"]["first_row"] == np.mean(rows, axis=1).tolist()
