"""Celery: the jobs that run beside the request."""

import os
from typing import Any

from celery import Celery, bootsteps

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")


class Marketplace(Celery):
    @property
    def Beat(self) -> Any:  # noqa: N802 - Celery's name
        """What ``celery beat`` runs. By name, since most processes never need it."""
        return self.subclass_with_self("config.beat:Beat")  # type: ignore[arg-type]  # the stubs know no names


app = Marketplace("marketplace")
app.config_from_object("django.conf:settings", namespace="CELERY")
app.autodiscover_tasks()


class OwnSecrets(bootsteps.Step):
    """A worker that was left on known secrets does not start. A handler of a signal could not keep it from it."""

    def __init__(self, parent: Any, **options: Any) -> None:
        from common import own_secrets

        own_secrets.require()
        super().__init__(parent, **options)


app.steps["worker"].add(OwnSecrets)
