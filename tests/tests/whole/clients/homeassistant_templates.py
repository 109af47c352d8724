"""Renders templates as Home Assistant does: a list of [template, payload] is the argument, a list of texts the output."""

import json
import sys

from jinja2 import StrictUndefined
from jinja2.sandbox import ImmutableSandboxedEnvironment

environment = ImmutableSandboxedEnvironment(undefined=StrictUndefined)


def render(template, payload):
    values = {"value": payload}
    try:
        values["value_json"] = json.loads(payload)
    except ValueError:
        # there is none then
        pass
    return environment.from_string(template).render(values).strip()


json.dump([render(*each) for each in json.loads(sys.argv[1])], sys.stdout)
