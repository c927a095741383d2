//! What the output plugin `pgoutput` sends. (postgresql.org/docs/15/protocol-logicalrep-message-formats.html)

mod decode;
mod input;
mod message;
mod tuple;

pub use decode::Decoder;
pub use input::DecodeError;
pub use message::{
    Begin, Commit, Decoded, Identity, LogicalMessage, Message, Old, Origin, Relation, RelationColumn, Text, Truncate,
};
pub use tuple::{Tuple, TupleValue, Values};
