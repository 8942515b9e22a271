"""A case for every numbered rule of docs/protocol.md, on every transport.

Written from that page alone, and from docs/configuration.md for the settings that some cases
need. `python -m rules --chatd PATH [FILTER …]` runs them; `cargo test --test protocol_rules` does.
"""
