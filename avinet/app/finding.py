"""One thing that ``avinet doctor`` looked at."""

from collections.abc import Iterator

import attrs

OK, WARNING, FAILED = "ok", "warning", "failed"


@attrs.frozen
class Finding:
    """One thing that was looked at; ``advice`` says what to do when it is not ``ok``."""

    check: str
    outcome: str
    found: str
    advice: str = ""


Findings = Iterator[Finding]
