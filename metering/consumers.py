"""Which consumers somebody means who writes an id or a part of a name."""

import uuid

from accounts.models import Consumer

#: More are not looked at: whoever means fewer writes more of the name.
MOST = 200


def consumers_meant(text: str) -> list[uuid.UUID]:
    """Their ids; one that is no longer there is found by its id all the same."""
    id_ = uuid_of(text)
    if id_ is not None:
        return [id_]
    if "\0" in text:  # in no name, and no question for the database
        return []
    return list(Consumer.objects.filter(name__icontains=text.strip()).values_list("id", flat=True)[:MOST])


def uuid_of(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text.strip())
    except ValueError:
        return None
