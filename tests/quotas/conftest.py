from tests.committed import audit_trail_may_be_emptied, committed
from tests.metering.market import market
from tests.quotas.server_time import own_time, timed

__all__ = ["audit_trail_may_be_emptied", "committed", "market", "own_time", "timed"]
