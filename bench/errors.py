"""What makes a run invalid."""


class BenchError(Exception):
    """The figures would not be worth their name: something is missing, or did not do what it should have done."""
