//! `cargo run -p owm-proto-codegen`: writes `proto/src/gen`.

use std::path::Path;

fn main() -> anyhow::Result<()> {
    let proto_dir = Path::new(env!("CARGO_MANIFEST_DIR")).join("..");
    owm_proto_codegen::generate(&proto_dir, &proto_dir.join("src/gen"))
}
