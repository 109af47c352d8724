#!/usr/bin/env python3
"""Holds the discovery document to the schemas of an installed Home Assistant: schemas.py [--keys]

Needs the package `homeassistant` (and paho-mqtt), which wants the newest Python; a release that pip finds for an older one will
do. The captured document has to pass as Home Assistant itself takes it: the whole, then each component with the options that it
inherits. The templates are rendered on captured payloads by Home Assistant's own environment. With --keys it prints what the
schemas know, as in daemon/tests/data/homeassistant_keys.json: the tests of every day hold the document to that table.
"""

import asyncio
import importlib
import json
import re
import sys
import tempfile
from pathlib import Path

from homeassistant.components.mqtt import discovery, schemas
from homeassistant.components.mqtt.models import MqttValueTemplate
from homeassistant.components.sensor.const import DEVICE_CLASS_UNITS
from homeassistant.const import __version__
from homeassistant.core import HomeAssistant
from homeassistant.helpers import frame
from homeassistant.helpers.template import Template

CAPTURED = Path(__file__).parents[2] / "daemon/tests/data/homeassistant.json"
PLATFORMS = ("sensor", "event", "notify")


def component_schema(platform):
    module = importlib.import_module(f"homeassistant.components.mqtt.{platform}")
    return module.DISCOVERY_SCHEMA


def keys(schema):
    """The keys that a schema requires and allows; of several validators in turn, those of the first that has any."""
    for part in getattr(schema, "validators", [schema]):
        known = getattr(part, "schema", None)
        if isinstance(known, dict):
            required = [str(key) for key in known if type(key).__name__ == "Required"]
            optional = [str(key) for key in known if type(key).__name__ != "Required"]
            return {"required": sorted(required), "optional": sorted(optional)}
        if part is not schema and hasattr(part, "validators"):
            return keys(part)
    raise SystemExit(f"no keys in {schema}")


def table():
    whole = schemas.DEVICE_DISCOVERY_SCHEMA.schema
    below = {str(key): value for key, value in whole.items()}
    # an availability's list of dictionaries is the last of its validators
    availability = below["availability"].validators[-1][0]
    named = {str(key): type(key).__name__ for key in availability}
    found = {
        "homeassistant": __version__,
        "document": keys(schemas.DEVICE_DISCOVERY_SCHEMA),
        "device": keys(schemas.MQTT_DEVICE_INFO_SCHEMA if hasattr(schemas, "MQTT_DEVICE_INFO_SCHEMA") else below["device"]),
        "origin": keys(schemas.MQTT_ORIGIN_INFO_SCHEMA),
        "availability": {
            "required": sorted(k for k, kind in named.items() if kind == "Required"),
            "optional": sorted(k for k, kind in named.items() if kind != "Required"),
        },
        "units": {"data_size": sorted(DEVICE_CLASS_UNITS["data_size"]), "temperature": sorted(DEVICE_CLASS_UNITS["temperature"])},
    }
    for platform in PLATFORMS:
        found[platform] = keys(component_schema(platform))
    return found


def validate(document):
    # an identifier of a component is needed as soon as it is an entity
    schemas.DEVICE_DISCOVERY_SCHEMA(json.loads(json.dumps(document)))
    for name, component in document["components"].items():
        config = {**component, "device": document["device"], "origin": document["origin"]}
        platform = config.pop("platform")
        discovery._merge_common_device_options(config, document)
        unknown = set(config)
        taken = component_schema(platform)(config)
        # what a schema does not know it drops without a word
        unknown -= {str(key) for key in taken}
        assert not unknown, f"{name}: {unknown}"
        print(f"{name}: {platform}, {len(taken)} keys")


async def main():
    if sys.argv[1:] == ["--keys"]:
        print(json.dumps(table(), indent=1))
        return
    with tempfile.TemporaryDirectory() as folder:
        # templates are checked by a running core
        hass = HomeAssistant(folder)
        frame.async_setup(hass)
        check(lambda text, payload: MqttValueTemplate(Template(text, hass)).async_render_with_possible_json_value(payload))


def check(render):
    captured = json.loads(CAPTURED.read_text())
    document, payloads = captured["document"], captured["payloads"]
    validate(document)
    for state, shown in (("online", "online"), ("draining", "offline")):
        status = re.sub('"state": *"[a-z]+"', f'"state":"{state}"', payloads["status"])
        assert render(document["availability"][0]["value_template"], status) == shown, state
    for name, component in document["components"].items():
        if component["platform"] == "sensor":
            print(f"{name}: {float(render(component['value_template'], payloads['metrics']))}")
    answer = render(document["components"]["answer"]["value_template"], payloads["answer"])
    event = json.loads(answer)
    assert event == {"event_type": "answer", "text": payloads["answer"]}, event
    print(f"the document passes the schemas of Home Assistant {__version__}")


asyncio.run(main())
