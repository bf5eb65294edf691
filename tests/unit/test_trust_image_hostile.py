import io
import os
import tarfile

from twisted.trial.unittest import SynchronousTestCase

from avinet.model.ids import ImageId
from avinet.trust.ca import RootCa
from avinet.trust.files import write_private
from avinet.trust.image import (
    MANIFEST,
    ImageContents,
    ImageCorruptError,
    ImageUnreadableError,
    ImageUntrustedError,
    image_bytes,
    open_image,
    write_image,
)
from avinet.trust.keys import generate
from avinet.trust.membership import sign_membership
from avinet.trust.tokens import new_token
from tests.unit.trust_kit import CLUSTER, folder, membership, mode

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
    def test_the_file_is_0600_and_plain_tar_reads_it(self):
        write_image(self.path, self.root, self.contents())
        self.assertEqual(mode(self.path), 0o600)
        with tarfile.open(self.path) as tar:
            modes = {info.name: info.mode for info in tar}
        self.assertEqual(next(iter(modes)), MANIFEST)
        self.assertEqual((modes["image.key"], modes["token"], modes["install.sh"]), (0o600, 0o600, 0o755))


class Damaged(Case):
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

    def test_a_long_chain_of_extended_headers_is_refused(self):
        info = tarfile.TarInfo("././@LongLink")
        info.type, info.size = tarfile.GNUTYPE_LONGNAME, 2
        chain = (info.tobuf(tarfile.GNU_FORMAT) + b"a\0".ljust(512, b"\0")) * 5000
        self.refused(ImageCorruptError, chain)

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
        packed = self.pack([*self.members(), (odd, sparse_map)], tarfile.PAX_FORMAT)
        self.assertIn("not a regular file", str(self.refused(ImageCorruptError, packed)))


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

    def test_an_altered_mode_is_named(self):
        failure = self.refused(ImageUntrustedError, self.changed("install.sh", mode_bits=0o4755))
        self.assertIn("install.sh", str(failure))
