from tests.committed import audit_trail_may_be_emptied, committed
from tests.metering.market import Market, market

__all__ = ["Market", "audit_trail_may_be_emptied", "committed", "market"]
