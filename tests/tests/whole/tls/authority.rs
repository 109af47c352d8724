//! An authority of a test, and what it issues: certificates as they should be, and as they should not.

use rcgen::{
    BasicConstraints, CertificateParams, CertifiedIssuer, DnType, ExtendedKeyUsagePurpose, IsCa,
    Issuer, KeyPair, SigningKey, date_time_ymd,
};
use std::path::{Path, PathBuf};

/// The names of a broker in these tests.
pub(super) const HERE: [&str; 2] = ["localhost", "127.0.0.1"];

/// A certificate and its key, in files.
#[derive(Debug, Clone)]
pub(super) struct Issued {
    pub(super) cert: PathBuf,
    pub(super) key: PathBuf,
}

/// An authority with its certificate in a file.
pub(super) struct Authority {
    issuer: CertifiedIssuer<'static, KeyPair>,
    folder: PathBuf,
    pub(super) file: PathBuf,
}

impl Authority {
    pub(super) fn new(folder: &Path, name: &str) -> Self {
        let mut params = params(name, &[]);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let issuer = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let file = folder.join(format!("{name}.pem"));
        std::fs::write(&file, issuer.pem()).unwrap();
        Self {
            issuer,
            folder: folder.to_owned(),
            file,
        }
    }

    /// A certificate of this common name for these hosts, as `change` has made it.
    pub(super) fn issue(
        &self,
        name: &str,
        hosts: &[&str],
        change: impl FnOnce(&mut CertificateParams),
    ) -> Issued {
        issue(&self.issuer, &self.folder, name, hosts, change, "").0
    }

    /// One whose issuer is itself a leaf.
    pub(super) fn issue_by_a_leaf(&self, name: &str) -> Issued {
        let (_, params, key, pem) = {
            let (issued, params, key) =
                issue(&self.issuer, &self.folder, "a-leaf", &HERE, |_| {}, "");
            let pem = std::fs::read_to_string(&issued.cert).unwrap();
            (issued, params, key, pem)
        };
        let leaf = Issuer::new(params, key);
        issue(&leaf, &self.folder, name, &HERE, |_| {}, &pem).0
    }

    /// One that is its own authority.
    pub(super) fn itself(&self, name: &str) -> Issued {
        let mut params = params(name, &HERE);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let cert = params.self_signed(&key).unwrap();
        write(&self.folder, name, &cert.pem(), &key)
    }

    /// One of X.509 version 1, which has no extensions.
    pub(super) fn version_1(&self, name: &str) -> Issued {
        let key = KeyPair::generate().unwrap();
        let cert = params(name, &HERE).signed_by(&key, &self.issuer).unwrap();
        let (whole, _) = inside(cert.der());
        let (to_sign, rest) = inside(whole);
        let (algorithm, _) = element(rest);
        // without its version, which is then 1, and without its extensions, which come last
        let mut fields = Vec::new();
        let mut left = to_sign;
        while !left.is_empty() {
            let (field, rest) = element(left);
            if !matches!(field[0], 0xa0 | 0xa3) {
                fields.extend_from_slice(field);
            }
            left = rest;
        }
        let to_sign = wrapped(0x30, &fields);
        let mut signature = vec![0];
        signature.extend(self.issuer.key().sign(&to_sign).unwrap());
        let all = [to_sign, algorithm.to_vec(), wrapped(0x03, &signature)].concat();
        let pem = armoured(&wrapped(0x30, &all));
        write(&self.folder, name, &pem, &key)
    }
}

fn params(name: &str, hosts: &[&str]) -> CertificateParams {
    let hosts: Vec<String> = hosts.iter().map(|host| (*host).to_owned()).collect();
    let mut params = CertificateParams::new(hosts).unwrap();
    params.distinguished_name.push(DnType::CommonName, name);
    params
}

fn issue(
    issuer: &Issuer<'_, KeyPair>,
    folder: &Path,
    name: &str,
    hosts: &[&str],
    change: impl FnOnce(&mut CertificateParams),
    chain: &str,
) -> (Issued, CertificateParams, KeyPair) {
    let mut params = params(name, hosts);
    change(&mut params);
    let key = KeyPair::generate().unwrap();
    let cert = params.signed_by(&key, issuer).unwrap();
    let issued = write(folder, name, &(cert.pem() + chain), &key);
    (issued, params, key)
}

fn write(folder: &Path, name: &str, pem: &str, key: &KeyPair) -> Issued {
    let issued = Issued {
        cert: folder.join(format!("{name}.pem")),
        key: folder.join(format!("{name}.key")),
    };
    // renamed, as whoever renews certificates should: nobody reads half a file
    for (path, text) in [(&issued.cert, pem), (&issued.key, &key.serialize_pem())] {
        let part = path.with_extension("part");
        std::fs::write(&part, text).unwrap();
        std::fs::rename(&part, path).unwrap();
    }
    issued
}

pub(super) fn expired(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(2001, 2, 3);
    params.not_after = date_time_ymd(2002, 3, 4);
}

pub(super) fn not_yet_valid(params: &mut CertificateParams) {
    params.not_before = date_time_ymd(3001, 2, 3);
}

pub(super) fn for_clients_alone(params: &mut CertificateParams) {
    params.insert_extended_key_usage(ExtendedKeyUsagePurpose::ClientAuth);
}

/// The first element of DER, and what follows it.
fn element(der: &[u8]) -> (&[u8], &[u8]) {
    let (head, len) = length(der);
    der.split_at(head + len)
}

/// What is in the first element, and what follows it.
fn inside(der: &[u8]) -> (&[u8], &[u8]) {
    let (head, len) = length(der);
    (&der[head..head + len], &der[head + len..])
}

/// Bytes of the tag and the length of an element, and of its content.
fn length(der: &[u8]) -> (usize, usize) {
    match der[1] {
        short @ 0..0x80 => (2, short.into()),
        long => {
            let bytes = usize::from(long & 0x7f);
            let len = der[2..2 + bytes]
                .iter()
                .fold(0, |len, byte| len << 8 | usize::from(*byte));
            (2 + bytes, len)
        }
    }
}

fn wrapped(tag: u8, content: &[u8]) -> Vec<u8> {
    // the shortest form is the only one that is DER
    let len = match u16::try_from(content.len()).unwrap().to_be_bytes() {
        [0, short @ 0..0x80] => vec![short],
        [0, byte] => vec![0x81, byte],
        [high, low] => vec![0x82, high, low],
    };
    [&[tag][..], &len, content].concat()
}

fn armoured(der: &[u8]) -> String {
    const DIGITS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut text = String::from("-----BEGIN CERTIFICATE-----\n");
    for line in der.chunks(48) {
        for three in line.chunks(3) {
            let bits = (0..3).fold(0_u32, |bits, n| {
                bits << 8 | u32::from(three.get(n).copied().unwrap_or(0))
            });
            for digit in 0..4 {
                let value = bits >> (18 - 6 * digit) & 63;
                let there = digit <= three.len();
                text.push(if there {
                    DIGITS[value as usize].into()
                } else {
                    '='
                });
            }
        }
        text.push('\n');
    }
    text + "-----END CERTIFICATE-----\n"
}
