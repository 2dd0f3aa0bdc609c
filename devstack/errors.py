"""What the person at the keyboard is told, as one line and without a traceback."""


class DevstackError(Exception):
    """Something outside this program has to change: its text is one line that says what."""
