import datetime as dt
import io
import os
import tarfile

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.ids import ImageId
from avinet.trust import image as module
from avinet.trust.ca import NOT_BEFORE, RootCa
from avinet.trust.files import write_private
from avinet.trust.image import (
    MANIFEST,
    ImageContents,
    ImageCorruptError,
    ImageUnreadableError,
    ImageUntrustedError,
    Manifest,
    image_bytes,
    open_image,
    unpack_trust,
    write_image,
)
from avinet.trust.keys import generate, load
from avinet.trust.membership import sign_membership
from avinet.trust.tokens import new_token
from tests.unit.trust_kit import CLUSTER, OTHER_CLUSTER, folder, membership, mode

WHEEL = "avinet-0.1.0-py3-none-any.whl"


class Case(SynchronousTestCase):
    def setUp(self):
        self.folder = folder(self)
        self.path = self.folder / "se.image"
        self.root = RootCa.create(self.folder / "trust", CLUSTER)
        self.key = generate()
        self.token = new_token()[1]

    def contents(self, **changes):
        facts = {
            "image": ImageId("image-1"),
            "cluster": CLUSTER,
            "software": "0.1.0",
            "group": "web",
            "created_at": 1_800_000_000.0,
            "expires_at": 1_807_776_000.0,
            "membership_document": sign_membership(self.root.key, membership(3)),
            "image_key": self.key,
            "token": self.token,
            "files": {WHEEL: (b"wheel bytes" * 30, 0o644), "install.sh": (b"#!/bin/sh\n", 0o755)},
        }
        return ImageContents(**{**facts, **changes})

    def build(self, **changes):
        return image_bytes(self.root, self.contents(**changes))

    def open(self, data):
        write_private(self.path, data)
        return open_image(self.path)

    def refused(self, kind, data):
        write_private(self.path, data)
        failure = self.assertRaises(kind, open_image, self.path)
        self.assertIn(str(self.path), str(failure))
        self.assertNotIn(self.token.split(".")[2], str(failure))
        return failure

    def members(self):
        with tarfile.open(fileobj=io.BytesIO(self.build())) as tar:
            return [(info, tar.extractfile(info).read()) for info in tar]

    def pack(self, members, fmt=tarfile.USTAR_FORMAT):
        out = io.BytesIO()
        with tarfile.open(fileobj=out, mode="w", format=fmt) as tar:
            for info, data in members:
                tar.addfile(info, io.BytesIO(data))
        return out.getvalue()


class Whole(Case):
    def test_an_image_is_read_back(self):
        found = self.open(self.build())
        self.assertEqual((found.image_id, found.cluster, found.group), ("image-1", CLUSTER, "web"))
        self.assertEqual(found.root_pem, self.root.pem)
        self.assertEqual(found.image_key.public_key(), self.key.public_key())
        self.assertEqual(found.token, self.token)
        self.assertEqual(found.files["install.sh"], b"#!/bin/sh\n")
        self.assertEqual(found.manifest.software, "0.1.0")

    def test_an_image_for_many_machines_holds_no_token(self):
        data = self.build(token=None)
        self.assertIsNone(self.open(data).token)
        self.assertNotIn(b"avt1.", data)

    def test_the_file_is_0600_and_plain_tar_reads_it(self):
        write_image(self.path, self.root, self.contents())
        self.assertEqual(mode(self.path), 0o600)
        with tarfile.open(self.path) as tar:
            modes = {info.name: info.mode for info in tar}
        self.assertEqual(next(iter(modes)), MANIFEST)
        self.assertEqual((modes["image.key"], modes["token"], modes["install.sh"]), (0o600, 0o600, 0o755))

    def test_nothing_secret_is_in_a_repr_or_among_the_files(self):
        found = self.open(self.build())
        shown = repr(found) + repr(self.contents())
        self.assertNotIn(self.token, shown)
        self.assertNotIn("PrivateKey", shown)
        self.assertEqual({"image.key", "token"} & set(found.files), set())


class Damaged(Case):
    def test_every_truncation_is_noticed(self):
        data = self.build()
        end = len(data.rstrip(b"\0"))
        whole = (end + 511) // 512 * 512  # what follows is the archive's empty end
        for length in {*range(0, whole, 131), *range(0, whole, 512), end - 1, end, whole - 1, whole}:
            with self.subTest(length=length):
                failure = self.refused(AvinetError, data[:length])
                self.assertIsInstance(failure, ImageCorruptError)

    def test_every_flipped_bit_is_noticed_or_harmless(self):
        data = bytearray(self.build())
        good = self.open(bytes(data))
        noticed = 0
        for at in range(0, len(data.rstrip(b"\0")) + 600, 37):
            for bit in (0x01, 0x40):
                data[at] ^= bit
                self.path.write_bytes(data)
                try:
                    found = open_image(self.path)
                except (ImageCorruptError, ImageUntrustedError):
                    noticed += 1
                else:  # in the padding of a member or of the archive
                    self.assertEqual((found.manifest, found.files), (good.manifest, good.files), at)
                    self.assertEqual(found.token, good.token)
                data[at] ^= bit
        self.assertGreater(noticed, 100)

    def test_what_is_no_tar_is_corrupt(self):
        for data in (b"", b"nonsense", b"\0" * 10240, b"\x1f\x8b" + b"\0" * 600, os.urandom(5000)):
            self.refused(ImageCorruptError, data)

    def test_a_missing_file_a_folder_and_a_fifo_are_unreadable(self):
        missing = self.folder / "missing"
        self.assertIn("No such file", str(self.assertRaises(ImageUnreadableError, open_image, missing)))
        self.assertRaises(ImageUnreadableError, open_image, self.folder)
        fifo = self.folder / "fifo"
        os.mkfifo(fifo)
        self.assertRaises(ImageUnreadableError, open_image, fifo)

    def test_a_member_of_another_kind_is_refused(self):
        for kind in (
            tarfile.SYMTYPE, tarfile.LNKTYPE, tarfile.CHRTYPE, tarfile.BLKTYPE, tarfile.FIFOTYPE,
            tarfile.DIRTYPE, tarfile.CONTTYPE, tarfile.GNUTYPE_SPARSE,
        ):  # fmt: skip
            odd = tarfile.TarInfo("odd")
            odd.type, odd.linkname = kind, "/etc/passwd"
            with self.subTest(kind=kind):
                self.refused(ImageCorruptError, self.pack([*self.members(), (odd, b"")]))

    def test_a_path_that_leads_elsewhere_is_refused(self):
        for name in ("../evil", "/etc/passwd", "a/b", ".", "..", ".hidden", "a\nb", ""):
            odd = tarfile.TarInfo(name)
            with self.subTest(name=name):
                self.refused(ImageCorruptError, self.pack([*self.members(), (odd, b"")]))

    def test_a_path_in_an_extended_header_is_refused_too(self):
        odd = tarfile.TarInfo("x")
        odd.pax_headers = {"path": "../../evil"}
        self.refused(ImageCorruptError, self.pack([*self.members(), (odd, b"")], tarfile.PAX_FORMAT))

    def test_a_member_twice_is_refused(self):
        members = self.members()
        for again in members:
            failure = self.refused(ImageCorruptError, self.pack([*members, again]))
            self.assertIn("twice", str(failure))

    def test_too_many_members_are_refused(self):
        many = [(tarfile.TarInfo(f"file-{n}"), b"") for n in range(module.MAX_MEMBERS)]
        self.assertIn("more than", str(self.refused(ImageCorruptError, self.pack([*self.members(), *many]))))

    def test_a_long_chain_of_extended_headers_is_refused(self):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
        chain = (info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 5000
        self.refused(ImageCorruptError, chain)

    def test_an_oversized_member_or_file_is_refused(self):
        self.patch(module, "MAX_MEMBER_BYTES", 1000)
        failure = self.refused(ImageCorruptError, self.build(files={WHEEL: (bytes(1001), 0o644)}))
        self.assertIn(WHEEL, str(failure))
        self.patch(module, "MAX_IMAGE_BYTES", 2000)
        self.assertIn("2000 bytes", str(self.refused(ImageCorruptError, self.build())))

    def test_a_header_that_lies_about_its_size_is_refused(self):
        info = tarfile.TarInfo("huge")
        info.size = 8**11 - 1
        self.refused(ImageCorruptError, info.tobuf(tarfile.USTAR_FORMAT) + bytes(1024))

    def test_a_sparse_member_does_not_unfold(self):
        odd = tarfile.TarInfo("bomb")
        odd.pax_headers = {
            "GNU.sparse.major": "1", "GNU.sparse.minor": "0", "GNU.sparse.name": "bomb",
            "GNU.sparse.realsize": str(1 << 25),
        }  # fmt: skip
        sparse_map = b"1\n0\n0\n".ljust(512, b"\0")
        odd.size = len(sparse_map)
        self.refused(ImageCorruptError, self.pack([(odd, sparse_map)], tarfile.PAX_FORMAT))

    def test_a_member_that_is_missing_is_named(self):
        for gone, (info, _) in enumerate(self.members()):
            members = self.members()
            del members[gone]
            failure = self.refused(AvinetError, self.pack(members))
            self.assertIn(info.name, str(failure))


class Untrusted(Case):
    def changed(self, name, data=None, mode_bits=None):
        members = []
        for info, old in self.members():
            new = data if info.name == name and data is not None else old
            info.size = len(new)
            if info.name == name and mode_bits is not None:
                info.mode = mode_bits
            members.append((info, new))
        return self.pack(members)

    def test_an_altered_member_is_named(self):
        failure = self.refused(ImageUntrustedError, self.changed(WHEEL, b"other bytes"))
        self.assertIn(f"{WHEEL} was altered", str(failure))

    def test_an_altered_mode_is_named(self):
        failure = self.refused(ImageUntrustedError, self.changed("install.sh", mode_bits=0o4755))
        self.assertIn("install.sh", str(failure))

    def test_a_member_that_the_root_did_not_list_is_named(self):
        extra = tarfile.TarInfo("extra")
        failure = self.refused(ImageUntrustedError, self.pack([*self.members(), (extra, b"")]))
        self.assertIn("extra", str(failure))

    def test_another_clusters_root_does_not_vouch_for_it(self):
        other = RootCa.create(folder(self) / "trust", CLUSTER)
        self.refused(ImageUntrustedError, self.changed("root.pem", other.pem))

    def test_another_clusters_list_is_refused(self):
        foreign = sign_membership(self.root.key, membership(3, cluster=OTHER_CLUSTER))
        failure = self.refused(ImageUntrustedError, self.build(membership_document=foreign))
        self.assertIn(OTHER_CLUSTER, str(failure))
        stranger = RootCa.create(folder(self) / "trust", CLUSTER)
        unsigned = sign_membership(stranger.key, membership(3))
        self.refused(ImageUntrustedError, self.build(membership_document=unsigned))

    def test_a_manifest_signed_for_another_purpose_is_refused(self):
        document = sign_membership(self.root.key, membership(3)).encode()
        self.refused(ImageUntrustedError, self.changed(MANIFEST, document))

    def test_an_unreadable_key_or_root_is_corrupt_and_not_a_traceback(self):
        self.refused(ImageCorruptError, self.changed("root.pem", b"nonsense"))
        self.refused(ImageUntrustedError, self.changed("image.key", b"nonsense"))
        self.refused(ImageUntrustedError, self.changed("root.pem", P256_ROOT))


class Unpacking(Case):
    def setUp(self):
        super().setUp()
        self.state = self.folder / "se"
        self.laid = self.state / "image"

    def public_halves(self):
        """OpenSSH's format of a private key has a random check number, so its file differs each time."""
        return {p.name: p.read_bytes() for p in self.laid.iterdir() if p.name != "image.key"}

    def test_what_an_se_needs_is_laid_out_with_its_modes(self):
        unpack_trust(self.open(self.build()), self.state)
        self.assertEqual((self.laid / "root.pem").read_bytes(), self.root.pem)
        self.assertEqual(load(self.laid / "image.key").public_key(), self.key.public_key())
        manifest = msgspec.json.decode((self.laid / "manifest.json").read_bytes(), type=Manifest)
        self.assertEqual(manifest.image, "image-1")
        self.assertEqual((mode(self.laid), mode(self.laid / "image.key")), (0o700, 0o600))
        self.assertNotIn(self.token.encode(), b"".join(p.read_bytes() for p in self.laid.iterdir()))

    def test_again_is_harmless(self):
        image = self.open(self.build())
        unpack_trust(image, self.state)
        before = self.public_halves()
        unpack_trust(image, self.state)
        self.assertEqual(self.public_halves(), before)
        self.assertEqual(load(self.laid / "image.key").public_key(), self.key.public_key())

    def test_a_newer_list_than_the_images_stays(self):
        image = self.open(self.build())
        unpack_trust(image, self.state)
        newer = sign_membership(self.root.key, membership(4))
        (self.laid / "membership.jws").write_text(newer)
        unpack_trust(image, self.state)
        self.assertEqual((self.laid / "membership.jws").read_text(), newer)

    def test_an_older_or_damaged_list_is_replaced(self):
        image = self.open(self.build())
        unpack_trust(image, self.state)
        for held in (sign_membership(self.root.key, membership(2)).encode(), b"\xff", b""):
            (self.laid / "membership.jws").write_bytes(held)
            unpack_trust(image, self.state)
            self.assertEqual((self.laid / "membership.jws").read_text(), image.membership_document)


def _p256_root():
    key = ec.generate_private_key(ec.SECP256R1())
    builder = x509.CertificateBuilder().subject_name(x509.Name([])).issuer_name(x509.Name([]))
    builder = builder.public_key(key.public_key()).serial_number(1)
    builder = builder.not_valid_before(NOT_BEFORE).not_valid_after(NOT_BEFORE + dt.timedelta(days=1))
    return builder.sign(key, hashes.SHA256()).public_bytes(Encoding.PEM)


P256_ROOT = _p256_root()
