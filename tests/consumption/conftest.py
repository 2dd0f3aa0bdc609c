from tests.committed import audit_trail_may_be_emptied, committed

__all__ = ["audit_trail_may_be_emptied", "committed"]
