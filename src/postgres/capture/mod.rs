//! Local commits, read from the transaction log by logical decoding.
