//! One file from a model hub over HTTP: what the hub says about it, and its bytes, resumed where they stopped.

use indicatif::ProgressBar;
use std::fs::{File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::Path;
use std::time::Duration;
use ureq::http::{Response, Uri, header};
use ureq::{Agent, Body};

/// Each wait on the network is bounded by one of these. A slow transfer that moves is not interrupted.
const CONNECT: Duration = Duration::from_secs(10);
const STALL: Duration = Duration::from_secs(60);

/// Redirects that are followed to find what the hub says about a file; a renamed repository answers with one.
const HOPS_MAX: u32 = 5;

/// What went wrong with the hub.
#[derive(Debug, thiserror::Error)]
pub(crate) enum HubError {
    /// There is no connection, or it broke.
    #[error("{0}")]
    Http(#[source] Box<ureq::Error>),
    /// It answered, but not with the file.
    #[error("the hub answers {0}")]
    Status(u16),
    /// It sent no usable `X-Linked-Etag` and `X-Linked-Size`.
    #[error("the hub reports no SHA-256 and size of the file")]
    NoReport,
    /// The file has another length than it should have.
    #[error("the hub sent {got} bytes of {want}")]
    Length { got: u64, want: u64 },
    #[error("writing the download: {0}")]
    Disk(#[source] io::Error),
    /// The connection broke while the file was read.
    #[error("reading the download: {0}")]
    Broken(#[source] io::Error),
}

impl From<ureq::Error> for HubError {
    fn from(error: ureq::Error) -> Self {
        Self::Http(Box::new(error))
    }
}

/// What a hub says about a file that it stores.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Report {
    /// The hash in lower-case hexadecimal.
    pub(crate) sha256: String,
    pub(crate) bytes: u64,
}

fn agent(redirects: u32) -> Agent {
    Agent::config_builder()
        .timeout_resolve(Some(CONNECT))
        .timeout_connect(Some(CONNECT))
        .timeout_recv_response(Some(STALL))
        .timeout_per_read(Some(STALL))
        .http_status_as_error(false)
        .max_redirects(redirects)
        .user_agent(concat!("glowplug/", env!("CARGO_PKG_VERSION")))
        .build()
        .into()
}

/// Asks the hub for the hash and length of a file. They are the headers `X-Linked-Etag` (the SHA-256 of a file in
/// large-file storage) and `X-Linked-Size`, which come with the redirect to the storage and not with what it leads to.
pub(crate) fn report(url: &str) -> Result<Report, HubError> {
    let agent = agent(0);
    let mut url = url.to_owned();
    for _ in 0..HOPS_MAX {
        let response = agent
            .head(&url)
            .header(header::ACCEPT_ENCODING, "identity")
            .call()?;
        if let Some(report) = linked(&response) {
            return Ok(report);
        }
        let status = response.status();
        let Some(next) = response
            .headers()
            .get(header::LOCATION)
            .filter(|_| status.is_redirection())
        else {
            return Err(if status.is_success() {
                HubError::NoReport
            } else {
                HubError::Status(status.as_u16())
            });
        };
        url = next
            .to_str()
            .ok()
            .and_then(|next| absolute(&url, next))
            .ok_or(HubError::NoReport)?;
    }
    Err(HubError::NoReport)
}

fn linked(response: &Response<Body>) -> Option<Report> {
    let text = |name| response.headers().get(name)?.to_str().ok();
    let etag = text("x-linked-etag")?
        .trim_start_matches("W/")
        .trim_matches('"')
        .to_ascii_lowercase();
    let bytes = text("x-linked-size")?.parse().ok()?;
    let is_sha = etag.len() == 64 && etag.bytes().all(|b| b.is_ascii_hexdigit());
    is_sha.then_some(Report {
        sha256: etag,
        bytes,
    })
}

fn absolute(base: &str, location: &str) -> Option<String> {
    if !location.starts_with('/') || location.starts_with("//") {
        return Some(location.to_owned());
    }
    let base: Uri = base.parse().ok()?;
    Some(format!(
        "{}://{}{location}",
        base.scheme_str()?,
        base.authority()?
    ))
}

/// Downloads `url`, a file of exactly `bytes` bytes, to `part`. What `part` already holds is kept if the hub can
/// continue from there. A connection that breaks is resumed as long as each attempt brings something.
pub(crate) fn fetch(
    url: &str,
    part: &Path,
    bytes: u64,
    progress: &ProgressBar,
) -> Result<(), HubError> {
    let agent = agent(HOPS_MAX);
    let mut file = OpenOptions::new()
        .create(true)
        .append(true)
        .open(part)
        .map_err(HubError::Disk)?;
    loop {
        let before = length(&file)?;
        if before > bytes {
            file.set_len(0).map_err(HubError::Disk)?;
            continue;
        }
        if before == bytes {
            return file.sync_all().map_err(HubError::Disk);
        }
        match attempt(&agent, url, &mut file, before, bytes, progress) {
            Ok(()) => {}
            Err(HubError::Broken(_) | HubError::Http(_)) if length(&file)? > before => {}
            Err(error) => return Err(error),
        }
    }
}

fn length(file: &File) -> Result<u64, HubError> {
    Ok(file.metadata().map_err(HubError::Disk)?.len())
}

/// Makes one request and appends what comes. It fails unless the file is complete afterwards.
fn attempt(
    agent: &Agent,
    url: &str,
    file: &mut File,
    from: u64,
    bytes: u64,
    progress: &ProgressBar,
) -> Result<(), HubError> {
    let mut request = agent.get(url).header(header::ACCEPT_ENCODING, "identity");
    if from > 0 {
        request = request.header(header::RANGE, format!("bytes={from}-"));
    }
    let mut response = request.call()?;
    let mut have = match response.status().as_u16() {
        206 if starts_at(&response, from) => from,
        // this hub has no ranges, so it begins at the beginning
        200 => {
            file.set_len(0).map_err(HubError::Disk)?;
            0
        }
        status => return Err(HubError::Status(status)),
    };
    let mut reader = response.body_mut().as_reader();
    let mut buffer = vec![0; 256 * 1024];
    loop {
        progress.set_position(have);
        let n = match reader.read(&mut buffer) {
            Ok(0) => break,
            Ok(n) => n,
            Err(error) if error.kind() == io::ErrorKind::Interrupted => continue,
            Err(error) => return Err(HubError::Broken(error)),
        };
        have += n as u64;
        if have > bytes {
            return Err(HubError::Length {
                got: have,
                want: bytes,
            });
        }
        file.write_all(&buffer[..n]).map_err(HubError::Disk)?;
    }
    if have < bytes {
        return Err(HubError::Broken(io::Error::new(
            io::ErrorKind::UnexpectedEof,
            format!("{have} bytes of {bytes}"),
        )));
    }
    Ok(())
}

/// Whether the answer to a range request begins where we asked.
fn starts_at(response: &Response<Body>, from: u64) -> bool {
    let range = response
        .headers()
        .get(header::CONTENT_RANGE)
        .and_then(|value| value.to_str().ok());
    range.is_some_and(|range| range.starts_with(&format!("bytes {from}-")))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
pub(crate) mod tests {
    use super::*;
    use std::io::{BufRead, BufReader};
    use std::net::TcpListener;

    /// A hub on loopback with one file at `/file`: HEAD and GET redirect to `/blob` with the linked headers, as the
    /// real one does; `/blob` serves ranges, and breaks off after `cut` bytes of each answer.
    pub(crate) struct Hub {
        pub(crate) url: String,
    }

    impl Hub {
        pub(crate) fn start(body: Vec<u8>, sha256: String, cut: usize, ranges: bool) -> Self {
            let listener = TcpListener::bind("127.0.0.1:0").unwrap();
            let base = format!("http://{}", listener.local_addr().unwrap());
            std::thread::spawn(move || {
                for stream in listener.incoming() {
                    let mut stream = stream.unwrap();
                    let mut from = 0;
                    let mut request = String::new();
                    let mut lines = BufReader::new(stream.try_clone().unwrap());
                    lines.read_line(&mut request).unwrap();
                    loop {
                        let mut line = String::new();
                        lines.read_line(&mut line).unwrap();
                        if let Some(range) = line.to_ascii_lowercase().strip_prefix("range: bytes=")
                        {
                            from = range.trim().trim_end_matches('-').parse().unwrap();
                        }
                        if line.trim().is_empty() {
                            break;
                        }
                    }
                    let path = request.split(' ').nth(1).unwrap().to_owned();
                    let mut answer = match path.as_str() {
                        "/moved" => b"HTTP/1.1 307 Moved\r\nLocation: /file\r\nContent-Length: 0\r\n".to_vec(),
                        "/file" | "/org/repo/resolve/main/x.gguf" => format!(
                            "HTTP/1.1 302 Found\r\nLocation: /blob\r\nX-Linked-Etag: \"{sha256}\"\r\nX-Linked-Size: {}\r\nContent-Length: 0\r\n",
                            body.len()
                        )
                        .into_bytes(),
                        "/blob" if from > 0 && ranges => format!(
                            "HTTP/1.1 206 Partial\r\nContent-Range: bytes {from}-{}/{}\r\nContent-Length: {}\r\n",
                            body.len() - 1,
                            body.len(),
                            body.len() - from
                        )
                        .into_bytes(),
                        "/blob" => format!("HTTP/1.1 200 OK\r\nContent-Length: {}\r\n", body.len()).into_bytes(),
                        _ => b"HTTP/1.1 404 Not Found\r\nContent-Length: 0\r\n".to_vec(),
                    };
                    answer.extend_from_slice(b"Connection: close\r\n\r\n");
                    if path == "/blob" {
                        let rest = if ranges { &body[from..] } else { &body[..] };
                        answer.extend_from_slice(&rest[..rest.len().min(cut)]);
                    }
                    // the client may have gone away: its test will say so
                    let _ = stream.write_all(&answer);
                }
            });
            Self { url: base }
        }
    }

    fn body() -> Vec<u8> {
        (0..1_000_000u32).map(|i| (i % 251) as u8).collect()
    }

    #[test]
    fn what_the_hub_reports() {
        let sha256 = "ab".repeat(32);
        let hub = Hub::start(body(), sha256.clone(), usize::MAX, true);
        let want = Report {
            sha256,
            bytes: 1_000_000,
        };
        assert_eq!(report(&format!("{}/file", hub.url)).unwrap(), want);
        assert_eq!(report(&format!("{}/moved", hub.url)).unwrap(), want);
        assert!(matches!(
            report(&format!("{}/none", hub.url)),
            Err(HubError::Status(404))
        ));
        assert!(matches!(
            report(&format!("{}/blob", hub.url)),
            Err(HubError::NoReport)
        ));
        let hub = Hub::start(body(), "not a hash".into(), usize::MAX, true);
        assert!(matches!(
            report(&format!("{}/file", hub.url)),
            Err(HubError::NoReport)
        ));
    }

    #[test]
    fn a_file_comes_whole_whatever_the_connection_does() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("file.part");
        // (bytes already here, bytes per connection)
        for (have, cut) in [
            (0, usize::MAX),
            (0, 300_000),
            (400_000, usize::MAX),
            (999_999, 1),
            (1_000_000, 0),
            (1_000_001, usize::MAX),
        ] {
            let hub = Hub::start(body(), String::new(), cut, true);
            std::fs::write(
                &part,
                body()
                    .iter()
                    .copied()
                    .chain([0])
                    .take(have)
                    .collect::<Vec<_>>(),
            )
            .unwrap();
            fetch(
                &format!("{}/file", hub.url),
                &part,
                1_000_000,
                &ProgressBar::hidden(),
            )
            .unwrap();
            assert!(
                std::fs::read(&part).unwrap() == body(),
                "have {have}, cut {cut}"
            );
        }
    }

    #[test]
    fn a_hub_without_ranges_starts_again() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("file.part");
        std::fs::write(&part, [9; 10]).unwrap();
        let hub = Hub::start(body(), String::new(), usize::MAX, false);
        fetch(
            &format!("{}/blob", hub.url),
            &part,
            1_000_000,
            &ProgressBar::hidden(),
        )
        .unwrap();
        assert!(std::fs::read(&part).unwrap() == body());
    }

    #[test]
    fn what_cannot_be_had_ends() {
        let folder = tempfile::tempdir().unwrap();
        let part = folder.path().join("file.part");
        let get = |url: &str, bytes| fetch(url, &part, bytes, &ProgressBar::hidden()).unwrap_err();
        // breaks off without a byte
        let hub = Hub::start(body(), String::new(), 0, true);
        assert!(matches!(
            get(&format!("{}/blob", hub.url), 1_000_000),
            HubError::Broken(_)
        ));
        assert!(matches!(
            get(&format!("{}/none", hub.url), 1_000_000),
            HubError::Status(404)
        ));
        // longer than it should be: never more than that on our disk
        let hub = Hub::start(body(), String::new(), usize::MAX, true);
        assert!(matches!(
            get(&format!("{}/blob", hub.url), 999),
            HubError::Length { want: 999, .. }
        ));
        assert!(std::fs::metadata(&part).unwrap().len() <= 999);
        // nobody there
        let gone = TcpListener::bind("127.0.0.1:0")
            .unwrap()
            .local_addr()
            .unwrap();
        assert!(matches!(
            get(&format!("http://{gone}/file"), 10),
            HubError::Http(_)
        ));
    }
}
