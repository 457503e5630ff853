"One tiny recording and one tiny run for all tests of measures."
import pytest

from migvis import MIGVis, simulate_hvm
from tests.made import SMALL


@pytest.fixture(scope="session")
def recording(): return simulate_hvm(n_images=240, size=32, subject="M1", seed=3, progress=False)


@pytest.fixture(scope="session")
def run(recording): return MIGVis(SMALL, seed=1, device="cpu").fit(recording, progress=False)
