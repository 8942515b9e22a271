//! Postings in chunks: many (order → place) of one group behind one key.
//!
//! The table of postings has the key of a chunk's first posting → count varint,
//! place varint, then for each further posting the step of its order as a varint
//! and the step of its place in zigzag. A chunk holds at most 128, of one family
//! and group of one inbox. The table of groups has (inbox u64, family u8, !order
//! u64, !group u64) → count varint: inverted, so that the newest comes first.

use super::encoding::{Input, put_varint, unzigzag, zigzag};
use crate::key::Key;

/// Postings in a chunk at most.
pub(crate) const CHUNK: usize = 128;

/// The bytes of a key of the table of groups.
pub(crate) const GROUP_KEY: usize = 25;

/// Packs postings (order, place) whose orders rise.
pub(crate) fn pack(postings: &[(u64, u64)], out: &mut Vec<u8>) {
    put_varint(out, postings.len() as u64);
    let Some((_, place)) = postings.first() else {
        return;
    };
    put_varint(out, *place);
    for pair in postings.windows(2) {
        put_varint(out, pair[1].0 - pair[0].0);
        put_varint(out, zigzag(pair[1].1.wrapping_sub(pair[0].1).cast_signed()));
    }
}

/// How many postings a chunk has.
pub(crate) fn count(chunk: &[u8]) -> Option<u64> {
    Input(chunk).varint()
}

/// The postings of a chunk whose first has this order.
pub(crate) fn unpack(first: u64, chunk: &[u8]) -> Option<Vec<(u64, u64)>> {
    let mut input = Input(chunk);
    let count = input.count().filter(|count| *count <= CHUNK)?;
    let mut postings = Vec::with_capacity(count);
    let mut at = (first, input.varint()?);
    postings.push(at);
    for _ in 1..count {
        at.0 = at.0.checked_add(input.varint()?)?;
        at.1 = at.1.wrapping_add(unzigzag(input.varint()?).cast_unsigned());
        postings.push(at);
    }
    Some(postings)
}

/// The key of a group in the list of its inbox.
pub(crate) fn group_key(inbox: u64, family: u8, order: u64, group: u64) -> [u8; GROUP_KEY] {
    let mut key = [0; GROUP_KEY];
    key[..8].copy_from_slice(&inbox.to_be_bytes());
    key[8] = family;
    key[9..17].copy_from_slice(&(!order).to_be_bytes());
    key[17..].copy_from_slice(&(!group).to_be_bytes());
    key
}

/// (inbox, family) and (order, group) of such a key.
pub(crate) fn read_group_key(key: &[u8]) -> Option<((u64, u8), (u64, u64))> {
    let key = Key::read(key).filter(|_| key.len() == GROUP_KEY)?;
    Some(((key.inbox, key.family), (!key.number(0), !key.number(8))))
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::{collection::btree_map, prelude::*};

    proptest! {
        #[test]
        fn a_chunk_comes_back(
            postings in btree_map(any::<u64>(), any::<u64>(), 1..=CHUNK),
            junk in prop::collection::vec(any::<u8>(), 0..40),
        ) {
            let postings: Vec<_> = postings.into_iter().collect();
            let mut chunk = Vec::new();
            pack(&postings, &mut chunk);
            prop_assert_eq!(count(&chunk), Some(postings.len() as u64));
            prop_assert_eq!(unpack(postings[0].0, &chunk), Some(postings));
            // Whatever the bytes are, it does not panic.
            let _ = unpack(u64::MAX, &junk);
        }

        #[test]
        fn newer_groups_come_first(a: (u64, u64), b: (u64, u64)) {
            let (left, right) = (group_key(1, 40, a.0, a.1), group_key(1, 40, b.0, b.1));
            prop_assert_eq!(left.cmp(&right), b.cmp(&a));
            prop_assert_eq!(read_group_key(&left), Some(((1, 40), a)));
        }
    }

    #[test]
    fn a_steady_conversation_takes_four_bytes_a_posting() {
        let postings: Vec<_> = (0..128).map(|at| (at * 5_000, at * 3)).collect();
        let mut chunk = Vec::new();
        pack(&postings, &mut chunk);
        assert!(chunk.len() < 128 * 4, "{} bytes", chunk.len());
    }
}
