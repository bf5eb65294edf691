"""Processes told apart, folders and files private, addresses tried, the right binary found."""

import os
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
from pathlib import Path
from unittest.mock import patch

import msgspec
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.addresses import check_address
from avinet.dataplane.envoy_admin import peer_of
from avinet.dataplane.envoy_binary import EnvoyBinary, EnvoyMissingError, EnvoyUnusableError, find_envoy
from avinet.dataplane.envoy_files import MAX_LOG_BYTES, EnvoyFiles
from avinet.dataplane.envoy_process import stop_data_plane
from avinet.dataplane.envoy_secret_files import RuntimeFolderError
from avinet.dataplane.envoy_settings import EnvoySettings, connections_within
from avinet.dataplane.envoy_start import (
    LOCK_TIMEOUT_S,
    EnvoyLockedError,
    EnvoyRunsError,
    StartLock,
    become_envoy,
    record,
    recorded,
    running,
    started_by_service,
)
from avinet.dataplane.envoy_written import Written
from avinet.dataplane.interface import RejectedError
from avinet.dataplane.processes import ProcessId, identify, send_signal


def new_folder(case):
    """The path of a folder that is not there yet, removed after the test."""
    parent = tempfile.mkdtemp(prefix="avinet-")
    case.addCleanup(shutil.rmtree, parent)
    return Path(parent) / "folder"


class Processes(SynchronousTestCase):
    def child(self):
        child = subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE)
        self.addCleanup(child.communicate)
        self.addCleanup(child.kill)
        return child

    def test_a_process_is_alive_until_it_ends_even_as_a_zombie(self):
        child = self.child()
        known = identify(child.pid)
        self.assertTrue(known.alive)
        child.kill()
        os.waitid(os.P_PID, child.pid, os.WEXITED | os.WNOWAIT)
        self.assertFalse(known.alive)

    def test_the_same_number_with_another_start_or_boot_is_another_process(self):
        known = identify(os.getpid())
        self.assertFalse(ProcessId(known.pid, known.started_ticks + 1, known.boot).alive)
        self.assertFalse(ProcessId(known.pid, known.started_ticks, "another boot").alive)

    def test_a_signal_never_reaches_a_stranger_under_the_same_number(self):
        child = self.child()
        known = identify(child.pid)
        stranger = ProcessId(known.pid, known.started_ticks + 1, known.boot)
        self.assertFalse(send_signal(stranger, signal.SIGKILL))
        self.assertTrue(known.alive)
        self.assertTrue(send_signal(known, signal.SIGKILL))
        self.assertEqual(child.wait(), -signal.SIGKILL)

    def test_the_start_time_is_in_the_past_and_recent(self):
        import time

        self.assertLess(abs(identify(self.child().pid).started_at - time.time()), 5)


class Adoption(SynchronousTestCase):
    def setUp(self):
        self.files = EnvoyFiles(new_folder(self))
        runtime = tempfile.mkdtemp(prefix="avinet-")  # trial's own names are too long for a socket
        self.addCleanup(shutil.rmtree, runtime)
        patcher = patch.dict(os.environ, {"XDG_RUNTIME_DIR": runtime})
        patcher.start()
        self.addCleanup(patcher.stop)
        self.files.prepare()
        self.files.prepare_runtime()

    def record(self, process):
        self.files.record.write_bytes(msgspec.json.encode(process))

    def listen(self):
        listener = socket.socket(socket.AF_UNIX)
        self.addCleanup(listener.close)
        listener.bind(str(self.files.socket))
        listener.listen()

    def test_nothing_runs_where_nothing_was_started(self):
        self.assertIsNone(running(self.files))
        self.assertIsNone(stop_data_plane(self.files))

    def test_the_recorded_process_that_holds_the_socket_is_ours(self):
        me = identify(os.getpid())
        self.record(me)
        self.listen()
        self.assertEqual(peer_of(self.files.socket), os.getpid())
        self.assertEqual(running(self.files), me)

    def test_a_recorded_number_that_now_is_a_stranger_is_not_believed(self):
        me = identify(os.getpid())
        self.record(ProcessId(me.pid, me.started_ticks - 1, me.boot))
        self.listen()
        self.assertIsNone(recorded(self.files))
        self.assertIsNone(running(self.files))
        self.assertIsNone(stop_data_plane(self.files))

    def test_a_stranger_on_the_socket_is_not_believed(self):
        self.listen()
        self.assertIsNone(running(self.files))

    def test_a_damaged_record_is_as_good_as_none(self):
        self.files.record.write_bytes(b"{")
        self.assertIsNone(recorded(self.files))


class Starting(SynchronousTestCase):
    def setUp(self):
        self.files = EnvoyFiles(new_folder(self))
        self.files.prepare()

    def test_the_right_to_start_is_one_holders_until_the_last_descriptor_of_it_is_closed(self):
        lock = StartLock.take(self.files)
        self.assertIsNone(StartLock.take(self.files))
        inherited = os.dup(lock.descriptor)  # as Envoy has it
        lock.release()
        self.assertIsNone(StartLock.take(self.files))
        os.close(inherited)
        again = StartLock.take(self.files)
        self.assertIsNotNone(again)
        again.release()

    def test_the_record_tells_who_started_it_and_an_older_one_that_the_agent_did(self):
        me = identify(os.getpid())
        record(self.files, me, by_service=True)
        self.assertEqual((recorded(self.files), started_by_service(self.files)), (me, me))
        self.files.record.write_bytes(msgspec.json.encode(me))
        self.assertEqual((recorded(self.files), started_by_service(self.files)), (me, None))

    def test_whoever_finds_the_folder_locked_for_long_gives_up_and_names_it(self):
        lock = StartLock.take(self.files)
        self.addCleanup(lock.release)
        slept = []
        with self.assertRaises(EnvoyLockedError) as raised:
            become_envoy(self.files, EnvoyBinary(Path("/e"), "1.0.0"), EnvoySettings(), slept.append)
        self.assertIn(str(self.files.folder), str(raised.exception))
        self.assertAlmostEqual(sum(slept), LOCK_TIMEOUT_S)

    def test_nobody_becomes_envoy_beside_one_that_is_recorded_and_lives(self):
        record(self.files, identify(os.getpid()))
        with self.assertRaises(EnvoyRunsError) as raised:
            become_envoy(self.files, EnvoyBinary(Path("/e"), "1.0.0"), EnvoySettings())
        self.assertEqual(raised.exception.pid, os.getpid())


class Files(SynchronousTestCase):
    def test_a_long_state_path_still_has_a_short_socket_path(self):
        with patch.dict(os.environ, {"XDG_RUNTIME_DIR": "/tmp"}):
            paths = {EnvoyFiles(Path("/x" * 100) / name).socket for name in ("a", "b")}
        self.assertEqual(len(paths), 2)
        self.assertTrue(all(len(str(path)) < 108 for path in paths))

    def test_a_runtime_folder_that_others_could_enter_is_refused(self):
        files = EnvoyFiles(new_folder(self))
        runtime = new_folder(self)
        runtime.mkdir()
        with patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(runtime.absolute())}):
            files.prepare()
            files.socket.parent.mkdir(mode=0o755)
            files.socket.parent.chmod(0o755)
            with self.assertRaises(RuntimeFolderError):
                files.prepare_runtime()

    def test_a_runtime_folder_that_is_a_link_is_refused(self):
        files = EnvoyFiles(new_folder(self))
        runtime = new_folder(self)
        runtime.mkdir()
        with patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(runtime.absolute())}):
            files.prepare()
            files.socket.parent.symlink_to("/etc")
            with self.assertRaises(RuntimeFolderError):
                files.prepare_runtime()

    def test_the_socket_stays_where_it_was_when_the_environment_changes(self):
        files = EnvoyFiles(new_folder(self))
        one, two = new_folder(self), new_folder(self)
        one.mkdir()
        two.mkdir()
        with patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(one.absolute())}):
            files.prepare()
            files.prepare_runtime()
            before = files.socket
        with patch.dict(os.environ, {"XDG_RUNTIME_DIR": str(two.absolute())}):
            self.assertEqual(files.socket, before)

    def test_what_is_written_is_read_back_and_a_damaged_file_counts_as_empty(self):
        files = EnvoyFiles(new_folder(self))
        files.prepare()
        files.write_xds("cds", "v", ({"name": "a"},))
        self.assertEqual(files.read_xds("cds"), ({"name": "a"},))
        self.assertEqual(files.xds("cds").stat().st_mode & 0o777, 0o600)
        for damage in (b"", b"[]", b"{}"):
            files.xds("cds").write_bytes(damage)
            self.assertEqual(files.read_xds("cds"), ())

    def test_a_file_tells_whether_it_is_as_it_was_written(self):
        files = EnvoyFiles(new_folder(self))
        self.assertFalse(files.as_written("cds"))
        files.prepare()
        self.assertTrue(files.as_written("cds"))
        version = files.write_xds("cds", "v", ({"name": "a", "weight": 1.5, "ports": {"b": [80]}},)).version
        self.assertTrue(files.as_written("cds"))
        whole = files.xds("cds").read_bytes()
        self.assertIn(version.encode(), whole)
        for damage in (
            whole.replace(b"80", b"81"),
            whole.replace(version.encode(), b"mine"),
            whole.replace(version.encode(), b"mine-"),
            whole[:-1],
            b"{}",
            b"[]",
            b"",
        ):
            files.xds("cds").write_bytes(damage)
            self.assertFalse(files.as_written("cds"), damage)
        files.xds("cds").write_bytes(whole.replace(version.encode(), b"0123456789ab"))
        self.assertTrue(files.as_written("cds"))  # by an agent that did not say

    def test_what_is_not_as_an_earlier_agent_wrote_it_has_changed(self):
        files = EnvoyFiles(new_folder(self))
        files.prepare()
        self.assertEqual(Written(files).changed(), {})
        files.xds("lds").write_bytes(files.xds("lds").read_bytes()[:-1])
        self.assertEqual(Written(files).changed(), {"lds.json": []})

    def test_preparing_again_leaves_the_last_good_files(self):
        files = EnvoyFiles(new_folder(self))
        files.prepare()
        files.write_xds("lds", "v", ({"name": "a"},))
        files.prepare()
        self.assertEqual(files.read_xds("lds"), ({"name": "a"},))

    def test_a_long_log_is_renamed_and_envoy_told_until_it_has_opened_it_anew(self):
        files = EnvoyFiles(new_folder(self))
        files.prepare()
        self.assertFalse(files.rotate_log())
        files.log.write_bytes(bytes(MAX_LOG_BYTES + 1))
        self.assertTrue(files.rotate_log())
        # It was not told: the agent died here, or Envoy did not answer.  It still writes to the old file.
        self.assertTrue(files.rotate_log())
        files.log.write_bytes(b"new")
        self.assertFalse(files.rotate_log())

    def test_envoy_is_never_told_to_die_with_its_parent(self):
        command = EnvoyFiles(Path("/s")).command(Path("/e"), EnvoySettings(concurrency=3))
        self.assertIn("--disable-hot-restart", command)
        self.assertEqual(command[command.index("--concurrency") + 1], "3")

    def test_connections_are_held_to_what_the_file_limit_allows(self):
        self.assertEqual(connections_within(EnvoySettings(), 20_200), 10_000)
        self.assertEqual(connections_within(EnvoySettings(max_connections=7), 20_200), 7)
        self.assertEqual(connections_within(EnvoySettings(), 100), 1)


class Addresses(SynchronousTestCase):
    def listener(self, *, shared):
        listener = socket.socket()
        self.addCleanup(listener.close)
        if shared:
            listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEPORT, 1)
        listener.bind(("127.0.0.1", 0))
        listener.listen()
        return listener.getsockname()[1]

    def test_a_port_shared_with_other_engines_is_free(self):
        self.assertIsNone(check_address("127.0.0.1", self.listener(shared=True), "vs"))

    def test_a_port_held_alone_is_refused_with_its_holder(self):
        port = self.listener(shared=False)
        with self.assertRaises(RejectedError) as raised:
            check_address("127.0.0.1", port, "virtualservice/v")
        self.assertEqual(raised.exception.resource, "virtualservice/v")
        self.assertIn(f"127.0.0.1 port {port} is held by pid {os.getpid()}", raised.exception.detail)

    def test_an_address_of_another_host_is_refused_in_words(self):
        with self.assertRaises(RejectedError) as raised:
            check_address("203.0.113.1", 20000, "virtualservice/v")
        self.assertIn("not an address of this host", raised.exception.detail)


class Binaries(SynchronousTestCase):
    def script(self, text):
        path = new_folder(self)
        path.write_text(f"#!/bin/sh\n{text}\n")
        path.chmod(0o755)
        return path.absolute()

    def test_an_envoy_is_known_by_its_version(self):
        found = find_envoy(self.script("echo 'envoy  version: 9e5580/1.40.0/Clean/RELEASE/BoringSSL'"))
        self.assertEqual(found.version, "1.40.0")

    def test_anything_else_is_refused_with_what_it_said(self):
        with self.assertRaises(EnvoyUnusableError) as raised:
            find_envoy(self.script("echo 'GLIBC_2.31 not found' >&2; exit 1"))
        self.assertIn("GLIBC_2.31 not found", str(raised.exception))

    def test_a_file_that_cannot_run_is_refused(self):
        path = self.script("true")
        path.chmod(0o600)
        with self.assertRaises(EnvoyUnusableError):
            find_envoy(path)

    def test_a_missing_file_is_named(self):
        with self.assertRaises(EnvoyMissingError) as raised:
            find_envoy(Path("/no/such/envoy"))
        self.assertIn("/no/such/envoy", str(raised.exception))
