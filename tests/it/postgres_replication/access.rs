//! Who is let in, and how the way is secured.

use std::fs;
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use watershed::postgres::replication::{ReplicationClient, ReplicationError};
use watershed::testing::postgres::Cluster;

use super::bed::{LIMIT, cluster, endpoint};

async fn connect(url: &str) -> Result<ReplicationClient, ReplicationError> {
    ReplicationClient::connect(&endpoint(url), LIMIT).await
}

/// Replaces the rules of who is let in.
fn admit(cluster: &Cluster, rules: &str, user: &str) {
    let file = cluster.sockets().join("data/pg_hba.conf");
    fs::write(&file, format!("{rules}local all all trust\nhost all postgres all trust\n")).unwrap();
    cluster.sql("postgres", "select pg_reload_conf()");
    // The server reads them soon; who has no password is refused then.
    let url = format!("postgres://{user}:wrong@127.0.0.1:{}/postgres", cluster.port());
    let deadline = Instant::now() + LIMIT;
    while cluster.try_sql(&url, "select 1").is_ok() {
        assert!(Instant::now() < deadline);
        std::thread::sleep(Duration::from_millis(20));
    }
}

#[tokio::test]
async fn passwords_are_proved_by_every_method() {
    let cluster = Cluster::with(&[("wal_level", "logical"), ("fsync", "off")]);
    cluster
        .sql("postgres", "set password_encryption = 'md5'; create role md5_user login replication password 'p\"w ü'");
    cluster.sql("postgres", "create role scram_user login replication password 'p\"w ü'");
    cluster.sql(
        "postgres",
        "create role plain_user login replication password 'p\"w ü'; create role nobody login password 'x'",
    );
    let rules = "host all md5_user all md5\nhost all scram_user all scram-sha-256\nhost all plain_user all password\nhost all nobody all md5\n";
    admit(&cluster, rules, "scram_user");
    let url = |user: &str, password: &str| format!("postgres://{user}{password}@127.0.0.1:{}/postgres", cluster.port());
    for user in ["md5_user", "scram_user", "plain_user"] {
        let mut client = connect(&url(user, ":p%22w%20%C3%BC")).await.unwrap_or_else(|error| panic!("{user}: {error}"));
        assert_eq!(client.simple_query("select current_user").await.unwrap(), [[Some(user.to_string())]]);
        let error = connect(&url(user, ":wrong")).await.err().unwrap();
        assert_eq!((error.code().unwrap().code(), error.is_retryable()), ("28P01", false), "{error}");
        let error = connect(&url(user, "")).await.err().unwrap();
        assert!(matches!(error, ReplicationError::NoPassword { .. }) && !error.is_retryable(), "{error}");
        assert!(!format!("{error} {error:?}").contains("p\"w"));
    }
    let error = connect(&url("nobody", ":x")).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "42501", "{error}");
    assert!(error.to_string().contains("replication role"), "{error}");
    let mut client = connect(&cluster.socket_url("postgres")).await.unwrap();
    assert_eq!(client.identify().await.unwrap().database, "postgres");
    let error = connect(&url("scram_user", ":p%22w%20%C3%BC").replace("/postgres", "/none")).await.err().unwrap();
    assert_eq!(error.code().unwrap().code(), "3D000", "{error}");
}

fn secure(cluster: &Cluster) {
    let data = cluster.sockets().join("data");
    let arguments = "req -x509 -newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes -keyout server.key \
                     -out server.crt -subj /CN=server -addext subjectAltName=DNS:localhost -days 2";
    let made = Command::new("openssl").current_dir(&data).args(arguments.split_whitespace()).output().unwrap();
    assert!(made.status.success(), "{}", String::from_utf8_lossy(&made.stderr));
    use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
    let owner = fs::metadata(&data).unwrap();
    for file in ["server.crt", "server.key"].map(|file| data.join(file)) {
        fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).unwrap();
        chown(&file, Some(owner.uid()), Some(owner.gid())).unwrap();
    }
    cluster.sql("postgres", "alter system set ssl = on");
    cluster.sql("postgres", "select pg_reload_conf()");
    let deadline = Instant::now() + LIMIT;
    while cluster.sql("postgres", "show ssl") != "on\n" {
        assert!(Instant::now() < deadline, "{}", cluster.log());
    }
}

async fn is_encrypted(url: &str) -> Result<bool, ReplicationError> {
    let rows = connect(url).await?.simple_query("select ssl from pg_stat_ssl where pid = pg_backend_pid()").await?;
    Ok(rows == [[Some("t".to_string())]])
}

#[tokio::test]
async fn the_way_is_secured_as_it_is_for_every_session() {
    let cluster = Cluster::with(&[("wal_level", "logical"), ("fsync", "off")]);
    let url = |host: &str, rest: &str| format!("postgres://postgres@{host}:{}/postgres{rest}", cluster.port());
    assert!(!is_encrypted(&url("localhost", "")).await.unwrap());
    let error = is_encrypted(&url("localhost", "?sslmode=require")).await.unwrap_err();
    assert!(matches!(error, ReplicationError::Tls { .. }) && !error.is_retryable(), "{error}");
    secure(&cluster);
    let certificate = cluster.sockets().join("data/server.crt");
    let own = |file: &Path| format!("?sslmode=verify-full&sslrootcert={}", file.display());
    for (host, rest, encrypted) in [
        ("localhost", "?sslmode=disable".to_string(), Some(false)),
        ("localhost", String::new(), Some(true)),
        ("localhost", "?sslmode=require".to_string(), Some(true)),
        ("localhost", own(&certificate), Some(true)),
        ("127.0.0.1", own(&certificate), None),
        ("localhost", "?sslmode=verify-full".to_string(), None),
        // Whoever only prefers TLS goes on without it where it cannot be had.
        ("localhost", format!("?sslmode=prefer&sslrootcert={}", certificate.display()), Some(true)),
    ] {
        let found = is_encrypted(&url(host, &rest)).await;
        assert_eq!(found.as_ref().ok(), encrypted.as_ref(), "{host} {rest}: {found:?}");
    }
    // A stream over TLS, acknowledged while it is read.
    cluster.sql("postgres", "create table t (id int); create publication p for all tables");
    let mut client = connect(&url("localhost", "?sslmode=require")).await.unwrap();
    client.create_slot("s").await.unwrap();
    let stream = client.start("s", Default::default(), "p", super::bed::WHOLE).await.unwrap();
    let mut heard = super::bed::Heard::over(stream);
    cluster.sql("postgres", "insert into t select generate_series(1, 50000)");
    cluster.sql("postgres", "select pg_logical_emit_message(false, 'mark', 'end')");
    let texts = heard.until("end").await;
    assert_eq!(texts.len(), 50_003);
    heard.stream.acknowledge(heard.stream.sent_upto());
    heard.stream.close(LIMIT).await.unwrap();
}

#[tokio::test]
async fn servers_that_are_not_there_are_said_to_be_and_others_are_tried() {
    let closed = watershed::testing::free_port();
    let error = connect(&format!("postgres://u@127.0.0.1:{closed}/d")).await.err().unwrap();
    assert!(matches!(error, ReplicationError::Connect { .. }) && error.is_retryable(), "{error}");
    let port = tokio::task::spawn_blocking(|| cluster().port()).await.unwrap();
    let both = format!("postgres://postgres@127.0.0.1:{closed},127.0.0.1:{port}/postgres");
    connect(&both).await.unwrap();
    let read_only = format!("postgres://postgres@127.0.0.1:{port}/postgres?target_session_attrs=read-only");
    assert!(matches!(connect(&read_only).await, Err(ReplicationError::Connect { .. })));
    connect(&read_only.replace("read-only", "read-write")).await.unwrap();
    // Somebody who takes connections and says nothing.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
    let url = format!("postgres://u@{}/d?sslmode=disable", listener.local_addr().unwrap());
    let error = ReplicationClient::connect(&endpoint(&url), Duration::from_millis(200)).await.err().unwrap();
    assert!(matches!(error, ReplicationError::Timeout { .. }) && error.is_retryable(), "{error}");
    drop(listener);
}

#[tokio::test]
async fn somebody_who_is_no_server_is_noticed() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let url = format!("postgres://u:p@{}/d?sslmode=disable", listener.local_addr().unwrap());
    let answers: [&[u8]; 9] = [
        b"",
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"R\0\0\0\x04",
        b"R\0\0\0\x06\0\0",
        b"R\0\0\0\x08\0\0\0\x63",
        b"R\0\0\0\x0a\0\0\0\x05xx",
        b"R\0\0\0\x0d\0\0\0\x0aX\0\0\0",
        b"R\0\0\0\x17\0\0\0\x0aSCRAM-SHA-256\0\0R\0\0\0\x0a\0\0\0\x0bxx",
        b"E\0\0\0\x04E\0\0\0\x00",
    ];
    for answer in answers {
        let url = url.clone();
        let refused = tokio::spawn(async move { connect(&url).await.err() });
        let (mut socket, _) = listener.accept().await.unwrap();
        let mut asked = [0; 8];
        socket.read_exact(&mut asked).await.unwrap();
        let _ = socket.write_all(answer).await;
        let _ = socket.shutdown().await;
        let refused = tokio::time::timeout(LIMIT, refused).await.unwrap().expect("no panic");
        assert!(refused.is_some(), "{answer:?}");
        // The rest may be read: a reset would take our answer away.
        let _ = tokio::time::timeout(LIMIT, socket.read_to_end(&mut Vec::new())).await;
    }
}

#[tokio::test]
async fn a_server_whose_log_is_not_logical_says_so() {
    let cluster = Cluster::start();
    let error = connect(&cluster.url("postgres")).await.unwrap().create_slot("s").await.unwrap_err();
    assert_eq!((error.code().unwrap().code(), error.is_retryable()), ("55000", false), "{error}");
    assert!(error.to_string().contains("wal_level"), "{error}");
}
