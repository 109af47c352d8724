//! How much memory the plan may use: the least of what the configuration allows, what the control group allows, and
//! what the machine has left.

use std::path::Path;

use glowplug_firmware_config::board::Board;
use glowplug_firmware_config::plan::{Limit, LimitSource, MemoryPlan};
use glowplug_model::ops::memory::{GpuFacts, GpuKind};

use super::kernel_files;
use crate::config::Config;

/// Bytes that are left to the rest of the system where no board says more.
const RESERVE: u64 = 128 << 20;

/// Neither the configuration nor the system says how much memory there is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("this machine does not say how much memory it has: set `memory.budget`")]
pub struct Unknown;

/// The limit on this machine as it is now.
///
/// # Errors
/// [`Unknown`] when neither the configuration nor the system says anything.
pub fn here(config: &Config) -> Result<Limit, Unknown> {
    let root = &config.root;
    let reserve = config
        .board
        .as_ref()
        .map_or(RESERVE, |board| board.reserve.0);
    let limit = |bytes, from| Limit { bytes, from };
    let limits = [
        config.memory.budget.map(|n| limit(n, LimitSource::Config)),
        cgroup(root).map(|n| limit(n, LimitSource::Cgroup)),
        available(root).map(|n| limit(n.saturating_sub(reserve), LimitSource::Available)),
        config.board.as_ref().map(of_board),
    ];
    Limit::least(limits.into_iter().flatten()).ok_or(Unknown)
}

/// The limit on a board that is somewhere else.
#[must_use]
pub fn there(board: &Board, budget: Option<u64>) -> Limit {
    let board = of_board(board);
    match budget {
        Some(bytes) if bytes <= board.bytes => Limit {
            bytes,
            from: LimitSource::Config,
        },
        _ => board,
    }
}

/// The limit of a GPU's memory. For a card with memory of its own it is what the kernel's driver says (AMD's does); a GPU that
/// takes the host's memory has what the host's plan leaves of its limit. There is none where nothing says how much there is.
#[must_use]
pub fn of_gpu(root: &Path, gpu: &GpuFacts, host: &MemoryPlan) -> Option<Limit> {
    if gpu.kind != GpuKind::Discrete {
        return Some(Limit {
            bytes: host.limit.bytes.saturating_sub(host.total()),
            from: LimitSource::Shared,
        });
    }
    let file = root.join("sys/bus/pci/devices").join(&gpu.pci);
    let bytes = std::fs::read_to_string(file.join("mem_info_vram_total")).ok()?;
    Some(Limit {
        bytes: bytes.trim().parse().ok()?,
        from: LimitSource::Gpu,
    })
}

fn of_board(board: &Board) -> Limit {
    Limit {
        bytes: board.memory().0,
        from: LimitSource::Board,
    }
}

/// Bytes that can be had without swapping.
fn available(root: &Path) -> Option<u64> {
    kernel_files::bytes(&root.join("proc/meminfo"), "MemAvailable")
}

/// The least limit of the control groups that this process is in.
fn cgroup(root: &Path) -> Option<u64> {
    // `memory.high` ends no process, but above it the kernel takes pages away and slows everybody down; a model that is
    // read for every token does not survive that any better
    let limits = ["memory.max", "memory.high"]
        .into_iter()
        .flat_map(|file| kernel_files::cgroups(root, "memory", file, "memory.limit_in_bytes"));
    // `max` is no number, and means no limit
    limits
        .filter_map(|(_, text)| text.trim().parse().ok())
        .min()
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::config::Draft;
    use crate::machine::kernel_files::tests::tree;
    use std::path::PathBuf;

    fn config(text: &str) -> Config {
        let draft = Draft::from_toml(text).unwrap();
        draft.finish("host", PathBuf::new()).unwrap()
    }

    const MEMINFO: &str =
        "MemTotal:        4194304 kB\nMemFree:  1 kB\nMemAvailable:    2097152 kB\n";

    #[test]
    fn version_2_is_read_from_the_group_up_to_the_root() {
        let files = |own, above, top| {
            tree(&[
                ("proc/self/cgroup", "0::/system.slice/glowplug.service\n"),
                (
                    "sys/fs/cgroup/system.slice/glowplug.service/memory.max",
                    own,
                ),
                ("sys/fs/cgroup/system.slice/memory.max", above),
                ("sys/fs/cgroup/memory.max", top),
            ])
        };
        for (own, above, top, least) in [
            ("max\n", "max\n", "max\n", None),
            ("1000\n", "max\n", "max\n", Some(1000)),
            ("1000\n", "900\n", "max\n", Some(900)),
            ("max\n", "max\n", "800\n", Some(800)),
            ("nonsense", "-1", "", None),
        ] {
            assert_eq!(cgroup(files(own, above, top).path()), least);
        }
    }

    #[test]
    fn what_the_kernel_slows_down_above_is_a_limit_too_in_every_group() {
        let group = "sys/fs/cgroup/system.slice";
        for (own, above, least) in [
            ("max\n", "max\n", Some(1000)),
            ("900\n", "max\n", Some(900)),
            ("max\n", "800\n", Some(800)),
            ("2000\n", "3000\n", Some(1000)),
        ] {
            let root = tree(&[
                ("proc/self/cgroup", "0::/system.slice/glowplug.service\n"),
                (&format!("{group}/glowplug.service/memory.max"), "1000\n"),
                (&format!("{group}/glowplug.service/memory.high"), own),
                (&format!("{group}/memory.high"), above),
            ]);
            assert_eq!(cgroup(root.path()), least);
        }
    }

    #[test]
    fn version_1_is_read_where_memory_is_mounted() {
        let root = tree(&[
            (
                "proc/self/cgroup",
                "12:cpu,cpuacct:/a\n9:memory:/docker/0123\n1:name=systemd:/x\n0::/y\n",
            ),
            ("sys/fs/cgroup/memory/memory.limit_in_bytes", "700\n"),
            ("sys/fs/cgroup/cpu/a/memory.limit_in_bytes", "1\n"),
        ]);
        assert_eq!(cgroup(root.path()), Some(700));
        // a group of its own below the mount
        let own = root.path().join("sys/fs/cgroup/memory/docker/0123");
        std::fs::create_dir_all(&own).unwrap();
        std::fs::write(own.join("memory.limit_in_bytes"), "600").unwrap();
        assert_eq!(cgroup(root.path()), Some(600));
    }

    #[test]
    fn a_path_does_not_lead_out_of_the_mount() {
        let root = tree(&[
            ("proc/self/cgroup", "0::/../../../secret\n"),
            ("secret/memory.max", "1\n"),
            ("sys/fs/cgroup/memory.max", "500\n"),
        ]);
        assert_eq!(cgroup(root.path()), Some(500));
    }

    #[test]
    fn the_least_of_all_is_the_limit_and_says_where_it_is_from() {
        let limit = |files: &[(&str, &str)], text: &str| {
            let root = tree(files);
            let mut config = config(text);
            config.root = root.path().to_owned();
            here(&config)
        };
        let of = |bytes, from| Ok(Limit { bytes, from });
        assert_eq!(limit(&[], ""), Err(Unknown));
        let meminfo = ("proc/meminfo", MEMINFO);
        assert_eq!(
            limit(&[meminfo], ""),
            of((2 << 30) - RESERVE, LimitSource::Available)
        );
        let group = [
            meminfo,
            ("proc/self/cgroup", "0::/"),
            ("sys/fs/cgroup/memory.max", "1000000000"),
        ];
        assert_eq!(limit(&group, ""), of(1_000_000_000, LimitSource::Cgroup));
        assert_eq!(
            limit(&group, "[memory]\nbudget = '900 MB'"),
            of(900_000_000, LimitSource::Config)
        );
        // a board's own reserve, and its size
        let board = config("board = 'raspberry-pi-4-2g'").board.unwrap();
        assert_eq!(
            limit(&[meminfo], "board = 'raspberry-pi-4-2g'"),
            of((2 << 30) - board.reserve.0, LimitSource::Available)
        );
        assert_eq!(
            limit(&[], "board = 'raspberry-pi-4-2g'"),
            of(board.ram.0 - board.reserve.0, LimitSource::Board)
        );
        assert_eq!(there(&board, None).from, LimitSource::Board);
        assert_eq!(Ok(there(&board, Some(5))), of(5, LimitSource::Config));
        assert_eq!(there(&board, Some(u64::MAX)), there(&board, None));
    }

    #[test]
    fn this_machine_has_memory() {
        let limit = here(&config("")).unwrap();
        assert!(limit.bytes > 1 << 20, "{limit:?}");
    }
}
