//! How much energy the machine's processors take, where the kernel counts it (RAPL) and lets us read that: root alone may.

use std::path::{Path, PathBuf};

use super::kernel_files;

/// The counters of the machine's processors.
#[derive(Debug)]
pub struct Energy {
    /// For each the file, and after how many microjoules it begins again at 0.
    counters: Vec<(PathBuf, u64)>,
}

impl Energy {
    /// Finds the counters of whole processors, without those of memory and other parts. None: there is none to be read.
    #[must_use]
    pub fn here(root: &Path) -> Option<Self> {
        let zones = kernel_files::numbered(&root.join("sys/class/powercap"), "intel-rapl:");
        let counters: Vec<_> = zones
            .into_iter()
            .filter_map(|zone| {
                let name = kernel_files::text(&zone.join("name"))?;
                let range = kernel_files::number(&zone.join("max_energy_range_uj"))?;
                let counter = zone.join("energy_uj");
                kernel_files::number::<u64>(&counter)?;
                name.starts_with("package").then_some((counter, range))
            })
            .collect();
        (!counters.is_empty()).then_some(Self { counters })
    }

    /// What the counters say now, in microjoules. None: one of them can be read no more.
    #[must_use]
    pub fn read(&self) -> Option<Vec<u64>> {
        let counters = self.counters.iter();
        counters
            .map(|(file, _)| kernel_files::number(file))
            .collect()
    }

    /// The joules between two readings, during which no counter began again twice: at 200 W that takes 20 minutes.
    #[must_use]
    pub fn joules(&self, from: &[u64], to: &[u64]) -> f64 {
        let taken = self.counters.iter().zip(from.iter().zip(to));
        let microjoules: u64 = taken
            .map(|((_, range), (&from, &to))| {
                let again = if to < from { *range } else { 0 };
                to.saturating_add(again).saturating_sub(from)
            })
            .sum();
        microjoules as f64 / 1e6
    }
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::machine::kernel_files::tests::tree;

    #[test]
    fn processors_are_counted_and_their_parts_are_not() {
        let zone = |zone: &str, name: &str, energy: &str| {
            [
                ("name", name),
                ("energy_uj", energy),
                ("max_energy_range_uj", "1000000"),
            ]
            .map(|(file, text)| (format!("sys/class/powercap/{zone}/{file}"), text.to_owned()))
        };
        let files = [
            zone("intel-rapl:0", "package-0\n", "900000\n"),
            zone("intel-rapl:0:0", "core\n", "1\n"),
            zone("intel-rapl:1", "package-1\n", "5\n"),
            zone("intel-rapl:2", "psys\n", "7\n"),
        ]
        .concat();
        let files: Vec<_> = files
            .iter()
            .map(|(p, t)| (p.as_str(), t.as_str()))
            .collect();
        let root = tree(&files);
        let energy = Energy::here(root.path()).unwrap();
        let before = energy.read().unwrap();
        assert_eq!(before, [900_000, 5]);
        // the first began again at 0
        assert!((energy.joules(&before, &[400_000, 10_005]) - 0.51).abs() < 1e-9);
        std::fs::remove_dir_all(root.path().join("sys/class/powercap/intel-rapl:1")).unwrap();
        assert_eq!(energy.read(), None);
    }

    #[test]
    fn where_nothing_can_be_read_there_is_none() {
        assert!(Energy::here(tree(&[]).path()).is_none());
        let unreadable = [
            ("sys/class/powercap/intel-rapl:0/name", "package-0\n"),
            ("sys/class/powercap/intel-rapl:0/max_energy_range_uj", "9"),
        ];
        assert!(Energy::here(tree(&unreadable).path()).is_none());
    }
}
