//! Which board this machine is, judged by its device tree or firmware and by how much memory it has.

use std::path::Path;

use glowplug_firmware_config::board::{self, Board, FILES};
use serde_json::{Value, json};

use super::kernel_files;

/// For each chip or board, one of the `compatible` strings of its device tree, and how the names of its boards begin.
/// The first that a tree has counts, so a board comes before the chip that it shares with others.
const TREES: &[(&str, &str)] = &[
    ("raspberrypi,4-model-b", "raspberry-pi-4-"),
    ("raspberrypi,4-compute-module", "raspberry-pi-4-"),
    ("raspberrypi,400", "raspberry-pi-4-"),
    ("raspberrypi,5-model-b", "raspberry-pi-5-"),
    ("raspberrypi,5-compute-module", "raspberry-pi-5-"),
    ("raspberrypi,500", "raspberry-pi-5-"),
    ("rockchip,rk3588", "rk3588-"),
    ("rockchip,rk3588s", "rk3588-"),
    ("fsl,imx8mp", "imx8mp-"),
    // modules of 8 GB: the one for production, the one of the developer kit
    ("nvidia,p3767-0003", "jetson-orin-nano-"),
    ("nvidia,p3767-0005", "jetson-orin-nano-"),
    ("qcom,sa8155p", "sa8155p"),
    ("qcom,sa8295p", "sa8295p"),
    ("qcom,sa8295p-adp", "sa8295p"),
];

/// The system sees at least this share of a board's memory; firmware, video and carve-outs keep the rest. If it sees
/// less, this is the next smaller board, or a guest that was given a part of one.
const SEEN: f64 = 0.75;

/// How a board was chosen.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Chosen {
    /// By its name in the configuration.
    Named,
    /// By this evidence, in words.
    Found(String),
    /// It was not found, for this reason.
    Unknown(String),
}

impl Chosen {
    /// How it was chosen, for people.
    #[must_use]
    pub fn why(&self) -> &str {
        match self {
            Self::Named => "named in the configuration",
            Self::Found(why) | Self::Unknown(why) => why,
        }
    }

    /// How it was chosen, for programs.
    #[must_use]
    pub fn json(&self, board: Option<&Board>) -> Value {
        json!({"name": board.map(|board| board.name), "why": self.why()})
    }
}

/// Finds the board that this machine is, if it is a known one, and says why. Tests give another `root` of the file
/// system and another `arch`.
#[must_use]
pub fn find(root: &Path, arch: &str) -> (Option<Board>, Chosen) {
    let (family, evidence) = family(root, arch);
    let Some(memory) = kernel_files::bytes(&root.join("proc/meminfo"), "MemTotal") else {
        let why = format!("{evidence}; nothing says how much memory there is");
        return (None, Chosen::Unknown(why));
    };
    let evidence = format!("{evidence}, {:.1} GiB", memory as f64 / f64::from(1 << 30));
    let of_family = FILES.iter().filter(|(name, _)| name.starts_with(&family));
    // a test reads all files that are compiled in, so they are sound
    let boards = of_family.filter_map(|(name, _)| board::find(name).ok());
    let fits =
        boards.filter(|board| memory <= board.ram.0 && memory as f64 >= board.ram.0 as f64 * SEEN);
    match fits.min_by_key(|board| board.ram) {
        Some(board) => (Some(board), Chosen::Found(evidence)),
        None => (None, Chosen::Unknown(format!("{evidence}: no known board"))),
    }
}

/// How the names of the boards begin that this machine may be, and the evidence for it.
fn family(root: &Path, arch: &str) -> (String, String) {
    let tree = kernel_files::text(&root.join("proc/device-tree/compatible")).unwrap_or_default();
    let compatible: Vec<&str> = tree.split('\0').filter(|name| !name.is_empty()).collect();
    let known = TREES.iter().find(|(name, _)| compatible.contains(name));
    if let Some((name, family)) = known {
        return ((*family).to_owned(), format!("device tree `{name}`"));
    }
    let model = kernel_files::text(&root.join("proc/device-tree/model"));
    let dmi = |name| kernel_files::text(&root.join("sys/class/dmi/id").join(name));
    let product = model.or_else(|| dmi("product_name")).unwrap_or_default();
    let product: String = product
        .trim_matches(|c: char| c == '\0' || c.is_whitespace())
        .chars()
        .filter(|c| !c.is_control())
        .take(64)
        .collect();
    let evidence = match product.as_str() {
        "" => format!("processor {arch}"),
        product => format!("processor {arch} in `{product}`"),
    };
    // the names of boards have no `_`
    (format!("generic-{}-", arch.replace('_', "-")), evidence)
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::machine::kernel_files::tests::tree;
    use std::collections::BTreeSet;

    fn meminfo(gib: f64) -> String {
        format!(
            "MemTotal:  {} kB\nMemAvailable: 1 kB\n",
            (gib * f64::from(1 << 20)) as u64
        )
    }

    fn found(compatible: &str, gib: f64) -> (Option<&'static str>, String) {
        let memory = meminfo(gib);
        let files = [
            ("proc/device-tree/compatible", compatible),
            ("proc/device-tree/model", "Some Board Rev 1.4\0"),
            ("proc/meminfo", &memory),
        ];
        let (board, chosen) = find(tree(&files).path(), "aarch64");
        (board.map(|board| board.name), chosen.why().to_owned())
    }

    #[test]
    fn a_device_tree_names_the_board_and_memory_its_size() {
        let pi4 = "raspberrypi,4-model-b\0brcm,bcm2711\0";
        for (compatible, gib, name) in [
            (pi4, 1.8, Some("raspberry-pi-4-2g")),
            (pi4, 3.7, Some("raspberry-pi-4-4g")),
            (pi4, 7.6, Some("raspberry-pi-4-8g")),
            // of 1 GB there is no file, nor of 16
            (pi4, 0.9, None),
            (
                "raspberrypi,5-model-b\0brcm,bcm2712\0",
                7.9,
                Some("raspberry-pi-5-8g"),
            ),
            ("raspberrypi,5-model-b\0brcm,bcm2712\0", 15.8, None),
            ("radxa,rock-5b\0rockchip,rk3588\0", 7.7, Some("rk3588-8g")),
            ("fsl,imx8mp-evk\0fsl,imx8mp\0", 3.8, Some("imx8mp-4g")),
            (
                "nvidia,p3768-0000+p3767-0005\0nvidia,p3767-0005\0nvidia,tegra234\0",
                7.4,
                Some("jetson-orin-nano-8g"),
            ),
            ("qcom,sa8155p-adp\0qcom,sa8155p\0", 7.5, Some("sa8155p")),
            ("qcom,sa8295p-adp\0qcom,sa8540p\0", 15.5, Some("sa8295p")),
            // a guest with a part of the memory
            ("qcom,sa8155p\0", 2.0, None),
            ("acme,thing\0", 3.9, Some("generic-aarch64-4g")),
        ] {
            let (board, why) = found(compatible, gib);
            assert_eq!(board, name, "{compatible:?} {gib}: {why}");
            assert!(why.contains(&format!("{gib:.1} GiB")), "{why}");
        }
        assert!(
            found(pi4, 3.7)
                .1
                .starts_with("device tree `raspberrypi,4-model-b`")
        );
        assert!(
            found("acme,thing\0", 3.9)
                .1
                .contains("aarch64 in `Some Board Rev 1.4`")
        );
        assert!(found(pi4, 0.9).1.ends_with("no known board"));
    }

    #[test]
    fn firmware_of_a_pc_tells_what_it_is_and_memory_which() {
        let pc = |gib| {
            let memory = meminfo(gib);
            let dmi = ("sys/class/dmi/id/product_name", "Box PC 300\n");
            find(tree(&[dmi, ("proc/meminfo", &memory)]).path(), "x86_64")
        };
        let (board, chosen) = pc(7.6);
        assert_eq!(board.unwrap().name, "generic-x86-64-8g");
        assert_eq!(chosen.why(), "processor x86_64 in `Box PC 300`, 7.6 GiB");
        assert_eq!(pc(31.0).0, None);
    }

    #[test]
    fn a_machine_that_says_nothing_is_no_board() {
        let (board, chosen) = find(tree(&[]).path(), "riscv64");
        assert_eq!(board, None);
        assert!(matches!(&chosen, Chosen::Unknown(why) if why.starts_with("processor riscv64")));
    }

    #[test]
    fn every_board_can_be_found() {
        let families: BTreeSet<&str> = TREES.iter().map(|(_, family)| *family).collect();
        for (name, _) in FILES {
            assert!(
                name.starts_with("generic-") || families.iter().any(|f| name.starts_with(f)),
                "{name}"
            );
        }
    }
}
