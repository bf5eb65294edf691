"""Which loggers a virtual service has, what their filters mean, and how log files are taken away."""

import errno
import itertools
import json
import re
from pathlib import Path
from unittest.mock import patch

import msgspec
from twisted.internet.defer import Deferred, fail, succeed
from twisted.internet.task import Clock
from twisted.trial.unittest import SynchronousTestCase

from avinet.dataplane.envoy_access_log import CLIENT_LEFT
from avinet.dataplane.envoy_binary import EnvoyBinary
from avinet.dataplane.envoy_files import EnvoyFiles
from avinet.dataplane.envoy_logs import POLL_S, QUIET_S, log_writes, reopened
from avinet.dataplane.envoy_render import render
from avinet.dataplane.envoy_settings import EnvoySettings
from avinet.dataplane.envoy_start import make_ready
from avinet.dataplane.interface import DataPlaneDownError, LogFiles, LogWrites
from avinet.model.config import (
    AnalyticsPolicy,
    ApplicationProfile,
    FullClientLogs,
    PathMatch,
    Route,
    ServiceEngineGroup,
    VirtualService,
)
from avinet.model.log_settings import LogSettings, resource_of_group
from avinet.model.logs import LogClass
from tests.unit.test_dataplane_process import new_folder
from tests.unit.test_dataplane_render import dumped, pool, resource, service, state_of

LOGS = LogFiles(Path("/logs"))


FAILURES = ("connection.transport_failure_reason", "connection.termination_details")


def rendered(*, logs=LOGS, **more):
    return render(state_of(service(**more), pool()), None, logs)


def filter_of(listener):
    return listener["filter_chains"][0]["filters"][0]["typed_config"]


def loggers(**more):
    """By the name of the file."""
    found = filter_of(rendered(**more).listeners[0])["access_log"]
    return {Path(one["typed_config"]["path"]).name: one for one in found}


def evaluate(expression, *, status, flags, has):
    """Of CEL, as Python: what is used here differs in operators only."""
    there = {"response.code": status != 0, **{attribute: attribute in has for attribute in FAILURES}}
    python = re.sub(r"has\(([a-z_.]+)\)", lambda found: str(there[found[1]]), expression)
    python = python.replace("response.flags", str(flags)).replace("&&", " and ").replace("||", " or ")
    if status:
        python = python.replace("response.code", str(status))
    return eval(re.sub(r"!(?!=)", " not ", python).strip(), {"response": None})


def takes(chosen, *, status, flags, duration_ms, has=()):
    """What Envoy does with one of our filters."""
    ((kind, inner),) = chosen.items()
    if kind in ("or_filter", "and_filter"):
        results = [
            takes(one, status=status, flags=flags, duration_ms=duration_ms, has=has)
            for one in inner["filters"]
        ]
        return any(results) if kind == "or_filter" else all(results)
    if kind == "extension_filter":
        return evaluate(inner["typed_config"]["expression"], status=status, flags=flags, has=has)
    have = {"status_code_filter": status, "duration_filter": duration_ms}[kind]
    compared = inner["comparison"]
    value = compared["value"]["default_value"]
    return {"GE": have >= value, "LE": have <= value, "EQ": have == value, "NE": have != value}[
        compared["op"]
    ]


def pieces(logs):
    """What was set aside, oldest first."""
    found = logs.folder.glob("*.*.ndjson")
    return sorted(found, key=lambda path: int(path.name.split(".")[1]))


class Loggers(SynchronousTestCase):
    def test_each_request_is_taken_by_exactly_one(self):
        policies = (
            AnalyticsPolicy(),
            AnalyticsPolicy(significant_client_errors=(404, 429)),
            AnalyticsPolicy(slow_ms=0),
            AnalyticsPolicy(slow_ms=1, significant_client_errors=(400,)),
        )
        profiles = [(ApplicationProfile.HTTP, ())]
        profiles += [(ApplicationProfile.TCP, has) for has in ((), FAILURES[:1], FAILURES[1:], FAILURES)]
        for policy, (profile, has) in itertools.product(policies, profiles):
            found = loggers(analytics_policy=policy, application_profile_ref=profile)
            for status, flags, duration_ms in itertools.product(
                (0, 101, 200, 400, 404, 429, 499, 500, 599),
                (0, 1, CLIENT_LEFT, CLIENT_LEFT + 1),
                (0, 1, 999, 1_000, 60_000),
            ):
                what = {"status": status, "flags": flags, "duration_ms": duration_ms, "has": has}
                taking = [name for name, one in found.items() if takes(one["filter"], **what)]
                significant = flags != 0 and (status, flags) != (101, CLIENT_LEFT)
                if profile is ApplicationProfile.TCP:
                    significant = flags != 0 or bool(has)
                else:
                    significant |= status >= 500 or status in policy.significant_client_errors
                    significant |= 0 < policy.slow_ms <= duration_ms and status != 101
                wanted = LogClass.SIGNIFICANT if significant else LogClass.FULL
                self.assertEqual(taking, [f"{wanted}.ndjson"], (policy, profile, what))

    def test_without_full_logs_there_is_one_file_and_without_a_folder_none(self):
        quiet = AnalyticsPolicy(full_client_logs=FullClientLogs(enabled=False))
        self.assertEqual(set(loggers(analytics_policy=quiet)), {"significant.ndjson"})
        self.assertEqual(loggers(logs=None), {})

    def test_names_are_no_formats(self):
        named = msgspec.structs.replace(
            msgspec.msgpack.decode(service().body, type=VirtualService), name="100% %PROTOCOL%"
        )
        state = state_of(resource("virtualservice", named), pool())
        (one, _) = filter_of(render(state, None, LOGS).listeners[0])["access_log"]
        self.assertEqual(one["typed_config"]["log_format"]["json_format"]["vs"], "100%% %%PROTOCOL%%")

    def test_throttles_change_no_listener_and_what_is_logged_does(self):
        before = rendered().listeners
        throttled = AnalyticsPolicy(significant_log_throttle=5, full_client_logs=FullClientLogs(throttle=7))
        self.assertEqual(rendered(analytics_policy=throttled).listeners, before)
        self.assertNotEqual(rendered(analytics_policy=AnalyticsPolicy(slow_ms=7)).listeners, before)

    def test_a_listener_is_told_as_people_write_it(self):
        formats = [
            filter_of(one)["access_log"][0]["typed_config"]["log_format"]["json_format"]["listener"]
            for one in rendered(vips=("127.0.0.1", "::1")).listeners
        ]
        self.assertEqual(formats, ["127.0.0.1:8080", "[::1]:8080"])

    def test_paths_are_normalised_where_a_route_looks_at_them(self):
        for wanted, routes in (
            (False, ()),
            (False, (Route(hosts=("a.test",), pool_ref="pool-1"),)),
            (True, (Route(hosts=("a.test",), pool_ref="pool-1"), Route(path="/a", pool_ref="pool-1"))),
            (True, (Route(path="/", path_match=PathMatch.EQUALS, pool_ref="pool-1"),)),
        ):
            manager = filter_of(rendered(routes=routes).listeners[0])
            self.assertEqual(manager["normalize_path"], wanted, routes)

    def test_a_cluster_tells_its_pools_name(self):
        (cluster, _) = rendered().clusters
        self.assertEqual(cluster["metadata"]["filter_metadata"]["avinet"]["name"], "1")


class Limits(SynchronousTestCase):
    GROUP = ServiceEngineGroup(uuid="serviceenginegroup-1", name="g")

    def test_a_group_as_usual_is_not_told_of(self):
        self.assertIsNone(resource_of_group(self.GROUP))
        settings = LogSettings.of(state_of(service(), pool()))
        self.assertEqual(settings.max_bytes, 10_000 * 1024 * 1024)
        self.assertEqual(settings.max_age_s, 168 * 3600)
        self.assertEqual(settings.throttle, dict.fromkeys(LogClass, 0))
        self.assertEqual(settings.service_throttles, {})

    def test_the_tightest_limits_of_all_groups_hold(self):
        groups = [
            msgspec.structs.replace(self.GROUP, uuid=f"serviceenginegroup-{number}", **more)
            for number, more in enumerate(
                (
                    {"log_disksz": 500, "full_log_throttle": 10},
                    {"log_age_h": 0, "full_log_throttle": 20, "significant_log_throttle": 3},
                )
            )
        ]
        policy = AnalyticsPolicy(full_client_logs=FullClientLogs(throttle=4))
        told = map(resource_of_group, groups)
        settings = LogSettings.of(state_of(service(analytics_policy=policy), service("2"), *told))
        self.assertEqual(settings.max_bytes, 500 * 1024 * 1024)
        self.assertEqual(settings.max_age_s, 168 * 3600)
        self.assertEqual(settings.throttle, {LogClass.SIGNIFICANT: 3, LogClass.FULL: 10})
        self.assertEqual(
            settings.service_throttles,
            {"virtualservice-1": {LogClass.SIGNIFICANT: 0, LogClass.FULL: 4}},
        )

    def test_no_limit_by_age_is_none(self):
        told = resource_of_group(msgspec.structs.replace(self.GROUP, log_age_h=0))
        self.assertEqual(LogSettings.of(state_of(told)).max_age_s, 0)

    def test_the_data_plane_carries_what_is_the_agents(self):
        told = resource_of_group(msgspec.structs.replace(self.GROUP, log_disksz=500))
        state = state_of(service(), pool(), told)
        self.assertEqual(dumped(render(state)).in_force[told.name], told.digest)
        self.assertEqual(render(state).listeners, render(state_of(service(), pool())).listeners)

    def test_what_an_earlier_version_sends_has_the_defaults(self):
        body = msgspec.msgpack.decode(service().body)
        del body["analytics_policy"]
        old = msgspec.msgpack.decode(msgspec.msgpack.encode(body), type=VirtualService)
        self.assertEqual(old.analytics_policy, AnalyticsPolicy())


class Files(SynchronousTestCase):
    def setUp(self):
        self.files = EnvoyFiles(new_folder(self) / "data-plane")
        self.files.prepare()
        self.logs = self.files.logs

    def test_the_folder_is_ours_alone(self):
        self.assertEqual(self.logs.folder.stat().st_mode & 0o777, 0o700)

    def test_pieces_are_numbered_in_the_order_in_which_they_were_set_aside(self):
        wanted = []
        for number in range(5):
            log_class = (LogClass.FULL, LogClass.SIGNIFICANT)[number % 2]
            self.logs.current(log_class).write_text(f"{number}\n")
            wanted.append(self.logs.set_aside(log_class))
            self.assertTrue(wanted[-1].name.startswith(f"{log_class}."))
        self.assertEqual(pieces(self.logs), wanted)
        self.assertEqual([path.read_text() for path in wanted], [f"{n}\n" for n in range(5)])

    def test_a_number_that_is_taken_is_not_taken_again(self):
        with patch("time.time_ns", return_value=5_000):
            for number in (5, 6):
                self.logs.current(LogClass.FULL).write_text(f"{number}")
                piece = self.logs.set_aside(LogClass.FULL)
                self.assertEqual((piece.name, piece.read_text()), (f"full.{number}.ndjson", f"{number}"))

    def test_what_is_empty_or_not_there_stays(self):
        self.assertIsNone(self.logs.set_aside(LogClass.FULL))
        self.logs.current(LogClass.FULL).write_text("")
        self.assertIsNone(self.logs.set_aside(LogClass.FULL))
        self.assertTrue(self.logs.current(LogClass.FULL).exists())

    def ready(self):
        make_ready(self.files, EnvoyBinary(Path("/envoy"), "1"), EnvoySettings())
        self.addCleanup(self.files.forget_process)

    def test_a_start_sets_aside_what_an_earlier_envoy_left(self):
        self.logs.current(LogClass.FULL).write_text('{"torn')
        self.ready()
        (piece,) = pieces(self.logs)
        self.assertTrue(piece.name.startswith("full."))
        self.assertEqual(piece.read_text(), '{"torn')
        for each in LogClass:
            self.assertEqual(self.logs.current(each).stat().st_size, 0)
            self.assertEqual(self.logs.current(each).stat().st_mode & 0o777, 0o600)

    def test_a_start_without_room_for_a_new_file_goes_on_with_the_old_one(self):
        self.logs.current(LogClass.FULL).write_text('{"torn')
        full = patch.object(Path, "touch", side_effect=OSError(errno.ENOSPC, "No space left on device"))
        with full:
            self.ready()
        self.assertEqual(pieces(self.logs), [])
        self.assertEqual(self.logs.current(LogClass.FULL).read_text(), '{"torn')

    def test_validation_makes_no_log_files(self):
        listeners = rendered(logs=self.logs).listeners
        path = self.files.write_validation((), listeners, ())
        written = json.loads(path.read_bytes())["static_resources"]["listeners"][0]
        found = [one["typed_config"]["path"] for one in filter_of(written)["access_log"]]
        self.assertEqual(found, ["/dev/null"] * 2)

    def test_envoy_is_told_to_write_each_second(self):
        command = self.files.command(Path("/e"), EnvoySettings())
        self.assertEqual(command[command.index("--file-flush-interval-msec") + 1], "1000")


class Admin:
    """Envoy's side of ``reopened``."""

    def __init__(self):
        self.told = 0
        self.buffered = 5
        self.down = False

    def reopen_logs(self):
        self.told += 1
        return fail(DataPlaneDownError(detail="x")) if self.down else succeed(None)

    def stats(self, pattern):
        assert pattern == r"filesystem\.write_total_buffered"
        return succeed({"filesystem.write_total_buffered": self.buffered})


class Reopening(SynchronousTestCase):
    def setUp(self):
        self.logs = LogFiles(new_folder(self))
        self.logs.folder.mkdir()
        self.clock, self.admin, self.running = Clock(), Admin(), True

    def reopen(self):
        return Deferred.fromCoroutine(reopened(self.clock, self.admin, self.logs, lambda: self.running))

    def test_it_is_over_when_envoy_has_made_what_was_not_there(self):
        self.logs.current(LogClass.FULL).write_text("x")
        done = self.reopen()
        self.assertEqual(self.admin.told, 1)
        self.clock.advance(POLL_S)
        self.assertNoResult(done)
        self.logs.current(LogClass.SIGNIFICANT).write_text("x")
        self.clock.advance(POLL_S)
        self.successResultOf(done)

    def test_it_is_over_when_nothing_is_in_memory(self):
        done = self.reopen()
        self.assertNoResult(done)
        self.admin.buffered = 0
        self.clock.advance(POLL_S)
        self.successResultOf(done)

    def test_it_is_over_when_all_that_was_in_memory_had_to_be_written(self):
        done = self.reopen()
        self.clock.pump([POLL_S] * int(QUIET_S / POLL_S - 1))
        self.assertNoResult(done)
        self.clock.pump([POLL_S] * 3)
        self.successResultOf(done)

    def test_where_none_runs_nobody_is_told(self):
        self.running = False
        self.successResultOf(self.reopen())
        self.assertEqual(self.admin.told, 0)

    def test_one_that_does_not_answer_is_an_error_unless_it_is_gone(self):
        self.admin.down = True
        self.failureResultOf(self.reopen(), DataPlaneDownError)

        def dies():
            self.running = False
            return fail(DataPlaneDownError(detail="x"))

        self.admin.reopen_logs = dies
        self.successResultOf(self.reopen())

    def test_failed_writes_are_counted(self):
        names = ("filesystem.write_failed", "filesystem.write_buffered", "filesystem.write_completed", "x")
        stats = [{"name": name, "value": at} for at, name in enumerate(names, 1)]
        self.assertEqual(log_writes(stats), LogWrites(logged=2, written=3, failed=1))
        self.assertEqual(log_writes([{"histograms": {}}]), LogWrites())
