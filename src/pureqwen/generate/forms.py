"""What a form looks like as a grammar's text: a JSON schema, a regular expression, or calls of tools.

    {"grammars": [{"lark_grammar": start: ... @args_0 ...}, {"name": "args_0", "json_schema": {...}}]}

That is the language of llguidance (its docs/syntax.md and docs/json_schema.md): rules as in Lark, which may
name JSON schemas. Here the text is written, and what is out of proportion is refused before any compiler
sees it; nothing is compiled. JSON is written as Qwen writes it: a space, or a line break and an indent, where
JSON allows blanks, and properties in the order of the schema.
"""

import json
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass
from types import MappingProxyType
from typing import Any

from pureqwen.generate.proportion import MAX_BYTES, GrammarError, check_pattern, check_schema

# A schema can't change these by an "x-guidance" of its own.
OPTIONS = MappingProxyType(
    {
        "whitespace_flexible": True,
        "whitespace_pattern": r"\n[ \t]{0,32}| ",
        "item_separator": ",",
        "key_separator": ":",
        "lenient": False,  # a keyword that is not enforced is an error
        "coerce_one_of": True,  # oneOf as anyOf: no grammar can say "not both"
    }
)
# A bare text of a call in the coder's way: all up to the tag that ends it, but no other tag of a call.
TEXT = r"(/(?s:.*)/ & ~/(?s:.*)<\/?(parameter|function|tool_call)(?s:.*)/)"

# A text beside calls: anything that holds no tag which begins one.
FREE = MappingProxyType(
    {
        "hermes": r"/(?s:.*)/ & ~/(?s:.*)<tool_call>(?s:.*)/",
        "coder": r"/(?s:.*)/ & ~/(?s:.*)<(tool_call>|function=)(?s:.*)/",
    }
)
# Keywords of a schema whose values are no schemas.
VALUES = ("enum", "const", "default", "examples")
# Keywords that ask more of an object than which properties it has: the coder's rules hold none of them.
WHOLE = (
    *("minProperties", "maxProperties", "patternProperties", "propertyNames"),
    *("dependentRequired", "dependentSchemas", "dependencies"),
    *("anyOf", "oneOf", "allOf", "not", "if", "then", "else", "enum", "const"),
    *("$ref", "$dynamicRef", "$recursiveRef"),
)
# A parameter of a call in the coder's way, whatever its name.
ANY = rf'"<parameter=" /[^<>\n]+/ ">\n" {TEXT} "\n</parameter>\n"'


def schema_form(schema: Any) -> str:
    """JSON that a schema allows."""
    check_schema(schema, "the schema")
    return form(None, {"schema": schema})


def regex_form(pattern: Any) -> str:
    """Text that a regular expression (Rust's syntax: no look-around, no back-reference) matches, whole."""
    if not isinstance(pattern, str):
        raise GrammarError(f"a regular expression is a string, not {type(pattern).__name__}")
    try:
        pattern.encode()
    except UnicodeEncodeError as error:
        raise GrammarError(f"the regular expression is not Unicode: {error}") from error
    check_pattern(pattern, "the regular expression")
    slashed = re.sub(r"\\.|/|\n", _slash, pattern, flags=re.DOTALL)
    return form(f"start: /{slashed}/\n", {})


def _slash(found: re.Match[str]) -> str:
    return {"/": "\\/", "\n": "\\n", "\\\n": "\\n"}.get(found.group(), found.group())


def form(lark: str | None, schemas: Mapping[str, Any], *, loose: Collection[str] = ()) -> str:
    """The grammar's text: rules, if there are any, and the schemas that they name.

    loose: names of schemas that hold but for the keywords that no grammar can enforce.
    """
    rules = [] if lark is None else [{"name": "main", "lark_grammar": lark}]
    named = [
        {"name": name, "json_schema": {**schema, "x-guidance": {**OPTIONS, "lenient": name in loose}}}
        for name, schema in schemas.items()
    ]
    return json.dumps({"grammars": [*rules, *named]})


# ---- tools -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, kw_only=True)
class Signature:
    """A tool that may be called, and the schema of its parameters; None: they are free.

    loose: what of the schema no grammar can enforce does not hold.
    """

    name: str
    parameters: Mapping[str, Any] | None
    loose: bool = False


def tools_form(
    tools: Sequence[Mapping[str, Any]],
    *,
    style: str,
    names: Sequence[str] | None,
    parallel: bool,
    tags: Mapping[str, str],
    otherwise: Mapping[str, Any] | None = None,
) -> str:
    """One call, or several: `tags` are the rules for <tool_call> and </tool_call>, a token's or a text's.

    Written exactly as chat/answer/hermes.py and coder.py show it, the arguments as the tools' schemas say.
    Of a function with `"strict": False` the keywords that no grammar can enforce (uniqueItems, not, a pattern
    with a look-around) do not hold; elsewhere they are an error. otherwise: JSON of this schema may stand in
    the place of calls.
    """
    rules, schemas, loose = _calls(_choose(tools, names), style=style, tags=tags)
    calls = _several(parallel)
    if otherwise is None:
        return form(f"start: {calls}\n{rules}", schemas, loose=loose)
    check_schema(otherwise, "the schema")
    return form(f"start: @answer | {calls}\n{rules}", {**schemas, "answer": otherwise}, loose=loose)


def mixed_form(
    tools: Sequence[Mapping[str, Any]],
    *,
    style: str,
    strict: Sequence[str],
    parallel: bool,
    tags: Mapping[str, str],
) -> str:
    """Free text, and behind it perhaps calls: arguments fit the schema where the tool's name is in `strict`.

    A tag that is a token ends the text by itself. Where it is a text, the lexer must stop at its first end:
    the text and the tag are one lazy lexeme.
    """
    rules, schemas, _ = _calls(_choose(tools, None, strict=strict), style=style, tags=tags)
    tag, rules = tags["<tool_call>"], f"FREE: {FREE[style]}\n{rules}"
    if not tag.startswith('"'):
        return form(f"start: FREE ({_several(parallel)})?\n{rules}", schemas)
    start = f"start: FREE | {_several(parallel, first='opened rest')}\n"
    return form(f"{start}opened[lazy]: OPENED\nOPENED: FREE {tag}\n{rules}", schemas)


def _several(parallel: bool, *, first: str = "call") -> str:
    return f'{first} ("\\n" call)*' if parallel else first


def _calls(
    chosen: Sequence[Signature], *, style: str, tags: Mapping[str, str]
) -> tuple[str, dict[str, Any], set[str]]:
    """The rules for `call`, and for its `rest` after the tag; the schemas that they name; which are loose."""
    if style not in ("hermes", "coder"):
        raise GrammarError(f"style is 'hermes' or 'coder', not {style!r}")
    write = _hermes if style == "hermes" else _coder
    rules, schemas, loose = [], {}, set()
    for n, tool in enumerate(chosen):
        rule, used = write(f"tool_{n}", tool)
        rules.append(rule)
        schemas.update(used)
        loose |= {*used} if tool.loose else set()
    if len(json.dumps(schemas)) > MAX_BYTES:
        raise GrammarError(f"the schemas of the tools have more than {MAX_BYTES} bytes")
    body = " | ".join(f"tool_{n}" for n in range(len(chosen)))
    head = f'call: {tags["<tool_call>"]} rest\nrest: "\\n" body "\\n" {tags["</tool_call>"]}\n'
    return f"{head}body: {body}\n{''.join(rules)}", schemas, loose


def _choose(
    tools: Sequence[Mapping[str, Any]], names: Sequence[str] | None, *, strict: Sequence[str] | None = None
) -> list[Signature]:
    """The tools that may be called; their parameters are free where `strict` names others."""
    found: dict[str, Signature] = {}
    for n, tool in enumerate(tools):
        function = tool.get("function", tool) if isinstance(tool, Mapping) else None
        name = function.get("name") if isinstance(function, Mapping) else None
        if not isinstance(function, Mapping) or not isinstance(name, str) or not name:
            raise GrammarError(f"tools[{n}] has no function with a name")
        free = strict is not None and name not in strict
        found[name] = Signature(name=name, parameters=None) if free else _signature(name, function)
    if names is not None:
        if unknown := [name for name in names if name not in found]:
            raise GrammarError(f"there is no tool {unknown[0]!r}; there are {', '.join(found) or 'none'}")
        found = {name: tool for name, tool in found.items() if name in names}
    if not found:
        raise GrammarError("a call needs at least one tool that may be called")
    return [*found.values()]


def _signature(name: str, function: Mapping[str, Any]) -> Signature:
    """A function's, held to its schema. Raises GrammarError where that is no schema of an object."""
    nothing = {"type": "object", "properties": {}, "additionalProperties": False}
    parameters, place = function.get("parameters") or nothing, f"the parameters of the tool {name!r}"
    check_schema(parameters, place)
    if (kind := parameters.get("type", "object")) != "object":
        raise GrammarError(f'{place} have the type {kind!r}: it must be "object", or left out')
    properties, required = parameters.get("properties", {}), parameters.get("required", [])
    if not isinstance(properties, Mapping):
        raise GrammarError(f"{place}, #/properties: it must be an object, not {type(properties).__name__}")
    for key, schema in properties.items():
        if not isinstance(schema, Mapping | bool):
            raise GrammarError(f"{place}, #/properties/{key}: a schema is an object or a boolean")
    if not isinstance(required, list | tuple) or not all(isinstance(key, str) for key in required):
        raise GrammarError(f"{place}, #/required: it must be a list of names")
    loose = function.get("strict") is False
    held = loosened(parameters) if loose else parameters
    return Signature(name=name, parameters={"type": "object", **held}, loose=loose)


def loosened(schema: Any) -> Any:
    """A schema without the patterns that other languages than this grammar's have: with look-arounds and
    back-references.
    """
    if isinstance(schema, list | tuple):
        return [loosened(item) for item in schema]
    if not isinstance(schema, Mapping):
        return schema
    return {
        key: value if key in VALUES else loosened(value)
        for key, value in schema.items()
        if not (key == "pattern" and isinstance(value, str) and _foreign(value))
    }


def _foreign(pattern: str) -> bool:
    marks = re.findall(r"\\.|\(\?<?[=!]", pattern, flags=re.DOTALL)
    return any(mark[0] == "(" or mark[1] in "123456789k" for mark in marks)


def _hermes(rule: str, tool: Signature) -> tuple[str, dict[str, Any]]:
    parameters = {"type": "object"} if tool.parameters is None else tool.parameters
    head = literal('{"name": ' + json.dumps(tool.name, ensure_ascii=False) + ', "arguments": ')
    return f'{rule}: {head} @{rule}_args "}}"\n', {f"{rule}_args": parameters}


def _coder(rule: str, tool: Signature) -> tuple[str, dict[str, Any]]:
    """One parameter after the other in the schema's order: a bare text for a string, else JSON."""
    name, parameters = tool.name, tool.parameters
    _check_word(name, "the tool's name")
    head = literal(f"<function={name}>\n")
    if parameters is None:
        return f'{rule}: {head} {rule.upper()}* "</function>"\n{rule.upper()}: {ANY}\n', {}
    if not tool.loose:
        _check_held(name, parameters)
    required = parameters.get("required", ())
    lines, rules, schemas = [], [], {}
    shared = {key: parameters[key] for key in ("$defs", "definitions") if key in parameters}
    for n, (key, schema) in enumerate(parameters.get("properties", {}).items()):
        if schema is False:  # it may not be there
            continue
        _check_word(key, f"a parameter of the tool {name!r}")
        part = f"{rule}_{n}"
        value = _bare(schema)
        if value is None:
            schemas[f"{part}_value"] = {**schema, **shared}
            value = f'@{part}_value "\\n</parameter>\\n"'
        else:
            rules.append(f"{part.upper()}: {value} {literal(chr(10) + '</parameter>' + chr(10))}\n")
            value = part.upper()
        rules.append(f"{part}: {literal(f'<parameter={key}>{chr(10)}')} {value}\n")
        lines.append(part if key in required else f"{part}?")
    return f'{rule}: {head} {" ".join(lines)} "</function>"\n{"".join(rules)}', schemas


def _check_held(name: str, parameters: Mapping[str, Any]) -> None:
    """Refuse what a schema asks of all parameters together, or of one that it does not describe."""
    place = f"the parameters of the tool {name!r}"
    if unheld := [key for key in WHOLE if key in parameters]:
        raise GrammarError(f"{place}: {unheld[0]!r} can't be held in a call of the coder's style")
    described = parameters.get("properties", {})
    if unknown := [key for key in parameters.get("required", ()) if described.get(key, False) is False]:
        raise GrammarError(f"{place}, #/required: {unknown[0]!r} is none of the properties")


def _bare(schema: Any) -> str | None:
    """The rule for a value that is written without quotes; None for one that is JSON."""
    if not isinstance(schema, Mapping):
        return TEXT
    values = [schema["const"]] if "const" in schema else schema.get("enum")
    if isinstance(values, list) and values and all(isinstance(value, str) for value in values):
        return f"({' | '.join(literal(value) for value in values)})"
    kinds = schema.get("type", ())
    untold = not kinds and not {"anyOf", "oneOf", "allOf", "$ref", "enum", "const"} & set(schema)
    return TEXT if untold or kinds == "string" or (isinstance(kinds, list) and "string" in kinds) else None


def literal(text: str) -> str:
    """A text as the rules write it."""
    return json.dumps(text, ensure_ascii=False)


def _check_word(word: str, place: str) -> None:
    if not word or re.search(r"[<>\n]", word) or word != word.strip():
        raise GrammarError(f"{place} is {word!r}: the coder's tags can't hold it")
