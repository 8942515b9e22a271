//! Blocked Bloom filters: "certainly not here" without reading what is here.
//!
//! A filter is a row of lines of 64 bytes; a key sets six bits of one line, so a
//! probe touches one line. Lines are stored in pages of 4 KiB, each a block with
//! its own checksum: a filter is paged in like everything else, and a damaged page
//! is an error and never a "no". 12 bits a key give about 0.6 % false positives;
//! that some lines are fuller than others is counted in.

use xxhash_rust::xxh3::xxh3_64;

const LINE_BYTES: usize = 64;
/// Lines in a page.
const PAGE_LINES: u32 = 64;
const BITS_A_KEY: u64 = 12;
const PROBES: u32 = 6;

/// The hash of a key's bytes.
pub(crate) fn hash(bytes: &[u8]) -> u64 {
    xxh3_64(bytes)
}

/// Lines of a filter for so many keys.
fn lines(keys: usize) -> u32 {
    let bits = (keys as u64).saturating_mul(BITS_A_KEY);
    u32::try_from(bits.div_ceil(LINE_BYTES as u64 * 8)).unwrap_or(u32::MAX)
}

/// The pages of a filter over these hashes, and its number of lines. No keys: no
/// pages, and nothing is in it.
pub(crate) fn build(hashes: &[u64]) -> (u32, Vec<Vec<u8>>) {
    let lines = lines(hashes.len());
    let mut bytes = vec![0; lines as usize * LINE_BYTES];
    for hash in hashes {
        let at = line(*hash, lines) as usize * LINE_BYTES;
        for bit in bits(*hash) {
            bytes[at + bit / 8] |= 1 << (bit % 8);
        }
    }
    (
        lines,
        bytes
            .chunks(PAGE_LINES as usize * LINE_BYTES)
            .map(<[u8]>::to_vec)
            .collect(),
    )
}

/// The page that a hash is to be looked for in; `None` if nothing is in the filter.
pub(crate) fn page(hash: u64, lines: u32) -> Option<u32> {
    (lines > 0).then(|| line(hash, lines) / PAGE_LINES)
}

/// The number of pages of so many lines.
#[cfg(test)]
fn pages(lines: u32) -> u32 {
    lines.div_ceil(PAGE_LINES)
}

/// Whether the key may be there; `None` if the page is too short to tell.
pub(crate) fn holds(page: &[u8], hash: u64, lines: u32) -> Option<bool> {
    let at = (line(hash, lines) % PAGE_LINES) as usize * LINE_BYTES;
    let line = page.get(at..at + LINE_BYTES)?;
    Some(bits(hash).all(|bit| line[bit / 8] & (1 << (bit % 8)) != 0))
}

/// The high half chooses the line.
fn line(hash: u64, lines: u32) -> u32 {
    u32::try_from(((hash >> 32) * u64::from(lines)) >> 32).expect("below `lines`")
}

/// A second mixing of the hash gives six numbers of nine bits.
fn bits(hash: u64) -> impl Iterator<Item = usize> {
    let mixed = (hash ^ (hash >> 29)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
    (0..PROBES).map(move |probe| ((mixed >> (10 + probe * 9)) & 0x1ff) as usize)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn probe(pages: &[Vec<u8>], lines: u32, hash: u64) -> bool {
        page(hash, lines).is_some_and(|at| holds(&pages[at as usize], hash, lines).unwrap())
    }

    proptest! {
        #![proptest_config(ProptestConfig::with_cases(64))]
        #[test]
        fn what_is_there_is_never_denied(keys in prop::collection::vec(any::<u64>(), 0..3000)) {
            let hashes: Vec<_> = keys.iter().map(|key| hash(&key.to_be_bytes())).collect();
            let (lines, built) = build(&hashes);
            prop_assert_eq!(built.len(), pages(lines) as usize);
            prop_assert!(hashes.iter().all(|hash| probe(&built, lines, *hash)));
        }
    }

    #[test]
    fn fewer_than_two_in_a_hundred_strangers_get_in() {
        for keys in [50_u64, 1000, 50_000] {
            let hashes: Vec<_> = (0..keys).map(|key| hash(&key.to_be_bytes())).collect();
            let (lines, built) = build(&hashes);
            let strangers = keys..keys + 100_000;
            let got_in = strangers.filter(|key| probe(&built, lines, hash(&key.to_be_bytes())));
            let got_in = got_in.count();
            assert!(got_in < 2000, "{got_in} of 100,000 with {keys} keys");
        }
    }

    #[test]
    fn an_empty_filter_holds_nothing() {
        assert_eq!(build(&[]), (0, Vec::new()));
        assert_eq!(page(1, 0), None);
    }
}
