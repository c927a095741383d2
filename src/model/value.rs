//! Values and rows. A value travels as text in PostgreSQL's representation.

use bytes::Bytes;

/// How a value's text is to be read.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum Kind {
    /// SQL NULL; no text.
    Null = b'n',
    /// Text in the representation of the column's declared type.
    Typed = b't',
    /// Not sent by the source because it did not change (TOAST); no text. Never overwrites.
    Unchanged = b'u',
    /// In an old row only: the same as in the new row; no text.
    Same = b'=',
    /// A 64-bit signed integer in decimal, whatever the column declares (SQLite's storage class INTEGER).
    Integer = b'i',
    /// A double, shortest text that reads back to the same bits; `Infinity`, `-Infinity` (storage class REAL).
    Real = b'r',
    /// A character string, whatever the column declares (storage class TEXT).
    Text = b's',
    /// Bytes as they are (storage class BLOB); shown as PostgreSQL's `\x` hex.
    Blob = b'b',
}

impl Kind {
    /// The kind with that code.
    pub fn from_code(code: u8) -> Option<Kind> {
        Some(match code {
            b'n' => Kind::Null,
            b't' => Kind::Typed,
            b'u' => Kind::Unchanged,
            b'=' => Kind::Same,
            b'i' => Kind::Integer,
            b'r' => Kind::Real,
            b's' => Kind::Text,
            b'b' => Kind::Blob,
            _ => return None,
        })
    }

    /// Whether bytes go with it.
    pub fn has_text(self) -> bool {
        !matches!(self, Kind::Null | Kind::Unchanged | Kind::Same)
    }
}

/// One column's value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Value {
    /// How to read `text`.
    pub kind: Kind,
    /// Empty where the kind has no text.
    pub text: Bytes,
}

impl Value {
    /// SQL NULL.
    pub const NULL: Value = Value { kind: Kind::Null, text: Bytes::new() };
    /// Not sent because unchanged.
    pub const UNCHANGED: Value = Value { kind: Kind::Unchanged, text: Bytes::new() };
    /// As in the new row.
    pub const SAME: Value = Value { kind: Kind::Same, text: Bytes::new() };

    /// A value with text.
    pub fn new(kind: Kind, text: impl Into<Bytes>) -> Value {
        Value { kind, text: text.into() }
    }
}

/// A row: one value per column of the table's definition, in its order. In a key-only old row the other columns
/// are [`Kind::Unchanged`].
pub type Row = Vec<Value>;
