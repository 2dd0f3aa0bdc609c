"""The enabled policies as the engine takes them."""

from policy.engine import Rule
from policy.models import Policy


def load_rules() -> list[Rule]:
    """Every enabled policy, by id."""
    return [
        Rule(
            id=policy.id,
            text=policy.text,
            description=policy.description,
            severity=policy.severity,
            fail_mode=policy.fail_mode,
        )
        for policy in Policy.objects.filter(enabled=True).order_by("id")
    ]
