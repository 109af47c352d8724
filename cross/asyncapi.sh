#!/usr/bin/env bash
# Reads daemon/docs/asyncapi.yaml with AsyncAPI's own parser, which is fetched once: asyncapi.sh. Needs node and npm.
# What it warns of fails as well. That the messages are as the document says is tested with the daemon, not here.
set -euo pipefail
cd "$(dirname "$0")/.."
at=${CARGO_TARGET_DIR:-target}/asyncapi
version=3.6.6
[ "$(cat "$at/version" 2>/dev/null)" = "$version" ] || {
    rm -rf "$at"
    npm install --silent --no-audit --no-fund --ignore-scripts --prefix "$at" "@asyncapi/parser@$version"
    echo "$version" >"$at/version"
}
NODE_PATH=$at/node_modules node - daemon/docs/asyncapi.yaml <<'JS'
const { Parser, fromFile } = require("@asyncapi/parser");
fromFile(new Parser(), process.argv[2]).parse().then(({ document, diagnostics }) => {
  for (const { message, path, range } of diagnostics) {
    console.log(`line ${range.start.line + 1}, ${path.join(".")}: ${message}`);
  }
  if (diagnostics.length > 0) process.exit(1);
  const count = (kind) => document[kind]().all().length;
  console.log(`${count("channels")} channels, ${count("operations")} operations, ${count("messages")} messages`);
});
JS
