#!/usr/bin/with-contenv bashio
# shellcheck shell=bash
# Options and the broker's account, as the supervisor gives them, to the daemon's variables.
set -euo pipefail
umask 077
export STATE_DIRECTORY=/data GLOWPLUG_MODELS=/data/models GLOWPLUG_SESSIONS_DIR=/data/sessions GLOWPLUG_NODE=homeassistant
export GLOWPLUG_HOMEASSISTANT_DISCOVERY=true
GLOWPLUG_MQTT_URL="mqtt://$(bashio::services mqtt host):$(bashio::services mqtt port)"
GLOWPLUG_MQTT_USERNAME=$(bashio::services mqtt username)
GLOWPLUG_MQTT_PASSWORD_FILE=/data/mqtt-password
bashio::services mqtt password >"$GLOWPLUG_MQTT_PASSWORD_FILE"
GLOWPLUG_MODEL_NAME=$(bashio::config model)
GLOWPLUG_MODEL_CONTEXT=$(bashio::config context)
GLOWPLUG_MEMORY_BUDGET=$(bashio::config budget)
export GLOWPLUG_MQTT_URL GLOWPLUG_MQTT_USERNAME GLOWPLUG_MQTT_PASSWORD_FILE
export GLOWPLUG_MODEL_NAME GLOWPLUG_MODEL_CONTEXT GLOWPLUG_MEMORY_BUDGET
glowplug pull "$GLOWPLUG_MODEL_NAME"
exec glowplug serve
