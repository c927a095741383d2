//! Two events tables compared.
