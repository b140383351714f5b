//! Which documents are trained on and which are held out to measure with. Pure. What must stay true: where
//! both sides have documents by themselves, a document's side depends on its text alone, so that nothing that
//! was ever trained on is held out later. A few documents that all fall on one side are divided by force, and
//! may change sides when others join them.

use crate::Document;

/// Documents of a thousand that are held out.
pub const HELD_OUT_PER_MILLE: u64 = 100;
/// Of a single document, the part that is held out: the last tenth of its lines.
const SINGLE_HELD_OUT: usize = 10;

/// Two sides of a text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Split {
    /// To be trained on.
    pub train: Vec<Document>,
    /// To be measured with, never trained on.
    pub held_out: Vec<Document>,
}

/// Splits by the first 8 bytes of each document's SHA-256 (big-endian), modulo 1000, below
/// `held_out_per_mille` is held out. Where that leaves a side empty, the document with the smallest
/// hash is held out (or the one with the largest trained on); a single document is cut by lines.
pub fn split(documents: Vec<Document>, held_out_per_mille: u64) -> Split {
    if let [single] = &documents[..] {
        return cut(single);
    }
    let key = |document: &Document| {
        let hash = document.sha256();
        u64::from_be_bytes(std::array::from_fn(|at| hash[at]))
    };
    let (mut held_out, mut train): (Vec<_>, Vec<_>) = documents
        .into_iter()
        .partition(|document| key(document) % 1000 < held_out_per_mille);
    if held_out.is_empty()
        && let Some(at) = (0..train.len()).min_by_key(|at| key(&train[*at]))
        && train.len() > 1
    {
        held_out.push(train.remove(at));
    } else if train.is_empty()
        && let Some(at) = (0..held_out.len()).max_by_key(|at| key(&held_out[*at]))
    {
        train.push(held_out.remove(at));
    }
    Split { train, held_out }
}

/// Documents of at most `bytes_max` bytes together, chosen by their hash, so that a part of a large text is
/// a fair sample of it; the first that is too long is cut at the end of a line (left out if not even one
/// fits) and those after it that fit still come. Sorted by name.
pub fn sample(mut documents: Vec<Document>, bytes_max: usize) -> Vec<Document> {
    if documents
        .iter()
        .map(|document| document.text.len())
        .sum::<usize>()
        <= bytes_max
    {
        return documents;
    }
    documents.sort_by_cached_key(Document::sha256);
    let mut left = bytes_max;
    documents.retain_mut(|document| {
        if document.text.len() > left {
            let lines = document.text.split_inclusive('\n').scan(0, |end, line| {
                *end += line.len();
                Some(*end)
            });
            let cut = lines.take_while(|end| *end <= left).last();
            document.text.truncate(cut.unwrap_or(0));
        }
        left -= document.text.len();
        !document.text.is_empty()
    });
    documents.sort();
    documents
}

/// The beginning of a document to train on, its end to measure with.
fn cut(document: &Document) -> Split {
    let lines = document.text.lines().count();
    let keep = lines - lines.div_ceil(SINGLE_HELD_OUT).min(lines.saturating_sub(1));
    let at = document
        .text
        .split_inclusive('\n')
        .take(keep)
        .map(str::len)
        .sum();
    let (start, end) = document.text.split_at(at);
    let part = |suffix: &str, text: &str| Document {
        name: format!("{} ({suffix})", document.name),
        text: text.to_owned(),
    };
    let held_out = if end.is_empty() {
        Vec::new()
    } else {
        vec![part("end", end)]
    };
    Split {
        train: vec![part("beginning", start)],
        held_out,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn documents(count: usize) -> Vec<Document> {
        (0..count)
            .map(|i| Document::new(format!("{i}.txt"), &format!("text number {i}")))
            .collect()
    }

    #[test]
    fn about_a_tenth_is_held_out_and_a_document_never_changes_sides() {
        let all = split(documents(1000), HELD_OUT_PER_MILLE);
        assert!(
            (60..140).contains(&all.held_out.len()),
            "{}",
            all.held_out.len()
        );
        let half = split(documents(500), HELD_OUT_PER_MILLE);
        assert!(
            half.held_out
                .iter()
                .all(|document| all.held_out.contains(document))
        );
        assert!(
            half.train
                .iter()
                .all(|document| all.train.contains(document))
        );
    }

    #[test]
    fn a_sample_is_bounded_and_does_not_depend_on_names() {
        let all = documents(100);
        let part = sample(all.clone(), 200);
        let bytes: usize = part.iter().map(|document| document.text.len()).sum();
        assert!((180..=200).contains(&bytes), "{bytes}");
        let mut renamed = all.clone();
        for document in &mut renamed {
            document.name.insert(0, 'z');
        }
        let texts = |documents: &[Document]| -> Vec<String> {
            let mut texts: Vec<String> = documents.iter().map(|d| d.text.clone()).collect();
            texts.sort();
            texts
        };
        assert_eq!(texts(&sample(renamed, 200)), texts(&part));
        assert_eq!(sample(all.clone(), usize::MAX), all);
        let long = vec![
            Document::new("a", "one\ntwo\nthree"),
            Document::new("b", "four"),
        ];
        let cut = sample(long, 9);
        assert!(cut.iter().map(|d| d.text.len()).sum::<usize>() <= 9);
    }

    #[test]
    fn two_documents_make_two_sides_and_one_is_cut() {
        for per_mille in [0, 1000] {
            let two = split(documents(2), per_mille);
            assert_eq!((two.train.len(), two.held_out.len()), (1, 1));
        }
        let lines = (0..40)
            .map(|i| format!("line {i}\n"))
            .collect::<Vec<_>>()
            .concat();
        let one = split(vec![Document::new("a", &lines)], HELD_OUT_PER_MILLE);
        assert_eq!(one.train[0].text.lines().count(), 36);
        assert_eq!(one.held_out[0].text.lines().count(), 4);
        assert_eq!(split(Vec::new(), 100), Split::default());
        let short = split(vec![Document::new("a", "only line")], HELD_OUT_PER_MILLE);
        assert_eq!((short.train.len(), short.held_out.len()), (1, 0));
    }

    #[test]
    fn one_long_line_does_not_keep_the_others_out_of_a_sample() {
        let others = documents(20);
        let first = others.iter().map(Document::sha256).min().unwrap();
        let long = |n: u32| Document::new("long.js".to_owned(), &format!("{n:0100}"));
        let long = (0..10_000)
            .map(long)
            .find(|long| long.sha256() < first)
            .unwrap();
        let sampled = sample([vec![long], others].concat(), 60);
        assert!(!sampled.is_empty());
        assert!(sampled.iter().all(|document| document.name != "long.js"));
    }
}
