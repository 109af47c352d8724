//! Files of a network with states.

use super::*;

/// More than a page, less than one and the same.
const SIZES: [usize; 3] = [50, 3, 20];

fn limits(state_bytes: usize) -> Limits {
    Limits {
        state_bytes,
        ..LIMITS
    }
}

fn state(bytes: usize) -> Vec<u8> {
    (0..bytes).map(|at| at as u8 ^ 0x55).collect()
}

fn save_stated(dir: &TempDir, tokens: u32, state: &[u8], keys: Option<&Keys>) -> PathBuf {
    save_with(dir, &session(tokens, 5), b"said", state, keys)
}

/// Reads the state first, and then all pages.
fn load_stated(
    path: &Path,
    bytes: usize,
    keys: Option<&Keys>,
) -> Result<(Vec<u8>, Pages), SnapshotError> {
    let mut reader = read_header(path, &OURS, limits(bytes), keys)?;
    if let Some(why) = reader.unusable.take() {
        return Err(why);
    }
    let mut state = vec![0; bytes];
    reader.read_state(&mut state)?;
    let pages = pages_of(&mut reader, LIMITS.page_bytes)?;
    Ok((state, pages))
}

#[test]
fn a_state_is_read_before_or_between_the_pages() {
    let dir = tempfile::tempdir().unwrap();
    let own = keys(&['a']);
    for (keys, bytes) in [None, Some(&own)]
        .into_iter()
        .flat_map(|keys| SIZES.map(|bytes| (keys, bytes)))
    {
        for tokens in [1, 32, 70] {
            let path = save_stated(&dir, tokens, &state(bytes), keys);
            let sealed = keys.is_some();
            let pages = session(tokens, 5).1;
            let len = header_bytes(tokens as usize, 4, sealed)
                + pages.len() * page_bytes(20, sealed)
                + state_bytes(bytes, sealed);
            assert_eq!(fs::metadata(&path).unwrap().len(), len as u64);
            let (read, all) = load_stated(&path, bytes, keys).unwrap();
            assert_eq!((&read, &all), (&state(bytes), &pages));

            let mut reader = read_header(&path, &OURS, limits(bytes), keys).unwrap();
            let (mut page, mut again) = (vec![0; 20], vec![0; bytes]);
            reader.skip_pages(pages.len() - 1).unwrap();
            reader.read_state(&mut again).unwrap();
            reader.read_page(&mut page).unwrap();
            assert_eq!((&again, &page), (&state(bytes), pages.last().unwrap()));
            assert!(reader.read_state(&mut vec![0; bytes + 1]).is_err());
            assert!(reader.read_state(&mut []).is_err());
        }
    }
}

#[test]
fn every_cut_and_every_flipped_bit_is_found_in_a_state_too() {
    let dir = tempfile::tempdir().unwrap();
    let own = keys(&['a']);
    for keys in [None, Some(&own)] {
        let path = save_stated(&dir, 33, &state(9), keys);
        let load = || load_stated(&path, 9, keys);
        let good = fs::read(&path).unwrap();
        let file = OpenOptions::new().write(true).open(&path).unwrap();
        for (at, &byte) in good.iter().enumerate() {
            for bit in 0..8 {
                file.write_all_at(&[byte ^ 1 << bit], at as u64).unwrap();
                assert!(load().is_err(), "byte {at}, bit {bit}");
            }
            file.write_all_at(&[byte], at as u64).unwrap();
        }
        load().unwrap();
        for len in (0..good.len()).rev() {
            file.set_len(len as u64).unwrap();
            let error = load().unwrap_err();
            assert!(matches!(error, SnapshotError::Truncated), "{len}: {error}");
        }
        fs::write(&path, [&good[..], &[0]].concat()).unwrap();
        assert!(matches!(
            load(),
            Err(SnapshotError::Corrupt { what: "length" })
        ));
        // what was said outlives the pages and the state
        fs::write(&path, &good).unwrap();
        let len = drop_pages(&path, keys).unwrap();
        assert_eq!(len, fs::metadata(&path).unwrap().len());
        assert_eq!(drop_pages(&path, keys).unwrap(), len);
        let reader = read_header(&path, &OURS, limits(9), keys).unwrap();
        assert_eq!(reader.header().note, b"said");
        assert!(matches!(reader.unusable(), Some(SnapshotError::Truncated)));
    }
}

#[test]
fn a_state_is_of_the_network_that_reads_it() {
    let dir = tempfile::tempdir().unwrap();
    let path = save_stated(&dir, 33, &state(9), None);
    for bytes in [0, 8, 10] {
        let reader = read_header(&path, &OURS, limits(bytes), None).unwrap();
        assert!(matches!(reader.unusable(), Some(SnapshotError::OtherModel)));
    }
    // pages without a state are of no use where there are states
    let path = save_stated(&dir, 33, &[], None);
    let mut reader = read_header(&path, &OURS, limits(9), None).unwrap();
    assert!(matches!(reader.unusable(), Some(SnapshotError::OtherModel)));
    assert!(reader.read_state(&mut [0; 9]).is_err());

    // a length that no number holds
    let path = save_stated(&dir, 33, &state(9), None);
    let mut bytes = fs::read(&path).unwrap();
    bytes[FIXED..FIXED + 8].fill(0xff);
    fs::write(&path, bytes).unwrap();
    let error = read_header(&path, &OURS, limits(9), None).unwrap_err();
    assert!(matches!(error, SnapshotError::TooLarge { what: "length" }));
}

/// Two parts of the same number would be encrypted with the same nonce.
#[test]
fn no_piece_of_a_state_has_the_number_of_another() {
    let dir = tempfile::tempdir().unwrap();
    let own = keys(&['b']);
    let (page, bytes) = (150_000, 70_000);
    let tokens: Vec<u32> = (0..64).collect();
    let pages = vec![vec![7u8; page]; 2];
    let zeros = vec![7u8; bytes];
    let snapshot = Snapshot {
        fingerprint: OURS,
        page_bytes: page,
        tokens: &tokens,
        note: b"",
        state: &zeros,
    };
    write(dir.path(), "s", &snapshot, Some(&own), pages.iter().map(Ok)).unwrap();
    let file = fs::read(dir.path().join("s")).unwrap();
    let blocks: std::collections::BTreeSet<_> = file.chunks(64).skip(3).collect();
    assert_eq!(blocks.len(), file.len().div_ceil(64) - 3);
    let limits = Limits {
        page_bytes: page,
        pages: 2,
        state_bytes: bytes,
    };
    let mut reader = read_header(&dir.path().join("s"), &OURS, limits, Some(&own)).unwrap();
    let mut read = vec![0; bytes];
    reader.read_state(&mut read).unwrap();
    assert_eq!(read, zeros);
}
