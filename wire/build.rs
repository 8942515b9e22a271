//! Compiles `proto/chat.proto` without a `protoc` on the machine.

use std::{env, error::Error, fs, path::PathBuf};

fn main() -> Result<(), Box<dyn Error>> {
    println!("cargo:rerun-if-changed=proto/chat.proto");
    let descriptors = protox::compile(["proto/chat.proto"], ["proto"])?;
    let out = PathBuf::from(env::var("OUT_DIR")?);
    fs::write(
        out.join("chat.v1.descriptors"),
        prost::Message::encode_to_vec(&descriptors),
    )?;

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
