//! What is sent is read again, what is not of the protocol is refused.

use proptest::prelude::*;

use super::*;

fn range(id: u32, length: u32) -> Request {
    Request {
        id,
        file: Sha256::of(b"file"),
        ask: Ask::Range { offset: 7, length },
    }
}

fn asks() -> impl Strategy<Value = Ask> {
    prop_oneof![
        Just(Ask::Have),
        (0..u64::MAX / 2, 1..=RANGE_BYTES_MAX)
            .prop_map(|(offset, length)| Ask::Range { offset, length }),
    ]
}

proptest! {
    #[test]
    fn a_request_is_read_as_it_was_sent(id: u32, name: [u8; 32], ask in asks()) {
        let request = Request { id, file: Sha256(name), ask };
        prop_assert_eq!(Request::parse(&request.to_bytes()), Ok(request));
    }

    #[test]
    fn what_can_be_read_is_written_the_same(bytes: [u8; REQUEST_BYTES]) {
        if let Ok(request) = Request::parse(&bytes) {
            prop_assert_eq!(request.to_bytes(), bytes);
        }
    }

    #[test]
    fn an_answer_never_announces_more_than_was_asked_for(
        head: [u8; ANSWER_BYTES], id: u32, ask in asks(),
    ) {
        let request = Request { id, file: Sha256::of(b"file"), ask };
        if let Ok(answer) = Answer::parse(&head, &request) {
            let most = match ask {
                Ask::Have => HAVE_BYTES_MAX,
                Ask::Range { length, .. } => length,
            };
            prop_assert!(answer.length <= most);
        }
    }
}

#[test]
fn a_range_is_at_least_a_byte_and_at_most_the_limit() {
    for length in [0, RANGE_BYTES_MAX + 1, u32::MAX] {
        let refused = Request::parse(&range(1, length).to_bytes());
        assert!(matches!(refused, Err(WireError::Length { .. })), "{length}");
    }
    let beyond = Request {
        ask: Ask::Range {
            offset: u64::MAX,
            length: 1,
        },
        ..range(1, 1)
    };
    assert!(Request::parse(&beyond.to_bytes()).is_err());
}

#[test]
fn an_answer_fits_its_request() {
    let request = range(9, 100);
    let ok = |id, length| Answer {
        id,
        status: Status::Ok,
        length,
    };
    let read = |answer: Answer| Answer::parse(&answer.to_bytes(), &request);
    assert_eq!(read(ok(9, 100)), Ok(ok(9, 100)));
    assert!(read(ok(8, 100)).is_err());
    assert!(read(ok(9, 99)).is_err());
    assert!(read(ok(NO_REQUEST, 100)).is_err());
    let turned_away = Answer {
        id: NO_REQUEST,
        status: Status::Busy { retry_ms: u32::MAX },
        length: 0,
    };
    let retry_ms = RETRY_MS_MAX;
    assert_eq!(read(turned_away).unwrap().status, Status::Busy { retry_ms });
}

#[test]
fn pieces_are_read_as_they_were_sent_and_must_fit_the_file() {
    let mut some = PieceSet::none(11);
    some.add(0);
    some.add(10);
    for have in [Have::All, Have::Some(some)] {
        assert_eq!(Have::parse(&have.to_bytes(), 11), Ok(have.clone()));
    }
    for wrong in [&[2, 0b1000][..], &[2, 7, 0], &[2], &[1, 0], &[]] {
        assert_eq!(Have::parse(wrong, 3), Err(WireError::Pieces), "{wrong:?}");
    }
    assert_eq!(Have::parse(&[3, 7], 3), Err(WireError::Kind(3)));
}
