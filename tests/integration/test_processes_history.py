"""Going back to an earlier configuration, with real processes: what a kill in between leaves, and what clients get."""

BOTH = {"hello from backend-1", "hello from backend-2"}


def test_a_rollback_after_the_controller_was_killed_brings_the_old_servers_back(site):
    site.start()
    agent = site.add_engine("a")
    first = site.serve()["version"]
    site.until_up("a", agent, version=first)
    site.until_served()
    (pool,) = site.client.get("/api/pool")["results"]
    one, two = site.ports.backends
    alone = f"kind: Pool\nname: {pool['name']}\nservers: [{{ip: 127.0.0.1, port: {two}}}]\n"
    assert site.apply(alone)["version"] == first + 1
    site.until_up("a", agent, version=first + 1)
    assert {site.get() for _ in range(20)} == {"hello from backend-2"}

    site.controller.kill()
    site.start()
    site.until_up("a", agent)
    done = site.cli("config", "rollback", str(first), "--wait", "--note", "one alone is slow")
    assert (done.returncode, done.stderr) == (0, "")
    assert "Every service engine that is connected has it." in done.stdout
    site.until_served()
    assert {site.get() for _ in range(20)} == BOTH
    (newest,) = site.client.get("/api/config/versions", {"limit": 1})["results"]
    assert (newest["rolled_back_to"], newest["note"]) == (first, "one alone is slow")
    shown = site.cli("config", "diff", str(first), str(first + 1)).stdout
    assert f"servers[127.0.0.1:{one}]" in shown
    assert site.cli("config", "diff", str(first)).stdout == "Nothing differs.\n"
