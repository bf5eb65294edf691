"""The columns of the log store, and addresses as numbers."""

import ipaddress

from hypothesis import given
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.logs.query.fields import BY_WORD, COLUMNS, FIELDS, address_halves, nearest_field, network_range
from avinet.model.logs import LineField


class FieldsTests(SynchronousTestCase):
    def test_no_word_stands_for_two_fields(self):
        words = [word for field in FIELDS.values() for word in (field.name, *field.aliases)]
        self.assertEqual(len(words), len(set(words)))
        self.assertEqual(set(words), set(BY_WORD))
        self.assertLessEqual({field.column or field.name for field in FIELDS.values()}, set(COLUMNS))

    def test_what_the_data_plane_writes_is_what_the_store_reads(self):
        keys = {field.key or field.name for field in COLUMNS.values() if field.logged}
        self.assertEqual(keys - {"_time", "_vs"}, {field.value for field in LineField})

    def test_a_slip_of_the_pen_finds_its_field(self):
        self.assertEqual(nearest_field("staus"), "status")
        self.assertEqual(nearest_field("latncy"), "duration_ms")
        self.assertEqual(nearest_field("qqqqqq"), "")


class AddressTests(SynchronousTestCase):
    @given(st.ip_addresses(v=4), st.integers(0, 32))
    def test_an_ipv4_address_is_in_a_network_when_its_number_is_in_the_range(self, address, bits):
        network = ipaddress.ip_network((address, bits), strict=False)
        high, low = address_halves(str(address))
        first, last = network_range(network)
        self.assertEqual(high, 0)
        self.assertTrue(first <= low <= last)
        self.assertEqual(last - first + 1, network.num_addresses)

    @given(st.ip_addresses(v=6), st.ip_addresses(v=6), st.integers(0, 128))
    def test_an_ipv6_address_is_in_a_network_when_its_number_is_in_the_range(self, address, other, bits):
        network = ipaddress.ip_network((other, bits), strict=False)
        high, low = address_halves(str(address))
        first, last = network_range(network)
        self.assertEqual(address in network, first <= (high << 64 | low) <= last)

    def test_what_is_no_address_has_no_number(self):
        for text in ("", "-", "10.0.0", "10.0.0.1:80", "::1%lo", "\0", "é", "::g", "010.1.1.1 "):
            self.assertIsNone(address_halves(text), text)
