"""The SE image: whole, signed, and nothing in it trusted before that is known."""

import io
import tarfile

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from twisted.trial.unittest import SynchronousTestCase

from avinet.errors import AvinetError
from avinet.model.ids import ImageId
from avinet.trust import image, keys
from avinet.trust.image import (
    ImageContents,
    ImageCorruptError,
    ImageUnreadableError,
    ImageUntrustedError,
    image_bytes,
    open_image,
    unpack_trust,
    write_image,
)
from avinet.trust.keys import openssh_private
from avinet.trust.membership import sign_membership, verify_membership
from tests.unit.signing_kit import CLUSTER, OTHER_CLUSTER, folder, membership, root_in_memory

ROOT = root_in_memory()
KEY = Ed25519PrivateKey.generate()
LIST = membership(ROOT)


def contents(number=1, cluster=CLUSTER, **more):
    values = {
        "image": ImageId("image-1"),
        "cluster": CLUSTER,
        "software": "0.1.0",
        "group": "web",
        "created_at": 1.0,
        "expires_at": 2.0,
        "membership_document": sign_membership(ROOT.key, membership(ROOT, number, cluster)),
        "image_key": KEY,
        "token": "avt1.000000000000.secret",
        "files": {"avinet.whl": (b"w" * 700, 0o644), "install.sh": (b"#!/bin/sh\n", 0o755)},
    }
    return ImageContents(**{**values, **more})


WHOLE = image_bytes(ROOT, contents())


def members(data=WHOLE):
    with tarfile.open(fileobj=io.BytesIO(data), mode="r:") as tar:
        return [(info, tar.extractfile(info).read()) for info in tar]


def tar_of(parts):
    out = io.BytesIO()
    with tarfile.open(fileobj=out, mode="w", format=tarfile.USTAR_FORMAT) as tar:
        for info, data in parts:
            info.size = len(data) if info.isreg() else 0
            tar.addfile(info, io.BytesIO(data))
    return out.getvalue()


def facts(opened):
    return (
        opened.manifest,
        opened.root_pem,
        opened.membership_document,
        opened.image_key.public_key(),
        opened.token,
        opened.files,
    )


class Images(SynchronousTestCase):
    def setUp(self):
        self.path = folder(self) / "se.tar"

    def open(self, data):
        self.path.write_bytes(data)
        return open_image(self.path)

    def refused(self, error, data):
        why = self.assertRaises(error, self.open, data)
        self.assertIn(str(self.path), str(why))
        return why

    def added(self, error, info, data=b""):
        return self.refused(error, tar_of([*members(), (info, data)]))


class Reading(Images):
    def test_an_image_opens_to_what_went_into_it(self):
        write_image(self.path, ROOT, contents())
        self.assertEqual(self.path.stat().st_mode & 0o777, 0o600)
        opened = open_image(self.path)
        self.assertEqual((opened.image_id, opened.cluster, opened.group), ("image-1", CLUSTER, "web"))
        self.assertEqual(opened.root_pem, ROOT.pem)
        self.assertEqual(opened.token, "avt1.000000000000.secret")
        self.assertEqual(opened.image_key.public_key(), KEY.public_key())
        self.assertEqual(opened.files["install.sh"], b"#!/bin/sh\n")

    def test_an_image_for_any_machine_holds_no_token(self):
        self.assertIsNone(self.open(image_bytes(ROOT, contents(token=None))).token)

    def test_no_secret_is_in_a_repr_or_among_the_files(self):
        opened = self.open(WHOLE)
        secret = openssh_private(KEY)
        self.assertNotIn("secret", repr(opened))
        self.assertNotIn("secret", repr(contents()))
        self.assertNotIn(secret, opened.files.values())
        self.assertNotIn("token", opened.files)

    def test_the_manifest_comes_first(self):
        self.assertEqual(members()[0][0].name, "manifest.jws")

    def test_missing_files_and_folders_are_unreadable(self):
        self.assertRaises(ImageUnreadableError, open_image, self.path)
        self.assertRaises(ImageUnreadableError, open_image, self.path.parent)


class Damaged(Images):
    def test_an_image_cut_anywhere_is_refused(self):
        end_of_data = len(WHOLE.rstrip(b"\0"))
        for end in [*range(0, end_of_data, 97), end_of_data]:
            why = self.refused(ImageCorruptError, WHOLE[:end])
            self.assertIn("image build", str(why))

    def test_one_bit_flipped_anywhere_is_noticed_or_in_padding(self):
        whole = facts(self.open(WHOLE))
        for at in range(0, len(WHOLE), 37):
            data = bytearray(WHOLE)
            data[at] ^= 1 << (at % 8)
            try:
                opened = self.open(bytes(data))
            except AvinetError as why:
                self.assertIsInstance(why, ImageCorruptError | ImageUntrustedError)
            else:
                self.assertEqual(facts(opened), whole, f"byte {at}")

    def test_bytes_of_any_kind_are_refused(self):
        for data in (b"", b"x", bytes(10240), b"\x1f\x8b" + bytes(100), b"PK\x03\x04" * 300, WHOLE[512:]):
            self.refused(ImageCorruptError, data)

    def test_a_compressed_image_is_refused_rather_than_blown_up(self):
        import gzip

        self.refused(ImageCorruptError, gzip.compress(WHOLE))

    def test_each_part_is_needed(self):
        for name in ("manifest.jws", "root.pem", "membership.jws", "image.key"):
            parts = [(info, data) for info, data in members() if info.name != name]
            self.assertIn(name, str(self.refused(ImageCorruptError, tar_of(parts))))

    def test_a_root_certificate_that_is_none_is_refused(self):
        self.refused(ImageCorruptError, self.altered("root.pem", b"-----BEGIN CERTIFICATE-----\n"))

    def test_garbage_in_extended_headers_is_refused(self):
        for kind in (tarfile.XHDTYPE, tarfile.XGLTYPE, tarfile.GNUTYPE_LONGNAME, tarfile.GNUTYPE_LONGLINK):
            for text in (b"", b"\xff" * 30, b"999 a=b\n", b"18 size=notanumber\n", b"0 =\n", b"11 size=-5\n"):
                info = tarfile.TarInfo("header")
                info.type, info.size = kind, len(text)
                head = info.tobuf(tarfile.USTAR_FORMAT) + text.ljust(512, b"\0")
                data = head + WHOLE
                try:
                    self.open(data)
                except AvinetError as why:
                    self.assertIsInstance(why, ImageCorruptError | ImageUntrustedError)

    def altered(self, name, data):
        return tar_of([(info, data if info.name == name else was) for info, was in members()])


class Altered(Images):
    def altered(self, name, data):
        return tar_of([(info, data if info.name == name else was) for info, was in members()])

    def test_an_altered_member_is_named(self):
        for name in ("install.sh", "avinet.whl", "token"):
            why = self.refused(ImageUntrustedError, self.altered(name, b"other"))
            self.assertIn(f"{name} was altered", str(why))

    def test_another_image_key_is_noticed(self):
        other = openssh_private(Ed25519PrivateKey.generate())
        self.refused(ImageUntrustedError, self.altered("image.key", other))

    def test_an_added_member_is_named(self):
        why = self.added(ImageUntrustedError, tarfile.TarInfo("backdoor"), b"x")
        self.assertIn("backdoor", str(why))

    def test_a_removed_member_is_named(self):
        for name in ("install.sh", "token"):
            parts = [(info, data) for info, data in members() if info.name != name]
            self.assertIn(name, str(self.refused(ImageUntrustedError, tar_of(parts))))

    def test_a_member_twice_is_refused(self):
        why = self.added(ImageCorruptError, tarfile.TarInfo("install.sh"), b"#!/bin/sh\n")
        self.assertIn("twice", str(why))

    def test_names_that_lead_elsewhere_are_refused(self):
        for name in ("../evil", "/etc/passwd", "a/b", "..", ".hidden", "./install.sh", "a\nb"):
            self.added(ImageCorruptError, tarfile.TarInfo(name), b"x")

    def test_links_devices_pipes_and_folders_are_refused(self):
        for kind in (
            tarfile.SYMTYPE,
            tarfile.LNKTYPE,
            tarfile.CHRTYPE,
            tarfile.BLKTYPE,
            tarfile.FIFOTYPE,
            tarfile.DIRTYPE,
        ):
            info = tarfile.TarInfo("odd")
            info.type, info.linkname = kind, "/etc/passwd"
            self.assertIn("regular file", str(self.added(ImageCorruptError, info)))

    def test_too_many_members_are_refused(self):
        extra = [(tarfile.TarInfo(f"f{n}"), b"") for n in range(image.MAX_MEMBERS)]
        self.assertIn("more than", str(self.refused(ImageCorruptError, tar_of([*members(), *extra]))))

    def test_a_member_or_an_image_that_is_too_large_is_refused_unread(self):
        self.patch(image, "MAX_MEMBER_BYTES", 1024)
        self.assertIn("1024", str(self.added(ImageCorruptError, tarfile.TarInfo("big"), bytes(1025))))
        self.patch(image, "MAX_IMAGE_BYTES", 2048)
        self.assertIn("2048", str(self.refused(ImageCorruptError, WHOLE)))

    def test_another_root_cannot_stand_in(self):
        foreign = root_in_memory()
        self.refused(ImageUntrustedError, self.altered("root.pem", foreign.pem))

    def test_a_root_of_another_kind_is_refused(self):
        from cryptography.hazmat.primitives.asymmetric import ec

        names = ROOT.issue_api(ec.generate_private_key(ec.SECP256R1()).public_key(), ["localhost"])
        self.refused(ImageUntrustedError, self.altered("root.pem", names))

    def test_a_manifest_of_another_image_is_refused(self):
        other = members(image_bytes(ROOT, contents(files={})))[0][1]
        self.refused(ImageUntrustedError, self.altered("manifest.jws", other))

    def test_a_list_in_the_place_of_the_manifest_is_refused(self):
        document = sign_membership(ROOT.key, LIST).encode()
        self.refused(ImageUntrustedError, self.altered("manifest.jws", document))

    def test_a_membership_list_of_another_cluster_is_refused(self):
        self.refused(ImageUntrustedError, image_bytes(ROOT, contents(cluster=OTHER_CLUSTER)))

    def test_an_image_key_that_is_none_is_refused_though_signed(self):
        data = image_bytes(ROOT, contents(files={"image.key": (b"not a key", 0o600)}))
        self.assertRaises(AvinetError, self.open, data)


class Unpacking(Images):
    def setUp(self):
        super().setUp()
        self.state = folder(self) / "state"

    def unpack(self, number=1):
        unpack_trust(self.open(image_bytes(ROOT, contents(number))), self.state)

    def number(self):
        document = (self.state / "image" / "membership.jws").read_text()
        return verify_membership(document, ROOT.certificate).number

    def test_an_se_gets_what_it_needs_in_private(self):
        self.unpack()
        folder_ = self.state / "image"
        self.assertEqual(
            sorted(p.name for p in folder_.iterdir()),
            ["image.key", "manifest.json", "membership.jws", "root.pem"],
        )
        self.assertEqual(keys.load(folder_ / "image.key").public_key(), KEY.public_key())
        self.assertEqual(folder_.stat().st_mode & 0o777, 0o700)

    def test_unpacking_again_is_harmless_and_never_brings_back_an_older_list(self):
        self.unpack(1)
        self.unpack(5)
        self.assertEqual(self.number(), 5)
        self.unpack(2)
        self.assertEqual(self.number(), 5)

    def test_a_damaged_list_is_replaced(self):
        self.unpack(2)
        (self.state / "image" / "membership.jws").write_bytes(b"\xff\xfe")
        self.unpack(1)
        self.assertEqual(self.number(), 1)
