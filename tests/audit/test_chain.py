"""Every entry is linked as it commits, and whatever is done to the trail afterwards is found and named."""

import io
import json
import threading
from pathlib import Path

import pytest
from django.core.management import CommandError, call_command
from django.db import connection, transaction

from audit import anchors, chain
from audit.models import AuditLink
from audit.tasks import anchor_audit
from tests.audit.tampering import CHAIN_ANEW, tampered, write
from tests.superuser import as_superuser

pytestmark = pytest.mark.usefixtures("committed", "anchors_file")


def verified(**options: bool) -> dict[str, object]:
    out = io.StringIO()
    call_command("verify_audit", stdout=out, **options)
    answer: dict[str, object] = json.loads(out.getvalue())
    return answer


def broken() -> str:
    with pytest.raises(CommandError) as raised:
        verified()
    return str(raised.value)


def test_a_trail_that_nobody_touched_is_whole() -> None:
    assert verified() == {"entries": 0, "head": "0" * 64, "anchors": 0}
    write("ada", "bob", "cay")
    assert verified() == {"entries": 3, "head": chain.head().hash, "anchors": 0}


def test_raw_sql_is_linked_too() -> None:
    with connection.cursor() as cursor:
        cursor.execute(
            "INSERT INTO audit_entries (at, actor, action, target_type, target_id, before, after)"
            " SELECT now(), 'raw', 'x', 't', n::text, '{}', '{}' FROM generate_series(1, 3) n"
        )
    assert list(AuditLink.objects.values_list("sequence", "entry__target_id")) == [
        (1, "1"),
        (2, "2"),
        (3, "3"),
    ]
    assert verified()["entries"] == 3


def test_what_is_rolled_back_leaves_no_gap() -> None:
    write("ada")
    with transaction.atomic():
        write("bob")
        transaction.set_rollback(True)
    write("cay")
    assert list(AuditLink.objects.values_list("sequence", "entry__actor")) == [(1, "ada"), (2, "cay")]
    assert verified()["entries"] == 2


def test_links_stand_in_the_order_of_commits_and_nobody_waits_before() -> None:
    """A transaction that wrote its entry first and goes on working holds up nobody."""
    with transaction.atomic():
        write("slow")
        quick = threading.Thread(target=write_and_close, args=("quick",))
        quick.start()
        quick.join(10)
        assert not quick.is_alive()
    assert list(AuditLink.objects.values_list("entry__actor", flat=True)) == ["quick", "slow"]
    assert verified()["entries"] == 2


def write_and_close(*actors: str) -> None:
    try:
        write(*actors)
    finally:
        connection.close()


def test_eight_writers_at_once_make_one_chain() -> None:
    writers = [
        threading.Thread(target=write_and_close, args=[f"{number}-{n}" for n in range(25)])
        for number in range(8)
    ]
    for writer in writers:
        writer.start()
    for writer in writers:
        writer.join(60)
    assert verified()["entries"] == 200
    assert list(AuditLink.objects.values_list("sequence", flat=True)) == list(range(1, 201))


#: What somebody does, where `1`, `2` and `3` in braces are the ids of the three entries there are, and what is found.
TAMPERINGS = {
    "UPDATE audit_entries SET at = at + interval '1 microsecond' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET actor = 'eve' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET action = 'x' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET target_type = 'tie', target_id = 'rbasic' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET target_id = 'x' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET address = NULL WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET address = '192.0.2.8' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET before = jsonb_build_object('rank', 2) WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET after = after - 'name' WHERE id = {2}": "{2} differs",
    "UPDATE audit_entries SET id = 1000000 WHERE id = {2}": "entry {2} of link 2 is missing",
    "UPDATE audit_links SET hash = sha256('') WHERE sequence = 2": "{2} differs",
    "UPDATE audit_links SET previous_hash = sha256('') WHERE sequence = 2":
        "link 2 (entry {2}) does not follow the one before it",
    "DELETE FROM audit_entries WHERE id = {2}": "entry {2} of link 2 is missing",
    "DELETE FROM audit_entries WHERE id = {2}; DELETE FROM audit_links WHERE sequence = 2":
        "link 2 is missing: the next one is 3",
    # ... and the rest moves up
    "DELETE FROM audit_entries WHERE id = {2}; DELETE FROM audit_links WHERE sequence = 2;"
    " UPDATE audit_links SET sequence = 2 WHERE sequence = 3": "link 2 (entry {3}) does not follow the one before it",
    # two rows swapped: what they say, then which link they have
    "UPDATE audit_entries row SET (at, actor) = (SELECT at, actor FROM audit_entries other"
    " WHERE other.id = {1} + {2} - row.id) WHERE id IN ({1}, {2})": "{1} differs",
    "UPDATE audit_links SET entry_id = -entry_id WHERE sequence < 3;"
    " UPDATE audit_links SET entry_id = {1} + {2} + entry_id WHERE sequence < 3":
        "entry {2} of link 1 is not what was written: its hash differs",
    "UPDATE audit_links SET sequence = -sequence WHERE sequence < 3;"
    " UPDATE audit_links SET sequence = 3 + sequence WHERE sequence < 0":
        "link 1 (entry {2}) does not follow the one before it",
    # put in past the chain
    "INSERT INTO audit_entries SELECT 1000000, at, 'eve', action, target_type, target_id, address, before, after"
    " FROM audit_entries WHERE id = {1}": "entry 1000000 has no link: it was put in past the chain",
    # the tail cut off, and the whole chain written anew: only the anchor knows
    "DELETE FROM audit_entries WHERE id > {1}; DELETE FROM audit_links WHERE sequence > 1":
        "the chain ends at link 1, but link 3 was anchored",
    "UPDATE audit_entries SET actor = 'eve' WHERE id = {1}; {anew}":
        "link 3 (entry {3}) is not the one that was anchored",
    # everything
    "DELETE FROM audit_entries; DELETE FROM audit_links": "the chain ends at link 0, but link 3 was anchored",
}  # fmt: skip


def test_whatever_is_done_to_the_trail_is_found_and_named() -> None:
    ids = dict(zip("123", write("ada", "bob", "cay"), strict=True))
    anchor_audit()
    whole = verified()
    for statements, expected in TAMPERINGS.items():
        told = expected.replace("{2} differs", DIFFERS[2]).replace("{1} differs", DIFFERS[1])
        with tampered(fill(statements, ids)):
            assert broken() == fill(told, ids), statements
    assert verified() == whole


DIFFERS = {n: f"entry {{{n}}} of link {n} is not what was written: its hash differs" for n in (1, 2)}


def fill(text: str, ids: dict[str, int]) -> str:
    for number, id_ in ids.items():
        text = text.replace(f"{{{number}}}", str(id_))
    return text.replace("{anew}", CHAIN_ANEW)


def test_nothing_is_anchored_after_an_anchor_that_no_longer_fits(
    anchors_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    write("ada", "bob", "cay")
    anchor_audit()
    kept = anchors_file.read_text()
    with tampered("DELETE FROM audit_entries; DELETE FROM audit_links WHERE sequence > 1"):
        anchor_audit()
    assert "the audit trail was tampered with: link 3 is not the one that was anchored" in caplog.text
    assert anchors_file.read_text() == kept


def test_an_anchor_is_written_when_the_head_has_moved(
    anchors_file: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    assert anchors.anchor_head() is None
    assert anchors_file.read_text() == ""
    write("ada", "bob")
    first = anchors.anchor_head()
    assert first is not None
    assert first == chain.Head(2, bytes(AuditLink.objects.get(sequence=2).hash).hex())
    assert f"audit chain anchored: link 2 is {first.hash}" in caplog.text
    assert anchors.anchor_head() is None
    write("cay")
    anchor_audit()
    assert sorted(anchors.read()) == [2, 3]
    assert verified()["anchors"] == 2
    assert anchors_file.stat().st_mode & 0o777 == 0o600


def test_a_forged_anchor_is_found(anchors_file: Path) -> None:
    write("ada")
    anchors.anchor_head()
    genuine = anchors_file.read_text()
    for forged in (genuine.replace('"sequence": 1', '"sequence": 2'), "{}\n", "\n", genuine + "\n"):
        anchors_file.write_text(forged)
        assert broken() == "an anchor in anchors was not written by us"
    anchors_file.write_text(genuine)
    assert verified()["anchors"] == 1


def test_a_chain_without_anchors_is_refused_where_they_are_insisted_on(anchors_file: Path) -> None:
    write("ada")
    with pytest.raises(CommandError, match="no anchor vouches for the chain"):
        verified(anchored=True)
    anchors.anchor_head()
    assert verified(anchored=True)["anchors"] == 1


def test_entries_from_before_the_chain_are_linked_by_its_migration() -> None:
    write("ada", "bob")
    with as_superuser(), transaction.atomic():
        call_command("migrate", "audit", "0001", verbosity=0)
        write("cay")
        call_command("migrate", "audit", verbosity=0)
        assert verified()["entries"] == 3
        assert list(AuditLink.objects.values_list("entry__actor", flat=True)) == ["ada", "bob", "cay"]
        transaction.set_rollback(True)
