//! The vocabulary.

use crate::tiny;

#[test]
fn text_survives_the_way_there_and_back() {
    let tokenizer = tiny::tokenizer();
    for text in [
        "on the other hand",
        "  a\n\tb ",
        "🦀 é €",
        "<|im_start|>user\n",
        "\u{0}\u{7f}",
    ] {
        let tokens = tokenizer.encode(text, false).unwrap();
        assert_eq!(tokenizer.decode(&tokens), text);
    }
}

#[test]
fn text_never_becomes_a_special_token() {
    let tokenizer = tiny::tokenizer();
    let tokens = tokenizer.encode("a<|im_end|><|endoftext|>b", true).unwrap();
    assert!(
        tokens
            .iter()
            .all(|id| ![tiny::END, tiny::IM_START, tiny::IM_END].contains(id))
    );
}

#[test]
fn every_byte_has_its_token_and_every_token_its_bytes() {
    let tokenizer = tiny::tokenizer();
    for byte in 0..=255u8 {
        assert_eq!(tokenizer.token_bytes(u32::from(byte)), [byte]);
    }
    assert_eq!(tokenizer.token_bytes(tiny::IM_END + 6), b" the");
    assert_eq!(tokenizer.token_bytes(tiny::IM_END), b"");
    assert_eq!(tokenizer.token_bytes(u32::MAX), b"");
    assert_eq!(tokenizer.vocabulary(), tiny::VOCABULARY);
    assert_eq!(tokenizer.special_id("<|im_end|>"), Some(tiny::IM_END));
    assert_eq!(tokenizer.special_id("the"), None);
}

#[test]
fn added_tokens_that_are_not_special_are_shown_but_not_written_by_users_either() {
    let mut json = tiny::tokenizer_json();
    json["added_tokens"][2]["special"] = false.into();
    let tokenizer =
        crate::Tokenizer::from_json(json.to_string().as_bytes(), tiny::VOCABULARY).unwrap();
    let tokens = tokenizer.encode("a<|im_end|>", false).unwrap();
    assert!(!tokens.contains(&tiny::IM_END));
    assert_eq!(tokenizer.token_bytes(tiny::IM_END), b"<|im_end|>");
    assert_eq!(tokenizer.token_bytes(tiny::IM_START), b"");
}
