#!/usr/bin/env python3
"""Renders templates as Hugging Face's transformers do: `render.py < JSON`, with Jinja2.

The input is {"templates": {NAME: SOURCE}, "contexts": [NAMES AND VALUES]}. The output has for each name a list with the text for
each context, or null where Jinja2 raises an error, and the error.
"""
import datetime
import json
import sys

import jinja2
from jinja2.ext import Extension, loopcontrols
from jinja2.sandbox import ImmutableSandboxedEnvironment


class Generation(Extension):
    """What an assistant says: it is only marked, so that its tokens can be found in training."""

    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("inside"), [], [], body).set_lineno(line)

    @staticmethod
    def inside(caller):
        return caller()


def raise_exception(message):
    raise jinja2.TemplateError(message)


def tojson(value, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
    return json.dumps(value, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)


def strftime_now(form):
    return datetime.datetime.now(datetime.timezone.utc).strftime(form)


environment = ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, loopcontrols])
environment.filters["tojson"] = tojson
environment.globals.update(raise_exception=raise_exception, strftime_now=strftime_now)


def render(source, context):
    # what a template does wrong is an error of any kind of Python's
    try:
        return [environment.from_string(source).render(**context), None]
    except Exception as error:  # noqa: BLE001
        return [None, f"{type(error).__name__}: {error}"]


given = json.load(sys.stdin)
json.dump({name: [render(source, context) for context in given["contexts"]] for name, source in given["templates"].items()}, sys.stdout)
