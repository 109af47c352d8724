#!/usr/bin/env bash
# The walls of the house, each one search. Prints what breaks one; exit code 1 if anything does.
set -euo pipefail
cd "$(dirname "$0")/.."
broken=$(mktemp)
trap 'rm -f "$broken"' EXIT

# wall RULE: the offenders come on stdin (at the end of a pipe, so that what it finds must go to a file)
wall() {
    local found
    found=$(cat)
    [ -z "$found" ] || printf 'wall broken: %s\n%s\n' "$1" "$found" | tee -a "$broken"
}

# lines of git grep that are no comments
code() { git grep -nE "$@" | grep -vE '^[^:]*:[0-9]+: *//' || true; }

# what ships: Rust files without those that are only tests, examples or benches
shipped() { git ls-files -- '*.rs' ':!tests/**' ':!**/tests/**' ':!**/tests.rs' ':!**/examples/**' ':!**/benches/**' ':!**/fuzz/**'; }

# shipped lines, up to the test module that ends a file, that match
outside_tests() {
    shipped | xargs awk -v re="$1" 'FNR == 1 { t = 0 } /#\[cfg\(test\)\]/ { t = 1 } !t && $0 ~ re && !/^ *\/\// { print FILENAME ":" FNR ":" $0 }'
}

# more than one file that names a crate
one_file() { git grep -lE "\b$1" -- 'daemon/src/**/*.rs' 'daemon/src/*.rs' | awk '{ f[NR] = $0 } END { if (NR > 1) for (i in f) print f[i] }'; }

one_file rumqttc | wall 'rumqttc is named in one file of the daemon'
one_file 'mqtt5::' | wall 'the embedded broker mqtt5 is named in one file of the daemon'
code '\b(tokio|rumqttc|mqtt5)\b' -- 'model/src/**' model/Cargo.toml 'firmware-config/src/**' firmware-config/Cargo.toml |
    wall 'no tokio and no MQTT below the daemon'
code '\b(burn_ndarray|burn_wgpu|burn_flex|cubecl)\b' -- '*.rs' ':!model/src/ops/**' |
    wall 'a Burn backend is named only under model/src/ops'
code '\benv::vars?(_os)?\b' -- '*.rs' ':!daemon/src/cli/**' ':!tests/**' ':!**/tests/**' ':!**/build.rs' |
    wall 'the environment is read only by the command line'
outside_tests '\\.unwrap\\(\\)|\\.expect\\(|todo!\\(|unimplemented!\\(' | wall 'no unwrap, expect or todo outside tests'
git grep -nIE '(^|[^A-Za-z0-9_.])/(root|home/[a-z])/' -- . ':!Cargo.lock' ':!cross/walls.sh' | cut -c1-160 | wall 'no path of one machine' || true

house=$(python3 cross/house.py) || printf '%s\n' "$house" | tee -a "$broken"

[ ! -s "$broken" ]
