"""``manage.py anchor_audit``: anchor the head of the audit chain now, as the job does every minute."""

from typing import Any

from audit.anchors import anchor_head
from audit.chain import head
from common.commands import JsonCommand


class Command(JsonCommand):
    help = 'Write the head of the audit chain down outside the database. Prints {"sequence": …, "hash": …}.'

    def answer(self, **options: Any) -> dict[str, Any]:
        anchored = anchor_head() or head()
        return {"sequence": anchored.sequence, "hash": anchored.hash}
