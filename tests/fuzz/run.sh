#!/usr/bin/env bash
# Builds the fuzz targets (`tests/src/fuzz`) and runs each for MINUTES, two beside each other: tests/fuzz/run.sh MINUTES [TARGET…]
# A finding ends with 1; its input is in tests/fuzz/findings/TARGET-….
set -euo pipefail
cd "$(dirname "$0")"
minutes=${1:?usage: run.sh MINUTES [TARGET…]}
shift

export RUSTC_WRAPPER=$PWD/rustc.sh
cargo build --release --quiet --manifest-path Cargo.toml
unset RUSTC_WRAPPER
all=$(cd ../.. && cargo run --release --quiet -p glowplug-tests --example fuzz_seeds -- tests/fuzz/corpus)
# shellcheck disable=SC2086 # a name a word
[ $# -gt 0 ] || set -- $all

fuzz() {
    local target=$1 seeds=()
    [ ! -d "seeds/$target" ] || seeds=("seeds/$target")
    mkdir -p "corpus/$target" findings
    if GLOWPLUG_FUZZ=$target target/release/fuzz "corpus/$target" "${seeds[@]}" -artifact_prefix="findings/$target-" \
        -max_total_time=$((60 * minutes)) -timeout=10 -rss_limit_mb=1024 -max_len=65536 -print_final_stats=1 \
        >"findings/$target.log" 2>&1; then
        printf '%s: no finding in %s minutes, %s inputs\n' "$target" "$minutes" \
            "$(sed -n 's/^stat::number_of_executed_units: *//p' "findings/$target.log")"
    else
        tail -n 30 "findings/$target.log"
        printf '%s: FOUND something, see above and %s\n' "$target" "tests/fuzz/findings"
        return 1
    fi
}
export -f fuzz
export minutes
printf '%s\n' "$@" | xargs -P 2 -I {} bash -euo pipefail -c 'fuzz {}'
