//! Text of tokens: UTF-8, stop strings, purity.

use super::*;
use crate::tiny;

fn stream(stops: &[&str]) -> TextStream {
    let stops: Vec<String> = stops.iter().map(|stop| (*stop).to_owned()).collect();
    TextStream::new(&tiny::tokenizer(), StopStrings::new(&stops).unwrap())
}

/// Pushes bytes as single-byte tokens; gives every push's text and the flush.
fn pieces(stops: &[&str], bytes: &[u8]) -> (Vec<String>, String, TextStream) {
    let mut stream = stream(stops);
    let pushed: Vec<String> = bytes
        .iter()
        .map(|byte| stream.push(u32::from(*byte)).to_owned())
        .collect();
    let flush = stream.finish().to_owned();
    assert_eq!(format!("{}{flush}", pushed.concat()), stream.text());
    assert_eq!(stream.finish(), "", "a second finish gives nothing");
    (pushed, flush, stream)
}

#[test]
fn characters_come_whole() {
    let (pushed, flush, _) = pieces(&[], "aé€🦀".as_bytes());
    assert_eq!(pushed, ["a", "", "é", "", "", "€", "", "", "", "🦀"]);
    assert_eq!(flush, "");
}

#[test]
fn an_unfinished_character_becomes_one_mark_at_the_end_only() {
    let (pushed, flush, _) = pieces(&[], &"x🦀".as_bytes()[..4]);
    assert_eq!(
        (pushed.concat().as_str(), flush.as_str()),
        ("x", "\u{fffd}")
    );
}

#[test]
fn bytes_that_can_never_be_text_become_marks_at_once() {
    let (pushed, flush, _) = pieces(&[], b"a\xffb\xe2\x82c");
    assert_eq!(pushed, ["a", "\u{fffd}", "b", "", "", "\u{fffd}c"]);
    assert_eq!(flush, "");
    let bytes: Vec<u8> = (0..=255)
        .rev()
        .chain(0..=255)
        .chain(*b"\xf0\x9f\xa6")
        .collect();
    let (_, _, stream) = pieces(&[], &bytes);
    assert_eq!(stream.text(), String::from_utf8_lossy(&bytes));
}

#[test]
fn the_beginning_of_a_stop_string_is_held_back_until_decided() {
    let (pushed, flush, stream) = pieces(&["END"], b"xENyEN");
    assert_eq!(pushed, ["x", "", "", "ENy", "", ""]);
    assert_eq!(flush, "EN");
    assert!(!stream.is_stopped());
    let (pushed, flush, stream) = pieces(&["END"], b"xENDy");
    assert_eq!(pushed, ["x", "", "", "", ""]);
    assert_eq!((flush.as_str(), stream.text()), ("", "x"));
    assert!(stream.is_stopped());
    // Overlapping beginnings: "aab" in "aaab".
    let (pushed, _, stream) = pieces(&["aab"], b"aaab");
    assert_eq!(pushed.concat(), "a");
    assert!(stream.is_stopped());
}

#[test]
fn the_stop_string_that_is_complete_first_wins() {
    let (_, _, stream) = pieces(&["bcdef", "cd"], b"abcdef");
    assert_eq!(stream.text(), "ab");
    // Two ending together: the longer one cuts more.
    let (_, _, stream) = pieces(&["d", "bcd"], b"abcdef");
    assert_eq!(stream.text(), "a");
}

#[test]
fn a_stop_string_inside_one_token_cuts_it() {
    // "the" is one token of the tiny vocabulary.
    let tokenizer = tiny::tokenizer();
    let tokens = tokenizer.encode("on the", false).unwrap();
    assert!(tokens.len() < 6, "merges are at work: {tokens:?}");
    let mut stream = stream(&["h"]);
    let text: String = tokens
        .iter()
        .map(|token| stream.push(*token).to_owned())
        .collect();
    assert_eq!(text, "on t");
    assert!(stream.is_stopped());
}

#[test]
fn a_stop_string_of_several_bytes_a_character_works() {
    let (_, _, stream) = pieces(&["€!"], "a€b€!c".as_bytes());
    assert_eq!(stream.text(), "a€b");
    let (pushed, _, _) = pieces(&["€!"], "a€".as_bytes());
    assert_eq!(pushed.concat(), "a");
}

#[test]
fn special_and_unknown_tokens_have_no_text() {
    let mut stream = stream(&[]);
    assert_eq!(stream.push(tiny::IM_START), "");
    assert_eq!(stream.push(1_000_000), "");
    assert_eq!(stream.push(65), "A");
    assert_eq!(stream.text(), "A");
}

#[test]
fn the_text_is_a_function_of_the_tokens_and_emission_only_grows() {
    let mut noise = tiny::noise(17);
    for round in 0..200 {
        // Few letters, so that stop strings and broken characters are frequent.
        let alphabet = [b'a', b'b', b'c', 0xe2, 0x82, 0xac, 0xff];
        let bytes: Vec<u8> = (0..30)
            .map(|_| alphabet[tiny::noise_below(&mut noise, 7) as usize])
            .collect();
        let stops = ["abc", "ca", "b€", "\u{fffd}a"];
        let (pushed, _, stream) = pieces(&stops, &bytes);
        // The rule, applied to the whole text at once: the first stop string to end.
        let full = String::from_utf8_lossy(&bytes);
        let cut = (0..=full.len())
            .filter(|end| full.is_char_boundary(*end))
            .find_map(|end| {
                let ending = stops.iter().filter(|stop| full[..end].ends_with(**stop));
                ending.map(|stop| end - stop.len()).min()
            })
            .unwrap_or(full.len());
        assert_eq!(stream.text(), &full[..cut], "round {round}");
        // A fresh stream given the same tokens stands at the same place.
        let middle = bytes.len() / 2;
        let (_, _, _) = pieces(&stops, &bytes[..middle]);
        let shown: String = pushed[..middle].concat();
        assert!(full.starts_with(&shown) && stream.text().starts_with(&shown));
    }
}

#[test]
fn stop_strings_have_limits() {
    let new = |stops: Vec<String>| StopStrings::new(&stops);
    assert_eq!(new(vec![String::new()]), Err(StopStringsError::Empty));
    assert_eq!(
        new(vec!["a".into(); 17]),
        Err(StopStringsError::TooMany { count: 17 })
    );
    assert_eq!(
        new(vec!["a".repeat(1025)]),
        Err(StopStringsError::TooLong { bytes: 1025 })
    );
    assert!(new(vec!["a".repeat(1024); 16]).is_ok());
}
