"""Money is ``Decimal`` and a currency from price to export; a float never touches it."""

from decimal import ROUND_CEILING, ROUND_HALF_UP, Context, Decimal, localcontext

#: Digits after the point of a currency's minor unit (ISO 4217, list one); two where it is not listed here.
_MINOR_UNITS = {
    "BHD": 3, "CLP": 0, "IQD": 3, "ISK": 0, "JOD": 3, "JPY": 0, "KRW": 0, "KWD": 3, "LYD": 3,
    "OMR": 3, "PYG": 0, "RWF": 0, "TND": 3, "UGX": 0, "UYI": 0, "VND": 0, "XAF": 0, "XOF": 0, "XPF": 0,
}  # fmt: skip

ZERO = Decimal(0)
#: Money where only whole numbers are exact, as in Valkey, is counted in billionths of its unit.
NANO = 10**9
#: Nano-units that one record counts at most: Lua's numbers are exact up to here.
MOST_NANO = 2**53
_UPWARDS = Context(prec=60, rounding=ROUND_CEILING)


def plain(amount: Decimal) -> str:
    """The amount without exponent or trailing zeros: ``Decimal("0.0250")`` is ``"0.025"``."""
    text = str(amount)
    if "E" in text:  # a small one, or one of many zeros; formatting every one costs twice as much
        text = format(amount, "f")
    if "." in text:
        text = text.rstrip("0").rstrip(".")
    return "0" if text in {"-0", ""} else text


def grouped(amount: Decimal) -> str:
    """``plain`` with a comma between thousands, for people."""
    whole, point, part = plain(amount).partition(".")
    return f"{int(whole):,}{point}{part}" if abs(amount) >= 1 else plain(amount)


def nano(amount: Decimal) -> int:
    """The amount in whole nano-units, rounded up."""
    return int(_UPWARDS.multiply(amount, NANO).to_integral_value(context=_UPWARDS))


def minor_units(currency: str) -> int:
    """How many digits after the point people see in this currency."""
    return _MINOR_UNITS.get(currency, 2)


def presented(amount: Decimal, currency: str) -> Decimal:
    """The amount as it is shown or invoiced: HALF_UP to the minor unit. Nothing stored is ever rounded."""
    with localcontext() as context:
        context.prec = 60
        return amount.quantize(Decimal(1).scaleb(-minor_units(currency)), rounding=ROUND_HALF_UP)
