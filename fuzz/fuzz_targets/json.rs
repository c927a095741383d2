//! Foreign bytes compared as JSON: never a panic; what is read without error is equal to itself with blanks around it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use watershed::model::same_json;

fuzz_target!(|data: &[u8]| {
    assert!(same_json(data, data));
    let half = data.len() / 2;
    let (one, other) = data.split_at(half);
    assert_eq!(same_json(one, other), same_json(other, one));
    let spaced = [b" ", data, b" "].concat();
    let twice = [b"  ", data, b"\n"].concat();
    assert_eq!(same_json(data, &spaced), same_json(data, &twice));
});
