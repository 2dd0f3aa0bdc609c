"""The API is called as its own description tells, rightly and wrongly, and keeps to it: Schemathesis, all its checks.

``OPENAPI_EXAMPLES`` (of each call, right and wrong ones each) and ``OPENAPI_SEED`` are larger and other in
``make soak``.
"""

import os
from dataclasses import dataclass
from typing import Any

import hypothesis
import pytest
import schemathesis
from hypothesis import HealthCheck, Phase
from prometheus_client.parser import text_string_to_metric_families
from schemathesis import Case, GenerationMode
from schemathesis.core.result import Ok

from accounts.sign_ins import begin
from keys.models import ApiKey
from tests import factories
from tests.live.stack import GatewayProcess, Stack

EXAMPLES = int(os.environ.get("OPENAPI_EXAMPLES", "24"))
SEED = int(os.environ.get("OPENAPI_SEED", "1"))
#: Signing in costs 60 ms and more of Argon2, whatever the name.
FEWER = {"POST /api/v1/token": 10}
#: A body may be as described and still name what is not there (a tier), or, where anything may stand, hold a number
#: beyond 64 bits, which no schema can forbid.
ACCEPTED = ["2xx", "400", "401", "403", "404", "409", "422", "429"]
REFUSED = ["400", "401", "403", "404", "409", "413", "422", "429"]
CONFIG = {
    "checks": {
        "positive_data_acceptance": {"expected-statuses": ACCEPTED},
        "negative_data_rejection": {"expected-statuses": REFUSED},
    },
    # Nothing that is stored may hold NUL, and no schema can say so. A query may hold what is not known, and the
    # credentials are the test's: those that are wrong are what ``ignored_auth`` tries.
    "generation": {"allow-x00": False, "allow-extra-parameters": False, "with-security-parameters": False},
}


@dataclass
class Owner:
    """Who calls: a person and a key of one consumer."""

    key: ApiKey
    key_text: str
    jwt: str

    def headers(self, case: Case[Any]) -> dict[str, str]:
        person = "jwt" in str(case.operation.definition.raw.get("security"))
        return {"Authorization": f"Bearer {self.jwt if person else self.key_text}"}

    def name(self, case: Case[Any]) -> None:
        """Point at what there is."""
        own = {"key_id": str(self.key.id), "service_id": str(self.key.service_id)}
        for name in case.path_parameters or {}:
            case.path_parameters[name] = own[name]
        if isinstance(case.body, dict) and "model" in case.body:
            case.body["model"] = own["service_id"]


@pytest.fixture
def owner(stack: Stack) -> Owner:
    key, text = factories.make_key(service=factories.make_service(endpoint=stack.upstream_url))
    user = factories.make_member(key.consumer).user
    return Owner(key, text, str(begin(user=user).access_token))


@pytest.mark.timeout(0 if EXAMPLES > 100 else 420)
def test_every_answer_is_one_that_the_description_has(lane_gateway: GatewayProcess, owner: Owner) -> None:
    config = schemathesis.Config.from_dict(CONFIG)
    schema = schemathesis.openapi.from_url(f"{lane_gateway.url}/api/v1/openapi.json", config=config)
    before = requests_answered(lane_gateway)
    for result in schema.get_all_operations():
        assert isinstance(result, Ok), result
        operation = result.ok()
        for mode in GenerationMode:
            if mode is GenerationMode.POSITIVE or operation.body or list(operation.iter_parameters()):
                call_often(lane_gateway, owner, operation, mode)
    assert requests_answered(lane_gateway) - before >= 30 * EXAMPLES


def call_often(gateway: GatewayProcess, owner: Owner, operation: Any, mode: GenerationMode) -> None:
    """Every second right call is about what the caller has, so that it comes further than to a 404."""
    called = 0

    @hypothesis.seed(SEED)
    @hypothesis.settings(
        max_examples=min(EXAMPLES, FEWER.get(operation.label, EXAMPLES)),
        deadline=None,
        database=None,
        phases=[Phase.generate],
        suppress_health_check=list(HealthCheck),
    )
    @hypothesis.given(case=operation.as_strategy(generation_mode=mode))
    def call(case: Case[Any]) -> None:
        nonlocal called
        called += 1
        if mode is GenerationMode.POSITIVE and called % 2:
            owner.name(case)
        case.call_and_validate(base_url=gateway.url, headers=owner.headers(case))

    call()


def requests_answered(gateway: GatewayProcess) -> int:
    """By the gateway's own count."""
    families = text_string_to_metric_families(gateway.get("/metrics").text)
    samples = (sample for family in families for sample in family.samples)
    return int(sum(sample.value for sample in samples if sample.name == "http_requests_total"))
