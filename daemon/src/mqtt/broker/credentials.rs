//! The embedded broker's passwords. The one for the owner's programs is made at the first start and kept in a file that
//! only they can read.

use std::io::{Read, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::path::{Path, PathBuf};

use glowplug_model::files;

use crate::hex::hex;
use crate::mqtt::Credentials;

/// The user of this machine's own programs.
pub const LOCAL_USER: &str = "local";
/// The daemon's own user. Its password is only in memory, and new at every start.
pub const DAEMON_USER: &str = "glowplug";
/// Most bytes of a password file that are read.
const PASSWORD_FILE_MAX: u64 = 1024;

/// Why there are no credentials.
#[derive(Debug, thiserror::Error)]
pub enum CredentialsError {
    #[error("{action} `{}`: {source}", path.display())]
    Io {
        action: &'static str,
        path: PathBuf,
        source: std::io::Error,
    },
    #[error("`{}` holds no password on its first line", path.display())]
    Empty { path: PathBuf },
    #[error("the system gives no random bytes: {0}")]
    Random(String),
}

/// Where the local user's password is.
#[must_use]
pub fn local_file(state_dir: &Path) -> PathBuf {
    state_dir.join("local-password")
}

/// The local user's credentials. They are made if they are not there: a file of mode 0600 in a folder of mode 0700.
pub fn local(state_dir: &Path) -> Result<Credentials, CredentialsError> {
    let path = local_file(state_dir);
    if path.exists() {
        sweep(state_dir);
    } else {
        files::make_private_folder(state_dir).map_err(|source| CredentialsError::Io {
            action: "cannot make",
            path: state_dir.to_owned(),
            source,
        })?;
        let password = random()?;
        let part = state_dir.join(format!("local-password.{password:.8}.part"));
        let write = || {
            let mut file = std::fs::OpenOptions::new()
                .write(true)
                .create_new(true)
                .mode(0o600)
                .open(&part)?;
            file.write_all(format!("{password}\n").as_bytes())?;
            file.sync_all()?;
            match std::fs::hard_link(&part, &path) {
                // unless another daemon of the same owner was faster
                Err(e) if !path.exists() => Err(e),
                _ => files::sync_folder(&path),
            }
        };
        let written = write();
        // a leftover part file holds a password that nobody uses
        let _ = std::fs::remove_file(&part);
        written.map_err(|source| CredentialsError::Io {
            action: "cannot write",
            path: path.clone(),
            source,
        })?;
    }
    read_local(state_dir)
}

/// Removes files that a killed process left half written. Nobody knows the passwords in them, and a process that writes
/// one at this moment finds afterwards that there is a password already.
fn sweep(state_dir: &Path) {
    let entries = std::fs::read_dir(state_dir).into_iter().flatten().flatten();
    for entry in entries {
        let name = entry.file_name();
        let name = name.to_string_lossy();
        if name.starts_with("local-password.") && name.ends_with(".part") {
            // the next start tries again
            let _ = std::fs::remove_file(entry.path());
        }
    }
}

/// The local user's credentials for a client on the command line: they must be there already.
pub fn read_local(state_dir: &Path) -> Result<Credentials, CredentialsError> {
    Ok(Credentials {
        username: LOCAL_USER.to_owned(),
        password: read_password(&local_file(state_dir))?,
    })
}

/// Makes the daemon's own credentials on its embedded broker.
pub fn daemon() -> Result<Credentials, CredentialsError> {
    Ok(Credentials {
        username: DAEMON_USER.to_owned(),
        password: random()?,
    })
}

/// Reads a password from the first line of a file.
pub fn read_password(path: &Path) -> Result<String, CredentialsError> {
    let io = |source| CredentialsError::Io {
        action: "cannot read",
        path: path.to_owned(),
        source,
    };
    let mut text = String::new();
    std::fs::File::open(path)
        .and_then(|f| f.take(PASSWORD_FILE_MAX).read_to_string(&mut text))
        .map_err(io)?;
    match text.lines().next() {
        Some(line) if !line.is_empty() => Ok(line.to_owned()),
        _ => Err(CredentialsError::Empty {
            path: path.to_owned(),
        }),
    }
}

/// 128 random bits in hexadecimal.
pub fn random() -> Result<String, CredentialsError> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).map_err(|e| CredentialsError::Random(e.to_string()))?;
    Ok(hex(&bytes))
}

/// Compares two passwords in a time that does not depend on where they differ.
pub(in crate::mqtt) fn same(a: &[u8], b: &[u8]) -> bool {
    a.len() == b.len() && a.iter().zip(b).fold(0, |diff, (x, y)| diff | (x ^ y)) == 0
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    #[test]
    fn the_password_is_made_once_and_only_its_owner_reads_it() {
        let dir = tempfile::tempdir().unwrap();
        let state = dir.path().join("a/b");
        assert!(read_local(&state).is_err());
        let first = local(&state).unwrap();
        assert_eq!(first.password.len(), 32);
        // as one that was killed leaves it
        let part = state.join("local-password.01234567.part");
        std::fs::write(&part, "half").unwrap();
        assert_eq!(local(&state).unwrap(), first);
        assert!(!part.exists());
        assert_eq!(read_local(&state).unwrap(), first);
        assert_eq!(
            std::fs::metadata(local_file(&state))
                .unwrap()
                .permissions()
                .mode()
                & 0o777,
            0o600
        );
        assert_eq!(
            std::fs::metadata(&state).unwrap().permissions().mode() & 0o777,
            0o700
        );
        let other = local(&dir.path().join("c")).unwrap();
        assert_ne!(other.password, first.password);
    }

    #[test]
    fn an_empty_or_endless_file_is_refused_or_cut() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("p");
        std::fs::write(&path, "\nsecond").unwrap();
        assert!(matches!(
            read_password(&path),
            Err(CredentialsError::Empty { .. })
        ));
        std::fs::write(&path, "x".repeat(5000)).unwrap();
        assert_eq!(read_password(&path).unwrap().len(), 1024);
    }

    #[test]
    fn comparison_is_exact() {
        assert!(same(b"abc", b"abc"));
        assert!(!same(b"abc", b"abd") && !same(b"abc", b"ab") && !same(b"", b"a"));
    }

    #[test]
    fn a_password_is_never_printed() {
        assert!(
            !format!(
                "{:?}",
                Credentials {
                    username: "u".into(),
                    password: "secret".into()
                }
            )
            .contains("secret")
        );
    }
}
