"""The works to cite for the methods that runs used."""

from __future__ import annotations

import re
from collections.abc import Iterable
from pathlib import Path

_FILE = Path(__file__).with_name("references.bib")
_METHODS = re.compile(r",\n  methods\s*= \{([^}]*)\}")


def bibliography(methods: Iterable[str]) -> str:
    """BibTeX entries of zeronorm and of the works behind `methods`, names of the catalogues; others have none."""
    wanted = {"*", *methods}
    found = []
    for entry in _FILE.read_text(encoding="utf-8").split("\n\n")[1:]:
        cited_for = _METHODS.search(entry)
        assert cited_for is not None
        if wanted & set(cited_for[1].split()):
            found.append(_METHODS.sub("", entry.strip()))
    return "\n\n".join(found) + "\n"
