//! Foreign bytes as messages of `pgoutput`, within and outside of parts of a transaction: an error, never a panic; a row has
//! the values that it says.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use watershed::postgres::replication::pgoutput::{Decoder, Message, Old, Tuple, TupleValue};

fn row(tuple: &Tuple) {
    let texts = tuple.values().map(|value| if let TupleValue::Text(text) = value { text.len() } else { 0 });
    assert!(texts.sum::<usize>() <= tuple.size());
    assert_eq!(tuple.values().count(), tuple.columns());
    assert_eq!(tuple.row().len(), tuple.columns());
}

fuzz_target!(|data: &[u8]| {
    // Messages with their lengths before them, so that a stream of several is tried.
    let mut rest = Bytes::copy_from_slice(data);
    let mut decoder = Decoder::new();
    while rest.len() > 2 {
        let length = usize::from(u16::from_be_bytes([rest[0], rest[1]])).min(rest.len() - 2);
        let message = rest.slice(2..2 + length);
        rest = rest.slice(2 + length..);
        let Ok(decoded) = decoder.decode(&message) else { continue };
        match &decoded.message {
            Message::Insert { new, .. } => row(new),
            Message::Update { old, new, .. } => {
                old.as_ref().map(Old::tuple).into_iter().for_each(row);
                row(new);
            }
            Message::Delete { old, .. } => row(old.tuple()),
            _ => {}
        }
        let _ = format!("{decoded:?}");
    }
});
