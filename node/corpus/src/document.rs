//! A document, its normal form and its hash; taking duplicates away. Pure.

use std::collections::BTreeSet;

use sha2::{Digest, Sha256};

/// A text with the name it is shown by.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Document {
    /// Path below the folder, or package and path.
    pub name: String,
    /// Its text, [`normalised`].
    pub text: String,
}

impl Document {
    /// A document of any text.
    pub fn new(name: impl Into<String>, text: &str) -> Self {
        Self {
            name: name.into(),
            text: normalised(text),
        }
    }

    /// SHA-256 of the normalised text.
    pub fn sha256(&self) -> [u8; 32] {
        Sha256::digest(&self.text).into()
    }
}

impl AsRef<str> for Document {
    fn as_ref(&self) -> &str {
        &self.text
    }
}

/// The form by which texts are compared and trained on: no byte order mark, lines end with `\n`, no
/// blanks at the end of a line, no empty lines at the end, one `\n` at the end.
pub fn normalised(text: &str) -> String {
    let text = text.strip_prefix('\u{feff}').unwrap_or(text);
    let mut normal = String::with_capacity(text.len() + 1);
    for line in text.split('\n') {
        normal.push_str(line.trim_end());
        normal.push('\n');
    }
    normal.truncate(normal.trim_end().len());
    if !normal.is_empty() {
        normal.push('\n');
    }
    normal
}

/// Sorts by name and keeps the first document of every text. Gives how many were taken away.
pub fn deduplicate(documents: &mut Vec<Document>) -> usize {
    let before = documents.len();
    documents.sort();
    let mut seen = BTreeSet::new();
    documents.retain(|document| seen.insert(document.sha256()));
    before - documents.len()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_that_differ_in_blanks_at_line_ends_are_one() {
        let mut documents = vec![
            Document::new("b.txt", "one\r\ntwo  \r\n\r\n"),
            Document::new("a.txt", "\u{feff}one\ntwo"),
            Document::new("c.txt", "one\n two"),
        ];
        assert_eq!(deduplicate(&mut documents), 1);
        let names: Vec<&str> = documents
            .iter()
            .map(|document| document.name.as_str())
            .collect();
        assert_eq!(names, ["a.txt", "c.txt"]);
        assert_eq!(documents[0].text, "one\ntwo\n");
        assert_eq!(normalised(" \n\t\n"), "");
    }
}
