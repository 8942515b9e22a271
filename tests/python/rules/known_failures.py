"""Cases that fail because the server does not do yet what the page says.

Each names its rule and what happens. They are counted as skipped; one that passes fails the
test, so that this list only ever becomes shorter.
"""

KNOWN_FAILURES = {}
