//! The values of `format` that are enforced, as patterns.
//!
//! They are narrower than their standards where a pattern cannot be exact, so that nothing wrong is written: a leap second is
//! written in UTC, a host name without labels in Punycode, the local part of an address without quotes.

/// A format as a pattern of ECMAScript, anchored, and the most characters that it has.
pub(super) struct Format {
    pub(super) pattern: String,
    pub(super) most: Option<usize>,
}

const FULL_DATE: &str = r"(\d{4}-((0[13578]|1[02])-(0[1-9]|[12]\d|3[01])|(0[469]|11)-(0[1-9]|[12]\d|30)|02-(0[1-9]|1\d|2[0-8]))|(\d\d(0[48]|[2468][048]|[13579][26])|([02468][048]|[13579][26])00)-02-29)";
const FULL_TIME: &str = r"(([01]\d|2[0-3]):[0-5]\d:[0-5]\d(\.\d+)?([Zz]|[+\-]([01]\d|2[0-3]):[0-5]\d)|23:59:60(\.\d+)?([Zz]|[+\-]00:00))";
const DURATION_TIME: &str = r"T(\d+H(\d+M(\d+S)?)?|\d+M(\d+S)?|\d+S)";
const OCTET: &str = r"(25[0-5]|2[0-4]\d|1\d\d|[1-9]?\d)";
/// Without two hyphens as third and fourth character, which announce Punycode.
const LABEL: &str = r"[A-Za-z0-9]([A-Za-z0-9]|[A-Za-z0-9\-][A-Za-z0-9]|[A-Za-z0-9\-]{2}[A-Za-z0-9]|[A-Za-z0-9\-]([A-Za-z0-9][A-Za-z0-9\-]|-[A-Za-z0-9])[A-Za-z0-9\-]{0,58}[A-Za-z0-9])?";
const ATOM: &str = r"[A-Za-z0-9!#$%&'*+\-/=?^_`{|}~]+";
/// Unreserved, percent-encoded and sub-delims of RFC 3986.
const PLAIN: &str = r"[A-Za-z0-9\-._~!$&'()*+,;=]|%[0-9A-Fa-f]{2}";

/// The formats by name, in the order of the manual.
pub(super) const NAMES: [&str; 10] = [
    "date",
    "time",
    "date-time",
    "duration",
    "email",
    "hostname",
    "ipv4",
    "ipv6",
    "uri",
    "uuid",
];

/// The format of this name, if it is enforced.
pub(super) fn named(name: &str) -> Option<Format> {
    let ipv4 = format!(r"({OCTET}\.){{3}}{OCTET}");
    let hostname = format!(r"{LABEL}(\.{LABEL})*");
    let (pattern, most) = match name {
        "date" => (FULL_DATE.to_owned(), None),
        "time" => (FULL_TIME.to_owned(), None),
        "date-time" => (format!("{FULL_DATE}[Tt]{FULL_TIME}"), None),
        "duration" => (
            format!(
                r"P((\d+D|\d+M(\d+D)?|\d+Y(\d+M(\d+D)?)?)({DURATION_TIME})?|{DURATION_TIME}|\d+W)"
            ),
            None,
        ),
        "email" => (
            format!(
                r"{ATOM}(\.{ATOM})*@({hostname}|\[({ipv4}|IPv6:{})\])",
                ipv6(&ipv4)
            ),
            Some(254),
        ),
        "hostname" => (hostname, Some(253)),
        "ipv4" => (ipv4, None),
        "ipv6" => (ipv6(&ipv4), None),
        "uri" => (uri(&ipv6(&ipv4)), None),
        "uuid" => (
            r"[0-9A-Fa-f]{8}(-[0-9A-Fa-f]{4}){3}-[0-9A-Fa-f]{12}".to_owned(),
            None,
        ),
        _ => return None,
    };
    Some(Format {
        pattern: format!("^({pattern})$"),
        most,
    })
}

/// `IPv6address` of RFC 3986, appendix A.
fn ipv6(ipv4: &str) -> String {
    const GROUP: &str = "[0-9A-Fa-f]{1,4}";
    let last = format!("({GROUP}:{GROUP}|{ipv4})");
    let mut all = vec![
        format!("({GROUP}:){{6}}{last}"),
        format!("::({GROUP}:){{5}}{last}"),
    ];
    for (before, behind) in (0..5).zip((0..5).rev()) {
        all.push(format!(
            "(({GROUP}:){{0,{before}}}{GROUP})?::({GROUP}:){{{behind}}}{last}"
        ));
    }
    all.push(format!("(({GROUP}:){{0,5}}{GROUP})?::{GROUP}"));
    all.push(format!("(({GROUP}:){{0,6}}{GROUP})?::"));
    format!("({})", all.join("|"))
}

/// `URI` of RFC 3986.
fn uri(ipv6: &str) -> String {
    let letter = format!("({PLAIN}|[:@])");
    let host = format!(r"(\[({ipv6}|v[0-9A-Fa-f]+\.[A-Za-z0-9\-._~!$&'()*+,;=:]+)\]|({PLAIN})*)");
    let authority = format!("(({PLAIN}|:)*@)?{host}(:[0-9]*)?");
    let path =
        format!("(//{authority}(/{letter}*)*|/({letter}+(/{letter}*)*)?|{letter}+(/{letter}*)*|)");
    format!(r"[A-Za-z][A-Za-z0-9+\-.]*:{path}(\?({letter}|[/?])*)?(#({letter}|[/?])*)?")
}
