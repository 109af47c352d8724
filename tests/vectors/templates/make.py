#!/usr/bin/env python3
"""Renders conversations with tools through Jinja2, as the tools of the models' makers do, and writes what comes out.

    make.py R1_TEMPLATE > golden.json

The templates of this folder have the steps of those of Qwen2.5, Qwen3, Hermes and Llama 3, with other words. R1_TEMPLATE is the
template of ../r1-distill-qwen-1.5b.vocab.gguf.zst. Made with Jinja2 3.1.6.
"""
import json
import pathlib
import sys

from jinja2.sandbox import ImmutableSandboxedEnvironment

ENV = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)
ENV.filters["tojson"] = lambda x, ensure_ascii=False, indent=None: json.dumps(x, ensure_ascii=ensure_ascii, indent=indent)


def refuse(why):
    raise ValueError(why)


ENV.globals["raise_exception"] = refuse

LIGHT = {
    "type": "function",
    "function": {
        "name": "set_light",
        "description": "Switches a lamp & says \"ok\" <fast>, it's 2 W.",
        "parameters": {
            "type": "object",
            "properties": {
                "room": {"type": "string", "enum": ["küche", "hall"], "description": " the room "},
                "level": {"type": ["integer", "string"], "minimum": 0, "maximum": 100, "description": "x"},
                "fade": {"type": "number", "default": 0.5, "multipleOf": 1e-7, "description": "s"},
                "tags": {"type": "array", "items": {"type": "string"}, "description": ""},
                "more": {"type": "object", "additionalProperties": {"type": "boolean"}, "description": "y"},
            },
            "required": ["room"],
            "additionalProperties": False,
        },
    },
}
TIME = {"type": "function", "function": {"name": "time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}


def call(name, arguments, id):
    return {"id": id, "type": "function", "function": {"name": name, "arguments": arguments}}


def calls(*all, content=None):
    return {"role": "assistant", "content": content, "tool_calls": list(all)}


def result(content, id, name):
    return {"role": "tool", "content": content, "tool_call_id": id, "name": name}


USER = {"role": "user", "content": "Light in the küche, please."}
ON = call("set_light", {"room": "küche", "level": 80, "fade": 1.5, "tags": ["a", "<b>"], "more": {}, "none": None}, "call_1")
NOW = call("time", {}, "call_2")
DONE = result('{"ok": true}', "call_1", "set_light")
NOON = result("12:00\n", "call_2", "time")
SYSTEM = {"role": "system", "content": "Be brief."}
CONVERSATIONS = {
    "offered": [USER],
    "offered with a system": [SYSTEM, USER],
    "one call": [SYSTEM, USER, calls(ON), DONE],
    "answered": [USER, calls(ON), DONE, {"role": "assistant", "content": "It is on."}, {"role": "user", "content": "And off?"}],
    "two calls": [USER, calls(ON, NOW), DONE, NOON],
    "two turns": [USER, calls(ON), DONE, {"role": "assistant", "content": "Done."}, USER, calls(NOW), NOON],
}


def text_of(value):
    return json.dumps(value, ensure_ascii=False)


def as_sent(message):
    """The message with its arguments as clients send them, as a text, in which the order of keys is kept."""
    sent = json.loads(json.dumps(message))
    for each in sent.get("tool_calls", []):
        each["function"]["arguments"] = text_of(each["function"]["arguments"])
    return sent


def main():
    here = pathlib.Path(__file__).parent
    templates = {path.stem: path.read_text() for path in sorted(here.glob("*.jinja"))}
    templates["r1"] = pathlib.Path(sys.argv[1]).read_text()
    golden = []
    for name, source in templates.items():
        as_text = name == "r1"
        for title, messages in CONVERSATIONS.items():
            for tools in ([LIGHT, TIME], None):
                if (tools is None) == title.startswith("offered") or (as_text and tools) or (name == "hermes" and not tools):
                    continue
                given = [as_sent(m) if as_text else m for m in messages]
                try:
                    text = ENV.from_string(source).render(
                        messages=given, tools=tools, add_generation_prompt=True, enable_thinking=True,
                        bos_token="<｜begin▁of▁sentence｜>", eos_token="<｜end▁of▁sentence｜>")
                except ValueError as error:
                    text = None
                golden.append({"template": name, "title": title, "messages": [as_sent(m) for m in messages],
                               "tools": [dict(t["function"], parameters=text_of(t["function"]["parameters"])) for t in tools or []],
                               "text": text})
    json.dump(golden, sys.stdout, ensure_ascii=False, indent=1)
    print()


main()
