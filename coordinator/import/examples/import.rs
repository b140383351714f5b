//! Imports a model by hand: `import gguf|hf SOURCE OUT`, `import tiny OUT`.
//!
//! Run by people who work on the importer; the coordinator calls the library.
#![expect(
    clippy::print_stdout,
    reason = "a command-line example talks on its standard output"
)]

use anyhow::{Result, bail};
use owm_model_import::{Imported, Progress, import_gguf, import_hf_dir, tiny};

fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let mut progress = |Progress { step, done, total }| {
        if done == total {
            println!("{step:?}: {total} bytes");
        }
    };
    match arguments[..] {
        ["gguf", source, out] => show(&import_gguf(source.as_ref(), out.as_ref(), &mut progress)?),
        ["hf", source, out] => show(&import_hf_dir(
            source.as_ref(),
            out.as_ref(),
            &mut progress,
        )?),
        ["tiny", out] => show(&tiny::write_tiny(out.as_ref())?),
        _ => bail!("usage: import gguf|hf SOURCE OUT | tiny OUT"),
    }
    Ok(())
}

fn show(imported: &Imported) {
    let Imported {
        architecture,
        parameters,
        context_length,
        tokenizer,
        note,
        ..
    } = imported;
    println!("{architecture}, {parameters} weights, context {context_length}, {tokenizer}: {note}");
    for file in &imported.files {
        println!("{}  {:>11}  {}", file.sha256, file.size, file.name);
    }
}
