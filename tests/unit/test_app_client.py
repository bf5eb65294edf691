"""The blocking client of the operator API."""

import io
import os
import socket
import ssl
import tempfile
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.app.cli.client import Client
from avinet.app.cli.errors import (
    ConnectionLostError,
    ControllerStartingError,
    ControllerUnreachableError,
    ControllerUntrustedError,
    NoAnswerError,
    RefusedError,
    StrangeAnswerError,
    UsageError,
    exit_status,
)
from avinet.errors import Kind
from avinet.trust.locks import StateLock
from tests.unit.api_double import Answer, ApiDouble, problem


class Answers(SynchronousTestCase):
    def setUp(self):
        self.api = ApiDouble(self)
        self.client = Client.unix(self.api.state / "api.sock")

    def test_a_json_answer_is_decoded_and_empty_query_values_are_left_out(self):
        self.api.answers["GET", "/api/pool?name=a+b"] = Answer(body={"count": 0})
        self.assertEqual(self.client.get("/api/pool", {"name": "a b", "page": None}), {"count": 0})

    def test_an_empty_answer_is_none(self):
        self.api.answers["DELETE", "/api/pool/x"] = Answer(status=204)
        self.assertIsNone(self.client.delete("/api/pool/x"))

    def test_a_raw_body_goes_as_it_is(self):
        self.api.answers["POST", "/api/config"] = Answer(body={})
        self.client.post("/api/config", raw=b"kind: pool\n", content_type="application/yaml")
        asked = self.api.asked[0]
        self.assertEqual((asked.body, asked.headers["Content-Type"]), (b"kind: pool\n", "application/yaml"))

    def test_a_problem_is_raised_with_the_controllers_sentence_and_word(self):
        self.api.answers["GET", "/x"] = problem(409, "name-taken", "It is taken.", name="se-1")
        failure = self.assertRaises(RefusedError, self.client.get, "/x")
        self.assertEqual(
            (str(failure), failure.reason, failure.facts["name"]), ("It is taken.", "name-taken", "se-1")
        )
        self.assertIs(failure.answered_kind, Kind.CONFLICT)

    def test_a_detail_with_braces_is_shown_as_it_is(self):
        self.api.answers["GET", "/x"] = problem(400, "wrong", "No {such} thing {0}.")
        self.assertEqual(str(self.assertRaises(RefusedError, self.client.get, "/x")), "No {such} thing {0}.")

    def test_each_status_has_its_exit_status(self):
        wanted = {
            400: 2,
            401: 6,
            403: 6,
            404: 3,
            409: 4,
            410: 3,
            412: 4,
            413: 2,
            429: 5,
            500: 1,
            503: 5,
            504: 7,
            507: 1,
        }
        for status, expected in wanted.items():
            self.api.answers["GET", "/x"] = Answer(status=status, body=b"<html>", content_type="text/html")
            failure = self.assertRaises(RefusedError, self.client.get, "/x")
            self.assertEqual(exit_status(failure), expected, status)
            self.assertIn(str(status), str(failure))

    def test_an_answer_that_is_not_json_is_strange(self):
        self.api.answers["GET", "/x"] = Answer(body=b"hello")
        self.assertRaises(StrangeAnswerError, self.client.get, "/x")

    def test_an_answer_that_is_cut_short_is_a_lost_connection(self):
        self.api.answers["GET", "/x"] = Answer(body={"a": 1}, claimed_length=1000)
        self.assertRaises(ConnectionLostError, self.client.get, "/x")

    def test_a_download_that_is_cut_short_is_a_lost_connection(self):
        self.api.answers["POST", "/x"] = Answer(status=201, body=b"tar", claimed_length=1000)
        self.assertRaises(ConnectionLostError, self.client.download, "/x", {}, io.BytesIO())

    def test_a_download_writes_the_bytes_and_tells_the_header_fields(self):
        self.api.answers["POST", "/x"] = Answer(status=201, body=b"tar", headers={"X-Avinet-Image": "i"})
        out = io.BytesIO()
        headers = self.client.download("/x", {"group": "g"}, out)
        self.assertEqual(
            (out.getvalue(), headers["x-avinet-image"], self.api.asked[0].json), (b"tar", "i", {"group": "g"})
        )

    def test_events_are_read_from_the_stream_until_it_ends(self):
        text = b'retry: 2000\n\n:\n\nid: 4\nevent: A\ndata: {"id": 4}\n\nid: 5\ndata: {"id": 5}\n\n'
        self.api.answers["GET", "/api/events"] = Answer(body=text, content_type="text/event-stream")
        stream = self.client.stream_events(3)
        self.assertEqual([next(stream)["id"], next(stream)["id"]], [4, 5])
        self.assertRaises(ConnectionLostError, next, stream)
        self.assertEqual(self.api.asked[0].headers["Last-Event-ID"], "3")


class Places(SynchronousTestCase):
    def setUp(self):
        folder = tempfile.TemporaryDirectory(prefix="avinet-")
        self.addCleanup(folder.cleanup)
        self.path = Path(folder.name) / "api.sock"

    def test_a_socket_that_is_not_there_is_named(self):
        failure = self.assertRaises(ControllerUnreachableError, Client.unix(self.path).get, "/x")
        self.assertIn(str(self.path), str(failure))
        self.assertEqual(exit_status(failure), 5)

    def test_a_controller_that_starts_is_told_from_one_that_is_not_there(self):
        lock = StateLock.take(self.path.parent, "controller")
        failure = self.assertRaises(ControllerStartingError, Client.unix(self.path).get, "/x")
        self.assertIn(f"(pid {os.getpid()})", str(failure))
        self.assertEqual(exit_status(failure), 5)
        lock.release()
        failure = self.assertRaises(ControllerUnreachableError, Client.unix(self.path).get, "/x")
        self.assertNotIsInstance(failure, ControllerStartingError)

    def test_a_certificate_that_is_not_trusted_is_advised_by_what_is_wrong_with_it(self):
        def advice(code):
            class Presents:
                def connect(self):
                    failure = ssl.SSLCertVerificationError()
                    failure.verify_code, failure.verify_message = code, "as OpenSSL says it."
                    raise failure

                def close(self):
                    pass

            client = Client("https://ctl", lambda timeout_s: Presents())
            failure = self.assertRaises(ControllerUntrustedError, client.get, "/x")
            self.assertNotIn("..", str(failure))
            return failure.advice

        self.assertIn("avinet login https://ctl;", advice(19))  # self-signed in the chain
        for misnamed in (62, 64):
            self.assertIn("[controller] addresses", advice(misnamed))

    def test_a_controller_that_says_nothing_times_out(self):
        silent = socket.socket(socket.AF_UNIX)
        self.addCleanup(silent.close)
        silent.bind(str(self.path))
        silent.listen()
        failure = self.assertRaises(NoAnswerError, Client.unix(self.path).get, "/x", timeout_s=0.05)
        self.assertEqual(exit_status(failure), 7)

    def test_only_https_urls_are_places(self):
        for url in ("http://a", "https://", "https://a/b", "a", "https://a:99999", "https://a:x"):
            self.assertRaises(UsageError, Client.tls, url)

    def test_a_root_certificate_that_is_not_there_is_named(self):
        failure = self.assertRaises(UsageError, Client.tls, "https://a", self.path)
        self.assertIn(str(self.path), str(failure))

    def test_a_client_does_not_show_its_password(self):
        self.assertNotIn("Basic", repr(Client.tls("https://a", None, "admin", "secret")))
