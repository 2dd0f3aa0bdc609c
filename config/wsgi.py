"""The console: Django under WSGI, in a process of its own."""

import os

from django.core.wsgi import get_wsgi_application

os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")

application = get_wsgi_application()

from common import own_secrets  # noqa: E402 - Django must be set up before its settings are read

own_secrets.require()
