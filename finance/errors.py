"""Refusals of finance."""

from common.errors import Problem


class RangeRefused(Problem):
    code, status, title = "export_range_refused", 422, "The range of an export must begin before it ends"


class DownloadRefused(Problem):
    """One answer for a link that is forged, stale, another person's or of a file that is gone."""

    code, status, title = "download_refused", 403, "This link is not valid any more"


class PeriodNotReady(Problem):
    code, status, title = "period_not_ready", 409, "The month cannot be closed yet"


class ArchiveRefused(Problem):
    code, status, title = "archive_refused", 409, "The month cannot be archived or restored like this"
