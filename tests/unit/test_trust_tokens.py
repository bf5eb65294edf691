from twisted.trial.unittest import SynchronousTestCase

from avinet.trust.tokens import TokenMalformedError, matches, new_token, parse_token, secret_hash


class Tokens(SynchronousTestCase):
    def test_a_token_names_itself_and_is_recognised_by_its_hash(self):
        identifier, text = new_token()
        self.assertTrue(text.startswith(f"avt1.{identifier}."))
        self.assertEqual(parse_token(text), identifier)
        self.assertTrue(matches(text, secret_hash(text)))

    def test_the_hash_does_not_give_the_secret_away(self):
        _, text = new_token()
        self.assertNotIn(text.split(".")[2], secret_hash(text))

    def test_another_secret_under_the_same_id_does_not_match(self):
        _, text = new_token()
        other = text[:-2] + ("AA" if text[-2:] != "AA" else "BB")
        self.assertEqual(parse_token(other), parse_token(text))
        self.assertFalse(matches(other, secret_hash(text)))
        self.assertFalse(matches("", secret_hash(text)))

    def test_no_two_tokens_are_alike(self):
        made = [new_token() for _ in range(50)]
        self.assertEqual(len({text for _, text in made}), 50)
        self.assertEqual(len({identifier for identifier, _ in made}), 50)

    def test_what_is_no_token_is_refused_without_being_repeated(self):
        _, text = new_token()
        for bad in (
            "",
            "avt1",
            text[:-1],
            text + "A",
            text + "\n",
            " " + text,
            "avt2" + text[4:],
            text.upper(),
        ):
            with self.subTest(bad=bad):
                failure = self.assertRaises(TokenMalformedError, parse_token, bad)
                self.assertNotIn(text.split(".")[2], str(failure) + repr(failure))
