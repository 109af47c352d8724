//! What goes wrong between two that want to speak TLS, in a sentence for whoever runs the board. It is the same sentence
//! at every try, so that the log can say it once.

use std::io::{self, ErrorKind};

use memchr::memmem;
use tokio_rustls::rustls::pki_types::{ServerName, UnixTime};
use tokio_rustls::rustls::{AlertDescription, CertificateError, Error, PeerIncompatible};

use super::{CA_FILE, Named};
use crate::config::Tls;

/// What the broker's end or answer in a handshake means; none if TLS has nothing to do with it.
pub(in crate::mqtt) fn of_broker(error: &io::Error, tls: &Tls) -> Option<String> {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref());
    inner.map(|error| sentence(error, tls))
}

/// The same for a handshake that did not come to its end.
pub(super) fn of_handshake(error: &io::Error, tls: &Tls) -> String {
    match error.kind() {
        ErrorKind::UnexpectedEof | ErrorKind::ConnectionReset | ErrorKind::BrokenPipe => {
            "the broker closed the connection in the TLS handshake: it speaks plain MQTT on this port (`mqtt://`), or \
             refuses TLS 1.2 and 1.3"
                .to_owned()
        }
        _ => of_broker(error, tls).unwrap_or_else(|| error.to_string()),
    }
}

fn sentence(error: &Error, tls: &Tls) -> String {
    match error {
        Error::InvalidCertificate(error) => of_certificate(error, tls),
        Error::AlertReceived(alert) => of_alert(*alert, tls),
        Error::InvalidMessage(_) => {
            "what answers on this port does not speak TLS: `mqtt://` is for plain MQTT".to_owned()
        }
        Error::PeerIncompatible(
            PeerIncompatible::ServerTlsVersionIsDisabledByOurConfig
            | PeerIncompatible::ServerDoesNotSupportTls12Or13,
        ) => OLD.to_owned(),
        other => format!("TLS with the broker failed: {other}"),
    }
}

const OLD: &str = "the broker speaks neither TLS 1.2 nor TLS 1.3";

/// What we find wrong with the certificate that the broker shows.
fn of_certificate(error: &CertificateError, tls: &Tls) -> String {
    match error {
        CertificateError::NotValidYetContext { time, not_before } => format!(
            "the broker's certificate is valid from {} on, and the clock of this board says {}: set the clock",
            minute(*not_before),
            day(*time)
        ),
        CertificateError::ExpiredContext { time, not_after } => format!(
            "the broker's certificate expired at {}; the clock of this board says {}",
            minute(*not_after),
            day(*time)
        ),
        CertificateError::NotValidForNameContext {
            expected,
            presented,
        } => {
            let expected = match expected {
                ServerName::IpAddress(address) => {
                    std::net::IpAddr::from(*address).to_string()
                }
                name => name.to_str().into_owned(),
            };
            if presented.is_empty() {
                format!(
                    "the broker's certificate has no subject alternative name (its common name does not count): it must \
                     be issued again, with `{expected}` in it"
                )
            } else {
                let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
                format!(
                    "the broker's certificate is for {} and not for `{expected}`: see `mqtt.url` and `mqtt.server_name`",
                    names.join(", ")
                )
            }
        }
        CertificateError::UnknownIssuer => of_issuer(tls),
        CertificateError::BadSignature => format!(
            "the broker's certificate was signed by another key than that of the authority of its issuer's name{}",
            trusted(tls)
        ),
        CertificateError::InvalidPurposeContext { .. } | CertificateError::InvalidPurpose => {
            "the broker's certificate is not meant for servers (its extended key usage)".to_owned()
        }
        CertificateError::Other(error) => match error.0.downcast_ref() {
            Some(webpki::Error::UnsupportedCertVersion) => {
                "the broker's certificate is of X.509 version 1: it must be issued again in version 3, with extensions"
                    .to_owned()
            }
            Some(webpki::Error::CaUsedAsEndEntity) => {
                "the broker shows an authority's certificate as its own (CA:TRUE): it must have one that the authority \
                 issued"
                    .to_owned()
            }
            Some(webpki::Error::EndEntityUsedAsCa) => {
                "the broker's certificate was issued by a leaf, which is not an authority (CA:FALSE)"
                    .to_owned()
            }
            Some(error) => format!("the broker's certificate is not taken: {error:?}"),
            None => format!("the broker's certificate is not taken: {error:?}"),
        },
        other => format!("the broker's certificate is not taken: {other}"),
    }
}

/// Nobody whom we trust issued the broker's certificate. Whoever names the broker's own certificate in the place of its
/// authority's is told so.
fn of_issuer(tls: &Tls) -> String {
    let Some(path) = &tls.ca_file else {
        return "the broker's certificate was issued by nobody whom this system trusts: name its authority's in \
                `mqtt.ca_file`"
            .to_owned();
    };
    let file = Named { key: CA_FILE, path };
    let issuers = file.certificates().unwrap_or_default();
    if issuers.iter().any(|issuer| is_authority(issuer)) {
        format!(
            "the broker's certificate was issued by nobody in `{}` (`{CA_FILE}`)",
            path.display()
        )
    } else {
        format!(
            "`{}` (`{CA_FILE}`) holds a leaf, as the broker's own certificate is, and not the certificate of the \
             authority that issued it",
            path.display()
        )
    }
}

/// Whether a certificate says that it is an authority's: it has the basic constraint `CA:TRUE`, or is so old that it has
/// no extensions at all. Only a sentence depends on it.
fn is_authority(der: &[u8]) -> bool {
    /// The object identifier 2.5.29.19, in DER.
    const BASIC_CONSTRAINTS: &[u8] = &[0x06, 0x03, 0x55, 0x1d, 0x13];
    /// `TRUE` in DER, at the begin of the sequence that the extension is.
    const TRUE: &[u8] = &[0x01, 0x01, 0xff];
    /// The version of a certificate with extensions, in DER, which is its first field.
    const VERSION_3: &[u8] = &[0xa0, 0x03, 0x02, 0x01, 0x02];
    let Some(at) = memmem::find(der, BASIC_CONSTRAINTS) else {
        let begin = &der[..der.len().min(16)];
        return memmem::find(begin, VERSION_3).is_none();
    };
    let rest = &der[at + BASIC_CONSTRAINTS.len()..];
    let rest = rest.strip_prefix(TRUE).unwrap_or(rest);
    // an octet string, a sequence, and what it begins with
    matches!(rest, [0x04, _, 0x30, _, inner @ ..] if inner.starts_with(TRUE))
}

fn trusted(tls: &Tls) -> String {
    tls.ca_file.as_ref().map_or_else(String::new, |path| {
        format!(" in `{}` (`{CA_FILE}`)", path.display())
    })
}

/// What the broker says of us.
fn of_alert(alert: AlertDescription, tls: &Tls) -> String {
    use AlertDescription as A;
    let cause = match alert {
        A::ProtocolVersion => return OLD.to_owned(),
        A::CertificateRequired => "it wants one",
        A::UnknownCA => "it knows no authority that issued it",
        A::CertificateExpired => "it has expired, or is not valid yet, by the broker's clock",
        A::CertificateRevoked => "it was revoked",
        A::UnsupportedCertificate => "it is of a kind that the broker does not take",
        A::BadCertificate | A::CertificateUnknown | A::DecryptError | A::AccessDenied => {
            "it says no more than that"
        }
        A::HandshakeFailure => "it wants one that it can check, or has no cipher in common with us",
        other => return format!("the broker ended the TLS connection: {other:?}"),
    };
    match &tls.identity {
        Some(of) => format!(
            "the broker does not take the certificate in `{}` (`mqtt.cert_file`): {cause}",
            of.cert_file.display()
        ),
        None => format!(
            "the broker does not take us without a certificate (`mqtt.cert_file` and `mqtt.key_file`): {cause}"
        ),
    }
}

/// `DnsName("a.b")` and `IpAddress(1.2.3.4)` as they are read.
fn plain(name: &str) -> &str {
    let inner = name
        .split_once('(')
        .and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(name).trim_matches('"')
}

/// A moment in UTC as a date and a time of day.
fn minute(time: UnixTime) -> String {
    let minutes = time.as_secs() / 60 % (24 * 60);
    format!("{} {:02}:{:02} UTC", day(time), minutes / 60, minutes % 60)
}

/// The date of a moment in UTC, by the proleptic Gregorian calendar. A day is short enough to see that a clock is wrong,
/// and long enough for the sentence to stay the same.
fn day(time: UnixTime) -> String {
    // years that begin in March, in eras of 400 years: a leap day is the last of its year
    let days = time.as_secs() / 86_400 + 719_468;
    let (era, of_era) = (days / 146_097, days % 146_097);
    let year = (of_era - of_era / 1460 + of_era / 36_524 - of_era / 146_096) / 365;
    let of_year = of_era - (365 * year + year / 4 - year / 100);
    let month = (5 * of_year + 2) / 153;
    let date = of_year - (153 * month + 2) / 5 + 1;
    let (month, carry) = if month < 10 {
        (month + 3, 0)
    } else {
        (month - 9, 1)
    };
    format!("{:04}-{month:02}-{date:02}", era * 400 + year + carry)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::time::Duration;

    #[test]
    fn days_are_those_of_the_calendar() {
        for (seconds, is) in [
            (0, "1970-01-01 00:00 UTC"),
            (951_782_399, "2000-02-28 23:59 UTC"),
            (951_782_400, "2000-02-29 00:00 UTC"),
            (1_709_164_800, "2024-02-29 00:00 UTC"),
            (1_735_689_599, "2024-12-31 23:59 UTC"),
            (4_102_444_800, "2100-01-01 00:00 UTC"),
            (4_107_542_400, "2100-03-01 00:00 UTC"),
        ] {
            let time = UnixTime::since_unix_epoch(Duration::from_secs(seconds));
            assert_eq!(minute(time), is);
        }
    }

    proptest! {
        #[test]
        fn whatever_a_file_holds_is_looked_at(
            mut der in prop::collection::vec(any::<u8>(), 0..40),
            tail in prop::collection::vec(any::<u8>(), 0..8),
        ) {
            let leaf = [0x06, 0x03, 0x55, 0x1d, 0x13, 0x04, 0x02, 0x30, 0x00];
            let authority = [0x06, 0x03, 0x55, 0x1d, 0x13, 0x01, 0x01, 0xff, 0x04, 0x05, 0x30, 0x03, 0x01, 0x01, 0xff];
            is_authority(&der);
            is_authority(&[&leaf[..5], &tail[..]].concat());
            der.retain(|byte| *byte != 0x06);
            prop_assert!(!is_authority(&[&der[..], &leaf[..]].concat()));
            prop_assert!(is_authority(&[&der[..], &authority[..]].concat()));
        }
    }

    #[test]
    fn a_clock_that_runs_says_the_same_for_a_day() {
        let at = |seconds| UnixTime::since_unix_epoch(Duration::from_secs(seconds));
        let said = |now| {
            let error = CertificateError::NotValidYetContext {
                time: at(now),
                not_before: at(1_735_689_600),
            };
            of_certificate(&error, &Tls::default())
        };
        assert_eq!(said(86_400), said(86_400 + 86_399));
        assert!(said(86_400).contains("2025-01-01 00:00 UTC"));
        assert!(said(86_400).contains("1970-01-02"));
    }

    #[test]
    fn what_the_broker_says_of_us_names_our_file() {
        let without = of_alert(AlertDescription::CertificateRequired, &Tls::default());
        assert!(without.contains("`mqtt.cert_file`"), "{without}");
        let tls = Tls {
            identity: Some(crate::config::Identity {
                cert_file: "/etc/c.pem".into(),
                key_file: "/etc/k.pem".into(),
            }),
            ..Tls::default()
        };
        let with = of_alert(AlertDescription::UnknownCA, &tls);
        assert!(with.contains("`/etc/c.pem`"), "{with}");
    }
}
