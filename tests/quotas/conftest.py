from tests.committed import audit_trail_may_be_emptied, committed
from tests.metering.market import market

__all__ = ["audit_trail_may_be_emptied", "committed", "market"]
