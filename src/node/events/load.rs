//! Realistic events, appended by many loaders at once.
