"""The pages that list all rules agree with the code."""

from __future__ import annotations

import re

from hqde_fl.privacy.composition import ARGUMENTS, REASONS
from hqde_fl.rules import RULES
from tests.contracts.rule_examples import EXAMPLES
from tests.documents import codes_in, first_codes, rows_of, sections_of

N, F = 12, 2


def test_every_rule_is_in_the_table_of_rules() -> None:
    assert sorted(first_codes("docs/rules.md", "All rules")) == sorted(RULES)


def test_every_rule_that_filters_is_named_as_one() -> None:
    (section,) = (part for part in sections_of("docs/rules.md") if part.title == "Who is faulty")
    listed = re.search(r"`result\.filtered`:(.*?)\. ", section.text, re.DOTALL)
    assert listed is not None
    names = set(codes_in([listed[1]])) - {"voting"}  # of which only votes on updates filter
    assert names == {name for name in RULES if EXAMPLES[name].make(F).filters(N)}


def test_every_rule_is_in_the_table_of_what_composes_with_its_reason() -> None:
    rows = rows_of("docs/privacy.md", "What composes")
    refused = {
        name: text.removeprefix("no: ")
        for names, text in rows
        for name in codes_in([names])
        if text.startswith("no: ")
    }
    assert refused == REASONS
    assert {name for names, _ in rows for name in codes_in([names])} == {*REASONS, *ARGUMENTS}
