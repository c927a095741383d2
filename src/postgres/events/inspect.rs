//! What an events table is: columns, objects, counts, the first event.
