//! The commented sample of a configuration, generated from its documentation and defaults.
//!
//! `config sample` commands print it and tests compare example files with it. Must stay true: it reads
//! back as the defaults, both as it is and with every `#key = …` uncommented.

use std::fmt::Write;

use serde::Serialize;

use super::Documented;

/// The sample of `T`: `# ` begins prose, `#` directly before a key is its default, commented out.
pub fn sample<T: Documented>() -> String {
    let mut text = String::new();
    write_doc(&mut text, T::DOC);
    text.push_str(
        "#\n# Every key is shown with its default, commented out; OWM_<SECTION>__<KEY> in the \
         environment\n# overrides the file.\n",
    );
    for section in T::sections() {
        text.push('\n');
        write_doc(&mut text, section.doc);
        push(&mut text, format_args!("[{}]", section.name));
        for key in section.keys {
            text.push('\n');
            write_doc(&mut text, key.doc);
            match key.default {
                Some(default) => push(&mut text, format_args!("#{} = {default}", key.name)),
                None => push(
                    &mut text,
                    format_args!("# ({} is not set by default)", key.name),
                ),
            }
        }
    }
    text
}

/// A value as TOML in one line; `None` when it is absent (`Option::None`).
pub fn inline<T: Serialize>(value: &T) -> Option<String> {
    let mut text = String::new();
    value
        .serialize(toml::ser::ValueSerializer::new(&mut text))
        .ok()?;
    Some(text)
}

fn write_doc(text: &mut String, doc: &[&str]) {
    for line in doc {
        let line = line.trim();
        if line.is_empty() {
            text.push_str("#\n");
        } else {
            push(text, format_args!("# {line}"));
        }
    }
}

fn push(text: &mut String, line: std::fmt::Arguments<'_>) {
    writeln!(text, "{line}").expect("writing to a String cannot fail");
}
