"""Every method of the catalogues that is somebody's has its reference."""

from __future__ import annotations

import re

from zeronorm.attacks.catalogue import catalogue as attacks
from zeronorm.certification.catalogue import catalogue as certificates
from zeronorm.records.bibliography import bibliography


def test_each_method_is_cited_for_its_source():
    """The reference names the first author and the year of the catalogue's source."""
    for row in [*attacks.values(), *certificates.values()]:
        if row.source == "this library":
            continue
        text = bibliography([row.name])
        assert text.count("\n@") >= 1, row.name
        first = re.split(r"[ ,&]", row.source)[0]
        year = re.search(r"\d{4}", row.source)
        plain = re.sub(r"\{\\[`'\"]([a-zA-Z])\}", r"\1", text)
        plain_first = first.translate(str.maketrans("àéè", "aee"))
        assert plain_first in plain, (row.name, first)
        assert year is not None and "year" in text and year[0] in text, row.name


def test_nothing_is_cited_that_was_not_used():
    text = bibliography(["sparse_rs", "somebodys_own"])
    assert re.findall(r"@\w+\{([^,]+),", text) == ["zeronorm", "croce2022sparse"]
    assert "methods" not in text


def test_the_entries_are_bibtex():
    """Braces match, and every entry has a title, authors and a year."""
    for entry in bibliography([*attacks, *certificates]).split("\n\n"):
        assert entry.count("{") == entry.count("}"), entry
        for name in ("title", "author", "year"):
            assert re.search(rf"^  {name} +=", entry, re.M), entry
