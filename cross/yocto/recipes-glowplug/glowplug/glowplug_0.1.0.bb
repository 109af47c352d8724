# From source, on branches whose Rust is 1.95 or newer; elsewhere glowplug-bin. Where the image is configured, set
# GLOWPLUG_GIT (git://…;protocol=…;branch=…) and SRCREV:pn-glowplug: nothing is published yet. Before the first build:
# `bitbake -c update_crates glowplug` writes glowplug-crates.inc from Cargo.lock.
require glowplug.inc
include glowplug-crates.inc

LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=e3e0e7b4b7e505d13ee883ac7fdc1bdd"

GLOWPLUG_GIT ?= ""
SRC_URI += "${GLOWPLUG_GIT}"
# whoever takes only the binaries parses this recipe too
# nooelint: oelint.task.noanonpython
python () {
    if not d.getVar("GLOWPLUG_GIT"):
        raise bb.parse.SkipRecipe("GLOWPLUG_GIT is not set")
}

inherit cargo cargo-update-recipe-crates

CARGO_BUILD_FLAGS += "-p glowplug"

do_install:append() {
    install_service ${S}/cross/debian
}
