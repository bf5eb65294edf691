"""pytest only; trial has a folder of its own to work in."""

import os

import pytest


@pytest.fixture(autouse=True, scope="session")
def _work_elsewhere(tmp_path_factory: pytest.TempPathFactory) -> None:
    """trial's ``mktemp`` makes its folders where the tests run: not in the source tree."""
    os.chdir(tmp_path_factory.mktemp("work"))
