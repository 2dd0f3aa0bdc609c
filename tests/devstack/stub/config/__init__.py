"""Plays the application for the tests of the supervisor."""

import os

from celery import Celery

celery_app = Celery("stub", broker=os.environ["REDIS_URL"])
celery_app.conf.beat_schedule_filename = os.environ["SPOOL_DIR"] + "/beat"
