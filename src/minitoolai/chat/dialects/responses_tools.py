"""Translate the tools of `/v1/responses` to the functions of a chat, and calls of them back.

A chat has only functions. So a namespace becomes its functions, and a `custom` tool a function with one string. Tools
that would run on the server, such as `web_search`, do not exist here: they are dropped and named in `x-dropped-tools`.
"""

from __future__ import annotations

from typing import Any

import msgspec

from minitoolai.chat.request import check_function
from minitoolai.core.errors import InvalidRequest
from minitoolai.http.validation import shortened

Json = dict[str, Any]

#: The only parameter of the function that stands for a custom tool.
CUSTOM_PARAMETER = "input"
_CUSTOM_SCHEMA = {
    "type": "object",
    "properties": {CUSTOM_PARAMETER: {"type": "string"}},
    "required": [CUSTOM_PARAMETER],
    "additionalProperties": False,
}
_MAX_NAME_LENGTH = 64
_FUNCTION_FIELDS = ("name", "description", "parameters", "strict")
_encode = msgspec.json.Encoder().encode
_decode = msgspec.json.Decoder(dict[str, Any]).decode


class ToolOrigin(msgspec.Struct, frozen=True):
    """The tool of the request that a function of the chat stands for."""

    name: str
    namespace: str | None = None
    is_custom: bool = False


class ChatTools(msgspec.Struct):
    """The functions of a chat, the tools that they stand for, by function name, and the tools that were dropped."""

    functions: list[Json] = []
    origins: dict[str, ToolOrigin] = {}
    kept: list[Json] = []
    dropped: list[str] = []

    def add(self, tool: Any, at: str) -> None:
        """Add one tool of the request. Raises InvalidRequest, which names the field."""
        kind = tool.get("type") if isinstance(tool, dict) else None
        if not isinstance(kind, str) or not kind:
            raise InvalidRequest(
                f'{at}.type is {shortened(kind)}; it must be a string, as in {{"type": "function", "name": "…"}}',
                param=f"{at}.type",
            )
        if kind not in ("function", "custom", "namespace"):
            self.dropped.append(kind)
            return
        self.kept.append(tool)
        if kind != "namespace":
            self._add_function(tool, at, None)
            return
        name, inner = tool.get("name"), tool.get("tools")
        if not isinstance(name, str) or not name or not isinstance(inner, list):
            raise InvalidRequest(f"{at} needs a name and a list of tools", param=f"{at}.tools")
        for index, each in enumerate(inner):
            if isinstance(each, dict) and each.get("type") in ("function", "custom"):
                self._add_function(each, f"{at}.tools[{index}]", name)
            else:
                self.dropped.append(f"{name}.{each.get('type') if isinstance(each, dict) else index}")

    def _add_function(self, tool: Json, at: str, namespace: str | None) -> None:
        is_custom = tool.get("type") == "custom"
        function = _custom_function(tool) if is_custom else {k: tool[k] for k in tool if k != "type"}
        function = {key: value for key, value in function.items() if value is not None}
        check_function(function, at)
        name = function["name"]
        if name in self.origins and namespace is not None:
            # Two namespaces may have functions of the same name.
            function["name"] = f"{namespace}__{name}"[:_MAX_NAME_LENGTH]
            check_function(function, at)
        if namespace is not None or is_custom or name not in self.origins:
            self.origins[function["name"]] = ToolOrigin(name, namespace, is_custom)
        self.functions.append({"type": "function", "function": function})

    def function_name(self, name: Any, namespace: Any = None) -> Any:
        """Return the name of the chat's function for a tool, or the name itself if there is no such tool."""
        for function, origin in self.origins.items():
            if origin.name == name and (namespace is None or origin.namespace == namespace):
                return function
        return name

    def keep_only(self, names: list[Any]) -> None:
        """Remove all functions but those with these names."""
        self.functions = [tool for tool in self.functions if tool["function"]["name"] in names]


def _custom_function(tool: Json) -> Json:
    """Return the function that stands for a custom tool. The grammar of its input becomes part of the description."""
    description = tool.get("description") or ""
    form = tool.get("format")
    if isinstance(form, dict) and isinstance(form.get("definition"), str):
        syntax = form.get("syntax") if isinstance(form.get("syntax"), str) else "given"
        description = f"{description}\n\nThe input must follow this {syntax} grammar:\n{form['definition']}".strip()
    function = {"name": tool.get("name"), "parameters": _CUSTOM_SCHEMA}
    return function | ({"description": description} if description else {})


def custom_arguments(text: str) -> str:
    """Return the arguments of the function that stands for a custom tool, for an earlier call of it."""
    return _encode({CUSTOM_PARAMETER: text}).decode()


def custom_input(arguments: str) -> str:
    """Return the input of a custom tool that the model wrote as arguments. What is not as asked is the input itself."""
    try:
        value = _decode(arguments).get(CUSTOM_PARAMETER)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError):
        return arguments
    return value if isinstance(value, str) else arguments


def called_item(item: Json, origins: dict[str, ToolOrigin]) -> Json:
    """Return a `function_call` item as a call of the caller's own tool: with its namespace, or as a custom call."""
    origin = origins.get(item["name"])
    if origin is None:
        return item
    item = {**item, "name": origin.name}
    if origin.namespace is not None:
        item["namespace"] = origin.namespace
    if origin.is_custom:
        item["type"] = "custom_tool_call"
        item["input"] = custom_input(item.pop("arguments"))
        del item["status"]
    return item
