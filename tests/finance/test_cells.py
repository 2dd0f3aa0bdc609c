"""No spreadsheet runs what is exported, and an import gives back what was there."""

import pytest
from django.db import connection
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from finance.cells import harmless, harmless_sql, original

TEXTS = st.text(alphabet=st.sampled_from("=+-@\t\r\n'a1 \"é,"), max_size=6) | st.text(
    st.characters(codec="utf-8", exclude_characters="\0")
)


@given(TEXTS)
def test_every_text_comes_back_the_same(text: str) -> None:
    assert original(harmless(text)) == text
    assert not harmless(text).startswith(("=", "+", "-", "@", "\t", "\r"))


@pytest.mark.django_db
@settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None, max_examples=200)
@given(TEXTS)
def test_the_database_makes_the_same_of_it(text: str) -> None:
    with connection.cursor() as cursor:
        cursor.execute(f"SELECT {harmless_sql('t.x')} FROM (SELECT %s::text AS x) t", [text])  # noqa: S608
        assert cursor.fetchone() == (harmless(text),)
