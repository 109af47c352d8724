//! Pages of a text of the configuration, which everybody finds who has it before what it says itself.

use super::*;

impl Pages {
    /// Finds pages of a text of which nothing is common.
    pub(super) fn find_any(&mut self, tokens: &[u32], table: &mut PageTable) -> Found {
        self.find(&mut ANY.into(), tokens, table)
    }
}

fn owners(own: Owner, common: usize) -> Owners {
    Owners { own, common }
}

/// Computes a text and ends; gives the tokens that were found.
fn say(pages: &mut Pages, mut owners: Owners, tokens: &[u32]) -> usize {
    let mut table = page_table();
    let found = pages.find(&mut owners, tokens, &mut table).tokens;
    let at = table.len();
    pages.reserve(tokens.len() / PAGE_TOKENS - at).unwrap();
    for (at, full) in tokens.chunks_exact(PAGE_TOKENS).enumerate().skip(at) {
        pages.take(&mut table);
        pages.fill(owners, &mut table, at, full);
    }
    pages.check(&[&table], &[]);
    pages.release(&mut table, usize::MAX);
    found
}

#[test]
fn what_is_common_is_found_by_all_who_have_it_and_the_rest_by_its_owner() {
    let mut pages = Pages::new(16).unwrap();
    let tokens = text(129);
    assert_eq!(say(&mut pages, owners(1, 70), &tokens), 0);
    assert_eq!(say(&mut pages, owners(1, 70), &tokens), 128);
    // a page that is only in part common is its owner's
    assert_eq!(say(&mut pages, owners(2, 70), &tokens), 64);
    assert_eq!(say(&mut pages, owners(2, 70), &tokens), 128);
    // who has less of it finds less, and who says it himself nothing
    assert_eq!(say(&mut pages, owners(3, 63), &tokens), 32);
    assert_eq!(say(&mut pages, owners(4, 0), &tokens), 0);
    pages.forget_cached(1);
    assert_eq!(say(&mut pages, owners(1, 70), &tokens), 64);
}

#[test]
fn part_of_a_common_page_is_copied_for_those_alone_who_have_it() {
    let mut pages = Pages::new(4).unwrap();
    say(&mut pages, owners(1, 64), &text(64));
    let mut other = text(50);
    other.extend([99; 20]);
    for (common, found) in [(64, Some(18)), (50, None), (32, None)] {
        let mut table = page_table();
        let partial = pages
            .find(&mut owners(2, common), &other, &mut table)
            .partial;
        assert_eq!(partial.map(|partial| partial.tokens), found, "{common}");
        pages.release(&mut table, usize::MAX);
    }
}

#[test]
fn a_text_that_is_ones_own_stays_so_when_it_becomes_common() {
    let mut pages = Pages::new(8).unwrap();
    say(&mut pages, owners(1, 32), &text(96));
    // what was read from a file is filled as one's own; the next turn goes on behind it
    let mut mine = owners(1, 96);
    let mut table = page_table();
    let found = pages.find(&mut mine, &text(97), &mut table);
    assert_eq!((found.tokens, mine), (96, owners(1, 32)));
    pages.release(&mut table, usize::MAX);
    assert_eq!(say(&mut pages, owners(2, 96), &text(96)), 32);
}
