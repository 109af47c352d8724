include $(sort $(wildcard $(BR2_EXTERNAL_GLOWPLUG_PATH)/package/*/*.mk))
