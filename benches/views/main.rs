//! How fast views are, side by side in one run: a grouping view in SQLite against a loop written by hand, `latest`,
//! and readers over HTTP.
//!
//! `cargo bench --bench views`; the folder is `WATERSHED_BENCH_DIR`, or one under `target/` (it should be on a real disk).
//! `WATERSHED_BENCH_ONLY` is `group`, `latest` or `http`; `WATERSHED_BENCH_ENTRIES` how many entries there are (1,000,000).

mod entries;
mod group;
mod http;
mod latest;

fn main() {
    let base = std::env::var_os("WATERSHED_BENCH_DIR").unwrap_or_else(|| env!("CARGO_TARGET_TMPDIR").into());
    let dir = tempfile::tempdir_in(base).expect("the bench folder is writable");
    let runtime =
        tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().expect("a runtime");
    let only = std::env::var("WATERSHED_BENCH_ONLY").unwrap_or_default();
    let wanted = |name: &str| only.is_empty() || only == name;
    let entries = std::env::var("WATERSHED_BENCH_ENTRIES").ok().and_then(|text| text.parse().ok()).unwrap_or(1_000_000);
    if wanted("group") {
        group::run(dir.path(), &runtime, entries);
    }
    if wanted("latest") {
        latest::run(dir.path(), &runtime, entries);
    }
    if wanted("http") {
        http::run(dir.path(), &runtime);
    }
}
