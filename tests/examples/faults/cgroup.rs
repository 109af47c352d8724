//! A control group of memory, of version 1 or 2, where this machine lets us make one.

use crate::table::NotRun;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

/// A group with a limit, empty until a program is started in it. Removed when it is dropped.
pub(crate) struct Cgroup {
    folder: PathBuf,
    v2: bool,
    procs: String,
}

impl Cgroup {
    /// With so many bytes at most.
    pub(crate) fn new(bytes: u64) -> Result<Self, NotRun> {
        static NEXT: AtomicU32 = AtomicU32::new(0);
        let n = NEXT.fetch_add(1, Ordering::Relaxed);
        let name = format!("glowplug-faults-{}-{n}", std::process::id());
        let root = Path::new("/sys/fs/cgroup");
        let v1 = root.join("memory/memory.limit_in_bytes").exists();
        let (folder, file) = if v1 {
            (root.join("memory").join(name), "memory.limit_in_bytes")
        } else {
            (root.join(name), "memory.max")
        };
        let limit = || {
            fs::create_dir(&folder)?;
            fs::write(folder.join(file), bytes.to_string())
        };
        if let Err(error) = limit() {
            let _ = fs::remove_dir(&folder);
            return Err(NotRun(format!("no control group can be made: {error}")));
        }
        Ok(Self {
            procs: folder.join("cgroup.procs").display().to_string(),
            folder,
            v2: !v1,
        })
    }

    /// What starts a program in this group.
    pub(crate) fn wrapper(&self) -> [&str; 4] {
        ["sh", "-c", "echo $$ > \"$0\" && exec \"$@\"", &self.procs]
    }

    /// Bytes that are the processes' own or mapped by them: not what the kernel keeps of files and can give back.
    pub(crate) fn anonymous(&self) -> u64 {
        let stat = fs::read_to_string(self.folder.join("memory.stat")).unwrap_or_default();
        let names: &[&str] = if self.v2 {
            &["anon ", "file_mapped "]
        } else {
            &["rss ", "mapped_file "]
        };
        let field = |name: &&str| -> u64 {
            let value = stat.lines().find_map(|line| line.strip_prefix(*name));
            value.and_then(|v| v.parse().ok()).unwrap_or(0)
        };
        names.iter().map(field).sum()
    }

    /// How many were killed for want of memory in this group.
    pub(crate) fn kills(&self) -> u64 {
        let file = if self.v2 {
            "memory.events"
        } else {
            "memory.oom_control"
        };
        let text = fs::read_to_string(self.folder.join(file)).unwrap_or_default();
        let value = text.lines().find_map(|line| line.strip_prefix("oom_kill "));
        value.and_then(|v| v.parse().ok()).unwrap_or(0)
    }
}

impl Drop for Cgroup {
    fn drop(&mut self) {
        // while a process is in it, it stays: an empty folder of the kernel's
        let _ = fs::remove_dir(&self.folder);
    }
}
