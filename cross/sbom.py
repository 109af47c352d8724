#!/usr/bin/env python3
"""Adds models to a software bill of materials.

usage: sbom.py BOM.json OUT.json [MODEL.gguf…]

BOM.json is CycloneDX, as `cargo cyclonedx --format json` writes it. Each model becomes a component of the type
machine-learning-model with the hashes of its signed manifest (`glowplug sign`), which must be that of the file.
"""
import hashlib
import json
import sys
import tomllib


def manifest(model):
    """What the manifest beside a model says; its signature is the daemon's to check."""
    with open(model + ".manifest") as file:
        first, rest = file.read().split("\n", 1)
    if first != "glowplug model manifest 1":
        sys.exit(f"{model}.manifest: is of another version")
    return tomllib.loads(rest)


def component(model):
    of = manifest(model)
    with open(model, "rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if found != of["file_sha256"]:
        sys.exit(f"{model}: its hash is {found}, its manifest says {of['file_sha256']}")
    names = ("architecture", "template_sha256", "tokenizer_sha256")
    return {
        "type": "machine-learning-model",
        "name": model.rsplit("/", 1)[-1],
        "version": str(of["version"]),
        "hashes": [{"alg": "SHA-256", "content": found}],
        "properties": [{"name": f"glowplug:{name}", "value": of[name]} for name in names if name in of],
    }


def main():
    bom, out, *models = sys.argv[1:]
    with open(bom) as file:
        bom = json.load(file)
    bom.setdefault("components", []).extend(map(component, models))
    with open(out, "w") as file:
        json.dump(bom, file, indent=1)
        file.write("\n")


if __name__ == "__main__":
    main()
