"""A request in OpenAI's chat format, written in Anthropic's protocol.

What Anthropic's protocol has no words for is refused where the answer would be of another shape without it (several
choices, log probabilities, sound), and left out where it only steers: seed, penalties, fields that are not known.
"""

import re
from typing import Any, Literal

import msgspec

from consumption.dialects.checks import where
from consumption.errors import NotSupported
from consumption.replies import UNREADABLE, read_arguments


class _Text(msgspec.Struct, tag="text"):
    text: str


class _Refusal(msgspec.Struct, tag="refusal"):
    refusal: str


class _ImageUrl(msgspec.Struct):
    url: str


class _Image(msgspec.Struct, tag="image_url"):
    image_url: _ImageUrl


class _FileData(msgspec.Struct):
    file_data: str
    filename: str | None = None


class _File(msgspec.Struct, tag="file"):
    file: _FileData


_Content = str | list[_Text | _Refusal | _Image | _File] | None


class _Function(msgspec.Struct):
    name: str
    arguments: str


class _ToolCall(msgspec.Struct):
    id: str
    function: _Function


class _System(msgspec.Struct, tag="system", tag_field="role"):
    content: _Content = None


class _Developer(msgspec.Struct, tag="developer", tag_field="role"):
    content: _Content = None


class _User(msgspec.Struct, tag="user", tag_field="role"):
    content: _Content = None


class _Assistant(msgspec.Struct, tag="assistant", tag_field="role"):
    content: _Content = None
    tool_calls: list[_ToolCall] | None = None


class _Tool(msgspec.Struct, tag="tool", tag_field="role"):
    tool_call_id: str
    content: _Content = None


class _Described(msgspec.Struct):
    name: str
    description: str | None = None
    parameters: dict[str, Any] | None = None
    strict: bool | None = None


class _ToolDefinition(msgspec.Struct, tag="function"):
    function: _Described


class _Named(msgspec.Struct):
    name: str


class _NamedChoice(msgspec.Struct, tag="function"):
    function: _Named


class _JsonSchema(msgspec.Struct):
    schema: dict[str, Any] | None = None


class _ResponseFormat(msgspec.Struct):
    type: Literal["text", "json_object", "json_schema"]
    json_schema: _JsonSchema | None = None


class _Request(msgspec.Struct):
    messages: list[_System | _Developer | _User | _Assistant | _Tool]
    n: int | None = None
    stream: bool | None = None
    tools: list[_ToolDefinition] | None = None
    tool_choice: Literal["auto", "required", "none"] | _NamedChoice | None = None
    parallel_tool_calls: bool | None = None
    stop: str | list[str] | None = None
    temperature: float | None = None
    top_p: float | None = None
    top_k: int | None = None
    thinking: dict[str, Any] | None = None
    response_format: _ResponseFormat | None = None
    user: str | None = None
    logprobs: bool | None = None
    modalities: list[str] | None = None
    functions: Any = None


_decoder = msgspec.json.Decoder(_Request)
_DATA_URL = re.compile(r"data:([\w.+-]+/[\w.+-]+);base64,")
_CHOICES = {"auto": "auto", "required": "any", "none": "none"}
#: What stands for ``json_object``, which Anthropic's protocol has not. Within what a template may add (``base.py``).
JSON_ONLY = "Answer with one JSON object and nothing else."


def messages_of(body: bytes) -> dict[str, Any]:
    """The body of ``/messages`` that asks for the same, without model and cap. Raises ``NotSupported``."""
    try:
        request = _decoder.decode(body)
    except UNREADABLE as error:
        detail = where(error) if isinstance(error, msgspec.ValidationError) else ""
        raise NotSupported(detail) from error
    _refuse(request)
    messages: dict[str, Any] = {"messages": _conversation(request)}
    if system := _system(request):
        messages["system"] = system
    messages |= _options(request) | _tooling(request)
    return messages


def _refuse(request: _Request) -> None:
    asked = {
        "n": (request.n or 1) > 1,
        "logprobs": request.logprobs,
        "modalities": set(request.modalities or ()) - {"text"},
        "functions": request.functions,
    }
    for name, is_asked in asked.items():
        if is_asked:
            raise NotSupported(f"The service does not support {name}", field=name)


def _options(request: _Request) -> dict[str, Any]:
    options: dict[str, Any] = {"top_p": request.top_p, "top_k": request.top_k, "thinking": request.thinking}
    if request.temperature is not None:
        options["temperature"] = min(request.temperature, 1.0)  # where Anthropic's scale ends
    stops = [request.stop] if isinstance(request.stop, str) else request.stop or []
    # It takes none that are blank.
    options["stop_sequences"] = [stop for stop in stops if stop.strip()] or None
    options["metadata"] = None if request.user is None else {"user_id": request.user}
    options["stream"] = request.stream or None
    wanted = request.response_format
    if wanted is not None and wanted.type == "json_schema":
        schema = (wanted.json_schema.schema if wanted.json_schema else None) or {"type": "object"}
        options["output_config"] = {"format": {"type": "json_schema", "schema": schema}}
    return {name: value for name, value in options.items() if value is not None}


def _tooling(request: _Request) -> dict[str, Any]:
    if not request.tools:
        return {}
    messages: dict[str, Any] = {"tools": [_tool(tool.function) for tool in request.tools]}
    choice = request.tool_choice
    one_at_a_time = request.parallel_tool_calls is False and choice != "none"
    if choice is None and not one_at_a_time:
        return messages
    if isinstance(choice, _NamedChoice):
        chosen: dict[str, Any] = {"type": "tool", "name": choice.function.name}
    else:
        chosen = {"type": _CHOICES[choice or "auto"]}
    if one_at_a_time:
        chosen["disable_parallel_tool_use"] = True
    return messages | {"tool_choice": chosen}


def _tool(function: _Described) -> dict[str, Any]:
    schema = function.parameters or {"type": "object", "properties": {}}
    tool: dict[str, Any] = {"name": function.name, "input_schema": schema}
    if function.description is not None:
        tool["description"] = function.description
    if function.strict is not None:
        tool["strict"] = function.strict
    return tool


def _system(request: _Request) -> list[dict[str, Any]]:
    """Anthropic keeps the system's words apart from the conversation, wherever in it they stood."""
    blocks: list[dict[str, Any]] = []
    for message in request.messages:
        if isinstance(message, _System | _Developer):
            blocks += _blocks(message.content)
    if request.response_format is not None and request.response_format.type == "json_object":
        blocks.append(_text(JSON_ONLY))
    return blocks


def _conversation(request: _Request) -> list[dict[str, Any]]:
    """Messages of one side in a row are one: all results of tools must follow their calls at once."""
    messages: list[dict[str, Any]] = []
    for message in request.messages:
        if isinstance(message, _System | _Developer):
            continue
        role, blocks = _turn(message)
        if messages and messages[-1]["role"] == role:
            messages[-1]["content"] += blocks
        elif blocks:
            messages.append({"role": role, "content": blocks})
    if not messages:
        raise NotSupported("messages must hold something that was said", field="messages")
    return messages


def _turn(message: _User | _Assistant | _Tool) -> tuple[str, list[dict[str, Any]]]:
    match message:
        case _User():
            return "user", _blocks(message.content)
        case _Assistant():
            return "assistant", _blocks(message.content) + [
                _tool_use(call) for call in message.tool_calls or ()
            ]
    result = {"type": "tool_result", "tool_use_id": message.tool_call_id, "content": _blocks(message.content)}
    return "user", [result]


def _tool_use(call: _ToolCall) -> dict[str, Any]:
    given = read_arguments(call.function.arguments)
    if given is None:
        raise NotSupported("The arguments of a tool call must be a JSON object", field="messages")
    return {"type": "tool_use", "id": call.id, "name": call.function.name, "input": given}


def _blocks(content: _Content) -> list[dict[str, Any]]:
    """The blocks of a content. It takes no empty text."""
    if isinstance(content, str):
        return [_text(content)] if content else []
    return [block for part in content or () if (block := _block(part)) is not None]


def _block(part: _Text | _Refusal | _Image | _File) -> dict[str, Any] | None:
    match part:
        case _Text():
            return _text(part.text) if part.text else None
        case _Refusal():
            return _text(part.refusal) if part.refusal else None
        case _Image():
            return {"type": "image", "source": _source(part.image_url.url)}
    source = _source(part.file.file_data)
    if source["type"] != "base64":
        raise NotSupported("A file must be given as a data URL", field="messages")
    title = {} if part.file.filename is None else {"title": part.file.filename}
    return {"type": "document", "source": source, **title}


def _text(text: str) -> dict[str, Any]:
    return {"type": "text", "text": text}


def _source(url: str) -> dict[str, Any]:
    if found := _DATA_URL.match(url):
        return {"type": "base64", "media_type": found[1], "data": url[found.end() :]}
    if url.startswith(("https://", "http://")):
        return {"type": "url", "url": url}
    raise NotSupported("An image must be given as a URL or a data URL", field="messages")
