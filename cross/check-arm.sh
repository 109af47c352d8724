#!/usr/bin/env bash
# The unit tests of glowplug-model that depend on the processor, compiled for aarch64 and run by qemu-user as three
# cores: without sdot (Raspberry Pi 4, i.MX8M), with it (Raspberry Pi 5, RK3588), and with all that qemu has.
# Correctness only: time under qemu says nothing about a board. The compilation takes minutes, the tests one or two.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
sysroot=/usr/aarch64-linux-gnu
modules=(gguf:: pool:: quant:: text::)

fail() {
    printf 'check-arm: %s\n' "$*" >&2
    exit 1
}

for tool in cargo rustup aarch64-linux-gnu-gcc qemu-aarch64-static; do
    command -v "$tool" >/dev/null ||
        fail "$tool is missing (Debian: gcc-aarch64-linux-gnu, qemu-user-static, libc6-dev-arm64-cross)"
done
[ -e "$sysroot/lib/ld-linux-aarch64.so.1" ] || fail "$sysroot has no C library (Debian: libc6-dev-arm64-cross)"
rustup target list --installed | grep -qx "$target" || fail "rustup target add $target"

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
log=$(mktemp)
trap 'rm -f "$log"' EXIT

# on_core CPU LEVEL…: the tests pass on that core, those of the kernels ran on exactly these levels, and none of the
# modules was without a test
on_core() {
    local cpu=$1 levels module
    shift
    printf '== %s\n' "$cpu"
    CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64-static -cpu $cpu -L $sysroot" \
        cargo test --release -p glowplug-model --lib --target "$target" -- --show-output "${modules[@]}" \
        >"$log" 2>&1 || { cat "$log"; fail "tests fail on $cpu"; }
    grep '^test result' "$log"
    levels=$(sed -n 's/^level //p' "$log" | sort -u | paste -sd' ')
    printf 'levels: %s\n' "$levels"
    [ "$levels" = "$*" ] || fail "on $cpu the kernels should run on: $*"
    for module in "${modules[@]}"; do
        grep -q "^test $module.* ok$" "$log" || fail "no test of $module ran on $cpu"
    done
}

# clippy sees only the code of the machine it runs on
cargo test --release -p glowplug-model --lib --target "$target" --no-run 2>&1 | tee "$log"
! grep -q '^warning' "$log" || fail 'warnings on aarch64'
on_core cortex-a53 neon scalar
on_core cortex-a76 dotprod neon scalar
on_core max dotprod neon scalar
