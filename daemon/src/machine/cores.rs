//! The processors that this process may use: its affinity mask (which includes cpusets), the CPU quota of its control
//! groups, and which processors are the fast ones.

use std::path::Path;

use glowplug_firmware_config::limits::THREADS_MAX;

use super::kernel_files;

/// Most processors that are looked at; the kernel's own mask is as long.
const CPUS_MAX: usize = 1024;
/// Processors whose speed is within this share of a cluster's fastest belong to it: two clusters of the same cores
/// often have slightly different clocks.
const ALIKE: f64 = 0.9;
/// Processors below this share of the fastest do not compute unless the configuration says so, because all threads wait
/// for the slowest. A Cortex-A55 has about 0.4 of the A76 beside it, the gold cores of a Kryo 0.85 of its prime.
pub(crate) const FAST: f64 = 0.5;
/// The speed of Intel's small cores, in the units of `cpu_capacity`, which x86 does not tell: about 0.6 of the large ones beside
/// them.
const SMALL: u32 = 614;

/// The processors on which threads may run.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cores {
    /// Sets of equally fast processors, the fastest first. Empty when the system does not say.
    clusters: Vec<Vec<usize>>,
    /// How many threads can run at once.
    all: usize,
    /// How many of them run on fast processors.
    fast: usize,
}

impl Cores {
    /// Reads those of this process as they are now. Tests give another `root` of the file system.
    #[must_use]
    pub fn here(root: &Path) -> Self {
        let status = root.join("proc/self/status");
        let allowed = kernel_files::field(&status, "Cpus_allowed_list").unwrap_or_default();
        // of processors with two kinds of cores, the kernel has the small ones in a list of their own
        let small = kernel_files::text(&root.join("sys/devices/cpu_atom/cpus"));
        let small = listed(&small.unwrap_or_default());
        let mut cpus: Vec<(usize, u32)> = listed(&allowed)
            .into_iter()
            .map(|cpu| {
                let capacity = format!("sys/devices/system/cpu/cpu{cpu}/cpu_capacity");
                let told = kernel_files::number(&root.join(capacity));
                let otherwise = if small.contains(&cpu) { SMALL } else { 1024 };
                (cpu, told.unwrap_or(otherwise))
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

    /// How many threads can run at once.
    #[must_use]
    pub fn all(&self) -> usize {
        self.all
    }

    /// How many threads the fastest cluster can run at once, that and the next one, and so on.
    pub fn up_to_each_cluster(&self) -> impl Iterator<Item = usize> {
        let sizes = self.clusters.iter().map(Vec::len);
        let up_to = sizes.scan(0, |sum, size| {
            *sum += size;
            Some(*sum)
        });
        up_to.take_while(|sum| *sum <= self.all)
    }

    /// How many threads can run at once on fast processors. So many compute when the configuration does not say.
    #[must_use]
    pub fn fast(&self) -> usize {
        self.fast
    }

    /// The processors that each of so many threads is held to. The fastest cluster comes first. Where there are fewer threads
    /// than processors in a cluster, each gets the whole cluster, so that it can leave a processor that another process keeps
    /// busy. Where there are as many, each gets its own: there is nothing to leave for, and the system would have two of them
    /// share a processor for long, because beside a busy neighbour three are to be divided among two. Empty if the system may
    /// place all of them.
    #[must_use]
    pub fn places(&self, threads: usize) -> Vec<Vec<usize>> {
        let (mut places, mut left) = (Vec::new(), threads);
        for cluster in &self.clusters {
            let here = cluster.len().min(left);
            left -= here;
            if here < cluster.len() {
                places.extend(vec![cluster.clone(); here]);
            } else {
                places.extend(cluster.iter().map(|cpu| vec![*cpu]));
            }
        }
        if self.clusters.len() == 1 && threads < self.clusters[0].len() {
            places.clear();
        }
        places
    }
}

fn share(part: u32, whole: u32) -> f64 {
    f64::from(part) / f64::from(whole.max(1))
}

/// Reads a list of processors, such as `0-3,6`.
fn listed(list: &str) -> Vec<usize> {
    let mut cpus = Vec::new();
    for range in list.trim().split(',') {
        let (first, last) = range.split_once('-').unwrap_or((range, range));
        if let (Ok(first), Ok(last)) = (first.parse::<usize>(), last.parse::<usize>()) {
            cpus.extend((first..=last).take_while(|cpu| *cpu < CPUS_MAX));
        }
    }
    cpus
}

/// How many whole processors the quota of the control groups is worth. One thread more would make the others wait for
/// it at every step.
fn quota(root: &Path) -> Option<usize> {
    let v2 = kernel_files::cgroups(root, "cpu", "cpu.max", "cpu.cfs_quota_us");
    let quotas = v2.into_iter().filter_map(|(group, text)| {
        let mut numbers = text.split_whitespace();
        // `max` in version 2 and `-1` in version 1 are no numbers, and mean no limit
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
        assert_eq!(rk3588.places(2), [big.clone(), big]);
        // one more than a cluster has: its own processor for each but the last
        assert_eq!(rk3588.places(5)[3..], [vec![7], little]);
        let own: Vec<_> = [4, 5, 6, 7, 0, 1, 2, 3].map(|cpu| vec![cpu]).to_vec();
        assert_eq!((rk3588.places(8), rk3588.places(99)), (own.clone(), own));
        // SA8155P: four silver, three gold, one prime
        let kryo = cores("0-7", &[400, 400, 400, 400, 870, 870, 870, 1024], &[]);
        assert_eq!((kryo.all(), kryo.fast()), (8, 4));
        assert_eq!(kryo.places(2), [vec![7], vec![4, 5, 6]]);
    }

    #[test]
    fn where_all_are_alike_the_system_places_fewer_threads_than_processors() {
        for capacities in [&[][..], &[1024; 4]] {
            let pi = cores("0-3", capacities, &[]);
            assert_eq!((pi.all(), pi.fast()), (4, 4));
            assert!(pi.places(3).is_empty());
            assert_eq!(pi.places(4), [[0], [1], [2], [3]]);
        }
    }

    #[test]
    fn only_what_is_allowed_counts() {
        let capacities = [414, 414, 414, 414, 1024, 1024, 1008, 1008];
        // a cpuset, or taskset: two of each kind
        let some = cores("2-3,6-7", &capacities, &[]);
        assert_eq!((some.all(), some.fast()), (4, 2));
        assert_eq!(some.places(3), [vec![6], vec![7], vec![2, 3]]);
        let slow = cores("1", &capacities, &[]);
        assert_eq!(
            (slow.all(), slow.fast(), slow.places(1)),
            (1, 1, vec![vec![1]])
        );
        let far = cores("1000-5000", &[], &[]);
        assert_eq!(far.all(), CPUS_MAX - 1000);
        assert_eq!(cores("0-999", &[], &[]).all(), THREADS_MAX);
    }

    #[test]
    fn small_cores_of_intel_are_a_cluster_behind_the_large_ones() {
        let core = cores("0-15", &[], &[("sys/devices/cpu_atom/cpus", "8-15\n")]);
        assert_eq!((core.all(), core.fast()), (16, 16));
        assert_eq!(core.up_to_each_cluster().collect::<Vec<_>>(), [8, 16]);
        assert_eq!(core.places(9)[7..], [vec![7], (8..16).collect()]);
        // all are small: alike
        let n100 = cores("0-3", &[], &[("sys/devices/cpu_atom/cpus", "0-3\n")]);
        assert_eq!(n100.up_to_each_cluster().collect::<Vec<_>>(), [4]);
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
