from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.ids import new_se_id
from avinet.trust.authorized_keys import (
    AuthorizedKeys,
    AuthorizedKeysLineError,
    Permit,
    PermitInvalidError,
    known_hosts_line,
)
from avinet.trust.keys import InvalidKeyError, generate, key_blob, public_line


def permit(**changes):
    facts = {
        "se": new_se_id(),
        "key": public_line(generate().public_key()),
        "loopback": "127.1.0.1",
        "reverse_port": 5097,
        "permit_open": (("localhost", 5025), ("127.0.0.1", 5025)),
        "networks": (),
    }
    return Permit(**{**facts, **changes})


class Lines(SynchronousTestCase):
    def test_a_line_is_written_as_openssh_reads_it(self):
        one = permit()
        self.assertEqual(
            one.render(),
            'restrict,port-forwarding,command="/usr/sbin/nologin",permitopen="localhost:5025",'
            f'permitopen="127.0.0.1:5025",permitlisten="127.1.0.1:5097" {one.key} {one.se}',
        )

    def test_networks_become_from(self):
        one = permit(networks=("10.0.0.0/8", "2001:db8::/32"))
        self.assertIn(',from="10.0.0.0/8,2001:db8::/32" ssh-ed25519 ', one.render())

    def test_what_would_end_its_option_is_refused(self):
        bad = [
            {"networks": ('fe80::%a",permitopen="10.0.0.1:22',)},
            {"networks": ("10.0.0.1/8",)},
            {"networks": ("everywhere",)},
            {"permit_open": (('localhost:1",pty,permitopen="a', 22),)},
            {"permit_open": (("localhost", 0),)},
            {"loopback": "127.1.0.1\n"},
            {"loopback": ""},
            {"reverse_port": 65536},
            {"se": "se-1\nssh-ed25519"},
        ]
        for changes in bad:
            with self.subTest(changes=changes):
                self.assertRaises(PermitInvalidError, permit, **changes)

    def test_a_login_is_allowed_from_its_networks_only(self):
        one = permit(networks=("10.0.0.0/8", "2001:db8::/32"))
        for address in ("10.1.2.3", "::ffff:10.1.2.3", "2001:db8::1"):
            self.assertTrue(one.allowed_from(address), address)
        for address in ("11.1.2.3", "::ffff:11.1.2.3", "2001:db9::1", "", "host"):
            self.assertFalse(one.allowed_from(address), address)
        self.assertTrue(permit().allowed_from("203.0.113.9"))

    def test_a_known_host_is_written_as_openssh_looks_it_up(self):
        self.assertEqual(
            known_hosts_line("127.1.0.1", 5097, "ssh-ed25519 A"), "[127.1.0.1]:5097 ssh-ed25519 A"
        )
        self.assertEqual(known_hosts_line("127.1.0.1", 22, "ssh-ed25519 A"), "127.1.0.1 ssh-ed25519 A")


class Index(SynchronousTestCase):
    def setUp(self):
        self.index = AuthorizedKeys()

    def test_a_permit_is_found_by_key_and_by_se_until_it_is_removed(self):
        one = permit()
        self.index.put(one)
        self.assertIs(self.index.find(key_blob(one.key)), one)
        self.assertIs(self.index.by_se(one.se), one)
        self.index.remove(one.se)
        self.index.remove(one.se)
        self.assertIsNone(self.index.find(key_blob(one.key)))
        self.assertIsNone(self.index.by_se(one.se))
        self.assertEqual(len(self.index), 0)

    def test_an_se_has_one_key(self):
        old = permit()
        new = permit(se=old.se)
        self.index.put(old)
        self.index.put(new)
        self.assertIsNone(self.index.find(key_blob(old.key)))
        self.assertIs(self.index.find(key_blob(new.key)), new)
        self.assertEqual(len(self.index), 1)

    def test_a_key_stands_for_one_se(self):
        old = permit()
        new = permit(key=old.key)
        self.index.put(old)
        self.index.put(new)
        self.assertIsNone(self.index.by_se(old.se))
        self.index.remove(old.se)
        self.assertIs(self.index.find(key_blob(new.key)), new)
        self.index.remove(new.se)
        self.assertEqual(self.index.render(), "")

    def test_a_permit_with_a_bad_key_changes_nothing(self):
        one = permit()
        self.index.put(one)
        self.assertRaises(InvalidKeyError, self.index.put, permit(se=one.se, key="ssh-rsa AAAA"))
        self.assertIs(self.index.by_se(one.se), one)

    def test_what_is_written_is_read_back(self):
        permits = [
            permit(),
            permit(loopback="127.1.0.2", networks=("10.0.0.0/8",)),
            permit(loopback="127.1.0.3", permit_open=(), networks=("10.0.0.0/8", "2001:db8::/32")),
        ]
        for one in permits:
            self.index.put(one)
        again = AuthorizedKeys.parse(self.index.render())
        self.assertEqual(again.render(), self.index.render())
        for one in permits:
            self.assertEqual(again.by_se(one.se), one)

    def test_a_line_of_another_hand_is_refused_by_number(self):
        good = permit().render()
        key = public_line(generate().public_key())
        bad = [
            key,
            "# comment",
            "",
            good.replace("restrict,", ""),
            good.replace("port-forwarding", "port-forwarding,pty"),
            good.replace("/usr/sbin/nologin", "/bin/sh"),
            good.replace(',permitlisten="127.1.0.1:5097"', ""),
            good + " more",
        ]
        for line in bad:
            with self.subTest(line=line):
                failure = self.assertRaises(
                    AuthorizedKeysLineError, AuthorizedKeys.parse, f"{good}\n{line}\n"
                )
                self.assertEqual(failure.number, 2)

    def test_a_line_with_impossible_values_is_refused(self):
        for line in (
            permit().render().replace("5025", "99999"),
            permit(networks=("10.0.0.0/8",)).render().replace("10.0.0.0/8", "10.0.0.0/99"),
        ):
            self.assertRaises(AvinetError, AuthorizedKeys.parse, line)
