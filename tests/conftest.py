"""What several test files share."""
import os
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]


@pytest.fixture(scope="session")
def realdata() -> Path:
    "Folder with the real recordings, or a skip that says how to provide it."
    folder = Path(os.environ.get("MIGVIS_REALDATA", ROOT.parent / "shared" / "realdata"))
    if not folder.is_dir():
        pytest.skip(f"real recordings are not at {folder}; set MIGVIS_REALDATA to their folder")
    return folder
