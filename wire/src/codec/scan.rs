//! Bounds what a frame may cost in memory before anything is allocated for it.
//!
//! Two bytes of protobuf (`[{},{},…` in JSON: three) are enough for a message that
//! takes some two hundred in memory, so a limit on bytes alone is no limit on
//! memory. This walks over the bytes once, counts fields (values, in JSON) and
//! nesting, and refuses what exceeds [`limits::FRAME_FIELDS`] or
//! [`limits::FRAME_DEPTH`]. It costs some nanoseconds a field and allocates nothing.
//!
//! It is no validation: what it lets pass the decoder may still refuse. Unknown
//! fields are counted and not looked into. Groups (wire types 3 and 4), which proto3
//! does not have, are refused: they are the only way to nest what is unknown.

use crate::limits;

include!(concat!(env!("OUT_DIR"), "/shape.rs"));

/// Why a frame is not decoded.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum ScanError {
    #[error("it is cut short, or a length in it points past its end")]
    Truncated,
    #[error("a varint in it has more than 64 bits")]
    Varint,
    #[error("it has a field number or a wire type that proto3 does not have")]
    Key,
    #[error("it is nested deeper than {} levels", limits::FRAME_DEPTH)]
    Depth,
    #[error("it has more than {0} fields: send less at once")]
    Fields(usize),
}

/// Fields allowed in a frame for which `limit` bytes are: [`limits::FRAME_FIELDS`],
/// and in proportion where longer frames are read (clients read pages).
pub(super) fn fields_allowed(limit: usize) -> usize {
    (limit / (limits::FRAME_BYTES as usize / limits::FRAME_FIELDS)).max(limits::FRAME_FIELDS)
}

/// Walks over the protobuf of a `Frame`.
pub(super) fn proto(bytes: &[u8], fields: usize) -> Result<(), ScanError> {
    let mut left = fields;
    message(bytes, FRAME, 1, &mut left).map_err(|error| match error {
        ScanError::Fields(_) => ScanError::Fields(fields),
        other => other,
    })
}

fn message(mut rest: &[u8], kind: u16, depth: usize, left: &mut usize) -> Result<(), ScanError> {
    if depth > limits::FRAME_DEPTH {
        return Err(ScanError::Depth);
    }
    let nested = MESSAGES[usize::from(kind)];
    while !rest.is_empty() {
        *left = left.checked_sub(1).ok_or(ScanError::Fields(0))?;
        let key = varint(&mut rest)?;
        let number = u32::try_from(key >> 3).map_err(|_| ScanError::Key)?;
        if number == 0 {
            return Err(ScanError::Key);
        }
        match key & 7 {
            0 => {
                varint(&mut rest)?;
            }
            1 => skip(&mut rest, 8)?,
            5 => skip(&mut rest, 4)?,
            2 => {
                let length = usize::try_from(varint(&mut rest)?).unwrap_or(usize::MAX);
                let value = rest.get(..length).ok_or(ScanError::Truncated)?;
                rest = &rest[length..];
                if let Some((_, kind)) = nested.iter().find(|(field, _)| *field == number) {
                    message(value, *kind, depth + 1, left)?;
                }
            }
            _ => return Err(ScanError::Key),
        }
    }
    Ok(())
}

fn skip(rest: &mut &[u8], length: usize) -> Result<(), ScanError> {
    *rest = rest.get(length..).ok_or(ScanError::Truncated)?;
    Ok(())
}

fn varint(rest: &mut &[u8]) -> Result<u64, ScanError> {
    let mut value = 0;
    for (at, byte) in rest.iter().enumerate().take(10) {
        value |= u64::from(byte & 0x7f) << (7 * at);
        if byte & 0x80 == 0 {
            if at == 9 && *byte > 1 {
                return Err(ScanError::Varint);
            }
            *rest = &rest[at + 1..];
            return Ok(value);
        }
    }
    Err(if rest.len() < 10 {
        ScanError::Truncated
    } else {
        ScanError::Varint
    })
}

/// Walks over JSON text. Every element of an array and every member of an object
/// stands after a bracket or a comma outside a string: those are counted.
pub(super) fn json(bytes: &[u8], fields: usize) -> Result<(), ScanError> {
    let mut left = fields;
    let mut depth = 0_usize;
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        match byte {
            b'"' => at = end_of_string(bytes, at + 1)?,
            b'{' | b'[' => {
                depth += 1;
                if depth > limits::FRAME_DEPTH {
                    return Err(ScanError::Depth);
                }
                left = left.checked_sub(1).ok_or(ScanError::Fields(fields))?;
            }
            b'}' | b']' => depth = depth.saturating_sub(1),
            b',' => left = left.checked_sub(1).ok_or(ScanError::Fields(fields))?,
            _ => {}
        }
        at += 1;
    }
    Ok(())
}

/// Where the closing quotation mark of a string stands that begins at `at`.
fn end_of_string(bytes: &[u8], mut at: usize) -> Result<usize, ScanError> {
    loop {
        match bytes.get(at).ok_or(ScanError::Truncated)? {
            b'"' => return Ok(at),
            b'\\' => at += 2,
            _ => at += 1,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const MANY: usize = limits::FRAME_FIELDS;

    /// `count` empty events in an EVENT frame: two bytes each.
    fn empty_events(count: usize) -> Vec<u8> {
        let batch: Vec<u8> = [0x0a, 0x00].repeat(count);
        let mut frame = vec![0xca, 0x01];
        prost::encoding::encode_varint(batch.len() as u64, &mut frame);
        frame.extend(batch);
        frame
    }

    #[test]
    fn a_protobuf_frame_has_as_many_fields_as_allowed_and_no_more() {
        assert_eq!(proto(&empty_events(MANY - 1), MANY), Ok(()));
        assert_eq!(
            proto(&empty_events(MANY), MANY),
            Err(ScanError::Fields(MANY))
        );
    }

    #[test]
    fn a_json_frame_has_as_many_values_as_allowed_and_no_more() {
        let frame = |count: usize| {
            // Three opening brackets, then a bracket and all but one comma.
            format!(
                r#"{{"event":{{"events":[{}]}}}}"#,
                vec!["{}"; count].join(",")
            )
        };
        let fits = (MANY - 3).div_ceil(2);
        assert_eq!(json(frame(fits).as_bytes(), MANY), Ok(()));
        assert_eq!(
            json(frame(fits + 1).as_bytes(), MANY),
            Err(ScanError::Fields(MANY))
        );
    }

    #[test]
    fn json_is_nested_as_deep_as_allowed_and_no_deeper() {
        for (depth, expected) in [
            (limits::FRAME_DEPTH, Ok(())),
            (limits::FRAME_DEPTH + 1, Err(ScanError::Depth)),
        ] {
            let text = "[".repeat(depth) + &"]".repeat(depth);
            assert_eq!(json(text.as_bytes(), MANY), expected);
        }
    }

    #[test]
    fn brackets_and_commas_in_strings_do_not_count() {
        let text = format!(
            r#"{{"send":{{"content":{{"text":"{}\\\"{}"}}}}}}"#,
            "[{,".repeat(5000),
            "[{,".repeat(5000)
        );
        assert_eq!(json(text.as_bytes(), 10), Ok(()));
    }

    #[test]
    fn the_schema_itself_stays_within_the_depth() {
        fn deepest(kind: u16) -> usize {
            1 + MESSAGES[usize::from(kind)]
                .iter()
                .map(|(_, child)| deepest(*child))
                .max()
                .unwrap_or(0)
        }
        // In JSON a repeated field is one level more, and no message holds two.
        assert!(2 * deepest(FRAME) <= limits::FRAME_DEPTH);
    }

    #[test]
    fn what_is_no_protobuf_is_named() {
        assert_eq!(proto(&[0x08], MANY), Err(ScanError::Truncated));
        assert_eq!(
            proto(&[0xca, 0x01, 0x05, 0x00], MANY),
            Err(ScanError::Truncated)
        );
        assert_eq!(proto(&[0x00, 0x00], MANY), Err(ScanError::Key));
        assert_eq!(proto(&[0x0b, 0x0c], MANY), Err(ScanError::Key));
        assert_eq!(proto(&[0xff; 12], MANY), Err(ScanError::Varint));
    }
}
