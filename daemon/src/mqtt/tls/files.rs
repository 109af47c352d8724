//! The files of TLS: certificates and keys in PEM, read whole each time that they are needed.

use std::fs::File;
use std::io;
use std::path::{Path, PathBuf};

use tokio_rustls::rustls::RootCertStore;
use tokio_rustls::rustls::pki_types::pem::{self, PemObject};
use tokio_rustls::rustls::pki_types::{CertificateDer, PrivateKeyDer};

use crate::config::Identity;
use crate::files::{self, Stamp};

/// Most bytes of one file: the authorities of a whole system take a quarter of it.
const FILE_MAX: usize = 1 << 20;

/// A file, and the configuration key that names it.
#[derive(Debug, Clone, Copy)]
pub(super) struct Named<'a> {
    pub(super) key: &'static str,
    pub(super) path: &'a Path,
}

/// What is wrong with a file, in a sentence that names it.
#[derive(Debug, thiserror::Error)]
pub enum FileError {
    #[error("cannot read `{}` (`{key}`): {source}", path.display())]
    Read {
        path: PathBuf,
        key: &'static str,
        source: io::Error,
    },
    #[error("`{}` (`{key}`) holds {what}", path.display())]
    Content {
        path: PathBuf,
        key: &'static str,
        what: String,
    },
    #[error(
        "the private key in `{}` (`{key_key}`) is not the key of the certificate in `{}` (`{cert_key}`)",
        key_file.display(), cert_file.display()
    )]
    Mismatch {
        cert_file: PathBuf,
        cert_key: &'static str,
        key_file: PathBuf,
        key_key: &'static str,
    },
    #[error(
        "this system has no authorities that it trusts: name the file of the broker's in `mqtt.ca_file`"
    )]
    NoAuthorities,
    #[error("TLS cannot be used here: {0}")]
    Unusable(#[from] tokio_rustls::rustls::Error),
}

impl Named<'_> {
    fn text(self) -> Result<String, FileError> {
        let read = File::open(self.path).and_then(|file| files::text(self.path, &file, FILE_MAX));
        read.map_err(|source| FileError::Read {
            path: self.path.to_owned(),
            key: self.key,
            source,
        })
    }

    /// What the file holds, and should not, as the end of a sentence.
    pub(super) fn holds(self, what: impl Into<String>) -> FileError {
        FileError::Content {
            path: self.path.to_owned(),
            key: self.key,
            what: what.into(),
        }
    }

    /// All certificates of the file, at least one.
    pub(super) fn certificates(self) -> Result<Vec<CertificateDer<'static>>, FileError> {
        let text = self.text()?;
        let found: Result<Vec<_>, pem::Error> =
            CertificateDer::pem_slice_iter(text.as_bytes()).collect();
        match found {
            Ok(found) if found.is_empty() => Err(self.holds("no certificate in PEM")),
            Ok(found) => Ok(found),
            Err(error) => Err(self.holds(format!("a certificate that is broken: {error}"))),
        }
    }

    fn private_key(self) -> Result<PrivateKeyDer<'static>, FileError> {
        let text = self.text()?;
        PrivateKeyDer::from_pem_slice(text.as_bytes()).map_err(|error| match error {
            pem::Error::NoItemsFound if text.contains("ENCRYPTED PRIVATE KEY") => {
                self.holds("a key that is encrypted: `openssl pkey` writes it without its password")
            }
            pem::Error::NoItemsFound => self.holds("no private key in PEM"),
            error => self.holds(format!("a key that is broken: {error}")),
        })
    }

    /// The certificates of the file as authorities.
    pub(super) fn authorities(self) -> Result<RootCertStore, FileError> {
        let mut roots = RootCertStore::empty();
        for certificate in self.certificates()? {
            roots
                .add(certificate)
                .map_err(|error| self.holds(format!("a certificate that is broken: {error}")))?;
        }
        Ok(roots)
    }
}

/// The authorities that this system trusts.
pub(super) fn system() -> Result<RootCertStore, FileError> {
    let mut roots = RootCertStore::empty();
    // what cannot be read or parsed is one authority less, as it is for every other program
    roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs);
    if roots.is_empty() {
        return Err(FileError::NoAuthorities);
    }
    Ok(roots)
}

/// A certificate with those of its chain, and its private key.
pub(super) type Pair = (Vec<CertificateDer<'static>>, PrivateKeyDer<'static>);

/// The keys that name the two files of an identity.
pub(super) type PairKeys = (&'static str, &'static str);

/// Reads both files of an identity. Whether they belong together is found when they are used.
pub(super) fn pair(of: &Identity, keys: PairKeys) -> Result<Pair, FileError> {
    let certificates = Named {
        key: keys.0,
        path: &of.cert_file,
    };
    let key = Named {
        key: keys.1,
        path: &of.key_file,
    };
    Ok((certificates.certificates()?, key.private_key()?))
}

/// What the files are recognised by. Of one that cannot be read there is nothing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Stamps(Vec<Option<Stamp>>);

impl Stamps {
    /// The stamps of these files as they are now.
    pub(super) fn of<'a>(files: impl Iterator<Item = &'a PathBuf>) -> Self {
        let stamp = |path: &PathBuf| Stamp::of(&File::open(path).ok()?).ok();
        Self(files.map(stamp).collect())
    }
}
