"""Images built by the controller, their routes, and an SE's first boot from one."""

import contextlib
import json
import tempfile
from pathlib import Path
from unittest import mock

import attrs
import msgspec
from twisted.internet.defer import Deferred, succeed
from twisted.trial.unittest import SynchronousTestCase

from avinet.controller.api_images import ImageApi
from avinet.controller.image_keys import ImageExpiredError, ImageKeys, ImageRevokedError, ImageUnknownError
from avinet.controller.images import CLOUD_IMAGE_MAX_AGE_S, Images, ImageSources
from avinet.model.ids import ClusterId
from avinet.model.membership import Controller, Membership
from avinet.rest.router import Router
from avinet.rest.site import BoundedSite
from avinet.se.enroller import NoImageError
from avinet.se.first_boot import FirstBoot, MetaInfoError, MetaInfoForeignError, read_meta_info
from avinet.se.registration_client import Answer
from avinet.trust import files
from avinet.trust.ca import RootCa
from avinet.trust.files import write_private
from avinet.trust.image import ImageCorruptError, open_image, sign_manifest
from avinet.trust.locks import StateFolderBusyError
from avinet.trust.membership import sign_membership
from avinet.wire.registration import EnrolmentAnswer, MetaInfo
from tests.unit.enrolment_kit import CLUSTER, Site, run
from tests.unit.rest_client import Connection, Known, request_bytes


class Built(SynchronousTestCase):
    def setUp(self):
        self.site = Site()
        self.folder = Path(tempfile.mkdtemp(prefix="avinet-test-"))
        self.root = RootCa.create(self.folder / "trust", CLUSTER)
        self.document = self.signed(1)

        async def software():
            return {"avinet-0.1.0-py3-none-any.whl": (b"a wheel", 0o644)}

        async def sign(manifest):
            return sign_manifest(self.root, manifest)

        sources = ImageSources(self.root.pem, sign, CLUSTER, lambda: self.document, "0.1.0", software)
        self.known = len(self.site.images.all())
        self.images = Images(self.site.images, sources, self.folder / "images")

    def signed(self, number, cluster=CLUSTER):
        member = Controller(
            name="c", addresses=("192.0.2.1",), node_certificate="", ssh_host_key="", id_se=""
        )
        return sign_membership(
            self.root.key, Membership(cluster=cluster, number=number, controllers=(member,))
        )

    def image_file(self, **wish):
        record, tar = run(self.images.build(**wish))
        path = self.folder / "se.tar"
        write_private(path, tar)
        return record, path


class ImagesKept(Built):
    def test_an_image_opens_and_its_key_is_known(self):
        record, path = self.image_file(group="web")
        image = open_image(path)
        self.assertEqual((record.id, CLUSTER, "web"), (image.image_id, image.cluster, image.group))
        self.assertEqual(
            image.image_key.public_key().public_bytes_raw(),
            self.site.images.key(record.id).public_bytes_raw(),
        )

    def test_an_image_is_known_revoked_and_expired_also_after_a_restart(self):
        record, _ = self.image_file()
        again = ImageKeys(self.site.store, self.site.clock)
        run(again.load())
        self.assertEqual(record, again.require_good(record.id))
        self.site.clock.advance(91 * 86400)
        with self.assertRaises(ImageExpiredError):
            again.require_good(record.id)
        run(again.revoke(record.id))
        for keys in (again, self.site.images):
            run(keys.load())
            with self.assertRaises(ImageRevokedError):
                keys.require_good(record.id)
        with self.assertRaises(ImageUnknownError):
            run(again.revoke("none"))

    def test_the_drivers_image_is_built_once_and_anew_when_it_is_outdated(self):
        path = run(self.images.cloud_file())
        first = open_image(path).image_id
        self.assertEqual(first, open_image(run(self.images.cloud_file())).image_id)
        self.assertEqual(0o600, path.stat().st_mode & 0o777)
        seen = {first}
        for outdate in (
            lambda: setattr(self, "document", self.signed(2)),
            lambda: run(self.site.images.revoke(open_image(path).image_id)),
            lambda: self.site.clock.advance(CLOUD_IMAGE_MAX_AGE_S),
            path.unlink,
        ):
            outdate()
            newer = open_image(run(self.images.cloud_file())).image_id
            self.assertNotIn(newer, seen)
            seen.add(newer)

    def test_drivers_that_ask_at_once_share_one_image(self):
        waiting = Deferred()

        async def slow():
            return await waiting

        self.images.sources = attrs.evolve(self.images.sources, files=slow)
        asked = [Deferred.fromCoroutine(self.images.cloud_file()) for _ in range(5)]
        waiting.callback({"avinet-0.1.0-py3-none-any.whl": (b"a wheel", 0o644)})
        self.assertEqual(1, len({self.successResultOf(each) for each in asked}))
        self.assertEqual(1, len(self.site.images.all()) - self.known)


class Routes(Built):
    def setUp(self):
        super().setUp()
        api = ImageApi(self.images, self.site.engines, self.site.groups.__contains__)
        self.web = BoundedSite(Router(api.routes(), self.site.clock, Known("local")), self.site.clock)

    def ask(self, method, path, body=None):
        connection = Connection(self.web)
        connection.send(request_bytes(method, path, body))
        return connection.answer()

    def test_an_image_is_built_listed_and_revoked(self):
        answer = self.ask("POST", "/api/image", {"group": "web"})
        self.assertEqual((201, "application/x-tar"), (answer.status, answer.headers["content-type"]))
        path = self.folder / "x.tar"
        write_private(path, answer.body)
        image = open_image(path).image_id
        self.assertEqual(image, answer.headers["x-avinet-image"])
        rows = self.ask("GET", "/api/image").json["results"]
        self.assertIn((image, "active", "web"), [(row["uuid"], row["state"], row["group"]) for row in rows])
        self.assertEqual(204, self.ask("DELETE", f"/api/image/{image}").status)
        rows = self.ask("GET", "/api/image").json["results"]
        self.assertIn((image, "revoked"), [(row["uuid"], row["state"]) for row in rows])

    def test_an_image_for_one_engine_holds_its_token(self):
        run(self.site.engines.create("se-1", "web"))
        answer = self.ask("POST", "/api/image", {"se": "se-1"})
        path = self.folder / "x.tar"
        write_private(path, answer.body)
        token = open_image(path).token
        self.assertEqual(self.site.engines.named("se-1").uuid, self.site.tokens.identify(token).se)

    def test_unknown_groups_engines_and_images_are_not_found(self):
        for body in ({"group": "nope"}, {"se": "nope"}):
            self.assertEqual(404, self.ask("POST", "/api/image", body).status)
        self.assertEqual(404, self.ask("DELETE", "/api/image/nope").status)


class Boots(Built):
    def setUp(self):
        super().setUp()
        self.state = self.folder / "se"
        self.meta_path = self.folder / "meta-info.json"
        self.tell(self.token())

    def token(self):
        return run(self.site.tokens.issue("web")).text

    def tell(self, token, cluster=CLUSTER):
        meta = MetaInfo(cluster=ClusterId(cluster), controllers=("192.0.2.1:8443",), token=token)
        write_private(self.meta_path, msgspec.json.encode(meta))

    def enrol(self, address, body):
        record = self.site.enrol(body)
        answer = EnrolmentAnswer(
            se=record.uuid,
            name=record.name,
            group=record.group,
            cluster=CLUSTER,
            loopback=record.loopback,
            membership=self.document,
        )
        return succeed(Answer(200, msgspec.json.encode(answer)))

    def boot(self, image, meta):
        boot = FirstBoot.begin(self.state, image, meta)
        try:
            return boot, self.successResultOf(boot.enrol(lambda members: self, self.site.clock))
        finally:
            boot.lock.release()

    def test_an_image_and_meta_info_make_an_engine_and_neither_is_needed_again(self):
        _, path = self.image_file()
        _, facts = self.boot(path, self.meta_path)
        path.write_bytes(b"rubbish")
        self.meta_path.unlink()
        for image, meta in ((path, self.meta_path), (None, None)):
            boot, again = self.boot(image, meta)
            self.assertEqual(facts, again)
            self.assertEqual(facts, boot.enrolled)
        self.assertEqual(1, len(self.site.engines.all()))

    def test_an_image_with_a_token_inside_needs_no_meta_info(self):
        _, path = self.image_file(token=self.token())
        _, facts = self.boot(path, None)
        self.assertEqual(self.site.engines.all()[0].uuid, facts.se)
        left = b"".join(p.read_bytes() for p in self.state.rglob("*") if p.is_file())
        self.assertNotIn(b"avt1.", left)

    def test_a_crash_at_any_write_of_the_first_boot_ends_in_one_engine(self):
        step = 0
        while True:
            self.setUp()
            _, path = self.image_file()
            count, real = [0], files._write

            def crashing(*args, count=count, real=real, step=step):
                mine, count[0] = count[0], count[0] + 1
                if mine == step:
                    if step % 2:
                        real(*args)
                    raise RuntimeError("the process ended here")
                real(*args)

            with mock.patch.object(files, "_write", crashing), contextlib.suppress(RuntimeError):
                boot = FirstBoot.begin(self.state, path, self.meta_path)
                ended = boot.enrol(lambda members: self, self.site.clock)
                ended.addErrback(lambda failure: failure.trap(RuntimeError))
                boot.lock.release()
            _, facts = self.boot(path, self.meta_path)
            self.assertEqual([facts.se], [record.uuid for record in self.site.engines.all()])
            self.assertFalse((self.state / "image" / "image.key").exists())
            if count[0] <= step:
                break
            step += 1
        self.assertGreaterEqual(step, 9)

    def test_two_agents_on_one_state_are_refused(self):
        _, path = self.image_file()
        boot = FirstBoot.begin(self.state, path, self.meta_path)
        with self.assertRaises(StateFolderBusyError):
            FirstBoot.begin(self.state, path, self.meta_path)
        boot.lock.release()
        FirstBoot.begin(self.state, path, self.meta_path).lock.release()

    def test_without_an_image_it_says_so_and_lets_go_of_the_lock(self):
        for _ in range(2):
            with self.assertRaises(NoImageError):
                FirstBoot.begin(self.state, None, self.meta_path)

    def test_a_corrupt_image_is_refused_and_a_good_one_then_works(self):
        _, path = self.image_file()
        whole = path.read_bytes()
        path.write_bytes(whole[: len(whole) // 2])
        with self.assertRaises(ImageCorruptError):
            FirstBoot.begin(self.state, path, self.meta_path)
        path.write_bytes(whole)
        self.boot(path, self.meta_path)

    def test_meta_info_of_another_cluster_is_refused(self):
        _, path = self.image_file()
        self.tell("", "other")
        with self.assertRaises(MetaInfoForeignError) as caught:
            FirstBoot.begin(self.state, path, self.meta_path)
        self.assertIn("other", str(caught.exception))

    def test_meta_info_that_is_not_meta_info_is_refused_by_what_is_wrong(self):
        for content in (b"", b"[]", b"{}", b'{"cluster": 5}', b"\xff", b"x" * 70_000):
            self.meta_path.write_bytes(content)
            with self.assertRaises(MetaInfoError) as caught:
                read_meta_info(self.meta_path)
            self.assertIn(str(self.meta_path), str(caught.exception))
        with self.assertRaises(MetaInfoError):
            read_meta_info(self.folder / "none")

    def test_another_image_replaces_the_first_before_enrolment(self):
        self.image_file()
        first, path = self.image_file()
        FirstBoot.begin(self.state, path, self.meta_path).lock.release()
        second, path = self.image_file()
        run(self.site.images.revoke(first.id))
        _, facts = self.boot(path, self.meta_path)
        self.assertEqual(second.id, self.site.engines.find(facts.se).image)

    def test_the_token_is_in_no_repr(self):
        meta = read_meta_info(self.meta_path)
        self.assertNotIn(meta.token, repr(meta))
        self.assertIn(meta.token, json.loads(self.meta_path.read_bytes())["token"])
