"""Times as logs write them: seconds, milliseconds or finer since 1970, or a date of ISO 8601; all become UTC."""

import math
from datetime import UTC, datetime, timedelta

_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
# A count of seconds stays below the year 5138; what is larger counts finer units.
UNITS = ((1e11, 1_000_000), (1e14, 1_000), (1e17, 1))


def as_time(value: object) -> datetime | None:
    """A moment in UTC, to the microsecond; None for what is no time. Dates without a zone are taken for UTC."""
    if isinstance(value, datetime):
        return value.astimezone(UTC) if value.tzinfo else value.replace(tzinfo=UTC)
    if isinstance(value, bool) or value is None:
        return None
    if isinstance(value, str):
        return _from_text(value.strip())
    if isinstance(value, int | float):
        return _from_number(value)
    return None


def _from_text(text: str) -> datetime | None:
    if not text:
        return None
    if text[4:5] != "-":
        try:
            return _from_number(float(text))
        except ValueError:
            pass
    try:
        found = datetime.fromisoformat(text)
    except ValueError:
        return None
    return found.astimezone(UTC) if found.tzinfo else found.replace(tzinfo=UTC)


def _from_number(number: float) -> datetime | None:
    if not math.isfinite(number):
        return None
    size = abs(number)
    per = next((factor for limit, factor in UNITS if size < limit), None)
    micros = number * per if per is not None else number / 1000
    try:
        return _EPOCH + timedelta(microseconds=round(micros))
    except OverflowError:
        return None
