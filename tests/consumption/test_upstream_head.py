"""What an upstream is told before the body: who calls, in the words of its protocol, and nothing of the caller's."""

from consumption.upstream import _head

COMMON = (
    b"content-type: application/json\r\naccept: application/json, text/event-stream\r\n"
    b"accept-encoding: identity\r\nuser-agent: llm-marketplace\r\nx-request-id: "
)


def test_an_upstream_of_openais_protocol_gets_its_credential_as_a_bearer() -> None:
    head = _head("http://127.0.0.1:9/v1", "/chat/completions", "openai", "sesame")
    line = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1:9\r\n"
    assert head == line + b"authorization: Bearer sesame\r\n" + COMMON
    assert _head("http://127.0.0.1:9/v1", "/chat/completions", "openai", None) == line + COMMON


def test_an_upstream_of_anthropics_protocol_gets_its_credential_and_the_version() -> None:
    head = _head("http://127.0.0.1:9/v1", "/messages", "anthropic", "sesame")
    line = b"POST /v1/messages HTTP/1.1\r\nhost: 127.0.0.1:9\r\n"
    assert head == line + b"x-api-key: sesame\r\nanthropic-version: 2023-06-01\r\n" + COMMON
