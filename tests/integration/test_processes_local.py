"""Service engines that the controller makes on its own machine."""

from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_start import running
from tests.integration.processes import until


def test_one_is_made_and_goes_with_its_agent_and_its_envoy(site):
    site.start()
    site.client.post("/api/serviceengine", {"name": "se-own", "cloud": "local"})
    until(lambda: site.row("se-own")["state"] == "UP", 60, why=lambda: site.controller.log[-3000:])
    folder = site.paths.local_cloud / site.row("se-own")["uuid"]
    envoy = running(EnvoyFiles(folder / "state" / "data-plane"))
    assert envoy.alive
    site.client.delete("/api/serviceengine/se-own")
    until(lambda: not envoy.alive and not folder.exists(), 30, why="something of it is still there")
