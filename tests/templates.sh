#!/usr/bin/env bash
# The chat templates of llama.cpp's collection (as the source of PyPI's `llama-cpp-python` has it) rendered by the engine and by
# Jinja2: tests/templates.sh [FOLDER OF TEMPLATES]
# Each renders the conversations of tests/vectors/jinja alike, or is refused with its line. Needs Python's package jinja2. The
# templates are their models' and stay out of the repository.
set -euo pipefail
cd "$(dirname "$0")/.."
work=target/templates
mkdir -p "$work"
folder=${1:-}
if [ -z "$folder" ]; then
    ls "$work"/llama_cpp_python-*.tar.gz >/dev/null 2>&1 ||
        python3 -m pip download --quiet --no-deps --no-binary llama-cpp-python --dest "$work" 'llama-cpp-python==0.3.36'
    tar -xzf "$work"/llama_cpp_python-*.tar.gz -C "$work" --wildcards '*/vendor/llama.cpp/models/templates/*.jinja'
    folder=$(echo "$work"/llama_cpp_python-*/vendor/llama.cpp/models/templates)
fi
cargo build --release --quiet --workspace --example templates
exec target/release/examples/templates "$folder"
