"""Cedar policies, decided in process: everything is permitted unless an enabled rule forbids it.

What a rule may look at::

    principal   Consumer::"<its id>"   .residency
    action      Action::"consume"
    resource    Service::"<its id>"    .name .region .clearance
    context     .tier .classification .address (optional: ``context has address && …``)

A decision follows from the rules and the question alone, so it is remembered.
"""

import ipaddress
import json
import logging
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from operator import attrgetter
from typing import Any

import cedarpy
import msgspec

logger = logging.getLogger(__name__)

SCHEMA = """\
entity Consumer { residency: String };
entity Service { name: String, region: String, clearance: Long };
action consume appliesTo {
    principal: Consumer,
    resource: Service,
    context: { tier: String, classification: Long, address?: ipaddr }
};
"""
CLASSIFICATIONS = {"public": 0, "internal": 1, "confidential": 2, "restricted": 3}
UNLABELLED = CLASSIFICATIONS["internal"]
HIGHEST = max(CLASSIFICATIONS.values())
#: Decisions that are remembered at most; about 400 bytes each.
REMEMBERED = 16_384

# Cedar's parser is recursive and bounds only some of its recursions: a thousand nested brackets are a
# segmentation fault, here and in every gateway that loads the row. These bounds are far from where it breaks.
_MAX_LENGTH = 5_000
_MAX_NESTING = 50
# No rule can be called so: an id is a slug.
_BASE = "(everything is permitted)"
_PERMIT = {
    "effect": "permit",
    "principal": {"op": "All"},
    "action": {"op": "All"},
    "resource": {"op": "All"},
    "conditions": [],
}

# What of a question each thing in Cedar stands for. A variable by itself ("") stands for all of it.
_FIELDS = {
    ("principal", "residency"): frozenset({"residency"}),
    ("principal", ""): frozenset({"consumer_id", "residency"}),
    ("action", ""): frozenset[str](),
    ("resource", "name"): frozenset({"service_name"}),
    ("resource", "region"): frozenset({"region"}),
    ("resource", "clearance"): frozenset({"clearance"}),
    ("resource", ""): frozenset({"service_id", "service_name", "region", "clearance"}),
    ("context", "tier"): frozenset({"tier"}),
    ("context", "classification"): frozenset({"classification"}),
    ("context", "address"): frozenset({"address"}),
    ("context", ""): frozenset({"tier", "classification", "address"}),
}


@dataclass(frozen=True, slots=True)
class Rule:
    """One enabled policy. ``fail_mode``: where it cannot be decided, ``closed`` denies, ``open`` ignores."""

    id: str
    text: str
    description: str
    severity: str
    fail_mode: str


class Question(msgspec.Struct, frozen=True, gc=False):
    """All that a decision may depend on. A msgspec struct, since one is made for every call.

    ``clearance`` and ``classification``: 0 public, 1 internal, 2 confidential, 3 restricted. ``residency``
    and ``region`` are "" where none is set. ``address`` is the client's IP address or "".
    """

    consumer_id: str = ""
    residency: str = ""
    service_id: str = ""
    service_name: str = ""
    region: str = ""
    clearance: int = 0
    tier: str = ""
    classification: int = 0
    address: str = ""


@dataclass(frozen=True, slots=True)
class Decision:
    """``policy_id``, ``reason`` and ``severity`` are of the rule that refused, and empty where none did."""

    allowed: bool
    policy_id: str = ""
    reason: str = ""
    severity: str = ""


ALLOWED = Decision(allowed=True)


def classification_of(metadata: dict[str, Any] | None) -> int:
    """The data classification that a call states in its metadata, under ``data_classification``.

    A name (in any case) or its number. A call that states none is internal: nobody said it may be public. A
    label that is not known is the highest: a misspelt "restricted" must not pass for less.
    """
    label = metadata.get("data_classification") if metadata else None
    if label is None:
        return UNLABELLED
    if isinstance(label, str):
        return CLASSIFICATIONS.get(label.strip().lower(), HIGHEST)
    known = isinstance(label, int) and not isinstance(label, bool) and 0 <= label <= HIGHEST
    return int(label) if known else HIGHEST


def policy_error(text: str) -> str:
    """Why the text is not exactly one Cedar ``forbid`` policy that this engine can decide; "" where it is."""
    try:
        policy = _parse(text)
    except ValueError as error:
        return str(error)
    if policy["effect"] != "forbid":
        return "A rule has to be a forbid: everything is permitted already unless a rule forbids it."
    problems = cedarpy.validate_policies(text, SCHEMA).errors
    return "; ".join(problem.error.replace("for policy `policy0`, ", "") for problem in problems)


def _parse(text: str) -> dict[str, Any]:
    """The one policy in the text, as Cedar's JSON. Raises ``ValueError``, with a message for people."""
    if len(text) > _MAX_LENGTH:
        raise ValueError(f"A policy has at most {_MAX_LENGTH} characters.")
    if _nesting(text) > _MAX_NESTING:
        raise ValueError(f"Brackets are nested more than {_MAX_NESTING} deep.")
    try:
        found = json.loads(cedarpy.policies_to_json_str(text))
    except ValueError as error:
        raise ValueError(f"Not a Cedar policy: {error}") from error
    except RecursionError:
        raise ValueError("The expression is nested too deep.") from None
    if found["templates"]:
        raise ValueError("A template (?principal, ?resource) decides nothing: name who or what is meant.")
    policies = list(found["staticPolicies"].values())
    if len(policies) != 1:
        raise ValueError(f"One policy is needed, here are {len(policies)}.")
    policy: dict[str, Any] = policies[0]
    try:
        _policy_set({"it": policy})
    except ValueError:  # the way back allows less depth, and fails for all policies of a set at once
        raise ValueError("The expression is nested too deep.") from None
    return policy


def _nesting(text: str) -> int:
    depth = deepest = 0
    for character in text:
        if character in "([{":
            depth += 1
            deepest = max(deepest, depth)
        elif character in ")]}":
            depth -= 1
    return deepest


class PolicyEngine:
    """The enabled rules, ready to be asked. Other rules are another engine. Threads may share one."""

    def __init__(self, rules: Sequence[Rule]) -> None:
        self._rules = tuple(sorted(rules, key=lambda rule: rule.id))
        policies = {}
        self._unreadable = []
        for rule in self._rules:
            try:
                policies[rule.id] = _parse(rule.text)
            except ValueError as error:
                logger.error("policy %s cannot be read and fails %s: %s", rule.id, rule.fail_mode, error)
                self._unreadable.append(rule)
        self._policies = _policy_set(policies)
        self._alone = {id_: _policy_set({id_: policy}) for id_, policy in policies.items()}
        # The key is only what the rules look at: a thousand addresses that no rule asks for are one entry.
        fields = {"clearance", "classification"}.union(*(_fields_of(policy) for policy in policies.values()))
        self._names = sorted(fields)
        self._key: Callable[[Question], tuple[Any, ...]] = attrgetter(*self._names)
        self._decided = lru_cache(maxsize=REMEMBERED)(self._decide)

    def decide(self, question: Question) -> Decision:
        """Whether the call may go on; else the first rule, by id, that refuses it."""
        return self._decided(self._key(question))

    def _decide(self, key: tuple[Any, ...]) -> Decision:
        # Made again from the key alone: nothing that is not in the key can have a say.
        question = Question(**dict(zip(self._names, key, strict=True)))
        request, entities = _request(question), _entities(question)
        answer = cedarpy.is_authorized(request, self._policies, entities)
        refusing = {rule.id for rule in self._unreadable if rule.fail_mode != "open"}
        if answer.decision is cedarpy.Decision.Deny:
            refusing.update(answer.diagnostics.reasons)
        if answer.diagnostics.errors:
            refusing.update(self._undecided(request, entities))
        for rule in self._rules:
            if rule.id in refusing:
                return Decision(False, rule.id, rule.description, rule.severity)
        return ALLOWED

    def _undecided(self, request: dict[str, Any], entities: str) -> Iterator[str]:
        """Ids of rules that fail closed and that Cedar could not evaluate.

        Each is asked by itself, so that the others keep their say and no error message has to be taken apart.
        """
        for rule in self._rules:
            if rule.id in self._alone and rule.fail_mode != "open":
                answer = cedarpy.is_authorized(request, self._alone[rule.id], entities)
                if errors := answer.diagnostics.errors:
                    logger.warning("policy %s could not be decided: %s", rule.id, errors[0])
                    yield rule.id


def _policy_set(policies: dict[str, dict[str, Any]]) -> cedarpy.PolicySet:
    document = {"staticPolicies": {_BASE: _PERMIT, **policies}, "templates": {}, "templateLinks": []}
    return cedarpy.PolicySet.from_json_str(json.dumps(document))


def _request(question: Question) -> dict[str, Any]:
    context: dict[str, Any] = {"tier": question.tier, "classification": question.classification}
    if address := _plain_address(question.address):
        context["address"] = {"__extn": {"fn": "ip", "arg": address}}
    return {
        "principal": {"type": "Consumer", "id": question.consumer_id},
        "action": {"type": "Action", "id": "consume"},
        "resource": {"type": "Service", "id": question.service_id},
        "context": context,
    }


def _plain_address(text: str) -> str:
    """The address as Cedar reads it: no zone, and IPv4 where a dual-stack socket mapped it. Else ""."""
    try:
        address = ipaddress.ip_address(text.partition("%")[0])
    except ValueError:
        return ""
    return str(getattr(address, "ipv4_mapped", None) or address)


def _entities(question: Question) -> str:
    service = {"name": question.service_name, "region": question.region, "clearance": question.clearance}
    consumer = {"residency": question.residency}
    return json.dumps(
        [
            {"uid": {"type": "Consumer", "id": question.consumer_id}, "attrs": consumer, "parents": []},
            {"uid": {"type": "Service", "id": question.service_id}, "attrs": service, "parents": []},
        ]
    )


def _fields_of(policy: dict[str, Any]) -> set[str]:
    """The fields of a question that a policy, in Cedar's JSON, can depend on. Never too few."""
    found: set[str] = set()
    for variable in ("principal", "resource"):
        scope = policy[variable]
        if scope["op"] != "All" and not (scope["op"] == "is" and "in" not in scope):
            found |= _FIELDS[variable, ""]
    nodes: list[Any] = [condition["body"] for condition in policy["conditions"]]
    while nodes:
        node = nodes.pop()
        if isinstance(node, list):
            nodes.extend(node)
        elif isinstance(node, dict):
            mentioned = _mentioned(node)
            if mentioned is None:
                nodes.extend(node.values())
            else:
                found |= mentioned
    return found


def _mentioned(node: dict[str, Any]) -> frozenset[str] | None:
    """What this node by itself reads of the question; None where that is for its children to say."""
    if "__entity" in node:  # Consumer::"x".residency is known only when x is who asks
        return _FIELDS["principal", ""] | _FIELDS["resource", ""]
    if isinstance(node.get("Var"), str):
        return _FIELDS[node["Var"], ""]
    access: dict[str, Any] = node.get(".") or node.get("has") or {}
    variable = access.get("left", {}).get("Var")
    if not isinstance(variable, str):
        return None
    return _FIELDS.get((variable, access["attr"]), _FIELDS[variable, ""])
