"""How long a reservation lives without word from its gateway.

A lease outlives the longest silence that is normal (three missed renewals); the grace leaves a settle whose fate is
unknown its 60 s of retries. Together with the reaper's interval a dead gateway's call is ``unsettled`` within 120 s.
"""

LEASE_MS = 40_000
RENEW_EVERY_SECONDS = 13.0
GRACE_MS = 60_000
