"""The product's settings for an installation that has its errors mailed: letters are files in ``MAIL_DIR``."""

import os

from config.settings import *  # noqa: F403

EMAIL_BACKEND = "django.core.mail.backends.filebased.EmailBackend"
EMAIL_FILE_PATH = os.environ["MAIL_DIR"]
ADMINS = [("Operators", "operators@example.org")]
# Defects are told, each with its traceback.
LOGGING = {**LOGGING, "loggers": {"django.request": {"level": "ERROR"}}}  # noqa: F405
