//! Bytes that are no messages.

use bytes::{BufMut, Bytes, BytesMut};
use proptest::collection::vec;
use proptest::prelude::*;
use watershed::postgres::replication::pgoutput::{Decoder, Message, Old, Tuple, TupleValue};

/// A row's values as they are sent.
fn put_row(bytes: &mut BytesMut, row: &[Option<Vec<u8>>]) {
    bytes.put_u16(u16::try_from(row.len()).unwrap());
    for value in row {
        match value {
            None => bytes.put_u8(b'n'),
            Some(text) if text == b"unchanged" => bytes.put_u8(b'u'),
            Some(text) => {
                bytes.put_u8(b't');
                bytes.put_u32(u32::try_from(text.len()).unwrap());
                bytes.put_slice(text);
            }
        }
    }
}

fn put_text(bytes: &mut BytesMut, text: &str) {
    bytes.put_slice(text.as_bytes());
    bytes.put_u8(0);
}

type Values = Vec<Option<Vec<u8>>>;

/// One message of each kind, with a transaction if it is within a part.
fn messages(row: &Values, text: &str, part: Option<u32>) -> Vec<Bytes> {
    let within = |tag: u8, put: &dyn Fn(&mut BytesMut)| {
        let mut bytes = BytesMut::from(&[tag][..]);
        if let Some(xid) = part {
            bytes.put_u32(xid);
        }
        put(&mut bytes);
        bytes.freeze()
    };
    let mut all = vec![
        within(b'I', &|bytes| {
            bytes.put_slice(b"\0\0\0\x07N");
            put_row(bytes, row);
        }),
        within(b'U', &|bytes| {
            bytes.put_slice(b"\0\0\0\x07N");
            put_row(bytes, row);
        }),
        within(b'U', &|bytes| {
            bytes.put_slice(b"\0\0\0\x07K");
            put_row(bytes, row);
            bytes.put_u8(b'N');
            put_row(bytes, row);
        }),
        within(b'D', &|bytes| {
            bytes.put_slice(b"\0\0\0\x07O");
            put_row(bytes, row);
        }),
        within(b'T', &|bytes| bytes.put_slice(b"\0\0\0\x02\x03\0\0\0\x07\0\0\0\x08")),
        within(b'R', &|bytes| {
            bytes.put_u32(7);
            put_text(bytes, "public");
            put_text(bytes, text);
            bytes.put_slice(b"f\0\x01\x01");
            put_text(bytes, text);
            bytes.put_slice(b"\0\0\0\x17\xff\xff\xff\xff");
        }),
        within(b'Y', &|bytes| {
            bytes.put_u32(9);
            put_text(bytes, "");
            put_text(bytes, text);
        }),
        within(b'M', &|bytes| {
            bytes.put_slice(b"\x01\0\0\0\0\0\0\0\x05");
            put_text(bytes, "prefix");
            bytes.put_u32(u32::try_from(text.len()).unwrap());
            bytes.put_slice(text.as_bytes());
        }),
    ];
    let mut origin = BytesMut::from(&b"O\0\0\0\0\0\0\0\x05"[..]);
    put_text(&mut origin, text);
    all.push(origin.freeze());
    all.push(Bytes::from_static(if part.is_some() { b"E" } else { b"S\0\0\0\x01\x01" }));
    if part.is_none() {
        all.push(Bytes::from([b"B".as_slice(), &[1; 20]].concat()));
        all.push(Bytes::from([b"C\0".as_slice(), &[1; 24]].concat()));
        all.push(Bytes::from([b"c\0\0\0\x01\0".as_slice(), &[1; 24]].concat()));
        all.push(Bytes::from_static(b"A\0\0\0\x01\0\0\0\x02"));
    }
    all
}

/// A decoder outside or within a part.
fn decoder(part: Option<u32>) -> Decoder {
    let mut decoder = Decoder::new();
    if part.is_some() {
        decoder.decode(&Bytes::from_static(b"S\0\0\0\x01\x01")).unwrap();
    }
    decoder
}

fn values(tuple: &Tuple) -> Values {
    let values = tuple.values().map(|value| match value {
        TupleValue::Null => None,
        TupleValue::Unchanged => Some(b"unchanged".to_vec()),
        TupleValue::Text(text) => {
            assert_eq!(tuple.share(text), text);
            Some(text.to_vec())
        }
    });
    let values: Values = values.collect();
    assert_eq!((values.len(), tuple.row().len()), (tuple.columns(), tuple.columns()));
    values
}

/// The rows of a message.
fn rows(message: &Message) -> Vec<Values> {
    match message {
        Message::Insert { new, .. } => vec![values(new)],
        Message::Update { old, new, .. } => old.as_ref().map(Old::tuple).into_iter().chain([new]).map(values).collect(),
        Message::Delete { old, .. } => vec![values(old.tuple())],
        _ => Vec::new(),
    }
}

fn row() -> impl Strategy<Value = Values> {
    vec(prop_oneof![Just(None), Just(Some(b"unchanged".to_vec())), vec(any::<u8>(), 0..40).prop_map(Some)], 0..20)
}

proptest! {
    #[test]
    fn messages_are_read_whole_or_not_at_all(row in row(), text in "[^\0]{0,20}", part in proptest::option::of(any::<u32>())) {
        for bytes in messages(&row, &text, part) {
            let decoded = decoder(part).decode(&bytes);
            let decoded = decoded.unwrap_or_else(|error| panic!("{error}: {bytes:?}"));
            let prefixed = !matches!(bytes[0], b'O' | b'E');
            prop_assert_eq!(decoded.xid, part.filter(|_| prefixed));
            for found in rows(&decoded.message) {
                prop_assert_eq!(&found, &row);
            }
            for end in 0..bytes.len() {
                let cut = decoder(part).decode(&bytes.slice(..end));
                let error = cut.expect_err("it ends too early");
                prop_assert!(error.at <= end && (end == 0 || error.tag == bytes[0]), "{error}");
            }
            let more = Bytes::from([&bytes[..], b"\0"].concat());
            prop_assert!(decoder(part).decode(&more).is_err());
        }
    }

    #[test]
    fn any_bytes_are_an_error_or_a_message(
        tag in prop_oneof![proptest::sample::select(&b"BCORYIUDTMSEcA"[..]), any::<u8>()],
        rest in vec(prop_oneof![3 => 0u8..4, 1 => proptest::sample::select(&b"NKOntub"[..]), 1 => any::<u8>()], 0..60),
        part in proptest::option::of(any::<u32>()),
    ) {
        let bytes = Bytes::from([&[tag], &rest[..]].concat());
        if let Ok(decoded) = decoder(part).decode(&bytes) {
            rows(&decoded.message);
            let _ = format!("{decoded:?}");
        }
    }

    #[test]
    fn a_message_with_one_byte_changed_never_does_harm(
        row in row(), text in "[^\0]{0,20}", part in proptest::option::of(any::<u32>()), at in any::<proptest::sample::Index>(), byte in any::<u8>(),
    ) {
        for bytes in messages(&row, &text, part) {
            let mut changed = bytes.to_vec();
            let at = at.index(changed.len());
            changed[at] = byte;
            if let Ok(decoded) = decoder(part).decode(&Bytes::from(changed)) {
                rows(&decoded.message);
            }
        }
    }
}

#[test]
fn what_is_not_asked_for_is_refused_by_name() {
    let refused = |bytes: &'static [u8], part| {
        decoder(part).decode(&Bytes::from_static(bytes)).expect_err("no message").to_string()
    };
    assert_eq!(
        refused(b"I\0\0\0\x07N\0\x01b\0\0\0\x01x", None),
        "pgoutput message 'I', byte 9: a value is binary, which was not asked for"
    );
    assert_eq!(refused(b"P\0", None), "pgoutput message 'P', byte 1: there is no such message in the versions 1 and 2");
    assert_eq!(refused(b"", None), "pgoutput message '\\0', byte 0: it ends too early");
    assert!(refused(b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xff", None).contains("negative"));
    assert!(refused(b"E", None).contains("has not begun"));
    assert!(refused(b"S\0\0\0\x02\x01", Some(1)).contains("within a part"));
    assert!(refused(b"O\0\0\0\0\0\0\0\x05\xff\0", None).contains("not UTF-8"));
}
