# Binaries that cross/build.sh made in the checkout that this layer is part of, for branches whose Rust is too old. They
# need glibc 2.34 (kirkstone has 2.35).
require glowplug.inc

LIC_FILES_CHKSUM = "file://LICENSE-MIT;md5=e3e0e7b4b7e505d13ee883ac7fdc1bdd"

PROVIDES = "glowplug"

# the checkout
# nooelint: oelint.vars.fileextrapaths,oelint.vars.outofcontext
FILESEXTRAPATHS:prepend := "${THISDIR}/../../../..:"
GLOWPLUG_TARGET:aarch64 = "aarch64-unknown-linux-gnu"
# nooelint: oelint.vars.specific
GLOWPLUG_TARGET:arm = "armv7-unknown-linux-gnueabihf"
SRC_URI = "file://target/${GLOWPLUG_TARGET}/release/glowplug \
           file://cross/debian/glowplug.service \
           file://cross/debian/config.toml \
           file://LICENSE-MIT"

# where files are unpacked since styhead, and before
S = "${@d.getVar('UNPACKDIR') or d.getVar('WORKDIR')}"

COMPATIBLE_HOST = "(aarch64|arm).*-linux"

do_compile[noexec] = "1"
do_install() {
    install -d ${D}${bindir}
    install -m 0755 ${S}/target/${GLOWPLUG_TARGET}/release/glowplug ${D}${bindir}/glowplug
    install_service ${S}/cross/debian
}

RPROVIDES:${PN} = "glowplug"
RCONFLICTS:${PN} = "glowplug"
