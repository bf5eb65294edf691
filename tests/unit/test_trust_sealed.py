"""A sealed file: whole, or refused."""

import hashlib
import io

from twisted.trial.unittest import SynchronousTestCase

from avinet.trust.sealed import (
    CHECK_BYTES,
    HEAD,
    LAST,
    MAGIC,
    MAX_CHUNK_BYTES,
    SALT_BYTES,
    TAG_BYTES,
    NotSealedError,
    PassphraseShortError,
    PassphraseWrongError,
    SealDamagedError,
    Sealer,
    SealVersionError,
    derive,
    unsealed,
)

PASSPHRASE = b"correct horse battery"
CHUNKS = [b"first", b"", b"a third one", b"the last"]
BEGIN = len(MAGIC) + SALT_BYTES + CHECK_BYTES


def quick(passphrase, salt):
    """Half a second of scrypt each time would be minutes."""
    return hashlib.sha512(passphrase + salt).digest()


def sealed(chunks=CHUNKS, passphrase=PASSPHRASE, derive=quick):
    file = io.BytesIO()
    sealer = Sealer.begin(file, passphrase, derive)
    for chunk in chunks[:-1]:
        sealer.put(chunk)
    sealer.end(chunks[-1])
    return file.getvalue()


def opened(data, passphrase=PASSPHRASE, derive=quick):
    return list(unsealed(io.BytesIO(data), "c1.backup", passphrase, derive))


def pieces(data):
    """What is before the chunks, then each chunk with its head."""
    found, at = [data[:BEGIN]], BEGIN
    while at < len(data):
        (said,) = HEAD.unpack_from(data, at)
        end = at + HEAD.size + (said & ~LAST)
        found.append(data[at:end])
        at = end
    return found


class Sealed(SynchronousTestCase):
    def test_what_was_put_in_comes_out(self):
        self.assertEqual(opened(sealed()), CHUNKS)

    def test_with_scrypt_as_well(self):
        self.assertEqual(opened(sealed(derive=derive), derive=derive), CHUNKS)

    def test_nothing_of_it_can_be_read_in_the_file(self):
        data = sealed()
        for chunk in filter(None, CHUNKS):
            self.assertNotIn(chunk, data)

    def test_two_of_the_same_share_nothing(self):
        self.assertNotEqual(sealed()[len(MAGIC) :], sealed()[len(MAGIC) :])

    def test_cut_off_at_every_byte_it_is_refused(self):
        data = sealed()
        for length in range(len(data)):
            with self.assertRaises((SealDamagedError, NotSealedError), msg=str(length)):
                opened(data[:length])

    def test_with_any_bit_changed_it_is_refused(self):
        data = sealed()
        for at in range(len(data)):
            for bit in range(8):
                changed = bytearray(data)
                changed[at] ^= 1 << bit
                refusals = (SealDamagedError, NotSealedError, PassphraseWrongError, SealVersionError)
                with self.assertRaises(refusals, msg=f"{at}.{bit}"):
                    opened(bytes(changed))

    def test_chunks_in_another_order_twice_or_left_out_are_refused(self):
        begin, *chunks = pieces(sealed([b"same", b"same", b"same", b"same"]))
        self.assertEqual(len(chunks), 4)
        for order in ((1, 0, 2, 3), (0, 0, 1, 2, 3), (0, 1, 3), (3,), (0, 1, 2), (0, 1, 2, 3, 3)):
            with self.assertRaises(SealDamagedError, msg=str(order)):
                opened(begin + b"".join(chunks[n] for n in order))

    def test_a_chunk_of_another_file_of_the_same_passphrase_is_refused(self):
        mine, others = pieces(sealed()), pieces(sealed())
        for n in range(1, len(mine)):
            with self.assertRaises(SealDamagedError):
                opened(b"".join([*mine[:n], others[n], *mine[n + 1 :]]))

    def test_something_behind_its_end_is_refused(self):
        self.assertRaises(SealDamagedError, opened, sealed() + b"x")

    def test_a_wrong_passphrase_is_told_from_damage(self):
        self.assertRaises(PassphraseWrongError, opened, sealed(), b"another passphrase")

    def test_another_version_is_named(self):
        why = self.assertRaises(SealVersionError, opened, sealed().replace(b"sealed 1", b"sealed 2", 1))
        self.assertEqual(why.found, "2")

    def test_what_is_no_backup_is_said_to_be_none(self):
        for data in (b"", b"PK\x03\x04", b"\x00" * 1000):
            self.assertRaises(NotSealedError, opened, data)

    def test_a_size_that_nobody_would_write_takes_no_memory(self):
        for size in (0, TAG_BYTES - 1, MAX_CHUNK_BYTES + TAG_BYTES + 1, LAST - 1):
            data = pieces(sealed())[0] + HEAD.pack(size)
            self.assertRaises(SealDamagedError, opened, data)

    def test_a_short_passphrase_is_refused_before_anything_is_written(self):
        file = io.BytesIO()
        self.assertRaises(PassphraseShortError, Sealer.begin, file, b"eleven char", quick)
        self.assertEqual(file.getvalue(), b"")
