"""Tells glowplug that the car drives: then nobody can change its model. Follows `vehicle/signal/Vehicle/Speed`, in km/h."""

import json
import os
import sys

sys.path.append(os.path.join(os.path.dirname(__file__), ".."))
from client import Connection, options

SPEED = "vehicle/signal/Vehicle/Speed"

chosen = options(__doc__, "drive", "vehicle/ai", "cabin").parse_args()
inhibit = f"{chosen.base}/{chosen.node}/admin/inhibit"
car = Connection(chosen, (SPEED, f"{inhibit}/response"))
print("ready", flush=True)
drives = None
while True:
    topic, message = car.event()
    value = json.loads(message.payload)
    if topic != SPEED:
        print("inhibit:", json.dumps(value), flush=True)
    elif drives != (value["value"] > 0):
        drives = value["value"] > 0
        car.publish(f"{inhibit}/request", {"on": drives})
