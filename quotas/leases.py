"""How long a reservation lives without word from its gateway.

A lease outlives the longest silence that is normal (three missed renewals); the grace leaves a settle whose fate is
unknown its 60 s of retries. Together with the reaper's interval a dead gateway's call is ``unsettled`` within 120 s.
"""

LEASE_MS = 40_000
RENEW_EVERY_SECONDS = 13.0
GRACE_MS = 60_000

#: Before its names (``lease.lua``): deadline, tokens and nano-units, and how many fields of each of five kinds.
_NAMES_AT = 3 * 8 + 5


def of_tokens(gateway: str, quota: str) -> bytes:
    """What a lease holds that holds tokens of a quota and nothing else (``lease.lua``)."""
    return bytes(5) + f"{gateway}\0{quota}\0".encode()


def signer_of(lease: bytes) -> str:
    """The gateway that signed a lease, as Valkey has it."""
    return lease[_NAMES_AT : lease.index(0, _NAMES_AT)].decode()
