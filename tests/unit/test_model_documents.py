"""Operators' text to plain documents, or a clear reason with its place."""

import yaml
from hypothesis import given, settings
from hypothesis import strategies as st
from twisted.trial.unittest import SynchronousTestCase

from avinet.model import documents
from avinet.model.documents import (
    MAX_BYTES,
    MAX_DEPTH,
    DocumentError,
    parse_documents,
    parse_json,
)

TAGS = [
    "!!int",
    "!!float",
    "!!bool",
    "!!timestamp",
    "!!binary",
    "!!null",
    "!!set",
    "!!omap",
    "!!pairs",
    "!x",
    "!!str",
    "!!map",
    "!!seq",
]


class Documents(SynchronousTestCase):
    def refused(self, text, *said):
        why = self.assertRaises(DocumentError, parse_documents, text, "pool.yaml")
        for words in ("pool.yaml", *said):
            self.assertIn(words, str(why))
        return why

    def test_several_documents_are_read_and_empty_ones_skipped(self):
        self.assertEqual(
            parse_documents("---\nkind: Pool\nname: a\n---\n---\n# nothing\n---\nkind: Pool\nname: b\n"),
            [{"kind": "Pool", "name": "a"}, {"kind": "Pool", "name": "b"}],
        )

    @given(
        st.recursive(
            st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text(),
            lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(), inner, max_size=4),
            max_leaves=12,
        )
    )
    @settings(max_examples=200, deadline=None)
    def test_both_scanners_read_the_same(self, value):
        text = yaml.safe_dump({"kind": "Pool", "value": value}, allow_unicode=True)
        first, last = documents._LOADERS[0], documents._LOADERS[-1]
        self.assertIsNot(first, last)
        self.assertEqual(documents._read(text, "x", first), documents._read(text, "x", last))

    def test_numbers_to_the_base_of_sixty_are_text(self):
        text = "a: 22:80\nb: -1:20:30.5\nc: !!int 1:1\n" + "d: 1" + ":1" * 1000
        for loader in documents._LOADERS:
            (found,) = documents._read(text, "x", loader)
            self.assertEqual(found, {"a": "22:80", "b": "-1:20:30.5", "c": "1:1", "d": "1" + ":1" * 1000})

    def test_a_document_has_so_many_values_at_most(self):
        self.patch(documents, "MAX_VALUES", 1_000)
        row = "[" + "1," * 500 + "]"
        self.assertEqual(len(parse_documents(f"a: {row}\n---\na: {row}\n---\na: {row}\n")), 3)
        self.refused(f"a: {row}\nb: {row}", "more than 1000 values", "line 2")

    def test_json_is_yaml(self):
        text = '{"kind": "Pool", "servers": [{"ip": "10.0.0.1", "port": 80}], "on": true, "none": null}'
        self.assertEqual(
            parse_documents(text),
            [{"kind": "Pool", "servers": [{"ip": "10.0.0.1", "port": 80}], "on": True, "none": None}],
        )

    def test_a_document_that_is_no_object_is_told_by_its_number(self):
        for text, said in (
            ("- a", "a list"),
            ("text", "text"),
            ("1", "a number"),
            ("1.5", "a number"),
            ("true", "true or false"),
        ):
            self.refused(text, said, "document 1")
            self.refused(f"a: 1\n---\n{text}\n", said, "document 2")

    def test_no_document_at_all_is_an_error(self):
        for text in ("", "\n", "---\n", "# only a comment\n"):
            self.refused(text, "no document")

    def test_slips_of_syntax_are_told_by_line_and_column(self):
        self.refused("kind: Pool\n  name: x\n", "line 2, column")
        self.refused("kind: [1, 2\n", "line")
        self.refused("kind: 'open\n", "line")
        self.refused("\tkind: Pool\n", "line 1")
        self.refused("a: \x00\n")
        self.refused("a: \x07\n")

    def test_a_key_twice_is_told_where(self):
        self.refused("kind: Pool\nname: a\nname: b\n", "'name' is there twice", "line 3")
        self.refused("a: {b: 1, b: 2}\n", "'b' is there twice")

    def test_keys_must_be_text(self):
        for text in ("1: a\n", "true: a\n", "null: a\n", "[a]: b\n", "{a: b}: c\n", "? \n: c\n", "1.5: x\n"):
            self.refused(text)

    def test_aliases_are_refused_rather_than_unfolded(self):
        self.refused("a: &x [1]\nb: *x\n", "aliases", "line 2")
        laughs = "a: &a [x]\n" + "".join(
            f"{c}: &{c} [*{p}, *{p}]\n" for p, c in zip("abcdef", "bcdefg", strict=True)
        )
        self.refused(laughs, "aliases")

    def test_merge_keys_are_refused(self):
        self.refused("<<: {a: 1}\nb: 2\n")

    def test_nothing_but_plain_values_is_made(self):
        for text in (
            "a: !!python/object/apply:os.system [id]\n",
            "a: !!python/name:os.system\n",
            "a: !thing 1\n",
            "a: !!binary aGk=\n",
            "a: !!set {x}\n",
            "a: !!omap [x: 1]\n",
            "a: !!timestamp 2026-01-01\n",
            "a: !include /etc/passwd\n",
        ):
            self.refused(text, "the tag", "is not allowed", "line 1, column 4")
        self.refused("<<: {a: 1}\n", "merging", "line 1")
        self.assertEqual(parse_documents("a: !!str 1\nb: !!int 2\n"), [{"a": "1", "b": 2}])

    def test_a_document_of_ten_megabytes_is_refused_at_once(self):
        self.refused("a: " + "x" * 10_000_000, "apply it in parts")

    def test_json_has_each_key_once_and_no_words_beyond_it(self):
        for text, said in (
            ('{"a": 1, "a": 2}', "the key 'a' is there twice"),
            ('{"x": [{"a": 1, "b": 2, "a": 3}]}', "the key 'a' is there twice"),
            ('{"a": NaN}', "NaN"),
            ('{"a": -Infinity}', "Infinity"),
            ('{"a": 1,}', "line 1, column"),
            ('{"a": ' + "9" * 5_000 + "}", "too long a number"),
            ("[" * 100_000, "too deep"),
            (b"\xff", "UTF-8 at byte 0"),
            ("", "not JSON"),
        ):
            body = text if isinstance(text, bytes) else text.encode()
            why = self.assertRaises(DocumentError, parse_json, body, "the body")
            self.assertIn(said, str(why))
        self.assertEqual(parse_json(b'{"a": [1, {"a": null}]}', "the body"), {"a": [1, {"a": None}]})

    def test_a_date_stays_text(self):
        self.assertEqual(parse_documents("a: 2026-01-01\n"), [{"a": "2026-01-01"}])

    def test_explicit_tags_with_values_that_do_not_fit_are_refused(self):
        for tag in ("!!int", "!!float", "!!bool", "!!timestamp"):
            for value in ('""', "x", "[]", "{}"):
                self.refused(f"a: {tag} {value}\n")

    def test_escaped_characters_of_json_are_joined_and_halves_refused(self):
        self.assertEqual(parse_documents('{"a": "\\ud83d\\ude00"}'), [{"a": "\U0001f600"}])
        for text in ('{"a": "\\ud800"}', '{"\\udc00": 1}', '{"a": ["\\udc00\\ud800"]}'):
            self.refused(text, "surrogate", "line 1")

    def test_deep_nesting_is_refused_before_it_costs_anything(self):
        self.refused("a: " + "[" * (MAX_DEPTH + 1) + "]" * (MAX_DEPTH + 1), "deeper")
        self.refused("a: " + "[" * 100_000, "deeper")
        self.refused("".join("  " * n + "a:\n" for n in range(100)), "deeper")

    def test_text_that_is_too_long_is_refused_unread(self):
        self.refused("#" * (MAX_BYTES + 1), str(MAX_BYTES))

    def test_too_many_documents_are_refused(self):
        self.patch(documents, "MAX_DOCUMENTS", 3)
        self.assertEqual(len(parse_documents("---\na: 1\n" * 3)), 3)
        self.refused("---\na: 1\n" * 4, "more than 3")

    @settings(deadline=None)
    @given(st.text(max_size=200))
    def test_no_text_makes_it_fail_otherwise(self, text):
        try:
            parse_documents(text)
        except DocumentError:
            return

    def test_a_list_tagged_as_a_mapping_is_refused_with_its_place(self):
        for tag in ("!!map", "!!set"):
            failure = self.assertRaises(DocumentError, parse_documents, f"a: {tag} [0]\n")
            self.assertIn("line 1", str(failure))

    @settings(deadline=None)
    @given(st.sampled_from(TAGS), st.text(alphabet="-+0x:._eE{}[],\"' aZ9=\n", max_size=12))
    def test_no_tagged_value_makes_it_fail_otherwise(self, tag, value):
        try:
            parse_documents(f"a: {tag} {value}\n")
        except DocumentError:
            return
