//! A node in this process, and a view whose store does what a test wants.

use std::collections::BTreeMap;
use std::path::Path;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use async_trait::async_trait;
use serde_json::{Value as Json, json};
use watershed::http;
use watershed::model::{Batch, Cursor, FeedRows, Fingerprint, LogId, Position};
use watershed::node::feeds::FeedSpec;
use watershed::node::views::ViewSettings;
use watershed::node::{LogSettings, Node, Policy, Settings};
use watershed::view::{Answer, AskError, Bounds, Question, StateDigest, View, ViewBuilds, ViewError, ViewStore};

/// What a store does wrong.
#[derive(Default)]
pub struct Faults {
    /// It cannot be reached.
    pub away: AtomicBool,
    /// It takes nothing, and does not say so.
    pub held: AtomicBool,
    /// Only what is being built.
    pub build_held: AtomicBool,
    /// It cannot take the entry there.
    pub fails_at: AtomicU64,
    /// It does not come to an end of summing up.
    pub digest_held: AtomicBool,
    /// Only what is being built.
    pub build_fails_at: AtomicU64,
    /// Only what answers.
    pub live_fails_at: AtomicU64,
    /// It has taken what it was given, and does not say so.
    pub lingers: AtomicBool,
    /// How often somebody has waited because it is held or lingers.
    pub waits: AtomicU64,
    /// No build can begin.
    pub build_refused: AtomicBool,
    /// So many times a build cannot take the place of what answers.
    pub switch_refused: AtomicU64,
}

#[derive(Clone, Default)]
struct State {
    cursors: BTreeMap<LogId, Cursor>,
    count: i64,
    sum: i64,
}

/// One build: how many rows there are, and the sum of them, times the definition.
struct Kept {
    definition: u64,
    is_build: AtomicBool,
    state: Mutex<State>,
    faults: Arc<Faults>,
}

/// Where builds are, over runs of a node.
#[derive(Default)]
pub struct Place {
    pub faults: Arc<Faults>,
    live: Mutex<Option<Arc<Kept>>>,
    build: Mutex<Option<Arc<Kept>>>,
    /// How often what answers was not there when it was opened.
    pub not_there: AtomicU64,
    /// How many builds began with nothing.
    pub begun: AtomicU64,
    /// The definitions of those that have taken the place of what answers.
    pub switched: Mutex<Vec<u64>>,
    /// The definition as its file has it.
    pub wanted: AtomicU64,
}

impl Place {
    pub fn new() -> Arc<Place> {
        Arc::new(Place { wanted: 1.into(), ..Place::default() })
    }

    /// It forgets the last entries, as a store does that was put back.
    pub fn set_back(&self, to: u64) {
        let live = self.live.lock().expect("nobody panics");
        let mut state = live.as_ref().expect("there is one").state.lock().expect("nobody panics");
        state.cursors.values_mut().for_each(|cursor| cursor.position = Position(cursor.position.0.min(to)));
        (state.count, state.sum) = (to as i64, (1..=to as i64).sum());
    }

    fn kept(&self, is_build: bool, definition: u64) -> Arc<Kept> {
        let faults = self.faults.clone();
        Arc::new(Kept { definition, is_build: is_build.into(), state: Mutex::default(), faults })
    }
}

struct Builds(Arc<Place>, u64);

#[async_trait]
impl ViewBuilds for Builds {
    fn wanted(&self) -> Fingerprint {
        Fingerprint(self.1)
    }

    async fn live(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        if self.0.faults.away.load(Ordering::SeqCst) {
            self.0.not_there.fetch_add(1, Ordering::SeqCst);
            return Err(ViewError::Lost("the store is away".into()));
        }
        let new = || self.0.kept(false, self.1);
        let live = self.0.live.lock().expect("nobody panics").get_or_insert_with(new).clone();
        Ok(Arc::new(Store(live)))
    }

    async fn build(&self, afresh: bool) -> Result<Arc<dyn ViewStore>, ViewError> {
        if self.0.faults.build_refused.load(Ordering::SeqCst) {
            return Err(ViewError::Retry("no build begins".into()));
        }
        let mut build = self.0.build.lock().expect("nobody panics");
        if afresh || build.as_ref().is_none_or(|build| build.definition != self.1) {
            *build = Some(self.0.kept(true, self.1));
            self.0.begun.fetch_add(1, Ordering::SeqCst);
        }
        Ok(Arc::new(Store(build.clone().expect("it was made"))))
    }

    async fn switch(&self) -> Result<Arc<dyn ViewStore>, ViewError> {
        let refused = &self.0.faults.switch_refused;
        if refused.fetch_update(Ordering::SeqCst, Ordering::SeqCst, |times| times.checked_sub(1)).is_ok() {
            return Err(ViewError::Failed("the disk is full".into()));
        }
        let build = self.0.build.lock().expect("nobody panics").take().expect("there is a build");
        self.0.switched.lock().expect("nobody panics").push(build.definition);
        build.is_build.store(false, Ordering::SeqCst);
        *self.0.live.lock().expect("nobody panics") = Some(build.clone());
        Ok(Arc::new(Store(build)))
    }
}

impl Kept {
    fn is_held(&self) -> bool {
        let own = if self.is_build.load(Ordering::SeqCst) { &self.faults.build_held } else { &self.faults.held };
        own.load(Ordering::SeqCst)
    }

    fn cursors(state: &State) -> Vec<Cursor> {
        state.cursors.values().copied().collect()
    }

    fn take(&self, log: LogId, batch: &Batch) -> Result<(), ViewError> {
        let mut state = self.state.lock().expect("nobody panics");
        let seen = state.cursors.get(&log).map_or(Position::ZERO, |cursor| cursor.position);
        for logged in batch.entries.iter().filter(|logged| logged.position > seen) {
            let is_build = self.is_build.load(Ordering::SeqCst);
            let own = if is_build { &self.faults.build_fails_at } else { &self.faults.live_fails_at };
            if [&self.faults.fails_at, own].map(|at| at.load(Ordering::SeqCst)).contains(&logged.position.0) {
                return Err(ViewError::Failed("the row is not to its liking".into()));
            }
            for row in FeedRows::new(logged.entry.changes_bytes()) {
                let row: i64 = row.and_then(|row| row.row.parse().ok()).unwrap_or_default();
                state.count += 1;
                state.sum += row * self.definition as i64;
            }
            state.cursors.insert(log, Cursor { position: logged.position, ..batch.upto });
        }
        state.cursors.insert(log, batch.upto);
        Ok(())
    }
}

struct KeptPart(Arc<Kept>, LogId);

#[async_trait]
impl View for KeptPart {
    async fn cursor(&mut self) -> Result<Option<Cursor>, ViewError> {
        Ok(self.0.state.lock().expect("nobody panics").cursors.get(&self.1).copied())
    }

    async fn apply(&mut self, batch: &Batch) -> Result<(), ViewError> {
        while self.0.is_held() {
            self.0.faults.waits.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        if self.0.faults.away.load(Ordering::SeqCst) {
            return Err(ViewError::Lost("the store is away".into()));
        }
        let taken = self.0.take(self.1, batch);
        while taken.is_ok() && self.0.faults.lingers.load(Ordering::SeqCst) {
            self.0.faults.waits.fetch_add(1, Ordering::SeqCst);
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        taken
    }
}

/// A build as the node has it.
struct Store(Arc<Kept>);

#[async_trait]
impl ViewStore for Store {
    fn definition(&self) -> Fingerprint {
        Fingerprint(self.0.definition)
    }

    async fn part(&self, log: LogId) -> Result<Box<dyn View>, ViewError> {
        if self.0.faults.away.load(Ordering::SeqCst) {
            return Err(ViewError::Lost("the store is away".into()));
        }
        Ok(Box::new(KeptPart(self.0.clone(), log)))
    }

    async fn cursors(&self) -> Result<Vec<Cursor>, ViewError> {
        Ok(Kept::cursors(&self.0.state.lock().expect("nobody panics")))
    }

    async fn ask(&self, question: &Question, bounds: &Bounds) -> Result<Answer, AskError> {
        match question {
            Question::Sql { sql, .. } if sql == "loop" => return Err(AskError::Slow(bounds.time)),
            Question::Sql { sql, .. } if sql == "many" => {
                return Err(AskError::Large { what: "rows", most: bounds.rows });
            }
            Question::Sql { sql, .. } if sql.starts_with("drop") => {
                return Err(AskError::Forbidden("it is not a question".into()));
            }
            Question::Sql { sql, .. } if sql != "sum" => return Err(AskError::Invalid("there is only the sum".into())),
            Question::Row { table, key } if (&**table, &**key) != ("totals", "all") => {
                return Err(AskError::Absent(format!("there is no {table} {key}")));
            }
            _ => {}
        }
        let state = self.0.state.lock().expect("nobody panics");
        Ok(Answer {
            columns: vec!["count".into(), "sum".into()],
            rows: vec![vec![state.count.into(), state.sum.into()]],
            cursors: Kept::cursors(&state),
            definition: Fingerprint(self.0.definition),
        })
    }

    async fn digest(&self) -> Result<StateDigest, ViewError> {
        while self.0.faults.digest_held.load(Ordering::SeqCst) {
            tokio::time::sleep(Duration::from_millis(2)).await;
        }
        let state = self.0.state.lock().expect("nobody panics");
        let mut digest = [0; 32];
        digest[..8].copy_from_slice(&state.sum.to_le_bytes());
        Ok(StateDigest { digest, rows: state.count as u64, cursors: Kept::cursors(&state) })
    }

    async fn pass_over(&self, at: Cursor) -> Result<(), ViewError> {
        self.0.state.lock().expect("nobody panics").cursors.insert(at.log, at);
        Ok(())
    }
}

/// A node with the feed `orders` and the view `totals` of it.
pub struct Bed {
    pub node: Arc<Node>,
    pub port: u16,
}

impl Bed {
    pub async fn up(dir: &Path, place: &Arc<Place>, partitions: u32) -> Bed {
        let place = place.clone();
        let view = ViewSettings {
            log: "orders".into(),
            kind: "sum".into(),
            store: "a test".into(),
            tables: None,
            publish: None,
            make: Arc::new(move || Ok(Arc::new(Builds(place.clone(), place.wanted.load(Ordering::SeqCst))))),
            persist_every: None,
        };
        Bed::with(dir, view, partitions).await
    }

    /// With another view of that name.
    pub async fn with(dir: &Path, view: ViewSettings, partitions: u32) -> Bed {
        let listen = ([127, 0, 0, 1], 0).into();
        let feed = |partitions| FeedSpec { append: true, partitions, ..FeedSpec::default() };
        let feeds = [("orders".to_owned(), feed(partitions)), ("others".to_owned(), feed(1))];
        let settings = Settings {
            name: "hub".into(),
            data_dir: dir.join("hub.data"),
            listen,
            parent: None,
            database: None,
            copies: Vec::new(),
            policy: Policy::default(),
            log: LogSettings::default(),
            append_main: true,
            feeds: feeds.into(),
            mirrors: Default::default(),
            views: [("totals".to_owned(), view)].into(),
            tokens: Vec::new(),
            tls: None,
            cors: Vec::new(),
        };
        let node = Arc::new(Node::start(settings).await.expect("starts"));
        let address = http::serve(node.clone(), listen).await.expect("listens");
        Bed { node, port: address.port() }
    }

    pub async fn down(self) {
        self.node.stop().await;
    }

    async fn call(&self, method: &str, path: &str, headers: &[(&str, &str)], body: &str) -> (u16, Json) {
        let mut request = ureq::http::Request::builder().method(method);
        request = request.uri(format!("http://127.0.0.1:{}{path}", self.port));
        request = request.header("Content-Type", "application/json");
        for (name, value) in headers {
            request = request.header(*name, *value);
        }
        let request = request.body(body.to_owned()).expect("a request");
        let asked = tokio::task::spawn_blocking(move || {
            let config = ureq::Agent::config_builder().http_status_as_error(false);
            let agent: ureq::Agent = config.timeout_global(Some(Duration::from_secs(120))).build().into();
            let mut answer = agent.run(request).expect("an answer");
            let header =
                answer.headers().get("watershed-cursor").and_then(|value| value.to_str().ok()).map(str::to_owned);
            let text = answer.body_mut().read_to_string().expect("text");
            let mut body: Json = serde_json::from_str(&text).unwrap_or(Json::String(text));
            if let (Some(header), true) = (header, body.is_object()) {
                assert_eq!(body["cursor"], header.as_str(), "the header says what the body says");
                body["header"] = header.into();
            }
            (answer.status().as_u16(), body)
        });
        asked.await.expect("no panic")
    }

    /// `GET` of a path under `/v1/views/`.
    pub async fn get(&self, path: &str) -> (u16, Json) {
        self.call("GET", &format!("/v1/views/{path}"), &[], "").await
    }

    /// `GET` of any path.
    pub async fn look(&self, path: &str) -> (u16, Json) {
        self.call("GET", path, &[], "").await
    }

    /// Asks for the sum.
    pub async fn sum(&self, query: &str) -> (u16, Json) {
        self.ask("sum", query, &[]).await
    }

    pub async fn ask(&self, sql: &str, query: &str, headers: &[(&str, &str)]) -> (u16, Json) {
        let body = json!({ "sql": sql }).to_string();
        self.call("POST", &format!("/v1/views/totals/query{query}"), headers, &body).await
    }

    /// `POST` of an operator.
    pub async fn order(&self, path: &str, body: &str) -> (u16, Json) {
        let bearer = format!("Bearer {}", self.node.folder.admin_token);
        self.call("POST", path, &[("Authorization", &bearer)], body).await
    }

    /// Appends a number; its token.
    pub async fn append(&self, log: &str, row: i64) -> String {
        let body = json!({ "row": row, "key": row.to_string() }).to_string();
        self.appended(&format!("{log}/entries"), &body).await
    }

    /// The same without a key, to a partition of the feed.
    pub async fn append_to(&self, partition: usize, row: i64) -> String {
        self.appended(&format!("orders/entries?partition={partition}"), &json!({ "row": row }).to_string()).await
    }

    async fn appended(&self, path: &str, body: &str) -> String {
        let (status, answer) = self.call("POST", &format!("/v1/logs/{path}"), &[], body).await;
        assert_eq!(status, 201, "{answer}");
        answer["cursor"].as_str().expect("a cursor").to_owned()
    }

    /// The view's status.
    pub async fn status(&self) -> Json {
        self.get("totals").await.1
    }

    /// Waits until the view's status is as wanted.
    pub async fn until(&self, what: &str, is: impl Fn(&Json) -> bool) -> Json {
        let until = tokio::time::Instant::now() + crate::tree::site::DEADLINE;
        loop {
            let status = self.status().await;
            if is(&status) {
                return status;
            }
            assert!(tokio::time::Instant::now() < until, "{what}: {status}");
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
    }
}
