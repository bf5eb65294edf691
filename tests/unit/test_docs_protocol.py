"""The bytes that docs/protocol.md shows are those that the code makes; a stranger builds on them."""

import re
from pathlib import Path

from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.peers import MAX_KEYS, MAX_VALUE_BYTES, PEER_API
from avinet.model.config import HealthMonitor, HealthMonitorType, IpAddr, Pool, Server
from avinet.model.fence import Fence
from avinet.model.ids import BootId, ConfigVersion, ObjectId, SeId
from avinet.model.logs import ClassTotals, Drop, DropReason, SegmentHead, Selection, SpoolTotals
from avinet.model.projection import resource_of
from avinet.model.resources import EMPTY_STATE_HASH, hashes_of, state_hash
from avinet.wire import log_codec, log_messages, messages, peer_messages
from avinet.wire.codec import encode
from avinet.wire.messages import ConfigPut, ConfigStart, Hello, Message, Ping, Pong, Unsupported

DOCUMENT = Path(__file__).parents[2] / "docs" / "protocol.md"
MONITOR = ObjectId("healthmonitor-00000000-0000-4000-8000-000000000001")
POOL = ObjectId("pool-00000000-0000-4000-8000-000000000002")


class TheProtocolDocument(SynchronousTestCase):
    def setUp(self):
        self.text = DOCUMENT.read_text()
        self.unbroken = re.sub(r"\n *", "", self.text)

    def test_shows_frames_as_they_are_encoded(self):
        for message in (
            Ping(id=1, sent_at=2.5),
            Pong(id=1, sent_at=2.5),
            Hello(se=SeId("se-1"), boot=BootId("b"), protocol=1, oldest_protocol=1, software="x"),
            ConfigStart(
                push=1, fence=Fence(0, 0, ConfigVersion(2)), base=None, hash="ab", puts=1, removes=0, size=3
            ),
            ConfigPut(push=1, name="pool/p", body=b"abc"),
            Unsupported(tag_="new"),
        ):
            self.assertIn(f" {encode(message).hex()}\n", self.text, type(message).__name__)

    def test_shows_the_hashes_of_its_example_state(self):
        state = (
            resource_of(HealthMonitor(uuid=MONITOR, name="m", type=HealthMonitorType.TCP)),
            resource_of(
                Pool(
                    uuid=POOL,
                    name="p",
                    servers=(Server(ip=IpAddr(addr="192.0.2.10"), port=9001),),
                    health_monitor_refs=(MONITOR,),
                )
            ),
        )
        for resource in state:
            self.assertIn(resource.body.hex(), self.unbroken)
            self.assertIn(f"SHA-256: {resource.digest}\n", self.text)
            self.assertIn(
                f"    {resource.name} NUL {resource.digest[:4]}...{resource.digest[-4:]} LF\n", self.text
            )
        self.assertIn(f"    {state_hash(hashes_of(state))}\n", self.text)
        self.assertIn(f"`{EMPTY_STATE_HASH[:8]}...{EMPTY_STATE_HASH[-8:]}`", self.text)

    def test_names_every_message_and_every_field_of_it(self):
        for kind in Message.__subclasses__():
            tag = kind.__struct_config__.tag
            self.assertIn(f"**`{tag}`**", self.text)
            for field in kind.__struct_encode_fields__:
                self.assertIn(f"`{field}`", self.text, f"{tag}.{field}")

    def test_names_the_version_that_is_spoken(self):
        self.assertIn(f"version {messages.PROTOCOL_VERSION} of the protocol", self.text)


class TheLogServicesInTheDocument(SynchronousTestCase):
    def setUp(self):
        self.text = DOCUMENT.read_text()

    def test_show_frames_as_they_are_encoded(self):
        name = "0123456789abcdef0123456789abcdef-0000000000000007"
        for frame in (
            log_codec.encode(log_messages.Ack(names=(name,))),
            log_codec.encode(log_messages.Pause(pull=3)),
            log_codec.raw_head(3) + b"abc",
        ):
            self.assertIn(f" {frame.hex()}\n", self.text)

    def test_have_every_message_and_every_field_of_it_named(self):
        kinds = [
            *log_messages.LogMessage.__subclasses__(),
            SegmentHead,
            Selection,
            Drop,
            SpoolTotals,
            ClassTotals,
        ]
        for kind in kinds:
            tag = kind.__struct_config__.tag
            if tag is not None:
                self.assertIn(f"**`{tag}`**", self.text)
            for field in kind.__struct_encode_fields__:
                self.assertIn(f"`{field}`", self.text, f"{kind.__name__}.{field}")
        for reason in (*DropReason, *log_messages.RefuseReason):
            self.assertIn(f"`{reason}`", self.text)

    def test_have_their_ports_and_bounds_named(self):
        for number in (log_messages.LIVE_PORT, log_messages.BULK_PORT, log_messages.MAX_NAMES):
            self.assertIn(str(number), self.text)
        for number in (log_codec.MAX_MESSAGE_BYTES, log_codec.MAX_RAW_BYTES):
            self.assertIn(f"{number:,}", self.text)


class TheControllersInTheDocument(SynchronousTestCase):
    def setUp(self):
        self.text = DOCUMENT.read_text()

    def test_show_frames_as_they_are_encoded(self):
        for message in (
            peer_messages.PeerPing(id=1, sent_at=2.5),
            peer_messages.PeerState(put={"role": b"\xa6leader"}),
        ):
            self.assertIn(f" {peer_messages.PEER.encode(message).hex()}\n", self.text)

    def test_have_every_message_and_every_field_of_it_named(self):
        for kind in peer_messages.PeerMessage.__subclasses__():
            tag = kind.__struct_config__.tag
            self.assertIn(f"**`{tag}`**", self.text)
            for field in kind.__struct_encode_fields__:
                self.assertIn(f"`{field}`", self.text, f"{tag}.{field}")

    def test_have_their_ports_and_bounds_named(self):
        for number in (peer_messages.PEER_PORT, PEER_API.port):
            self.assertIn(str(number), self.text)
        for number in (
            peer_messages.MAX_PEER_FRAME_BYTES,
            peer_messages.MAX_PEER_HELLO_BYTES,
            MAX_KEYS,
            MAX_VALUE_BYTES,
        ):
            self.assertIn(f"{number:,}", self.text)
