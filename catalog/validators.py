"""What a service's JSON may say: its price, and what it promises."""

import math
from typing import Any

from django.core.exceptions import ValidationError

from catalog.pricing_shapes import parse_pricing


def validate_pricing(value: Any) -> None:
    """Raises ``ValidationError`` unless ``value`` has one of the contract's pricing shapes."""
    try:
        parse_pricing(value)
    except ValueError as error:
        raise ValidationError(str(error)) from error


def validate_sla(value: Any) -> None:
    """Raises ``ValidationError`` unless ``value`` holds only known objectives, each a number in its range."""
    if not isinstance(value, dict):
        raise ValidationError("sla must be an object")
    for name, objective in value.items():
        if name not in {"latency_p95_ms", "error_rate", "uptime"}:
            raise ValidationError("sla knows latency_p95_ms, error_rate and uptime")
        if isinstance(objective, bool) or not isinstance(objective, int | float):
            raise ValidationError(f"{name} must be a number")
        if not 0 <= objective < math.inf:
            raise ValidationError(f"{name} must not be negative")
        if name != "latency_p95_ms" and objective > 1:
            raise ValidationError(f"{name} is a ratio between 0 and 1")
