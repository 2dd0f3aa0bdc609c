"""The journal's entries, as gateways write them."""

import uuid

import msgspec
import pytest

from common.ids import uuid7
from metering import journal


@pytest.mark.parametrize("limit", [None, 0, 10**14])
@pytest.mark.parametrize("metadata", [journal.NO_METADATA, msgspec.Raw(b'{"team":"a"}')])
def test_the_entry_of_an_open_call_is_the_same_written_ahead_or_anew(
    limit: int | None, metadata: msgspec.Raw
) -> None:
    first = journal.Entry(
        request_id=uuid.UUID(int=0),
        consumer_id=uuid.uuid4(),
        service_id=uuid.uuid4(),
        api_key_id=uuid.uuid4(),
        price_version_id=uuid.uuid4(),
        tier="basic",
        currency="USD",
        status="unsettled",
        limit=limit,
        key_lineage=uuid.uuid4(),
    )
    blank, id_ = journal.Blank(first), uuid7()
    entry = blank.entry(id_, metadata)
    assert entry == msgspec.structs.replace(first, request_id=id_, metadata=metadata)
    assert blank.encoded(entry, str(id_)) == journal.encode(entry)
