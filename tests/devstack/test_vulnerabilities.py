"""A vulnerability fails the checks; a service that knows nothing does not, and says so."""

import pytest

from devstack.vulnerabilities import report

SOUND = {"name": "sound", "version": "1.0", "vulns": []}
FLAWED = {"name": "flawed", "version": "2.0", "vulns": [{"id": "CVE-1", "fix_versions": ["2.1"]}]}
UNKNOWN = {"name": "unknown", "skip_reason": "Dependency not found"}


def test_one_vulnerable_package_fails_and_is_named(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([SOUND, FLAWED, UNKNOWN]) == 1
    assert capsys.readouterr().out.splitlines() == [
        "flawed 2.0: CVE-1, mended in ['2.1']",
        "pip-audit: 1 of 2 packages vulnerable, 1 not known",
    ]


def test_sound_packages_pass_and_what_was_not_looked_up_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    assert report([SOUND, UNKNOWN]) == 0
    assert capsys.readouterr().out == "pip-audit: 0 of 1 packages vulnerable, 1 not known\n"
    assert report([UNKNOWN]) == 0
    assert capsys.readouterr().out == "pip-audit: skipped, its service knows none of the packages\n"
