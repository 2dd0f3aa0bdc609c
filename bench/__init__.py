"""How fast the gateway is, beside others: `make bench`, `make bench-scale`, `make soak`.

It drives the marketplace from outside, over HTTP on loopback, and reads what it did from `/proc` and from the ledger.
"""
