################################################################################
#
# glowplug
#
################################################################################

# The commit that is checked out around this tree: only what Buildroot
# fetches itself comes with the crates that an offline build needs.
GLOWPLUG_SITE = $(abspath $(BR2_EXTERNAL_GLOWPLUG_PATH)/../..)
GLOWPLUG_SITE_METHOD = git
GLOWPLUG_VERSION := $(shell git -C $(GLOWPLUG_SITE) rev-parse HEAD)
GLOWPLUG_LICENSE = Apache-2.0 or MIT
GLOWPLUG_LICENSE_FILES = LICENSE-APACHE LICENSE-MIT
GLOWPLUG_SUBDIR = daemon

define GLOWPLUG_USERS
	glowplug -1 glowplug -1 * /var/lib/glowplug - - Language model over MQTT
endef

define GLOWPLUG_INSTALL_CONFIG
	$(INSTALL) -D -m 0644 $(@D)/cross/debian/config.toml \
		$(TARGET_DIR)/etc/glowplug/config.toml
endef
GLOWPLUG_POST_INSTALL_TARGET_HOOKS += GLOWPLUG_INSTALL_CONFIG

define GLOWPLUG_INSTALL_INIT_SYSTEMD
	$(INSTALL) -D -m 0644 $(@D)/cross/debian/glowplug.service \
		$(TARGET_DIR)/usr/lib/systemd/system/glowplug.service
endef

define GLOWPLUG_INSTALL_INIT_SYSV
	$(INSTALL) -D -m 0755 $(@D)/cross/buildroot/package/glowplug/S99glowplug \
		$(TARGET_DIR)/etc/init.d/S99glowplug
endef

$(eval $(cargo-package))
