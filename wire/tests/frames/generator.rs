//! Frames by the schema itself: a message is written field by field as its descriptor
//! says, so that a frame added to the schema is tested without a line here.
//!
//! All choices come from a tape of numbers. proptest draws it, and by shortening it
//! finds the smallest frame that fails: an empty tape gives an empty message.

use std::sync::LazyLock;

use chat_wire::frame::{DESCRIPTORS, Frame};
use prost::{
    Message,
    encoding::{WireType, encode_key, encode_varint},
};
use prost_types::{
    DescriptorProto, EnumDescriptorProto, FieldDescriptorProto, FileDescriptorSet,
    field_descriptor_proto::{Label, Type},
};

pub(crate) static SCHEMA: LazyLock<FileDescriptorSet> =
    LazyLock::new(|| FileDescriptorSet::decode(DESCRIPTORS).expect("the build wrote it"));

/// Whether enums take values that this version has no name for.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Enums {
    Known,
    Any,
}

/// The kinds of frames: their fields in `Frame`'s oneof.
pub(crate) fn kinds() -> Vec<&'static FieldDescriptorProto> {
    message(".chat.v1.Frame")
        .field
        .iter()
        .filter(|field| field.oneof_index.is_some())
        .collect()
}

fn message(name: &str) -> &'static DescriptorProto {
    let mut path = name.trim_start_matches(".chat.v1.").split('.');
    let first = path.next().expect("a name");
    let mut found = SCHEMA.file[0]
        .message_type
        .iter()
        .find(|message| message.name() == first)
        .expect("a message of the schema");
    for part in path {
        found = found
            .nested_type
            .iter()
            .find(|message| message.name() == part)
            .expect("a nested message");
    }
    found
}

fn enumeration(name: &str) -> &'static EnumDescriptorProto {
    let (scope, last) = name.rsplit_once('.').expect("a full name");
    let within = if scope == ".chat.v1" {
        &SCHEMA.file[0].enum_type
    } else {
        &message(scope).enum_type
    };
    within
        .iter()
        .find(|one| one.name() == last)
        .expect("an enum of the schema")
}

/// A source of choices that ends in zeros.
pub(crate) struct Tape<'a> {
    rest: std::slice::Iter<'a, u64>,
    enums: Enums,
}

impl<'a> Tape<'a> {
    pub(crate) fn new(numbers: &'a [u64], enums: Enums) -> Self {
        Self {
            rest: numbers.iter(),
            enums,
        }
    }

    pub(crate) fn next(&mut self) -> u64 {
        self.rest.next().copied().unwrap_or(0)
    }

    pub(crate) fn below(&mut self, bound: u64) -> u64 {
        self.next() % bound
    }

    /// Small, large and extreme numbers alike.
    pub(crate) fn number(&mut self) -> u64 {
        let value = self.next();
        match value % 4 {
            0 => value >> 56,
            1 => value,
            2 => u64::MAX - (value >> 60),
            _ => 1_u64.rotate_left(u32::try_from(value >> 58).expect("six bits")),
        }
    }

    /// Letters, quotes, escapes, controls, and characters of one to four bytes.
    pub(crate) fn text(&mut self) -> String {
        const CHARS: &[char] = &[
            'a', '"', '\\', '/', '\n', '\u{0}', '\u{7f}', 'é', '\u{2028}', '😀', '{', ',',
            '\u{fffd}',
        ];
        let length = self.below(24);
        (0..length)
            .map(|_| CHARS[usize::try_from(self.below(CHARS.len() as u64)).expect("small")])
            .collect()
    }

    fn bytes(&mut self) -> Vec<u8> {
        let length = self.below(24);
        (0..length).map(|_| self.next().to_le_bytes()[3]).collect()
    }
}

/// A frame of the kind, by the tape.
pub(crate) fn frame(kind: &FieldDescriptorProto, tape: &mut Tape<'_>) -> Frame {
    let mut bytes = Vec::new();
    encode_key(1, WireType::Varint, &mut bytes);
    encode_varint(u64::from(tape.number().to_le_bytes()[0]), &mut bytes);
    value(kind, tape, &mut bytes);
    Frame::decode(&bytes[..]).expect("written by the schema")
}

/// A message of the type, by the tape, as bytes in the order of its fields.
pub(crate) fn encoded<M: Message + Default>(name: &str, tape: &mut Tape<'_>) -> Vec<u8> {
    let mut bytes = Vec::new();
    fields(message(name), tape, &mut bytes);
    M::decode(&bytes[..])
        .expect("written by the schema")
        .encode_to_vec()
}

fn fields(kind: &DescriptorProto, tape: &mut Tape<'_>, out: &mut Vec<u8>) {
    let mut chosen: Vec<Option<u64>> = vec![None; kind.oneof_decl.len()];
    for field in &kind.field {
        if let Some(oneof) = field.oneof_index {
            let oneof = usize::try_from(oneof).expect("an index");
            let members = kind
                .field
                .iter()
                .filter(|other| other.oneof_index == field.oneof_index);
            let count = members.clone().count() as u64;
            let place = members
                .into_iter()
                .position(|other| other.number == field.number)
                .expect("it is one of them") as u64;
            // One more than there are: none of them.
            let pick = *chosen[oneof].get_or_insert_with(|| tape.below(count + 1));
            if pick == place + 1 {
                value(field, tape, out);
            }
        } else if field.label() == Label::Repeated {
            for _ in 0..tape.below(4) {
                value(field, tape, out);
            }
        } else if !tape.below(3).is_multiple_of(3) {
            value(field, tape, out);
        }
    }
}

fn value(field: &FieldDescriptorProto, tape: &mut Tape<'_>, out: &mut Vec<u8>) {
    let number = u32::try_from(field.number()).expect("positive");
    let mut delimited = |bytes: &[u8]| {
        encode_key(number, WireType::LengthDelimited, out);
        encode_varint(bytes.len() as u64, out);
        out.extend_from_slice(bytes);
    };
    match field.r#type() {
        Type::Message => {
            let mut inner = Vec::new();
            fields(message(field.type_name()), tape, &mut inner);
            delimited(&inner);
        }
        Type::String => delimited(tape.text().as_bytes()),
        Type::Bytes => delimited(&tape.bytes()),
        Type::Fixed64 => {
            encode_key(number, WireType::SixtyFourBit, out);
            out.extend_from_slice(&tape.number().to_le_bytes());
        }
        kind => {
            let value = match kind {
                Type::Bool => tape.below(2),
                Type::Uint32 => tape.number() & u64::from(u32::MAX),
                Type::Uint64 | Type::Int64 => tape.number(),
                Type::Enum if tape.enums == Enums::Any => tape.below(200),
                Type::Enum => {
                    let values = &enumeration(field.type_name()).value;
                    let at = usize::try_from(tape.below(values.len() as u64)).expect("small");
                    values[at].number().unsigned_abs().into()
                }
                other => panic!("teach this generator {other:?}"),
            };
            encode_key(number, WireType::Varint, out);
            encode_varint(value, out);
        }
    }
}
