//! Files of conversations: torn, flipped, forged. F7 to F9.

use crate::common::{no_panic, stats};
use crate::table::{Outcome, Row, Run, Tally};
use crate::vault::{Vault, files, had, small, table, turn, verb, world};
use glowplug_tests::SplitMix;
use glowplug_tests::world::client::Version;
use std::time::Duration;

pub(crate) const ROWS: [Row; 3] = [
    Row {
        name: "F7",
        fault: "SIGKILL while a conversation is written",
        asked: "the old one or the new one, never mixed; nothing half written stays",
        run: killed,
    },
    Row {
        name: "F8",
        fault: "files of conversations are cut, and bits flip in them",
        asked: "each goes on as it was, or begins anew",
        run: damaged,
    },
    Row {
        name: "F9",
        fault: "files of conversations are forged, with sound checksums",
        asked: "no panic, memory within the budget, others' conversations are as they were",
        run: forged,
    },
];

/// What a kill leaves beside the file: the part that was written so far.
fn part(path: &std::path::Path) -> std::path::PathBuf {
    let name = path.file_name().unwrap().to_str().unwrap();
    path.with_file_name(format!("~{name}"))
}

fn killed(run: &Run, tally: &Tally) -> Outcome {
    let kills = real_kills(run, tally);
    // and every byte after which one could come, many conversations at a time
    let mut vault = Vault::new(run.of(100, 500));
    let mut random = SplitMix::new(run.seed, "F7");
    let (points, sessions) = (run.of(200, 10_000), vault.saved.len());
    for _ in 0..points.div_ceil(sessions) {
        let mut renamed = vec![false; sessions];
        let found = vault.round(|n, saved| {
            let at = random.below(saved.new.len() + 2);
            renamed[n] = at > saved.new.len();
            if renamed[n] {
                std::fs::write(&saved.path, &saved.new).unwrap();
            } else {
                std::fs::write(&saved.path, &saved.old).unwrap();
                std::fs::write(part(&saved.path), &saved.new[..at]).unwrap();
            }
        });
        for (n, found) in found.into_iter().enumerate() {
            let right = 1 + usize::from(renamed[n]);
            tally.check(found.as_ref().is_ok_and(|turns| *turns == right), || {
                format!("of {right} turns: {found:?}")
            });
        }
        let left = files(&vault.dir)
            .into_iter()
            .filter(|path| path.file_name().unwrap().to_string_lossy().starts_with('~'));
        let left = left.count();
        if left > 0 {
            tally.fell_short(format!("{left} half written files stay"));
        }
    }
    Ok(format!(
        "{kills} kills of a daemon that writes, the rest by what they leave"
    ))
}

fn real_kills(run: &Run, tally: &Tally) -> usize {
    const TURNS: usize = 12;
    let (mut world, _) = world(&small(), |folder| folder.join("sessions"));
    let mut client = world.client(Version::V5, "c");
    let table = table(&mut client, TURNS);
    let mut random = SplitMix::new(run.seed, "F7 kills");
    // turns in the file, turns there are
    let (mut saved, mut turns) = (0, 0);
    let kills = run.of(20, 400);
    for n in 0..kills {
        if turns + 2 >= TURNS {
            verb(&mut client, "s", "drop");
            (saved, turns) = (0, 0);
        }
        turn(&mut client, "s", &format!("a{n}"));
        turns += 1;
        client.publish(&glowplug_tests::world::client::Message::new(
            glowplug_tests::world::topic("session/c/s/save"),
            "",
        ));
        std::thread::sleep(Duration::from_micros(random.below(4000) as u64));
        world.kill_and_restart();
        client = world.client(Version::V5, "c");
        let end = turn(&mut client, "s", &format!("b{n}"));
        let had = had(&table, &end);
        // it saves by itself too, when it has nothing else to do
        let right = had.is_some_and(|had| (saved..=turns).contains(&had));
        tally.check(right, || {
            format!("{saved} turns were saved, {turns} were being: {end}")
        });
        saved = had.unwrap_or(0);
        turns = saved + 1;
    }
    kills
}

fn damaged(run: &Run, tally: &Tally) -> Outcome {
    let mut vault = Vault::new(run.of(100, 500));
    let sessions = vault.saved.len();
    let length = vault.saved.iter().map(|s| s.old.len()).min().unwrap();
    let mut random = SplitMix::new(run.seed, "F8");
    // every cut and every bit, or as many drawn
    let every = length * 9;
    let points = run.of(300, every);
    let mut cold = 0;
    for begin in (0..points).step_by(sessions) {
        let mut what = vec![String::new(); sessions];
        let found = vault.round(|n, saved| {
            let point = if points == every {
                (begin + n) % every
            } else {
                random.below(every)
            };
            let mut bytes = saved.old.clone();
            if point < length {
                bytes.truncate(point);
                what[n] = format!("cut at {point}");
            } else {
                let (at, bit) = ((point - length) / 8, (point - length) % 8);
                bytes[at] ^= 1 << bit;
                what[n] = format!("bit {bit} of byte {at}");
            }
            std::fs::write(&saved.path, bytes).unwrap();
        });
        for (found, what) in found.into_iter().zip(what) {
            cold += u64::from(found == Ok(0));
            tally.check(matches!(found, Ok(0 | 1)), || format!("{what}: {found:?}"));
        }
        no_panic(&mut vault.world, tally);
    }
    Ok(format!(
        "files of {length} bytes; {cold} began anew, the others went on"
    ))
}

/// Offsets of a session's file: what belongs to what is in `model/src/kv/snapshot.rs`.
const VERSION: usize = 8;
const PAGE_BYTES: usize = 44;
const COUNTS: usize = 52;
const FIXED: usize = 64;

fn number(bytes: &[u8], at: usize) -> usize {
    u32::from_le_bytes(bytes[at..at + 4].try_into().unwrap()) as usize
}

/// A session's file whose header says something else, and whose checksums hold.
fn forge(bytes: &[u8], random: &mut SplitMix) -> (String, Vec<u8>) {
    let (pages, tokens) = (number(bytes, COUNTS), number(bytes, COUNTS + 4));
    let header = FIXED + tokens * 4 + number(bytes, COUNTS + 8);
    let page = (bytes.len() - header - 4) / pages.max(1) - 4;
    let mut head = bytes[..header].to_vec();
    let mut bodies: Vec<Vec<u8>> = (0..pages)
        .map(|n| {
            let at = header + 4 + n * (page + 4);
            bytes[at..at + page].to_vec()
        })
        .collect();
    let wild = [0, 1, 0x7fff_ffff, u32::MAX, 1 << 20, tokens as u32 + 1];
    let wild = wild[random.below(wild.len())].to_le_bytes();
    let note = FIXED + tokens * 4;
    let what = match random.below(8) {
        0 => {
            let at = [VERSION, PAGE_BYTES, COUNTS, COUNTS + 4, COUNTS + 8][random.below(5)];
            head[at..at + 4].copy_from_slice(&wild);
            format!("the number at {at}")
        }
        1 => {
            let at = FIXED + 4 * random.below(tokens);
            head[at..at + 4].copy_from_slice(&wild);
            "a token".to_owned()
        }
        2 => {
            let at = note + random.below(header - note);
            head[at] = random.next_u64() as u8;
            "a byte of the text".to_owned()
        }
        3 => {
            let hostile = [
                r#"{"client":"c0","session":"s0","turns":18446744073709551615,"messages":[]}"#
                    .to_owned(),
                "[".repeat(100_000),
                format!(
                    r#"{{"messages":[{}]}}"#,
                    r#"{"role":"user","content":""},"#.repeat(20_000)
                ),
                String::new(),
            ];
            let text = &hostile[random.below(hostile.len())];
            head.truncate(note);
            head.extend(text.as_bytes());
            head[COUNTS + 8..FIXED].copy_from_slice(&(text.len() as u32).to_le_bytes());
            "the whole text".to_owned()
        }
        4 => {
            for body in &mut bodies {
                body.fill(0xff);
            }
            "pages of NaN".to_owned()
        }
        5 => {
            for body in &mut bodies {
                for byte in body {
                    *byte = random.next_u64() as u8;
                }
            }
            "pages at random".to_owned()
        }
        6 => {
            bodies.push(vec![0; page]);
            head[COUNTS..COUNTS + 4].copy_from_slice(&(bodies.len() as u32).to_le_bytes());
            "a page more".to_owned()
        }
        _ => {
            let at = random.below(header);
            head[at] = random.next_u64() as u8;
            format!("byte {at}")
        }
    };
    let crc = crc32fast::hash(&head);
    let mut forged = head;
    forged.extend(crc.to_le_bytes());
    for (n, body) in bodies.iter().enumerate() {
        let mut of = crc32fast::Hasher::new();
        of.update(&crc.to_le_bytes());
        of.update(&(n as u32).to_le_bytes());
        of.update(body);
        forged.extend(body);
        forged.extend(of.finalize().to_le_bytes());
    }
    (what, forged)
}

fn forged(run: &Run, tally: &Tally) -> Outcome {
    let mut vault = Vault::new(run.of(96, 480));
    let mut random = SplitMix::new(run.seed, "F9");
    let rounds = run.of(2, 20);
    for _ in 0..rounds {
        let mut whats = Vec::new();
        let found = vault.round(|n, saved| {
            // the odd ones belong to clients whose files nobody touched
            if n % 2 == 1 {
                std::fs::write(&saved.path, &saved.old).unwrap();
                whats.push("nothing".to_owned());
                return;
            }
            let (what, bytes) = forge(&saved.old, &mut random);
            std::fs::write(&saved.path, bytes).unwrap();
            whats.push(what);
        });
        for (n, (found, what)) in found.into_iter().zip(whats).enumerate() {
            // a forger who can write the folder may have written any text; the daemon must answer
            let right = n % 2 == 0 || found == Ok(1);
            tally.check(right, || format!("{what} was forged here: {found:?}"));
        }
        no_panic(&mut vault.world, tally);
        let bytes = stats(&mut vault.world.operator())["bytes"].clone();
        if bytes["peak"].as_u64() > bytes["budget"].as_u64() {
            tally.fell_short(format!("{bytes}"));
        }
    }
    Ok(format!(
        "{} files in {rounds} starts",
        rounds * vault.saved.len() / 2
    ))
}
