"""Pages of records from the end where they begin: the newest of a year are nearly always in its last minutes.

An engine that sorts all that passes the filter reads every file for a hundred records.  So a page is asked for in growing
ranges of time, until one holds a whole page; what it costs is the last range and a tenth more.
"""

from collections.abc import Iterator

import msgspec

from avinet.logs.query.answers import Answer
from avinet.logs.query.pages import Page, cursor_of, page_of
from avinet.logs.query.shapes import Query, Records
from avinet.logs.query.times import UNITS_US

SPANS_US = (10 * UNITS_US["m"], 2 * UNITS_US["h"], UNITS_US["d"], 10 * UNITS_US["d"])


def windows(query: Query, first_us: int, last_us: int) -> Iterator[Query]:
    """``query`` over growing parts of its range, the whole at the end; the store has records of ``first_us`` to ``last_us``."""
    shape = query.shape
    if isinstance(shape, Records):
        since = max(first_us, query.since_us or 0)
        until = last_us + 1 if query.until_us is None else min(last_us + 1, query.until_us)
        place = shape.after
        for span in SPANS_US:
            if until - since <= 2 * span:
                break
            if shape.oldest_first:
                begin = since if place is None else max(since, place.time_us)
                yield msgspec.structs.replace(query, until_us=min(until, begin + span))
            else:
                end = until if place is None else min(until, place.time_us + 1)
                yield msgspec.structs.replace(query, since_us=max(since, end - span))
    yield query


def is_page(answer: Answer) -> bool:
    """Whether a part of the range had all that a page holds."""
    return answer.next is not None


def of_whole(answer: Answer, query: Query) -> Answer:
    """An answer of a part of the range, whose next page is one of ``query``'s."""
    if answer.next is None:
        return answer
    page = page_of(answer.next)
    return msgspec.structs.replace(
        answer, next=cursor_of(Page(page.place, page.oldest_first, query.since_us, query.until_us))
    )
