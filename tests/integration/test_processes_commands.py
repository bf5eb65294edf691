"""What operators type against a running cluster: commands on an SE, and YAML of every wrong kind."""

import json
import shutil
import subprocess
import time

import pytest

from avinet.trust.files import write_private
from tests.integration.processes import Site, until

BIG_BYTES = 20_000_000


def test_exec_passes_output_errors_and_the_exit_status(shared):
    ran = shared.cli("se", "exec", "se-0", "echo out; echo err >&2; exit 7")
    assert (ran.returncode, ran.stdout, ran.stderr) == (7, "out\n", "err\n")
    as_json = json.loads(shared.cli("se", "exec", "--json", "se-0", "echo out; exit 3").stdout)
    assert as_json == {"exit_status": 3, "stdout": "out\n", "stderr": ""}
    assert shared.cli("se", "exec", "se-0", "--", "printf", "%s|", "a b", "c'd").stdout == "a b|c'd|"
    event = shared.until_event("SE_COMMAND", "exit 7")
    assert event["facts"]["told"]["exit_status"] == "7"


def test_exec_reads_its_input_to_the_end(shared):
    ran = shared.cli("se", "exec", "se-0", "wc -c", input="x" * 300_000)
    assert ran.stdout.strip() == "300000"


def test_exec_of_a_command_that_a_signal_ends_says_128_and_the_signal(shared):
    assert shared.cli("se", "exec", "se-0", "kill -TERM $$").returncode == 128 + 15
    assert shared.cli("se", "exec", "se-0", "kill -KILL $$").returncode == 128 + 9


def test_exec_is_cut_at_its_timeout_and_leaves_no_process(shared):
    started = time.monotonic()
    ran = shared.cli("se", "exec", "--timeout", "1", "se-0", "sleep 987654 & sleep 987654")
    assert (ran.returncode, "Traceback" in ran.stderr) == (124, False), ran.stderr
    assert time.monotonic() - started < 8

    def gone():
        found = subprocess.run(("pgrep", "-f", "^sleep 987654"), capture_output=True, check=False)
        return not found.stdout

    until(gone, 10, "the command's processes still run")


def test_exec_streams_a_big_output_whole(shared):
    ran = shared.cli("se", "exec", "se-0", f"head -c {BIG_BYTES} /dev/zero", text=False)
    assert (ran.returncode, len(ran.stdout)) == (0, BIG_BYTES)


def test_exec_on_an_engine_that_is_not_there_says_so(shared):
    assert shared.cli("se", "exec", "nobody", "true").returncode == 3
    shared.client.post("/api/serviceengine", {"name": "se-unborn", "cloud": "manual"})
    ran = shared.cli("se", "exec", "se-unborn", "true")
    assert (ran.returncode, "CREATING" in ran.stderr) == (5, True), ran.stderr
    shared.client.delete("/api/serviceengine/se-unborn")


def test_openssh_runs_commands_through_the_reverse_forward_and_checks_the_host_key(shared):
    if shutil.which("ssh") is None:
        pytest.skip("needs openssh-client: make test-deps")
    row = shared.row("se-0")

    def ssh(command, known_hosts):
        return subprocess.run(
            (
                *("ssh", "-F", "none", "-o", "BatchMode=yes", "-o", "StrictHostKeyChecking=yes"),
                *("-o", f"UserKnownHostsFile={known_hosts}", "-o", "IdentitiesOnly=yes"),
                *("-i", str(shared.paths.id_se), "-p", str(shared.ports.reverse)),
                *(f"aviseuser@{row['loopback']}", command),
            ),
            capture_output=True,
            text=True,
            timeout=20,
            check=False,
            stdin=subprocess.DEVNULL,
        )

    ran = ssh("echo hello; exit 5", shared.paths.known_hosts)
    assert (ran.returncode, ran.stdout) == (5, "hello\n"), ran.stderr
    assert ssh("true", "/dev/null").returncode == 255


SERVICE = """\
kind: VirtualService
name: {name}
vip: [{{ip_address: 127.0.0.1}}]
services: [{{port: 81}}]
pool_ref: demo-pool
"""
WRONG = [
    ("just text", "not an object"),
    ("- a\n- b\n", "not an object"),
    ("kind: [", "line"),
    ("kind: Pool\nname: a\n\tb: c\n", "line"),
    ("name: a\n", "kind"),
    ("kind: Poool\nname: a\n", "Poool"),
    ("kind: Pool\nname: a\nserverz: []\n", "serverz"),
    ("kind: Pool\nname: a\nservers: [{ip: 300.1.1.1, port: 80}]\n", "servers[0].ip"),
    ("kind: Pool\nname: a\nservers: [{ip: 10.0.0.1, port: 99999}]\n", "servers[0].port"),
    ("kind: Pool\nname: a\nhealth_monitor_refs: [nobody]\n", "nobody"),
    (
        "kind: VirtualService\nname: a\nvip: [{ip_address: 127.0.0.1}]\nservices: [{port: 80}]\npool_ref: nobody\n",
        "nobody",
    ),
    ("---\n".join(SERVICE.format(name=name) for name in ("a", "b")), "81"),
    ("a: &a [x, x]\nb: &b [*a, *a]\nc: &c [*b, *b]\nd: [*c, *c]\n", "alias"),
    ("!!python/object/apply:os.system [true]\n", "tag"),
    ("", "document"),
]


@pytest.mark.parametrize(("text", "word"), WRONG)
def test_wrong_yaml_is_refused_with_what_is_wrong_and_nothing_changes(shared, text, word):
    version = shared.version
    ran = shared.cli("config", "apply", "-f", "-", input=text)
    assert ran.returncode == 2, (ran.stdout, ran.stderr)
    assert word in ran.stderr
    assert "Traceback" not in ran.stderr
    assert shared.version == version


def test_one_wrong_document_of_many_keeps_out_all_of_them(shared):
    version = shared.version
    good = "kind: Pool\nname: innocent\nservers: [{ip: 127.0.0.1, port: 80}]\n"
    ran = shared.cli("config", "apply", "-f", "-", input=good + "---\nkind: Pool\nname: guilty\nservers: 7\n")
    assert (ran.returncode, "guilty" in ran.stderr) == (2, True), ran.stderr
    assert shared.version == version
    assert shared.client.get("/api/pool", {"name": "innocent"})["count"] == 0


def test_files_that_are_not_there_or_not_text_are_named(shared):
    ran = shared.cli("config", "apply", "-f", "/nowhere.yaml")
    assert (ran.returncode != 0, "/nowhere.yaml" in ran.stderr) == (True, True)
    noise = shared.folder / "noise.yaml"
    noise.write_bytes(b"\xff\xfe\x00\x01")
    ran = shared.cli("config", "apply", "-f", str(noise))
    assert (ran.returncode, "Traceback" in ran.stderr) == (2, False), ran.stderr


def test_what_others_refer_to_is_not_deleted(shared):
    ran = shared.cli("config", "delete", "pool", "demo-pool")
    assert ran.returncode == 4, (ran.stdout, ran.stderr)
    assert "demo-web" in ran.stderr
    assert shared.get().startswith("hello from")


def test_the_command_line_without_a_controller_says_where_it_looked(tmp_path):
    site = Site(tmp_path / "none")
    ran = site.cli("se", "list")
    assert (ran.returncode, str(site.paths.api_socket) in ran.stderr) == (5, True), ran.stderr
    assert len(ran.stderr.splitlines()) <= 2


def test_both_sides_keep_to_their_ssh_settings(site):
    chosen = "post_quantum_only = true\nrekey_bytes = 1048576\nmemory_mib = 32\nconnection_memory_mib = 16\n"
    settings = site.plan.settings("controller")
    text = settings.read_text().replace("[ssh]\n", f"[ssh]\n{chosen}")
    write_private(settings, text.encode())
    site.write_se_settings(more=f"[ssh]\n{chosen}")
    site.start()
    agent = site.add_engine("se-1")
    # 8 MiB through the command's own channel, and through the SE's channel that carries it.
    ran = site.cli("se", "exec", "se-1", "--", "head", "-c", str(8 * 1024 * 1024), "/dev/zero", text=False)
    assert (ran.returncode, len(ran.stdout)) == (0, 8 * 1024 * 1024), ran.stderr
    channel = site.row("se-1")["secure_channel"]
    assert channel["kex"] == "mlkem768x25519-sha256"
    assert channel["rekeys"] >= 7, channel

    def quiet():
        channel = site.row("se-1")["secure_channel"]
        # The control session and the logs', pushed and pulled; the command's own is gone.
        return (channel["held_bytes"], channel["channels"]) == (0, 3)

    until(quiet)
    assert agent.running
