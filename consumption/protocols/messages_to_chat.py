"""A request in Anthropic's protocol, written in OpenAI's.

What OpenAI's protocol has no words for is refused where the answer would be another one without it (files by id,
blocks that are not known), and left out where it only helps: cache marks, citations, ``thinking``. A model behind
OpenAI's protocol thinks as it is set up to; what another model thought before is of no use to it.
"""

from typing import Any, Literal

import msgspec

from consumption.dialects.checks import where
from consumption.errors import NotSupported
from consumption.replies import UNREADABLE


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Base64(msgspec.Struct, tag="base64"):
    media_type: str
    data: str


class _Url(msgspec.Struct, tag="url"):
    url: str


class _PlainText(msgspec.Struct, tag="text"):
    data: str


class _Image(msgspec.Struct, tag="image"):
    source: _Base64 | _Url


class _Document(msgspec.Struct, tag="document"):
    source: _Base64 | _PlainText
    title: str | None = None


_Shown = _Text | _Image | _Document


class _ToolUse(msgspec.Struct, tag="tool_use"):
    id: str
    name: str
    input: dict[str, Any]


class _ToolResult(msgspec.Struct, tag="tool_result"):
    tool_use_id: str
    content: str | list[_Shown] | None = None


class _Thinking(msgspec.Struct, tag="thinking"):
    pass


class _RedactedThinking(msgspec.Struct, tag="redacted_thinking"):
    pass


class _User(msgspec.Struct, tag="user", tag_field="role"):
    content: str | list[_Text | _Image | _Document | _ToolResult]


class _Assistant(msgspec.Struct, tag="assistant", tag_field="role"):
    content: str | list[_Text | _ToolUse | _Thinking | _RedactedThinking]


class _System(msgspec.Struct, tag="system", tag_field="role"):
    content: str | list[_Text]


class _Tool(msgspec.Struct):
    name: str
    input_schema: dict[str, Any]
    type: Literal["custom"] | None = None
    description: str | None = None
    strict: bool | None = None


class _ToolChoice(msgspec.Struct):
    type: Literal["auto", "any", "tool", "none"]
    name: str = ""
    disable_parallel_tool_use: bool = False


class _Format(msgspec.Struct):
    type: Literal["json_schema"]
    schema: dict[str, Any]


class _OutputConfig(msgspec.Struct):
    format: _Format | None = None


class _Metadata(msgspec.Struct):
    user_id: str | None = None


class _Request(msgspec.Struct):
    messages: list[_User | _Assistant | _System]
    max_tokens: int
    stream: bool = False
    system: str | list[_Text] | None = None
    tools: list[_Tool] | None = None
    tool_choice: _ToolChoice | None = None
    stop_sequences: list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    output_config: _OutputConfig | None = None
    metadata: _Metadata | None = None


_decoder = msgspec.json.Decoder(_Request)
_CHOICES: dict[str, Any] = {"auto": "auto", "any": "required", "none": "none"}


def chat_of(body: bytes) -> dict[str, Any]:
    """The chat completion's body that asks for the same. Raises ``NotSupported``."""
    try:
        request = _decoder.decode(body)
    except UNREADABLE as error:
        detail = where(error) if isinstance(error, msgspec.ValidationError) else ""
        raise NotSupported(detail) from error
    chat: dict[str, Any] = {"messages": _conversation(request), "max_tokens": request.max_tokens}
    chat |= _sampling(request) | _tooling(request)
    if request.output_config is not None and request.output_config.format is not None:
        schema = {"name": "answer", "schema": request.output_config.format.schema, "strict": True}
        chat["response_format"] = {"type": "json_schema", "json_schema": schema}
    if request.metadata is not None and request.metadata.user_id is not None:
        chat["user"] = request.metadata.user_id
    if request.stream:
        chat |= {"stream": True, "stream_options": {"include_usage": True}}
    return chat


def _sampling(request: _Request) -> dict[str, Any]:
    """``top_k`` is no word of OpenAI's own, but most servers of its protocol know it."""
    named: dict[str, Any] = {
        "temperature": request.temperature,
        "top_p": request.top_p,
        "top_k": request.top_k,
    }
    named["stop"] = request.stop_sequences or None
    return {name: value for name, value in named.items() if value is not None}


def _tooling(request: _Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    chat: dict[str, Any] = {"tools": [{"type": "function", "function": _function(t)} for t in request.tools]}
    choice = request.tool_choice
    if choice is not None:
        named = {"type": "function", "function": {"name": choice.name}}
        chat["tool_choice"] = _CHOICES.get(choice.type, named)
        if choice.disable_parallel_tool_use:
            chat["parallel_tool_calls"] = False
    return chat


def _function(tool: _Tool) -> dict[str, Any]:
    function: dict[str, Any] = {"name": tool.name, "parameters": tool.input_schema}
    if tool.description is not None:
        function["description"] = tool.description
    if tool.strict is not None:
        function["strict"] = tool.strict
    return function


def _conversation(request: _Request) -> list[dict[str, Any]]:
    messages = [] if request.system is None else [_system(request.system)]
    for message in request.messages:
        match message:
            case _System():
                messages.append(_system(message.content))
            case _User():
                messages += _of_user(message.content)
            case _Assistant():
                messages.append(_of_assistant(message.content))
    return messages


def _system(content: str | list[_Text]) -> dict[str, Any]:
    return {"role": "system", "content": content if isinstance(content, str) else _joined(content)}


def _of_user(content: str | list[_Text | _Image | _Document | _ToolResult]) -> list[dict[str, Any]]:
    """Results of tools are messages of their own, and come first: right after the calls that they answer.

    A tool's message holds text alone, so what else a tool showed follows as the user's.
    """
    if isinstance(content, str):
        return [{"role": "user", "content": content}]
    messages: list[dict[str, Any]] = []
    shown: list[_Shown] = []
    for block in content:
        if not isinstance(block, _ToolResult):
            shown.append(block)
            continue
        result = [_Text(block.content)] if isinstance(block.content, str) else block.content or []
        text = _joined([part for part in result if isinstance(part, _Text)])
        messages.append({"role": "tool", "tool_call_id": block.tool_use_id, "content": text})
        shown += [part for part in result if not isinstance(part, _Text)]
    if shown or not messages:
        messages.append({"role": "user", "content": _parts(shown)})
    return messages


def _of_assistant(content: str | list[_Text | _ToolUse | _Thinking | _RedactedThinking]) -> dict[str, Any]:
    if isinstance(content, str):
        return {"role": "assistant", "content": content}
    texts = [block for block in content if isinstance(block, _Text)]
    uses = [block for block in content if isinstance(block, _ToolUse)]
    message: dict[str, Any] = {"role": "assistant", "content": _joined(texts) if texts else None}
    if uses:
        message["tool_calls"] = [_call(use) for use in uses]
    return message


def _call(use: _ToolUse) -> dict[str, Any]:
    arguments = msgspec.json.encode(use.input).decode()
    return {"id": use.id, "type": "function", "function": {"name": use.name, "arguments": arguments}}


def _joined(texts: list[_Text]) -> str:
    return "\n".join(block.text for block in texts)


def _parts(blocks: list[_Shown]) -> str | list[dict[str, Any]]:
    """Text alone as one text: many servers of OpenAI's protocol take nothing else."""
    texts = [block for block in blocks if isinstance(block, _Text)]
    return _joined(texts) if len(texts) == len(blocks) else [_part(block) for block in blocks]


def _part(block: _Shown) -> dict[str, Any]:
    match block:
        case _Text():
            return {"type": "text", "text": block.text}
        case _Image():
            return {"type": "image_url", "image_url": {"url": _url(block.source)}}
    if isinstance(block.source, _PlainText):
        return {"type": "text", "text": block.source.data}
    return {"type": "file", "file": {"filename": block.title or "document", "file_data": _url(block.source)}}


def _url(source: _Base64 | _Url) -> str:
    return source.url if isinstance(source, _Url) else f"data:{source.media_type};base64,{source.data}"
