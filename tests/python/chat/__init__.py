"""A client of chatd in Python, written from docs/protocol.md alone.

`page` reads the tables of that page, `encoding` has both encodings of a frame, `websocket`
and `quic` carry frames, and `session` is what an application talks to. Comments name the
rules that they follow.
"""
