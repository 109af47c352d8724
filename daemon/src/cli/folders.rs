//! The folders that the environment names.

use std::env;
use std::path::PathBuf;

/// Where the service keeps its models: there is no user to have a cache.
const SERVICE_DIR: &str = "/var/lib/glowplug/models";

/// The folder of models: `$GLOWPLUG_MODELS`, else `~/.cache/glowplug/models`. For the service (systemd sets
/// `STATE_DIRECTORY`) and for a process without a home it is `/var/lib/glowplug/models`.
pub(crate) fn models_dir() -> PathBuf {
    choose(
        env::var_os("GLOWPLUG_MODELS"),
        env::var_os("STATE_DIRECTORY"),
        env::var_os("HOME"),
    )
}

fn choose(
    models: Option<std::ffi::OsString>,
    state: Option<std::ffi::OsString>,
    home: Option<std::ffi::OsString>,
) -> PathBuf {
    let set =
        |value: Option<std::ffi::OsString>| value.filter(|v| !v.is_empty()).map(PathBuf::from);
    if let Some(models) = set(models) {
        return models;
    }
    match set(home) {
        Some(home) if set(state).is_none() => home.join(".cache/glowplug/models"),
        _ => PathBuf::from(SERVICE_DIR),
    }
}

/// The folder of what a daemon remembers, and of the embedded broker's password: systemd's `STATE_DIRECTORY`, else one below
/// the user's state folder, else `/var/lib/glowplug`.
pub(crate) fn state_dir() -> PathBuf {
    let set = |name| {
        env::var_os(name)
            .filter(|value| !value.is_empty())
            .map(PathBuf::from)
    };
    set("STATE_DIRECTORY")
        .or_else(|| set("XDG_STATE_HOME").map(|state| state.join("glowplug")))
        .or_else(|| set("HOME").map(|home| home.join(".local/state/glowplug")))
        .unwrap_or_else(|| PathBuf::from("/var/lib/glowplug"))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn the_folder() {
        let case = |models: &str, state: &str, home: &str| {
            choose(Some(models.into()), Some(state.into()), Some(home.into()))
                .display()
                .to_string()
        };
        assert_eq!(case("/m", "/s", "/h"), "/m");
        assert_eq!(case("", "", "/h"), "/h/.cache/glowplug/models");
        assert_eq!(case("", "/var/lib/glowplug", "/h"), SERVICE_DIR);
        assert_eq!(choose(None, None, None), Path::new(SERVICE_DIR));
    }
}
