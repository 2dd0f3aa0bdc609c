"""``celery beat``, whichever scheduler it runs."""

from celery.apps import beat

from common import own_secrets


class Beat(beat.Beat):
    """One that was left on known secrets does not start."""

    def run(self) -> None:
        own_secrets.require()
        super().run()
