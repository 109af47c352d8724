#!/usr/bin/env bash
# JSON Schema's own suite (draft 2020-12, as the source of PyPI's `jsonschema` has it) against what answers are held to:
# tests/schema_suite.sh [FOLDER OF TESTS]
# Each schema is refused with its place, or enforced. Of those that are enforced no valid instance may be rejected and no invalid one
# taken, but for tests/vectors/schema-deviations.tsv (file, schema, instance, why). Keys come in any order that the schema takes.
set -euo pipefail
cd "$(dirname "$0")/.."
work=target/schema-suite
mkdir -p "$work"
suite=${1:-}
if [ -z "$suite" ]; then
    ls "$work"/jsonschema-*.tar.gz >/dev/null 2>&1 ||
        python3 -m pip download --quiet --no-deps --no-binary jsonschema --dest "$work" 'jsonschema==4.26.0'
    tar -xzf "$work"/jsonschema-*.tar.gz -C "$work"
    suite=$(echo "$work"/jsonschema-*/json/tests/draft2020-12)
fi
cargo build --release --quiet -p glowplug-tests --example schema_suite
python3 - "$suite" target/release/examples/schema_suite <<'PY'
import itertools
import json
import pathlib
import subprocess
import sys

suite, program = pathlib.Path(sys.argv[1]), sys.argv[2]
ORDERS = 720


def orders(value):
    """The value with its keys in every order, as far as there are not too many."""
    if isinstance(value, dict):
        for keys in itertools.permutations(value):
            for values in itertools.product(*(list(orders(value[key])) for key in keys)):
                yield dict(zip(keys, values))
    elif isinstance(value, list):
        yield from (list(items) for items in itertools.product(*(list(orders(item)) for item in value)))
    else:
        yield value


def text(value):
    return json.dumps(value, ensure_ascii=False, separators=(",", ":"))


groups = []
for path in sorted(suite.rglob("*.json")):
    for group in json.loads(path.read_text()):
        groups.append((str(path.relative_to(suite)), group))
lines = []
for _, group in groups:
    lines.append(text({"schema": text(group["schema"]), "texts": [
        text(one) for test in group["tests"] for one in itertools.islice(orders(test["data"]), ORDERS)]}))
answers = subprocess.run([program], input="\n".join(lines), text=True, capture_output=True, check=True).stdout.splitlines()
assert len(answers) == len(groups)

listed = {}
for line in pathlib.Path("tests/vectors/schema-deviations.tsv").read_text().splitlines():
    if line and not line.startswith("#"):
        *case, why = line.split("\t")
        listed[tuple(case)] = why
refused, enforced, agreed, found = 0, 0, 0, []
for (file, group), answer in zip(groups, answers):
    answer = json.loads(answer)
    if "refused" in answer:
        refused += 1
        continue
    enforced += 1
    takes = iter(answer["takes"])
    for test in group["tests"]:
        any_order = [next(takes) for _ in itertools.islice(orders(test["data"]), ORDERS)]
        if any(any_order) == test["valid"]:
            agreed += 1
        else:
            found.append((file, group["description"], test["description"], "rejected" if test["valid"] else "TAKEN"))
new = [case for case in found if case[:3] not in listed]
gone = set(listed) - {case[:3] for case in found}
print(f"{len(groups)} schemas: {refused} refused, {enforced} enforced; of their instances {agreed} as the suite says, "
      f"{sum(case[3] == 'rejected' for case in found)} valid ones rejected, {sum(case[3] == 'TAKEN' for case in found)} invalid ones taken")
for case in new:
    print("not listed:", "\t".join(case))
for case in sorted(gone):
    print("listed, but not found:", "\t".join(case))
sys.exit(bool(new or gone))
PY
