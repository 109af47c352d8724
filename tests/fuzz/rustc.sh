#!/bin/sh
# A compiler for cargo (RUSTC_WRAPPER) that counts the branches of our own crates for libFuzzer, with flags that the stable
# compiler has. Other crates are built as ever: a fuzzer would only wander in them, and they take most of the time.
case $CARGO_PKG_NAME in
glowplug*)
    exec "$@" -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4 -Cllvm-args=-sanitizer-coverage-inline-8bit-counters \
        -Cllvm-args=-sanitizer-coverage-pc-table -Cllvm-args=-sanitizer-coverage-trace-compares -Ccodegen-units=1
    ;;
esac
exec "$@"
