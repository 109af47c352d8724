"""Two lamps and a plug as Zigbee2MQTT shows them, for a house without any: its retained catalogue, and an answer to each `set`."""

import json
import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, options

# access bits: 1 is in the state, 2 can be set, 4 can be asked for
STATE = {"type": "binary", "name": "state", "property": "state", "access": 7, "value_on": "ON", "value_off": "OFF"}
BRIGHTNESS = {"type": "numeric", "name": "brightness", "property": "brightness", "access": 7, "value_min": 0, "value_max": 254}


def device(name, kind, features):
    exposes = [{"type": kind, "features": features}]
    return {"friendly_name": name, "type": "Router", "supported": True, "definition": {"exposes": exposes}}


CATALOGUE = [
    device("kitchen", "light", [STATE, BRIGHTNESS]),
    device("hall", "light", [STATE, BRIGHTNESS]),
    device("heater", "switch", [STATE]),
]

chosen = options(__doc__, "zigbee2mqtt", "glowplug", "house").parse_args()
house = Connection(chosen, ("zigbee2mqtt/+/set",))
house.client.publish("zigbee2mqtt/bridge/devices", json.dumps(CATALOGUE), qos=1, retain=True).wait_for_publish()
states = {lamp["friendly_name"]: {"state": "OFF"} for lamp in CATALOGUE}
print("ready", flush=True)
while True:
    topic, message = house.event()
    name = topic.split("/")[1]
    if name in states:
        states[name].update(json.loads(message.payload))
        house.publish(f"zigbee2mqtt/{name}", states[name])
        print(name, json.dumps(states[name]), flush=True)
