"""Which message may come when, and when keys have served long enough.  The table has every message at every stage."""

from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import RemoteProtocolError
from avinet.ssh.ciphers import Plain
from avinet.ssh.codec import PacketReader, PacketWriter
from avinet.ssh.exchange import CLIENT_HALF, SERVER_HALF, Exchange, KeyLife, check_order, may_send
from avinet.ssh.profile import LinkLimits
from avinet.units import MIB

DISCONNECT, KEXINIT, NEWKEYS = {1}, {20}, {21}
TRANSPORT = {0, 1, 2, 3, 4, *range(8, 20), *range(22, 30)}
"""What the transport layer may send at any time; the unassigned numbers are answered as not implemented."""
SERVICES = {5, 6, 7}
LOGIN = set(range(50, 80))
CONNECTION = set(range(80, 256))

BEGUN = {"ours": b"k", "theirs": b"k"}
KEYED = BEGUN | {"opener": Plain()}
STAGES = {
    # name: (exchange, first keys, strict, authenticated, what may come; HALF stands for the peer's half)
    "strict, before its KEXINIT": ({"ours": b"k"}, True, True, False, DISCONNECT | KEXINIT),
    "strict, before its half": (BEGUN, True, True, False, DISCONNECT | {"HALF"}),
    "strict, before its NEWKEYS": (KEYED, True, True, False, DISCONNECT | NEWKEYS),
    "before its KEXINIT": ({"ours": b"k"}, True, False, False, {0, 1, 2, 3, 4} | KEXINIT),
    "before its half": (BEGUN, True, False, False, {0, 1, 2, 3, 4, "HALF"}),
    "before its NEWKEYS": (KEYED, True, False, False, {0, 1, 2, 3, 4} | NEWKEYS),
    "before the login": (None, False, True, False, TRANSPORT | SERVICES | KEXINIT | LOGIN),
    "after the login": (None, False, True, True, TRANSPORT | SERVICES | KEXINIT | LOGIN | CONNECTION),
    "new keys, only we have begun": (
        {"ours": b"k"}, False, True, True, TRANSPORT | SERVICES | KEXINIT | LOGIN | CONNECTION,
    ),
    "new keys, before its half": (BEGUN, False, True, True, TRANSPORT | {"HALF"}),
    "new keys, before its NEWKEYS": (KEYED, False, True, True, TRANSPORT | NEWKEYS),
}  # fmt: skip


class Order(SynchronousTestCase):
    def test_every_message_at_every_stage_on_both_sides(self):
        for half in (CLIENT_HALF, SERVER_HALF):
            for stage, (facts, first_keys, strict, authenticated, allowed) in STAGES.items():
                for number in range(256):
                    exchange = None if facts is None else Exchange(**facts)
                    fits = number in allowed or (number == half and "HALF" in allowed)
                    try:
                        check_order(
                            number, exchange, half=half, first_keys=first_keys, strict=strict,
                            authenticated=authenticated,
                        )  # fmt: skip
                    except RemoteProtocolError:
                        self.assertFalse(fits, (stage, number))
                    else:
                        self.assertTrue(fits, (stage, number))

    def test_a_wrong_guess_may_be_of_any_exchange_and_is_still_no_other_message(self):
        for number in range(256):
            exchange = Exchange(**BEGUN, ignore_next=True)
            allowed = number == 1 or 30 <= number <= 49
            try:
                check_order(
                    number, exchange, half=CLIENT_HALF, first_keys=True, strict=True, authenticated=False
                )
            except RemoteProtocolError:
                self.assertFalse(allowed, number)
            else:
                self.assertTrue(allowed, number)

    def test_what_is_sent_inside_an_exchange_is_what_may_be_received_there(self):
        sent = {number for number in range(256) if may_send(number)}
        self.assertEqual(sent, TRANSPORT | KEXINIT | NEWKEYS | set(range(30, 50)))

    def test_an_exchange_holds_back_from_our_kexinit_to_our_newkeys(self):
        for facts, held in (({}, False), ({"theirs": b"k"}, False), (BEGUN, True), (KEYED, False)):
            self.assertEqual(Exchange(**facts).holds_back, held)


class Life(SynchronousTestCase):
    def life(self, chance=0.0, server=False, **limits):
        usual = {"rekey_after_bytes": 1000, "rekey_after_packets": 10, "rekey_after_s": 100.0}
        return KeyLife(LinkLimits(**(usual | limits)), lambda: chance, server=server)

    def ends(self, count=0, payload=b"\x02", restart=True):
        reader, writer = PacketReader(), PacketWriter()
        reader.feed(b"".join(b"".join(writer.seal(payload)) for _ in range(count)))
        while reader.next() is not None:
            pass
        return reader, writer

    def test_bytes_and_packets_either_way(self):
        self.assertFalse(self.life().over(*self.ends(9)))
        self.assertTrue(self.life().over(*self.ends(10)))
        self.assertTrue(self.life().over(*self.ends(1, bytes(1000))))
        fresh, used = self.ends(), self.ends(10)
        self.assertTrue(self.life().over(used[0], fresh[1]))
        self.assertTrue(self.life().over(fresh[0], used[1]))

    def test_new_keys_begin_a_new_life_with_peers_that_are_not_strict_too(self):
        for strict in (True, False):
            reader, writer = self.ends(10)
            reader.switch(Plain(), restart=strict)
            writer.switch(Plain(), restart=strict)
            self.assertFalse(self.life().over(reader, writer), "else keys would change without end")

    def test_chance_spreads_by_a_fifth_and_a_server_always_asks_first(self):
        for chance, server, seconds in (
            (0.0, False, 100),
            (1.0, False, 90),
            (0.0, True, 90),
            (1.0, True, 80),
        ):
            self.assertAlmostEqual(self.life(chance, server).seconds, seconds)
        self.assertTrue(self.life(1.0, server=True).over(*self.ends(8)))
        self.assertFalse(self.life(1.0).over(*self.ends(8)))

    def test_a_peer_earns_new_keys_with_data_and_else_gets_a_few(self):
        life, (reader, writer) = self.life(), self.ends()
        reader.opened_bytes = MIB
        self.assertTrue(all(life.allow(0.0, reader, writer) for _ in range(1000)))
        reader.opened_bytes = 0
        allowed = [life.allow(0.0, reader, writer) for _ in range(101)]
        self.assertEqual(allowed, [True] * 100 + [False])
