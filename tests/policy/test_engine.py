"""What is permitted, what is refused and by which rule, and that remembering changes nothing of it."""

import itertools
import random
import subprocess
import sys

import msgspec
import pytest

from policy import engine
from policy.engine import ALLOWED, Decision, PolicyEngine, Question, Rule, classification_of, policy_error

CLASSIFICATION = "forbid (principal, action, resource) when { context.classification > resource.clearance };"
RESIDENCY = (
    "forbid (principal, action, resource) "
    'when { principal.residency != "" && principal.residency != resource.region };'
)
# Passes the schema, and cannot be evaluated where the classification is 2 or more.
OVERFLOWS = "forbid (principal, action, resource) when { context.classification * 9223372036854775807 > 9 };"
QUESTION = Question(
    consumer_id="consumer-1",
    residency="eu",
    service_id="service-1",
    service_name="chat",
    region="eu",
    clearance=1,
    tier="basic",
    classification=1,
    address="192.0.2.7",
)


def rule(id_: str, text: str, *, fail_mode: str = "closed", severity: str = "warning") -> Rule:
    return Rule(id=id_, text=text, description=f"because of {id_}", severity=severity, fail_mode=fail_mode)


def when(condition: str) -> str:
    return f"forbid (principal, action, resource) when {{ {condition} }};"


def ask(*rules: Rule, **changes: object) -> Decision:
    return PolicyEngine(rules).decide(msgspec.structs.replace(QUESTION, **changes))


def refused_by(id_: str, severity: str = "warning") -> Decision:
    return Decision(allowed=False, policy_id=id_, reason=f"because of {id_}", severity=severity)


def test_without_rules_everything_is_permitted() -> None:
    assert ask() == ALLOWED == Decision(allowed=True)


def test_a_classification_above_the_clearance_is_refused() -> None:
    rules = [rule("data-classification", CLASSIFICATION, severity="critical")]
    assert ask(*rules) == ALLOWED
    assert ask(*rules, classification=2) == refused_by("data-classification", "critical")
    assert ask(*rules, classification=2, clearance=2) == ALLOWED


def test_data_that_must_stay_somewhere_is_refused_elsewhere_and_where_nobody_knows() -> None:
    rules = [rule("data-residency", RESIDENCY)]
    assert ask(*rules) == ALLOWED
    assert ask(*rules, region="us") == refused_by("data-residency")
    assert ask(*rules, region="") == refused_by("data-residency")
    assert ask(*rules, residency="", region="us") == ALLOWED


def test_of_several_refusals_the_first_by_id_is_told() -> None:
    rules = [rule("c", when("true")), rule("a", when("false")), rule("b", when("true"))]
    for order in itertools.permutations(rules):
        assert ask(*order) == refused_by("b")


@pytest.mark.parametrize(
    ("condition", "changes"),
    [
        ('principal == Consumer::"other"', {"consumer_id": "other"}),
        ('principal.residency == "us"', {"residency": "us"}),
        ('resource == Service::"other"', {"service_id": "other"}),
        ('resource.name like "large-*"', {"service_name": "large-one"}),
        ('resource.region == "us"', {"region": "us"}),
        ("resource.clearance > 2", {"clearance": 3}),
        ('context.tier == "premium"', {"tier": "premium"}),
        ("context.classification == 0", {"classification": 0}),
        (
            'context has address && context.address.isInRange(ip("10.0.0.0/8"))',
            {"address": "10.1.2.3"},
        ),
    ],
)
def test_a_rule_may_look_at_every_part_of_the_question(condition: str, changes: dict[str, object]) -> None:
    assert policy_error(when(condition)) == ""
    one = PolicyEngine([rule("rule", when(condition))])
    # The same engine and in this order: what it remembers of the first must not answer the second.
    assert one.decide(QUESTION) == ALLOWED
    assert one.decide(msgspec.structs.replace(QUESTION, **changes)) == refused_by("rule")
    assert one.decide(QUESTION) == ALLOWED


@pytest.mark.parametrize(
    ("address", "known", "inside"),
    [
        ("10.1.2.3", True, True),
        ("::ffff:10.1.2.3", True, True),
        ("192.0.2.1", True, False),
        ("2001:db8::1", True, False),
        ("fe80::1%eth0", True, False),
        ("", False, False),
        ("not an address", False, False),
        ("10.0.0.0/8", False, False),
    ],
)
def test_an_address_that_cannot_be_read_is_not_known(address: str, known: bool, inside: bool) -> None:
    within = 'context has address && context.address.isInRange(ip("10.0.0.0/8"))'
    assert ask(rule("in", when(within)), address=address).allowed is not inside
    assert ask(rule("unknown", when("!(context has address)")), address=address).allowed is known


def test_a_rule_that_cannot_be_evaluated_fails_as_it_says_and_for_itself_alone() -> None:
    closed, open_ = rule("b", OVERFLOWS), rule("b", OVERFLOWS, fail_mode="open")
    others = [rule("a", when('context.tier == "premium"')), rule("c", when("context.classification == 3"))]
    assert ask(closed, *others, classification=0) == ALLOWED
    assert ask(closed, *others, classification=1) == refused_by("b")
    assert ask(closed, *others, classification=2) == refused_by("b")
    assert ask(open_, *others, classification=2) == ALLOWED
    assert ask(open_, *others, classification=3) == refused_by("c")
    assert ask(closed, *others, classification=2, tier="premium") == refused_by("a")


def test_a_rule_that_cannot_be_read_fails_as_it_says(caplog: pytest.LogCaptureFixture) -> None:
    for text in (
        "nonsense",
        when("true") * 2,
        "(" * 5_000,
        "permit (principal == ?principal, action, resource);",
    ):
        assert ask(rule("a", text, fail_mode="open")) == ALLOWED
        assert ask(rule("a", text)) == refused_by("a")
        assert ask(rule("a", text, fail_mode="open"), rule("b", when("true"))) == refused_by("b")
    assert "policy a cannot be read and fails open" in caplog.text


def test_a_question_that_cedar_cannot_take_is_refused_where_a_rule_fails_closed() -> None:
    too_large = 2**70
    assert ask(rule("a", when("false")), classification=too_large) == refused_by("a")
    assert ask(rule("a", when("false"), fail_mode="open"), classification=too_large) == ALLOWED


def test_what_is_remembered_is_what_would_be_decided() -> None:
    """Over all combinations, in random order, one engine answers as a new one does."""
    rules = [
        rule("a", CLASSIFICATION),
        rule("b", RESIDENCY),
        rule("c", when('principal in [Consumer::"x", Consumer::"y"] && resource.name == "large"')),
        rule(
            "d",
            'forbid (principal == Consumer::"y", action, resource is Service) when { resource.clearance == 3 };',
        ),
        rule("e", when('Consumer::"x".residency == "us"'), fail_mode="open"),
        rule(
            "f",
            when('(if context.tier == "basic" then {a: resource} else {a: principal}).a == Consumer::"y"'),
        ),
        rule("g", when('context == {tier: "premium", classification: 0}')),
    ]
    questions = [
        Question(consumer_id, residency, "s", name, region, clearance, tier, classification, address)
        for consumer_id in "xyz"
        for residency in ("", "us")
        for name in ("large", "small")
        for region in ("", "us")
        for clearance in (1, 3)
        for tier in ("basic", "premium")
        for classification in (0, 3)
        for address in ("", "192.0.2.1")
    ]
    fresh = {
        question: PolicyEngine(rules)._decide(PolicyEngine(rules)._key(question)) for question in questions
    }
    everything = PolicyEngine(rules)
    everything._names = sorted(Question.__struct_fields__)
    for question in questions:
        whole = tuple(getattr(question, name) for name in everything._names)
        assert everything._decide(whole) == fresh[question]
    remembering = PolicyEngine(rules)
    random.Random(1).shuffle(questions)
    assert [remembering.decide(question) for question in questions] == [fresh[q] for q in questions]
    assert {decision.policy_id for decision in fresh.values()} == {"", "a", "b", "c", "d", "e", "f", "g"}


def test_only_what_the_rules_look_at_takes_room() -> None:
    one = PolicyEngine([rule("a", CLASSIFICATION), rule("b", RESIDENCY)])
    for number in range(1_000):
        one.decide(
            msgspec.structs.replace(QUESTION, consumer_id=str(number), address=f"10.0.{number % 250}.1")
        )
    assert one._decided.cache_info().misses == 1


def test_what_is_remembered_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engine, "REMEMBERED", 10)
    one = PolicyEngine([rule("a", when('context.tier == "x"'))])
    for number in range(50):
        assert one.decide(msgspec.structs.replace(QUESTION, tier=str(number))) == ALLOWED
    assert one._decided.cache_info().currsize == 10
    assert one.decide(msgspec.structs.replace(QUESTION, tier="x")) == refused_by("a")


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("", "One policy is needed, here are 0."),
        ("// only a comment", "One policy is needed, here are 0."),
        (when("true") + when("false"), "One policy is needed, here are 2."),
        ("nonsense", "Not a Cedar policy"),
        (when("true")[:-1], "Not a Cedar policy"),
        ("permit (principal, action, resource);", "has to be a forbid"),
        ("forbid (principal == ?principal, action, resource);", "A template"),
        (when("context.clasification > 1"), "attribute `clasification` in context"),
        (when('context.classification > "a"'), "expected Long but saw String"),
        (when('context.address.isInRange(ip("10.0.0.0/8"))'), "optional attribute `address`"),
        ('forbid (principal, action == Action::"read", resource);', 'unrecognized action `Action::"read"`'),
        ("x" * 5_001, "at most 5000 characters"),
        (when("(" * 60 + "true" + ")" * 60), "nested more than 50 deep"),
        (when("1+" * 2_400 + "1 > 0"), "nested too deep"),
    ],
)
def test_a_text_that_is_not_one_rule_is_told_why(text: str, words: str) -> None:
    assert words in policy_error(text)


@pytest.mark.parametrize("text", [CLASSIFICATION, RESIDENCY, OVERFLOWS, f'// why\n@id("x")\n{when("true")}'])
def test_a_rule_has_no_error(text: str) -> None:
    assert policy_error(text) == ""


@pytest.mark.parametrize(
    "expression",
    [
        "'(' * 50 + 'true' + ')' * 50",
        "'[' * 50 + ']' * 50 + ' == []'",
        "'if true then ' * 350 + 'true'",
        "'1+' * 2400 + '1 > 0'",
        "'context' + '.a' * 2400 + ' == 1'",
        "'true&&' * 800 + 'true'",
        "'!' * 4 + 'true'",
        "'if true then true else ' * 200 + 'true'",
    ],
)
def test_no_text_within_the_bounds_takes_the_process_down(expression: str) -> None:
    """A stack that overflows cannot be caught: in a process of its own, and in a thread, as gateways have."""
    program = (
        "import threading\nfrom policy.engine import *\n"
        f"text = 'forbid(principal,action,resource) when {{ ' + {expression} + ' }};'\n"
        "def go():\n    policy_error(text)\n"
        "    PolicyEngine([Rule('a', text, '', 'warning', 'open')]).decide(Question())\n"
        "thread = threading.Thread(target=go)\nthread.start()\nthread.join()\n"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=False)
    assert (done.returncode, "Traceback" in done.stderr) == (0, False), done.stderr[-500:]


@pytest.mark.parametrize(
    ("metadata", "classification"),
    [
        (None, 1),
        ({}, 1),
        ({"user": "u"}, 1),
        ({"data_classification": None}, 1),
        ({"data_classification": "public"}, 0),
        ({"data_classification": "internal"}, 1),
        ({"data_classification": "confidential"}, 2),
        ({"data_classification": " Restricted "}, 3),
        ({"data_classification": 0}, 0),
        ({"data_classification": 3}, 3),
        ({"data_classification": 4}, 3),
        ({"data_classification": -1}, 3),
        ({"data_classification": True}, 3),
        ({"data_classification": False}, 3),
        ({"data_classification": "restrictd"}, 3),
        ({"data_classification": ""}, 3),
        ({"data_classification": ["public"]}, 3),
        ({"data_classification": 0.0}, 3),
    ],
)
def test_the_classification_of_a_call(metadata: dict[str, object] | None, classification: int) -> None:
    assert classification_of(metadata) == classification
