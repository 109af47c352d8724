//! Boards: what is known of one before anything runs on it. A board is one file in `boards/`, and its name is the file's.

/// The boards that are compiled in: name, and the text of the file. Who has a parser reads them.
pub const FILES: &[(&str, &str)] = &[
    (
        "generic-aarch64-4g",
        include_str!("../boards/generic-aarch64-4g.toml"),
    ),
    (
        "generic-x86-64-8g",
        include_str!("../boards/generic-x86-64-8g.toml"),
    ),
    ("imx8mp-4g", include_str!("../boards/imx8mp-4g.toml")),
    (
        "jetson-orin-nano-8g",
        include_str!("../boards/jetson-orin-nano-8g.toml"),
    ),
    (
        "raspberry-pi-4-2g",
        include_str!("../boards/raspberry-pi-4-2g.toml"),
    ),
    (
        "raspberry-pi-4-4g",
        include_str!("../boards/raspberry-pi-4-4g.toml"),
    ),
    (
        "raspberry-pi-4-8g",
        include_str!("../boards/raspberry-pi-4-8g.toml"),
    ),
    (
        "raspberry-pi-5-4g",
        include_str!("../boards/raspberry-pi-5-4g.toml"),
    ),
    (
        "raspberry-pi-5-8g",
        include_str!("../boards/raspberry-pi-5-8g.toml"),
    ),
    ("rk3588-8g", include_str!("../boards/rk3588-8g.toml")),
    ("sa8155p", include_str!("../boards/sa8155p.toml")),
    ("sa8295p", include_str!("../boards/sa8295p.toml")),
];

/// One board.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Board {
    /// of [`FILES`]
    pub name: &'static str,
    /// memory on the board
    pub ram_bytes: u64,
    /// cores that may compute
    pub cores: usize,
    /// what firmware, kernel and everything else on the board need of the memory
    pub reserve_bytes: u64,
}
