//! Parameters that are arrays, built as the bytes that the server takes, without a value in between.

use bytes::BytesMut;
use tokio_postgres::types::{IsNull, ToSql, Type, to_sql_checked};

/// An array's binary form while it grows: dimensions, NULL flag, element type, length, lower bound, then the elements.
#[derive(Debug)]
pub(super) struct Array {
    bytes: Vec<u8>,
    count: u32,
    has_null: bool,
}

const HEADER: usize = 20;

impl Array {
    /// Of an element type, by its number in `pg_type`.
    pub(super) fn of(element: u32) -> Array {
        let mut bytes = Vec::with_capacity(256);
        bytes.extend_from_slice(&[0; HEADER]);
        bytes[8..12].copy_from_slice(&element.to_be_bytes());
        Array { bytes, count: 0, has_null: false }
    }

    pub(super) fn texts() -> Array {
        Array::of(Type::TEXT.oid())
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes.len()
    }

    pub(super) fn null(&mut self) {
        self.count += 1;
        self.has_null = true;
        self.bytes.extend_from_slice(&(-1i32).to_be_bytes());
    }

    /// An element's own binary form.
    #[inline]
    pub(super) fn put(&mut self, element: &[u8]) {
        self.count += 1;
        self.bytes.extend_from_slice(&(element.len() as u32).to_be_bytes());
        self.bytes.extend_from_slice(element);
    }

    /// Bytes as bytea's text.
    pub(super) fn hex(&mut self, blob: &[u8]) {
        const DIGITS: &[u8; 16] = b"0123456789abcdef";
        self.count += 1;
        self.bytes.extend_from_slice(&(2 * blob.len() as u32 + 2).to_be_bytes());
        self.bytes.extend_from_slice(b"\\x");
        for &byte in blob {
            self.bytes.push(DIGITS[usize::from(byte >> 4)]);
            self.bytes.push(DIGITS[usize::from(byte & 15)]);
        }
    }

    /// The parameter.
    pub(super) fn finish(mut self) -> Raw {
        let dimensions = u32::from(self.count > 0);
        self.bytes[..4].copy_from_slice(&dimensions.to_be_bytes());
        self.bytes[4..8].copy_from_slice(&u32::from(self.has_null).to_be_bytes());
        self.bytes[12..16].copy_from_slice(&self.count.to_be_bytes());
        self.bytes[16..20].copy_from_slice(&1u32.to_be_bytes());
        if self.count == 0 {
            self.bytes.truncate(12);
        }
        Raw(Some(self.bytes))
    }
}

/// A parameter in its binary form.
#[derive(Debug)]
pub(super) struct Raw(Option<Vec<u8>>);

impl Raw {
    /// A text, or NULL.
    pub(super) fn text(text: Option<String>) -> Raw {
        Raw(text.map(String::into_bytes))
    }
}

impl ToSql for Raw {
    fn to_sql(&self, _: &Type, out: &mut BytesMut) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(bytes) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(bytes);
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    to_sql_checked!();
}
