"""Fixtures of the tests with real processes: a site of one's own, and one that many tests share."""

import shutil
import tempfile

import pytest

from tests.integration.processes import Site


@pytest.fixture
def sites():
    """Make sites that are gone after the test, their folders too."""
    made = []

    def make(**options):
        # Not tmp_path: that is too long a name for the UNIX sockets in it.
        made.append(Site(tempfile.mkdtemp(prefix="avinet-it-"), **options))
        return made[-1]

    yield make
    for site in made:
        site.close()
        shutil.rmtree(site.folder, ignore_errors=True)


@pytest.fixture
def site(sites):
    """One site, its controller not started."""
    return sites()


@pytest.fixture(scope="session")
def shared():
    """A site with a ready controller and one SE, ``se-0``, that serves; tests leave both as they found them."""
    made = Site(tempfile.mkdtemp(prefix="avinet-it-"))
    try:
        made.start()
        made.agent = made.add_engine("se-0")
        made.until_up("se-0", made.agent, version=made.serve()["version"])
        made.until_served()
        yield made
    finally:
        made.close()
        shutil.rmtree(made.folder, ignore_errors=True)
