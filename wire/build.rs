//! Compiles `proto/chat.proto` without a `protoc` on the machine.

use std::{collections::BTreeMap, env, error::Error, fmt::Write, fs, path::PathBuf};

use prost_types::{
    DescriptorProto, FileDescriptorSet, field_descriptor_proto::Label, field_descriptor_proto::Type,
};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/chat.proto");
    let descriptors = protox::compile(["proto/chat.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("chat.v1.descriptors"),
        prost::Message::encode_to_vec(&descriptors),
    )?;
    fs::write(out.join("shape.rs"), shape(&descriptors)?)?;

    prost_build::Config::new()
        .bytes(["."])
        .compile_fds(descriptors.clone())?;

    let mut json = pbjson_build::Builder::new();
    for file in descriptors.file {
        json.register_file_descriptor(file);
    }
    // Clients of tomorrow send fields that we do not know yet.
    json.ignore_unknown_fields().build(&[".chat.v1"])?;
    Ok(())
}

/// The table by which `codec::scan` walks a frame before it is decoded: for every
/// message the numbers of those of its fields that are messages, and which.
fn shape(descriptors: &FileDescriptorSet) -> Result<String, Box<dyn Error>> {
    let mut messages = BTreeMap::new();
    for file in &descriptors.file {
        let package = format!(".{}", file.package());
        for message in &file.message_type {
            collect(&package, message, &mut messages);
        }
    }
    let place = |name: &str| {
        messages
            .keys()
            .position(|known| known == name)
            .ok_or_else(|| format!("{name} is not in the schema"))
    };
    let mut code = format!(
        "pub(super) const FRAME: u16 = {};\n",
        place(".chat.v1.Frame")?
    );
    writeln!(code, "pub(super) static MESSAGES: &[&[(u32, u16)]] = &[")?;
    for (name, message) in &messages {
        write!(code, "    &[")?;
        for field in &message.field {
            if field.r#type() == Type::Message {
                write!(
                    code,
                    "({}, {}), ",
                    field.number(),
                    place(field.type_name())?
                )?;
            } else if field.label() == Label::Repeated && is_varint(field.r#type()) {
                // One byte on the wire would become eight in memory, and the scan
                // counts a packed field as one.
                return Err(format!("{name}.{}: repeated varints", field.name()).into());
            }
        }
        writeln!(code, "], // {name}")?;
    }
    writeln!(code, "];")?;
    Ok(code)
}

fn collect<'a>(
    scope: &str,
    message: &'a DescriptorProto,
    into: &mut BTreeMap<String, &'a DescriptorProto>,
) {
    let name = format!("{scope}.{}", message.name());
    for nested in &message.nested_type {
        collect(&name, nested, into);
    }
    into.insert(name, message);
}

fn is_varint(kind: Type) -> bool {
    matches!(
        kind,
        Type::Int32
            | Type::Int64
            | Type::Uint32
            | Type::Uint64
            | Type::Sint32
            | Type::Sint64
            | Type::Bool
            | Type::Enum
    )
}
