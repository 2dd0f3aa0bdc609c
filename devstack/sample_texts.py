"""The sample model behind OpenAI's older calls: ``POST /v1/completions`` and ``POST /v1/embeddings``."""

import hashlib
import time
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

import msgspec

from devstack.sample_model import (
    TOKENS_PER_MESSAGE,
    ChatRequest,
    InvalidRequest,
    Message,
    Reply,
    StreamOptions,
    count_tokens,
    reply_to,
)

DIMENSIONS = 16
encode = msgspec.json.Encoder().encode


class CompletionRequest(msgspec.Struct):
    """The fields that are understood; others are ignored, as such servers do."""

    prompt: str | list[str]
    model: str = "sample"
    max_tokens: int | None = None
    n: int | None = None
    stream: bool | None = None
    stream_options: StreamOptions | None = None

    def as_chat(self) -> ChatRequest:
        """The same words as one message of a chat each."""
        prompts = [self.prompt] if isinstance(self.prompt, str) else self.prompt
        return ChatRequest(
            messages=[Message("user", prompt) for prompt in prompts],
            model=self.model,
            max_tokens=self.max_tokens,
            n=self.n,
        )


class EmbeddingRequest(msgspec.Struct):
    input: str | list[str]
    model: str = "sample"


_completion = msgspec.json.Decoder(CompletionRequest)
_embedding = msgspec.json.Decoder(EmbeddingRequest)


def parse_completion(body: bytes) -> CompletionRequest:
    """Raises ``InvalidRequest``."""
    request: CompletionRequest = _parsed(_completion, body)
    if not request.prompt:
        raise InvalidRequest("prompt must not be empty")
    request.as_chat().check()
    return request


def parse_embedding(body: bytes) -> EmbeddingRequest:
    """Raises ``InvalidRequest``."""
    request: EmbeddingRequest = _parsed(_embedding, body)
    if not request.input:
        raise InvalidRequest("input must not be empty")
    return request


def _parsed(decoder: msgspec.json.Decoder[Any], body: bytes) -> Any:
    try:
        return decoder.decode(body)
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        raise InvalidRequest(str(error)) from error


def completed(request: CompletionRequest) -> Reply:
    """The words alone are read: there is no chat's template around them."""
    chat = request.as_chat()
    reply = reply_to(chat)
    return replace(reply, prompt_tokens=reply.prompt_tokens - TOKENS_PER_MESSAGE * len(chat.messages))


def whole(request: CompletionRequest, reply: Reply) -> dict[str, Any]:
    choices = [_choice(index, reply.text, reply.finish_reason) for index in range(request.n or 1)]
    return {**_envelope(request), "choices": choices, "usage": reply.usage}


def events(request: CompletionRequest, reply: Reply) -> Iterator[bytes]:
    """A chunk for each word of each choice, one that ends it, and the usage where it was asked for."""
    base = _envelope(request)
    for index in range(request.n or 1):
        for position, word in enumerate(reply.words):
            yield _event({**base, "choices": [_choice(index, f" {word}" if position else word, None)]})
        yield _event({**base, "choices": [_choice(index, "", reply.finish_reason)]})
    if request.stream_options is not None and request.stream_options.include_usage:
        yield _event({**base, "choices": [], "usage": reply.usage})
    yield b"data: [DONE]\n\n"


def embedded(request: EmbeddingRequest) -> tuple[dict[str, Any], dict[str, Any]]:
    """The answer and its usage: the same vector for the same text, of length 1."""
    texts = [request.input] if isinstance(request.input, str) else request.input
    tokens = sum(count_tokens(text) for text in texts)
    usage = {"prompt_tokens": tokens, "total_tokens": tokens}
    data = [
        {"object": "embedding", "index": index, "embedding": _vector(text)}
        for index, text in enumerate(texts)
    ]
    return {"object": "list", "model": request.model, "data": data, "usage": usage}, usage


def _vector(text: str) -> list[float]:
    digest = hashlib.shake_256(text.encode(errors="replace")).digest(DIMENSIONS)
    values = [byte - 127.5 for byte in digest]
    length = sum(value * value for value in values) ** 0.5
    return [value / length for value in values]


def _envelope(request: CompletionRequest) -> dict[str, Any]:
    return {
        "id": "cmpl-sample",
        "object": "text_completion",
        "created": int(time.time()),
        "model": request.model,
    }


def _choice(index: int, text: str, finish_reason: str | None) -> dict[str, Any]:
    return {"index": index, "text": text, "logprobs": None, "finish_reason": finish_reason}


def _event(document: dict[str, Any]) -> bytes:
    return b"data: " + encode(document) + b"\n\n"
