//! The processors that this process may use: its affinity mask (cpusets are in it), the CPU quota of its control groups,
//! and which of them are the fast ones.

use std::path::Path;

use glowplug_firmware_config::limits::THREADS_MAX;

use super::kernel_files;

/// Processors that are looked at; the kernel's own mask is as long.
const CPUS_MAX: usize = 1024;
/// Processors within this share of a cluster's fastest belong to it: two clusters of the same cores are often binned to
/// slightly different clocks.
const ALIKE: f64 = 0.9;
/// Processors below this share of the fastest do not compute unless they are asked to: a run waits for the slowest. A
/// Cortex-A55 has about 0.4 of the A76 beside it, the gold cores of a Kryo 0.85 of its prime.
pub(crate) const FAST: f64 = 0.5;

/// Where threads may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// sets of equally fast processors, the fastest first; none when the system does not say
    clusters: Vec<Vec<usize>>,
    /// threads that can run at once
    all: usize,
    /// of those on fast processors
    fast: usize,
}

impl Cores {
    /// Those of this process, now. `root` is the file system's, for tests another.
    #[must_use]
    pub fn here(root: &Path) -> Self {
        let mut cpus: Vec<(usize, u32)> = allowed(root)
            .into_iter()
            .map(|cpu| {
                let capacity = format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
                (
                    cpu,
                    kernel_files::number(&root.join(capacity)).unwrap_or(1024),
                )
            })
            .collect();
        cpus.sort_by_key(|&(cpu, capacity)| (std::cmp::Reverse(capacity), cpu));
        let mut clusters: Vec<(u32, Vec<usize>)> = Vec::new();
        for (cpu, capacity) in cpus {
            match clusters.last_mut() {
                Some((first, alike)) if share(capacity, *first) >= ALIKE => alike.push(cpu),
                _ => clusters.push((capacity, vec![cpu])),
            }
        }
        let most = quota(root).unwrap_or(THREADS_MAX).min(THREADS_MAX);
        if clusters.is_empty() {
            let all = std::thread::available_parallelism().map_or(1, usize::from);
            let all = all.min(most);
            return Self {
                clusters: Vec::new(),
                all,
                fast: all,
            };
        }
        let fastest = clusters[0].0;
        let count = |least: f64| -> usize {
            let of = clusters.iter().filter(|(c, _)| share(*c, fastest) >= least);
            of.map(|(_, cpus)| cpus.len()).sum::<usize>().min(most)
        };
        Self {
            all: count(0.0),
            fast: count(FAST),
            clusters: clusters.into_iter().map(|(_, cpus)| cpus).collect(),
        }
    }

    /// Threads that can run at once.
    #[must_use]
    pub fn all(&self) -> usize {
        self.all
    }

    /// Threads that can run at once on fast processors: as many compute when nobody says how many.
    #[must_use]
    pub fn fast(&self) -> usize {
        self.fast
    }

    /// For each of so many threads the processors it is held to: the fastest cluster first, a whole cluster each, so that
    /// one that another process keeps busy can be left for a sibling. Empty where all processors are alike.
    #[must_use]
    pub fn places(&self, threads: usize) -> Vec<Vec<usize>> {
        if self.clusters.len() < 2 {
            return Vec::new();
        }
        let of_each = self.clusters.iter();
        of_each
            .flat_map(|cluster| cluster.iter().map(move |_| cluster.clone()))
            .take(threads)
            .collect()
    }
}

fn share(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole.max(1))
}

/// The processors of the affinity mask: `0-3,6`.
fn allowed(root: &Path) -> Vec<usize> {
    let list = kernel_files::field(&root.join("proc/self/status"), "Cpus_allowed_list");
    let mut cpus = Vec::new();
    for range in list.unwrap_or_default().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend((first..=last).take_while(|cpu| *cpu < CPUS_MAX));
        }
    }
    cpus
}

/// Whole processors' worth of time that the control groups leave: a thread more than that would make the others wait for it
/// at every step.
fn quota(root: &Path) -> Option<usize> {
    let v2 = kernel_files::cgroups(root, "cpu", "cpu.max", "cpu.cfs_quota_us");
    let quotas = v2.into_iter().filter_map(|(group, text)| {
        let mut numbers = text.split_whitespace();
        // `max` of version 2 and `-1` of version 1 are no numbers, and no limits
        let quota: u64 = numbers.next()?.parse().ok()?;
        let period = match numbers.next() {
            Some(period) => period.parse().ok()?,
            None => kernel_files::number::<u64>(&group.join("cpu.cfs_period_us"))?,
        };
        usize::try_from(quota.checked_div(period)?).ok()
    });
    quotas.min().map(|whole| whole.max(1))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use crate::machine::kernel_files::tests::tree;

    /// Processors of these capacities, of which those of the list are allowed.
    fn cores(list: &str, capacities: &[u32], more: &[(&str, &str)]) -> Cores {
        let status = format!("Name:\tx\nCpus_allowed_list:\t{list}\n");
        let capacity: Vec<(String, String)> = (0..)
            .zip(capacities)
            .map(|(cpu, c)| {
                let path = format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
                (path, format!("{c}\n"))
            })
            .collect();
        let mut files = vec![("proc/self/status", status.as_str())];
        files.extend(capacity.iter().map(|(p, t)| (p.as_str(), t.as_str())));
        files.extend(more);
        Cores::here(tree(&files).path())
    }

    #[test]
    fn the_fastest_cluster_comes_first() {
        // RK3588: four A55, two clusters of two A76
        let rk3588 = cores("0-7", &[414, 414, 414, 414, 1024, 1024, 1008, 1008], &[]);
        assert_eq!((rk3588.all(), rk3588.fast()), (8, 4));
        let (big, little) = (vec![4, 5, 6, 7], vec![0, 1, 2, 3]);
        assert_eq!(rk3588.places(2), [big.clone(), big.clone()]);
        let all = rk3588.places(99);
        assert_eq!((all.len(), &all[3], &all[4]), (8, &big, &little));
        // SA8155P: four silver, three gold, one prime
        let kryo = cores("0-7", &[400, 400, 400, 400, 870, 870, 870, 1024], &[]);
        assert_eq!((kryo.all(), kryo.fast()), (8, 4));
        assert_eq!(kryo.places(2), [vec![7], vec![4, 5, 6]]);
    }

    #[test]
    fn where_all_are_alike_the_system_places() {
        for capacities in [&[][..], &[1024; 4]] {
            let pi = cores("0-3", capacities, &[]);
            assert_eq!((pi.all(), pi.fast()), (4, 4));
            assert!(pi.places(4).is_empty());
        }
    }

    #[test]
    fn only_what_is_allowed_counts() {
        let capacities = [414, 414, 414, 414, 1024, 1024, 1008, 1008];
        // a cpuset, or taskset: two of each kind
        let some = cores("2-3,6-7", &capacities, &[]);
        assert_eq!((some.all(), some.fast()), (4, 2));
        assert_eq!(some.places(3), [vec![6, 7], vec![6, 7], vec![2, 3]]);
        let slow = cores("1", &capacities, &[]);
        assert_eq!((slow.all(), slow.fast(), slow.places(1).len()), (1, 1, 0));
        let far = cores("1000-5000", &[], &[]);
        assert_eq!(far.all(), CPUS_MAX - 1000);
        assert_eq!(cores("0-999", &[], &[]).all(), THREADS_MAX);
    }

    #[test]
    fn a_quota_bounds_the_threads() {
        let v2 = |own, above| {
            let files = [
                ("proc/self/cgroup", "0::/a/b\n"),
                ("sys/fs/cgroup/a/b/cpu.max", own),
                ("sys/fs/cgroup/a/cpu.max", above),
            ];
            let cores = cores("0-7", &[1024; 8], &files);
            assert_eq!(cores.fast(), cores.all());
            cores.all()
        };
        assert_eq!(v2("max 100000\n", "max 100000\n"), 8);
        assert_eq!(v2("250000 100000\n", "max 100000\n"), 2);
        assert_eq!(v2("max 100000\n", "50000 100000\n"), 1);
        assert_eq!(v2("nonsense", "300000 0"), 8);
        let v1 = |quota| {
            let files = [
                ("proc/self/cgroup", "3:cpu,cpuacct:/x\n"),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_quota_us", quota),
                ("sys/fs/cgroup/cpu/x/cpu.cfs_period_us", "50000\n"),
            ];
            cores("0-7", &[1024; 8], &files).all()
        };
        assert_eq!((v1("-1\n"), v1("150000\n")), (8, 3));
    }

    #[test]
    fn this_machine_has_one_at_least() {
        let here = Cores::here(Path::new("/"));
        assert!((1..=here.all()).contains(&here.fast()), "{here:?}");
        let unsaid = Cores::here(tree(&[]).path());
        assert!(unsaid.all() >= 1 && unsaid.places(4).is_empty());
    }
}
