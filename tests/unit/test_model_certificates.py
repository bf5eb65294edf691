"""Keys and certificates: what is refused, what is only said, and that a key is in nothing that is shown."""

import io
import warnings

import rich.console
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import PrivateFormat, load_pem_private_key

from avinet.model.advice import advice
from avinet.model.plan import plan_change
from tests.unit.certificate_kit import certificate, chain, key, key_and_certificate, key_pem, rsa_key
from tests.unit.config_kit import NOW
from tests.unit.test_model_intake import BEFORE, GROUP, WEB, Case, configuration

# openssl req -x509 -newkey ec -pkeyopt ec_paramgen_curve:P-256 -sha1 -nodes -days 7300 -subj /CN=www.example
SHA1_LEAF = """\
-----BEGIN CERTIFICATE-----
MIIBljCCAT6gAwIBAgIUQfhPqsiTxzUNkFFs1x6i44JZKEIwCQYHKoZIzj0EATAW
MRQwEgYDVQQDDAt3d3cuZXhhbXBsZTAeFw0yNjExMjYyMzQ3NTdaFw00NjExMjEy
MzQ3NTdaMBYxFDASBgNVBAMMC3d3dy5leGFtcGxlMFkwEwYHKoZIzj0CAQYIKoZI
zj0DAQcDQgAEIB/hkYt+VJ5xYI2oRfqbq/IsSIykC1dNa12EfFHR1ln9uYgPt2Bt
gPUN3gp/h1k3jPIUiVYvnrxWxBTxilZTlaNrMGkwHQYDVR0OBBYEFCBTE4vRCsSF
KfLp8m3AkqIuSl3GMB8GA1UdIwQYMBaAFCBTE4vRCsSFKfLp8m3AkqIuSl3GMA8G
A1UdEwEB/wQFMAMBAf8wFgYDVR0RBA8wDYILd3d3LmV4YW1wbGUwCQYHKoZIzj0E
AQNHADBEAiAg5WnQd7/CxBr0V8BWSfNIBqamzsu0H/e8S0J5z2JvLwIgWPtV6baJ
VXFrMnHCne1g3FSw2pBUFO9bcuvQPW9BWKQ=
-----END CERTIFICATE-----
"""
SHA1_KEY = """\
-----BEGIN PRIVATE KEY-----
MIGHAgEAMBMGByqGSM49AgEGCCqGSM49AwEHBG0wawIBAQQg1bUKa1CDdhPXRxpe
ZYwZPi1iNVTMPROMv4tiyecXAWahRANCAAQgH+GRi35UnnFgjahF+pur8ixIjKQL
V01rXYR8UdHWWf25iA+3YG2A9Q3eCn+HWTeM8hSJVi+evFbEFPGKVlOV
-----END PRIVATE KEY-----
"""
CUT = certificate()[:300] + "\n-----END CERTIFICATE-----\n"
PATH = "certificate.certificate"


class Refused(Case):
    def one(self, document):
        ((path, why),) = self.problems(document)
        return path, why

    def test_a_key_and_its_certificate_are_taken_alone_and_with_their_issuers(self):
        for pem in (certificate(), "".join(chain()), "".join(chain()[:2]), f"a comment\n{certificate()}"):
            self.read(key_and_certificate(pem=pem))

    def test_a_bare_text_stands_for_the_certificate(self):
        pem = certificate()
        self.assertEqual(self.read(key_and_certificate(certificate=pem)).certificate.certificate, pem)

    def test_every_kind_of_key_that_clients_take_is_taken(self):
        for private in (key(), ec.generate_private_key(ec.SECP521R1()), rsa_key(2048)):
            for form in (PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL):
                text = key_pem(private, form=form)
                self.read(key_and_certificate(pem=certificate(private=private), key=text))

    def test_keys_that_clients_do_not_take_are_refused(self):
        for private, said in (
            (ed25519.Ed25519PrivateKey.generate(), "no browser does Ed25519"),
            (ec.generate_private_key(ec.SECP256K1()), "EC-secp256k1"),
            (rsa_key(1024), "1024 bits"),
        ):
            document = key_and_certificate(pem=certificate(private=private), private=private)
            path, why = self.one(document)
            self.assertEqual(path, PATH)
            self.assertIn(said, why)

    def test_a_key_of_another_certificate_is_refused_and_where_it_belongs_is_told(self):
        self.assertEqual(
            self.one(key_and_certificate(private=key(1))),
            ("key", "it does not belong to the certificate"),
        )
        path, why = self.one(key_and_certificate(pem="".join(chain()), private=key(2)))
        self.assertEqual((path, "certificate 3" in why), ("key", True))

    def test_an_rsa_key_whose_private_half_is_another_is_refused(self):
        # Its public numbers are the certificate's, so only its use tells.
        good = rsa_key(2048).private_numbers()
        numbers = rsa.RSAPrivateNumbers(
            good.p, good.q, good.d + 2, good.dmp1 + 2, good.dmq1 + 2, good.iqmp, good.public_numbers
        )
        odd = numbers.private_key(unsafe_skip_rsa_key_validation=True)
        document = key_and_certificate(pem=certificate(private=rsa_key(2048)), private=odd)
        self.assertEqual(self.one(document), ("key", "it does not belong to the certificate"))

    def test_a_chain_out_of_order_or_with_a_gap_is_refused(self):
        leaf, middle, root = chain()
        self.assertEqual(
            self.one(key_and_certificate(pem=leaf + root)),
            (
                PATH,
                "certificate 2 does not sign certificate 1; order them leaf first, each followed by its issuer",
            ),
        )
        self.assertEqual(self.paths(key_and_certificate(pem=leaf + root + middle)), [PATH, PATH])
        impostor = certificate("Middle", private=key(3), issuer="Root", signer=key(2))
        self.assertEqual(self.paths(key_and_certificate(pem=leaf + impostor)), [PATH])

    def test_signatures_that_can_be_forged_are_refused_but_for_a_root(self):
        path, why = self.one(key_and_certificate(pem=SHA1_LEAF, key=SHA1_KEY))
        self.assertEqual((path, "SHA1" in why), (PATH, True))
        private = load_pem_private_key(SHA1_KEY.encode(), None)
        below = certificate("leaf", issuer="www.example", signer=private)
        self.read(key_and_certificate(pem=below + SHA1_LEAF))

    def test_keys_that_cannot_be_used_are_refused_with_what_to_do(self):
        for text, said in (
            (key_pem(key(), b"secret"), "openssl pkey"),
            (key_pem(key(), b"secret", PrivateFormat.TraditionalOpenSSL), "openssl pkey"),
            (key_pem(key(), form=PrivateFormat.OpenSSH), "ssh-keygen -p"),
            (certificate(), "no line -----BEGIN PRIVATE KEY-----"),
            ("x", "not a private key in PEM"),
            (key_pem(key())[:80], "cut off"),
        ):
            path, why = self.one(key_and_certificate(key=text))
            self.assertEqual(path, "key")
            self.assertIn(said, why)

    def test_texts_that_are_no_certificates_are_refused(self):
        for text, said in (
            ("x", "not PEM"),
            (CUT, "certificate 1 cannot be read"),
            (certificate() + CUT, "certificate 2 cannot be read"),
            (certificate() + key_pem(key()), "private key"),
            ("-----BEGIN CERTIFICATE REQUEST-----\nMIIB\n-----END CERTIFICATE REQUEST-----\n", "REQUEST"),
            (certificate() * 11, "10 is the most"),
        ):
            found = self.problems(key_and_certificate(pem=text))
            self.assertEqual(found[0][0], PATH)
            self.assertIn(said, found[0][1])

    def test_texts_that_are_too_long_are_refused_unread(self):
        self.assertEqual(
            self.one(key_and_certificate(pem="x" * 65537)), (PATH, "it is longer than 65536 characters")
        )
        self.assertEqual(self.one(key_and_certificate(key="x" * 16385))[0], "key")


class Kept(Case):
    def setUp(self):
        self.stored = self.read(key_and_certificate())
        self.before = configuration(GROUP, WEB, self.stored)

    def again(self, **fields):
        document = {"kind": "SSLKeyAndCertificate", "name": "tls", **fields}
        return plan_change(self.before, [document])

    def test_a_certificate_without_its_key_keeps_the_stored_one(self):
        renewed = certificate(days=(0, 400))
        (made,) = self.again(certificate=renewed).puts
        self.assertEqual((made.key, made.certificate.certificate), (self.stored.key, renewed))

    def test_a_certificate_of_another_key_needs_it(self):
        other = certificate(private=key(1))
        document = {"kind": "SSLKeyAndCertificate", "name": "tls", "certificate": other}
        ((path, why),) = self.problems(document, before=self.before)
        self.assertEqual(path, "key")
        self.assertIn("the stored key stays when none is given", why)
        self.again(certificate=other, key=key_pem(key(1)))

    def test_a_new_one_needs_a_key(self):
        document = {"kind": "SSLKeyAndCertificate", "name": "new", "certificate": certificate()}
        self.assertEqual(self.problems(document), [("key", "it is required")])

    def test_what_the_api_says_of_a_certificate_can_be_sent_back(self):
        facts = {"certificate": self.stored.certificate.certificate, "days_left": 3, "names": ["x"]}
        self.assertTrue(self.again(certificate=facts).empty)
        self.assertEqual(
            self.paths(key_and_certificate(certificate={**facts, "colour": 1})), ["certificate.colour"]
        )


class Secret(Case):
    def test_a_key_is_in_no_representation(self):
        thing = self.read(key_and_certificate())
        secret = thing.key.splitlines()[1]
        console = rich.console.Console(file=io.StringIO(), width=1000)
        console.print(thing)
        plan = plan_change(BEFORE, [key_and_certificate()])
        for text in (
            repr(thing),
            str(thing),
            console.file.getvalue(),
            repr(plan),
            repr(configuration(thing)),
        ):
            self.assertNotIn(secret, text)
        self.assertIn("tls", repr(thing))

    def test_a_key_in_the_wrong_place_is_not_repeated(self):
        text = key_pem(key())
        secret = text.splitlines()[1]
        for document in (
            key_and_certificate(pem=text),
            key_and_certificate(pem=certificate() + text),
            key_and_certificate(key=text[:100]),
            key_and_certificate(name=text),
            key_and_certificate(uuid=text),
            key_and_certificate(**{text: 1}),
            key_and_certificate(kind=text),
            {"kind": "Pool", "name": "p", "ssl_key_and_certificate_ref": text, "ssl_profile_ref": text},
            {
                "kind": "Pool",
                "name": "p",
                "ca_certs": [text],
                "lb_algorithm": text,
                "servers": [{"ip": text}],
            },
            {"kind": "Pool", "name": "p", "server_name": text, "persistence": {"cookie_name": text}},
            {"kind": "HealthMonitor", "name": "p", "http_monitor": {"http_response_code": [text]}},
        ):
            told = str(self.problems(document))
            self.assertNotIn(secret, told, document)
            self.assertLess(len(told), 2_000)


class Said(Case):
    def said(self, document, *others):
        things = plan_change(BEFORE, [document, *others]).puts
        return [
            (one.name, one.path, one.why) for one in advice(configuration(*things), [things[0].uuid], NOW)
        ]

    def test_an_expired_certificate_is_taken_and_said(self):
        for days, words in (
            ((-90, -1), "it expired on"),
            ((1, 90), "it is not valid before"),
            ((-90, 5.5), "it expires in 5 days"),
            ((-90, 1.5), "it expires in a day"),
            ((-90, 31), None),
        ):
            found = self.said(key_and_certificate(pem=certificate(days=days)))
            self.assertEqual([words in why for _, _, why in found], [True] if words else [])

    def test_an_expired_issuer_is_said(self):
        leaf = certificate(issuer="Old", signer=key(1))
        found = self.said(key_and_certificate(pem=leaf + certificate("Old", private=key(1), days=(-90, -1))))
        self.assertEqual(len(found), 1)
        self.assertIn("certificate 2 of the chain: it expired", found[0][2])

    def test_a_certificate_without_alternative_names_is_said(self):
        ((_, path, why),) = self.said(key_and_certificate(pem=certificate(names=[])))
        self.assertEqual((path, "subjectAltName" in why), (PATH, True))
        with warnings.catch_warnings():
            warnings.simplefilter("error")
            self.assertEqual(self.said(key_and_certificate()), [])
