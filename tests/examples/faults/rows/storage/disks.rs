//! Disks that are full, read only, or fail: F11 to F13.

use crate::common::{comes, no_panic, rest, stop, under};
use crate::table::{NotRun, Outcome, Row, Run, Tally};
use crate::vault::{files, small, turn, verb, world};
use glowplug_tests::SplitMix;
use glowplug_tests::world::World;
use glowplug_tests::world::client::{PATIENCE, Version};
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

pub(crate) const ROWS: [Row; 3] = [
    Row {
        name: "F11",
        fault: "the disk is full",
        asked: "answers go on, a save is refused in words, works when there is room, nothing half written stays",
        run: full,
    },
    Row {
        name: "F12",
        fault: "the disk becomes read only",
        asked: "full service but for saves, a warning and not one for each request; it starts so too",
        run: read_only,
    },
    Row {
        name: "F13",
        fault: "each system call on a conversation's file fails in turn",
        asked: "saved, or refused in words; the next save works; no panic",
        run: errors,
    },
];

/// A disk of so many KiB in memory, mounted until it is dropped.
struct Disk(PathBuf);

impl Disk {
    fn mount(at: &Path, kib: usize) -> Result<Self, NotRun> {
        std::fs::create_dir_all(at).unwrap();
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={kib}k"), "faults"])
            .arg(at)
            .stderr(Stdio::null())
            .status();
        if mounted.is_ok_and(|mounted| mounted.success()) {
            Ok(Self(at.to_owned()))
        } else {
            Err(NotRun("nothing can be mounted".to_owned()))
        }
    }

    fn remount(&self, how: &str) -> Result<(), NotRun> {
        let done = Command::new("mount")
            .args(["-o", &format!("remount,{how}")])
            .arg(&self.0)
            .status();
        let done = done.is_ok_and(|done| done.success());
        done.then_some(())
            .ok_or_else(|| NotRun(format!("it cannot be mounted again, {how}")))
    }
}

impl Drop for Disk {
    fn drop(&mut self) {
        // also while somebody has a file of it open
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A world whose conversations are on a disk of their own.
fn on_disk() -> Result<(World, PathBuf, Disk), NotRun> {
    let mut disk = None;
    let (world, dir) = world(&small(), |folder| {
        let at = folder.join("disk");
        disk = Some(Disk::mount(&at, 1024));
        at.join("sessions")
    });
    let disk = disk.unwrap()?;
    Ok((world, dir, disk))
}

fn half_written(dir: &Path) -> Vec<PathBuf> {
    let mut files = files(dir);
    files.retain(|path| {
        path.extension().is_none_or(|e| e != "session") || {
            let name = path.file_name().unwrap().to_string_lossy();
            name.starts_with(['~', '.'])
        }
    });
    files
}

fn full(run: &Run, tally: &Tally) -> Outcome {
    let (mut world, dir, disk) = on_disk()?;
    let mut client = world.client(Version::V5, "c");
    let mut random = SplitMix::new(run.seed, "F11");
    let filler = disk.0.join("filler");
    let mut refused = 0;
    for n in 0..run.of(20, 500) {
        tally.injected(1);
        let session = format!("s{}", n % 7);
        turn(&mut client, &session, &format!("a{n}"));
        // until there is no byte left, then a few pages of 4 KiB
        let mut bytes = 1 << 20;
        while std::fs::write(&filler, vec![1; bytes]).is_err() {
            bytes -= 4096;
        }
        let left = random.below(3) * 4096;
        std::fs::write(&filler, vec![1; bytes.saturating_sub(left)]).unwrap();
        let end = turn(&mut client, &session, &format!("b{n}"));
        let answered = end["choices"][0]["finish_reason"] == "length";
        let save = verb(&mut client, &session, "save");
        refused += usize::from(save["ok"] != true);
        let parts = half_written(&dir);
        std::fs::remove_file(&filler).unwrap();
        let again = verb(&mut client, &session, "save");
        if answered && in_words(&save) && parts.is_empty() && again["ok"] == true {
            tally.survived(1);
        } else {
            tally.fell_short(format!("{end}; {save}; left {parts:?}; then {again}"));
        }
        verb(&mut client, &session, "drop");
    }
    stop(&mut world);
    Ok(format!("{refused} saves were refused"))
}

/// Done, or refused with a code and words without a path.
fn in_words(answer: &Value) -> bool {
    let message = answer["error"]["message"].as_str().unwrap_or_default();
    answer["ok"] == true || (answer["error"]["code"].is_string() && !message.contains('/'))
}

fn read_only(run: &Run, tally: &Tally) -> Outcome {
    let (mut world, dir, disk) = on_disk()?;
    let mut client = world.client(Version::V5, "c");
    turn(&mut client, "s", "first");
    let saved = verb(&mut client, "s", "save");
    assert_eq!(saved["ok"], true, "{saved}");
    disk.remount("ro")?;
    let warned = |world: &mut World| {
        let said = world.daemon.said();
        said.lines().filter(|line| line.contains("WARN")).count()
    };
    let before = warned(&mut world);
    let rounds = run.of(20, 500);
    for n in 0..rounds {
        let end = turn(&mut client, &format!("s{}", n % 10), &format!("ro{n}"));
        tally.check(end["choices"][0]["finish_reason"] == "length", || {
            end.to_string()
        });
    }
    let save = verb(&mut client, "s", "save");
    tally.check(save["ok"] != true && in_words(&save), || save.to_string());
    let warnings = warned(&mut world) - before;
    tally.check(warnings < 5, || format!("{warnings} warnings"));
    // and it starts so: from files that it can read, and where it can make no folder
    for lost in [false, true] {
        stop(&mut world);
        if lost {
            disk.remount("rw")?;
            std::fs::remove_dir_all(&dir).unwrap();
            disk.remount("ro")?;
        }
        under(&mut world, &["env"], &[]);
        if !comes(&mut world) {
            tally.check(false, || {
                format!("it does not start: {}", world.daemon.said())
            });
            return Ok(format!("{warnings} warnings"));
        }
        let mut client = world.client(Version::V5, "c");
        let end = turn(&mut client, "s", &format!("start{lost}"));
        tally.check(end["choices"][0]["finish_reason"] == "length", || {
            end.to_string()
        });
    }
    world.daemon.signal("TERM");
    let code = world.daemon.ended().code();
    tally.check(code == Some(0), || {
        format!("exit code {code:?}: {}", world.daemon.said())
    });
    Ok(format!("{warnings} warnings in {rounds} turns and a save"))
}

/// Makes a system call of a daemon on these paths fail, the N-th time, until it is dropped.
struct Failing(Child);

impl Failing {
    fn attach(
        pid: u32,
        call: &str,
        error: &str,
        nth: usize,
        paths: &[PathBuf],
    ) -> Result<Self, NotRun> {
        let mut strace = Command::new("strace");
        strace
            .args([
                "-f",
                "-q",
                "-o",
                "/dev/null",
                "-e",
                &format!("trace={call}"),
            ])
            .args(["-e", &format!("inject={call}:error={error}:when={nth}")])
            .args(["-p", &pid.to_string()]);
        for path in paths {
            strace.arg("-P").arg(path);
        }
        let child = strace.stdin(Stdio::null()).stderr(Stdio::null()).spawn();
        let child = child.map_err(|_| NotRun("`apt-get install strace`".to_owned()))?;
        let failing = Self(child);
        // all threads are traced when the last one is
        let until = Instant::now() + PATIENCE;
        while !traced(pid) {
            assert!(Instant::now() < until, "strace does not attach");
            std::thread::sleep(Duration::from_millis(1));
        }
        Ok(failing)
    }
}

fn traced(pid: u32) -> bool {
    let threads = std::fs::read_dir(format!("/proc/{pid}/task")).unwrap();
    threads.flatten().all(|thread| {
        let status = std::fs::read_to_string(thread.path().join("status")).unwrap_or_default();
        !status.contains("TracerPid:\t0\n")
    })
}

impl Drop for Failing {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

fn errors(run: &Run, tally: &Tally) -> Outcome {
    let (mut world, dir) = world(&small(), |folder| folder.join("sessions"));
    let mut client = world.client(Version::V5, "c");
    turn(&mut client, "s", "first");
    assert_eq!(verb(&mut client, "s", "save")["ok"], true);
    let file = files(&dir).pop().unwrap();
    let name = file.file_name().unwrap().to_str().unwrap();
    let paths = [
        dir.clone(),
        file.clone(),
        dir.join(format!("~{name}")),
        dir.join(format!("{name}.part")),
    ];
    let (mut refused, mut n) = (0, 0);
    let times = run.of(3, 12);
    for (calls, errors) in [
        ("openat", &["EIO", "ENOSPC", "EMFILE"][..]),
        ("write", &["EIO", "ENOSPC", "EINTR"]),
        ("fsync", &["EIO", "EINTR"]),
        ("rename,renameat,renameat2", &["EIO", "ENOSPC"]),
        ("ftruncate,fdatasync,close", &["EIO"]),
    ] {
        for error in errors {
            for nth in 1..=times {
                n += 1;
                tally.injected(1);
                let end = turn(&mut client, "s", &format!("turn{n}"));
                let failing = Failing::attach(world.daemon.pid(), calls, error, nth, &paths)?;
                let save = verb(&mut client, "s", "save");
                drop(failing);
                refused += usize::from(save["ok"] != true);
                let again = verb(&mut client, "s", "save");
                let parts = half_written(&dir);
                let answered = end["choices"][0]["finish_reason"] == "length";
                if answered && in_words(&save) && again["ok"] == true && parts.is_empty() {
                    tally.survived(1);
                } else {
                    tally.fell_short(format!(
                        "{error} of {calls} {nth}: {save}; then {again}, left {parts:?}; {end}"
                    ));
                }
                // before the context is full
                if n % 10 == 0 {
                    verb(&mut client, "s", "drop");
                }
            }
        }
    }
    rest(&world);
    no_panic(&mut world, tally);
    Ok(format!("{refused} saves were refused"))
}
