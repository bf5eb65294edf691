"""Machines that are not well: a clock wrong by 20 years on either side, and a disk that is full."""

import json
import os
import shutil
import subprocess
import tempfile
from pathlib import Path

import pytest

from avinet.app.cli.errors import RefusedError
from avinet.dataplane.envoy import stop_data_plane
from tests.integration.processes import until
from tests.integration.registering import Machine

YEARS_20_S = 20 * 365 * 86400
# For libc's whole family, since OpenSSL reads the clock itself; only the time of day is wrong, as in life.
WRONG_CLOCK = """
#define _GNU_SOURCE
#include <dlfcn.h>
#include <stdlib.h>
#include <sys/time.h>
#include <time.h>

static long shift(void) { const char *s = getenv("CLOCK_SHIFT_S"); return s ? atol(s) : 0; }

int clock_gettime(clockid_t id, struct timespec *t) {
    static int (*real)(clockid_t, struct timespec *);
    if (!real) real = dlsym(RTLD_NEXT, "clock_gettime");
    int r = real(id, t);
    if (!r && (id == CLOCK_REALTIME || id == CLOCK_REALTIME_COARSE)) t->tv_sec += shift();
    return r;
}
int gettimeofday(struct timeval *t, void *z) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) { t->tv_sec = now.tv_sec; t->tv_usec = now.tv_nsec / 1000; }
    return 0;
}
time_t time(time_t *t) {
    struct timespec now;
    clock_gettime(CLOCK_REALTIME, &now);
    if (t) *t = now.tv_sec;
    return now.tv_sec;
}
"""


@pytest.fixture(scope="module")
def wrong_clock(tmp_path_factory):
    """A function: the environment of a process whose clock is that many seconds off."""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("needs a C compiler to shift a process's clock")
    folder = tmp_path_factory.mktemp("clock")
    source, library = folder / "clock.c", folder / "clock.so"
    source.write_text(WRONG_CLOCK)
    subprocess.run((compiler, "-shared", "-fPIC", "-o", library, source, "-ldl"), check=True)

    def environment(shift_s):
        return {"LD_PRELOAD": str(library), "CLOCK_SHIFT_S": str(shift_s)}

    told = subprocess.run(
        ("date", "+%Y"), env={**os.environ, **environment(-YEARS_20_S)}, capture_output=True, check=True
    )
    now = subprocess.run(("date", "+%Y"), capture_output=True, check=True)
    if int(now.stdout) - int(told.stdout) not in {19, 20}:
        pytest.skip("this machine's libc does not take a preloaded clock")
    return environment


def test_a_machine_that_boots_20_years_ago_enrols_and_the_operator_hears_of_its_clock(shared, wrong_clock):
    meta = shared.create("se-past")
    agent = shared.run_engine(
        "se-past", image=shared.image(), meta=meta, environment=wrong_clock(-YEARS_20_S)
    )
    shared.until_up("se-past", agent)
    event = shared.until_event("SE_CLOCK_SKEW", "se-past")
    assert "behind" in event["text"]
    shared.stop_engine("se-past")
    shared.client.delete("/api/serviceengine/se-past")


def test_a_new_machine_20_years_ahead_says_that_the_dates_do_not_hold(shared, wrong_clock):
    """Before it has enrolled, dates are all it has: the certificate is over by its clock, and it says so."""
    meta = shared.create("se-future")
    agent = shared.run_engine(
        "se-future", image=shared.image(), meta=meta, environment=wrong_clock(YEARS_20_S)
    )
    agent.until_logged("which is not now", "Check this machine's clock")
    agent.kill()
    # Its clock set right, the same machine enrols with the same token.
    agent = shared.run_engine("se-future", image=shared.image(), meta=meta)
    shared.until_up("se-future", agent)
    shared.stop_engine("se-future")
    shared.client.delete("/api/serviceengine/se-future")


def test_an_enrolled_machines_clock_may_be_20_years_off(shared, wrong_clock):
    agent = shared.add_engine("se-drift")
    for shift_s in (-YEARS_20_S, YEARS_20_S):
        agent.kill()
        agent = shared.run_engine("se-drift", environment=wrong_clock(shift_s))
        row = shared.until_up("se-drift", agent)
        assert row["version"] == shared.version
        ran = shared.cli("se", "exec", "se-drift", "echo through")
        assert ran.stdout == "through\n", ran.stderr
    shared.stop_engine("se-drift")
    shared.client.delete("/api/serviceengine/se-drift")


def test_a_controllers_clock_20_years_off_costs_no_engine_and_no_token(site, wrong_clock):
    site.start()
    image = site.image()
    metas = [site.create(name) for name in ("se-2", "se-3")]
    agent = site.add_engine("se-1")
    site.until_up("se-1", agent, version=site.serve()["version"])
    for shift_s, meta, interval_s in zip((-YEARS_20_S, YEARS_20_S), metas, (3, 4), strict=True):
        site.controller.kill()
        site.start(wrong_clock(shift_s))
        site.until_up("se-1", agent)
        changed = site.plan.configuration().replace("send_interval: 2", f"send_interval: {interval_s}")
        version = site.apply(changed)["version"]
        site.until_up("se-1", agent, version=version)
        site.until_served()
        # The token's hour is counted by the store, not by the clock on the wall; an image's age is.
        late = Machine(site, image, json.loads(meta.read_text())["token"])
        status = late.enrol().status
        assert status == (200 if shift_s < 0 else 403), status
        if status == 403:
            site.until_event("ENROLMENT_REFUSED", "expired")
            fresh = Machine(site, site.image("fresh"), late.token)
            assert fresh.enrol().status == 200, site.events("ENROLMENT_REFUSED")
    site.controller.kill()
    site.start()
    site.until_up("se-1", agent, version=version)


@pytest.fixture
def small_disk():
    """A file system of 8 MiB."""
    if os.geteuid() != 0:
        pytest.skip("needs root to mount a small file system")
    folder = Path(tempfile.mkdtemp(prefix="avinet-disk-"))
    done = subprocess.run(("mount", "-t", "tmpfs", "-o", "size=8m", "avinet-test", folder), check=False)
    if done.returncode:
        folder.rmdir()
        pytest.skip("may not mount here")
    yield folder
    subprocess.run(("umount", "-l", folder), check=False)
    folder.rmdir()


def fill(folder):
    """Take every last block; the file that has them."""
    path = folder / "filler"
    with path.open("wb", buffering=0) as file:
        try:
            while True:
                file.write(bytes(4096))
        except OSError:
            pass
    return path


def no_room(site, name):
    """The refusal of one more record, or None when there was room for it."""
    try:
        site.client.post("/api/serviceengine", {"name": name, "cloud": "manual"})
    except RefusedError as why:
        return why
    return None


def big_pools(number):
    return "\n---\n".join(
        f"kind: Pool\nname: pool-{n}\ndescription: v{number} {'x' * 900}\nservers: [{{ip: 127.0.0.1, port: 80}}]"
        for n in range(200)
    )


def test_a_full_disk_refuses_writes_with_507_and_the_controller_stays_and_recovers(sites, small_disk):
    site = sites()
    (small_disk / "c1").mkdir(mode=0o755)  # as operators do
    site.state.symlink_to(small_disk / "c1")
    site.start()
    agent = site.add_engine("se-1")
    version = site.serve()["version"]
    site.until_up("se-1", agent, version=version)
    filler = fill(small_disk)
    refusals = []
    for number in range(6):
        try:
            version = site.apply(big_pools(number))["version"]
        except RefusedError as why:
            refusals.append(why)
    assert {why.status for why in refusals} == {507}, refusals
    said = site.cli("config", "apply", "-f", "-", input=big_pools(7))
    assert (said.returncode, "Traceback" in said.stderr) == (1, False), said.stderr
    assert "disk" in said.stderr or "space" in said.stderr, said.stderr
    created = iter(range(100))
    refused = until(lambda: no_room(site, f"no-room-{next(created)}"), why="there was always room")
    assert refused.status == 507, refused
    # It reads, it serves, its SEs stay.
    assert site.client.get("/readyz")["status"] == "ok"
    assert site.row("se-1")["state"] == "UP"
    assert site.version == version
    site.until_served()
    filler.unlink()
    version = until(lambda: site.apply("kind: Pool\nname: again\nservers: []\n")["version"], limit_s=15)
    site.until_up("se-1", agent, version=version)
    assert site.controller.running
    site.controller.kill()
    site.start()
    assert site.version == version


def test_a_full_disk_of_an_engine_costs_no_traffic_and_one_that_starts_on_it_serves_what_it_had(
    sites, small_disk
):
    site = sites().start()
    state = small_disk / "se-1"
    agent = site.run_engine("se-1", image=site.image(), meta=site.create("se-1"), state=state)
    version = site.serve()["version"]
    site.until_up("se-1", agent, version=version)
    site.until_served()
    filler = fill(small_disk)
    later = site.apply(
        site.plan.configuration().replace("send_interval: 2", "send_interval: 4") + "---\n" + big_pools(1)
    )["version"]
    assert site.get().startswith("hello from")
    filler.unlink()
    agent.kill()
    agent = site.run_engine("se-1", state=state)
    site.until_up("se-1", agent, version=later)
    site.until_served()

    agent.kill()
    stop_data_plane(state / "data-plane")
    fill(small_disk)
    agent = site.run_engine("se-1", state=state)
    site.until_served()
    assert agent.running
