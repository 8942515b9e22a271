//! The stored form of what an event says: opaque to the storage engine.
//!
//! ```text
//! 0        2       4        8        24            56
//! | scheme | flags | length | salt16 | commitment32 | content … |
//! ```
//! Big-endian. `commitment` = BLAKE3(salt · content). An erase zeroes salt and
//! content and sets [`FLAG_ERASED`]; the commitment stays, so that a chain of
//! hashes over an inbox still verifies. `content` is a protobuf `Message` or
//! `GroupChange`, encoded by the server from what it decoded.

use bytes::{BufMut, Bytes, BytesMut};

/// Bytes before the content.
pub const HEADER_BYTES: usize = 56;
/// The content is a `Message`, readable by the server. Encrypted ones carry their
/// scheme's number inside `Content.encrypted` as well.
pub const SCHEME_MESSAGE: u16 = 0;
/// The content is a `GroupChange`.
pub const SCHEME_GROUP_CHANGE: u16 = 1;
/// Salt and content were erased.
pub const FLAG_ERASED: u16 = 1;

/// A body taken apart, without a copy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Body {
    /// What the content is: `SCHEME_…`.
    pub scheme: u16,
    /// `FLAG_…`.
    pub flags: u16,
    /// Drawn by the proposer, so that equal contents have unequal commitments.
    pub salt: [u8; 16],
    /// BLAKE3(salt · content).
    pub commitment: [u8; 32],
    /// What was said.
    pub content: Bytes,
}

/// Why bytes are no body.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a stored body is cut short or has a wrong length: the entry that holds it is damaged")]
pub struct BodyError;

/// Builds the stored form of `content`. Costs one BLAKE3 of it.
#[must_use]
pub fn seal(scheme: u16, salt: [u8; 16], content: &[u8]) -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER_BYTES + content.len());
    out.put_u16(scheme);
    out.put_u16(0);
    out.put_u32(u32::try_from(content.len()).expect("contents are bounded by a frame"));
    out.put_slice(&salt);
    let mut hash = blake3::Hasher::new();
    hash.update(&salt);
    hash.update(content);
    out.put_slice(hash.finalize().as_bytes());
    out.put_slice(content);
    out.freeze()
}

/// Takes a stored body apart.
///
/// # Errors
/// [`BodyError`] if the lengths do not fit.
pub fn open(stored: &Bytes) -> Result<Body, BodyError> {
    let header: &[u8; HEADER_BYTES] = stored
        .get(..HEADER_BYTES)
        .and_then(|h| h.try_into().ok())
        .ok_or(BodyError)?;
    let length = u32::from_be_bytes([header[4], header[5], header[6], header[7]]) as usize;
    if stored.len() != HEADER_BYTES + length {
        return Err(BodyError);
    }
    let mut salt = [0; 16];
    salt.copy_from_slice(&header[8..24]);
    let mut commitment = [0; 32];
    commitment.copy_from_slice(&header[24..]);
    Ok(Body {
        scheme: u16::from_be_bytes([header[0], header[1]]),
        flags: u16::from_be_bytes([header[2], header[3]]),
        salt,
        commitment,
        content: stored.slice(HEADER_BYTES..),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_sealed_body_opens_to_the_same_and_no_cut_of_it_opens() {
        let stored = seal(SCHEME_MESSAGE, [9; 16], b"hello");
        let body = open(&stored).unwrap();
        assert_eq!(
            (body.scheme, body.flags, &body.content[..]),
            (0, 0, &b"hello"[..])
        );
        for cut in 0..stored.len() {
            assert_eq!(open(&stored.slice(..cut)), Err(BodyError));
        }
    }

    #[test]
    fn equal_contents_with_other_salts_have_other_commitments() {
        let [a, b] = [[1; 16], [2; 16]].map(|salt| open(&seal(0, salt, b"x")).unwrap());
        assert_ne!(a.commitment, b.commitment);
    }
}
