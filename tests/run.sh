#!/usr/bin/env bash
# Every test, on a machine that has Rust, a C compiler and Python: tests/run.sh [ARGUMENTS OF CARGO TEST…]
# Mosquitto, its clients, and Python's packages paho-mqtt, openai, wyoming and jinja2 are unpacked below target/tools where the
# machine has none: nothing is installed, nobody has to be root. What cannot be had at all is said before anything is compiled.
set -euo pipefail
cd "$(dirname "$0")/.."
tools=$PWD/target/tools

# missing WHAT COMMAND: the one line that helps
missing() {
    printf 'tests/run.sh: %s is missing and cannot be unpacked here; install it: %s\n' "$1" "$2" >&2
    exit 1
}

for command in cargo:'https://rustup.rs' cc:'apt-get install build-essential' python3:'apt-get install python3'; do
    command -v "${command%%:*}" >/dev/null || missing "${command%%:*}" "${command#*:}"
done

# apt with package lists of its own, since a fresh image has none and a user may not fetch them for all
apt_here() {
    local state=$tools/apt
    mkdir -p "$state"/{lists,cache}/partial
    "$@" -qq -o Dir::State::lists="$state/lists" -o Dir::Cache="$state/cache" -o Debug::NoLocking=true \
        -o APT::Sandbox::User="$(id -un)"
}

# unpack PACKAGE…: with all they need that is not installed
unpack() {
    command -v apt-get >/dev/null && command -v dpkg >/dev/null || return 1
    local package packages=()
    # every time: lists of a run that broke off, or of last month, name packages that cannot be fetched
    apt_here apt-get update || return 1
    while read -r package; do
        dpkg-query -W -f '${Status}' "$package" 2>/dev/null | grep -q '^install ok installed' || packages+=("$package")
    done < <(apt_here apt-cache depends --recurse --no-recommends --no-suggests --no-conflicts --no-breaks --no-replaces \
        --no-enhances "$@" | grep '^[a-z0-9]' | sort -u)
    mkdir -p "$tools/packages"
    (cd "$tools/packages" && apt_here apt-get download "${packages[@]}") || return 1
    for package in "$tools"/packages/*.deb; do
        dpkg -x "$package" "$tools/unpacked" || return 1
    done
}

# A program that was unpacked finds its libraries beside it.
wrap() {
    local libraries
    libraries=$(find "$tools/unpacked" -name '*.so.*' -printf '%h\n' | sort -u | paste -sd :)
    mkdir -p "$tools/bin"
    printf '#!/bin/sh\nLD_LIBRARY_PATH=%s exec %s "$@"\n' "$libraries" "$1" >"$tools/bin/${1##*/}"
    chmod +x "$tools/bin/${1##*/}"
}

export PATH=$tools/bin:$PATH:/usr/sbin
export PYTHONPATH=$tools/python:$tools/unpacked/usr/lib/python3/dist-packages${PYTHONPATH:+:$PYTHONPATH}

for program in mosquitto mosquitto_passwd mosquitto_pub; do
    if ! command -v $program >/dev/null; then
        unpack mosquitto mosquitto-clients || missing Mosquitto 'apt-get install mosquitto mosquitto-clients'
        for unpacked in "$tools"/unpacked/usr/{bin,sbin}/mosquitto*; do
            wrap "$unpacked"
        done
        break
    fi
done
# python_here PACKAGE: from the index of packages
python_here() { python3 -m pip install --quiet --target "$tools/python" "$1"; }

if ! python3 -c 'import paho.mqtt.client' 2>/dev/null; then
    python_here paho-mqtt || unpack python3-paho-mqtt || missing Paho 'pip install paho-mqtt'
fi
for client in openai wyoming jinja2; do
    python3 -c "import $client" 2>/dev/null || python_here $client || missing "Python's package $client" "pip install $client"
done

cargo run --release -- pull smol
exec cargo test --release --workspace "$@"
