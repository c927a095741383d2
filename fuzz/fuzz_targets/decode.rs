//! Foreign bytes as entries, changes and table definitions: an error, never a panic; what decodes encodes again.
#![no_main]

use bytes::Bytes;
use libfuzzer_sys::fuzz_target;
use watershed::model::{Entry, decode_changes, decode_table, encode_changes, encode_table};

fuzz_target!(|data: &[u8]| {
    let bytes = Bytes::copy_from_slice(data);
    if let Ok(changes) = decode_changes(&bytes) {
        assert_eq!(decode_changes(&encode_changes(&changes)).as_ref(), Ok(&changes));
    }
    if let Ok(table) = decode_table(data) {
        assert_eq!(decode_table(&encode_table(&table)).as_ref(), Ok(&table));
    }
    if let Ok(entry) = Entry::decode(bytes.clone()) {
        assert_eq!(entry.bytes(), &bytes);
        let again = Entry::new(entry.header().clone(), entry.changes_bytes().clone());
        assert_eq!(again.header(), entry.header());
        let _ = entry.changes();
    }
});
