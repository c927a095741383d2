//! Connections to a server: TLS, and where passwords come from.

use std::fs;
use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::path::Path;
use std::process::Command;
use std::time::{Duration, Instant};

use watershed::postgres::{Endpoint, PgError};
use watershed::testing::postgres::Cluster;
use watershed::view::{EventsError, Trouble};

const LIMIT: Duration = Duration::from_secs(60);

fn openssl(folder: &Path, arguments: &str) {
    let output = Command::new("openssl").current_dir(folder).args(arguments.split(' ')).output().expect("openssl runs");
    assert!(output.status.success(), "{arguments}: {}", String::from_utf8_lossy(&output.stderr));
}

/// An authority, another one, a server's certificate for `localhost` that the first signed, and one that signed itself.
fn certificates(folder: &Path) {
    let key = "-newkey ec -pkeyopt ec_paramgen_curve:prime256v1 -nodes";
    for name in ["ca", "other"] {
        openssl(folder, &format!("req -x509 {key} -keyout {name}.key -out {name}.pem -subj /CN={name} -days 2"));
    }
    fs::write(folder.join("names"), "subjectAltName=DNS:localhost\nbasicConstraints=CA:FALSE\n").expect("written");
    openssl(folder, &format!("req {key} -keyout server.key -out server.csr -subj /CN=server"));
    openssl(
        folder,
        "x509 -req -in server.csr -CA ca.pem -CAkey ca.key -CAcreateserial -days 2 -extfile names -out server.crt",
    );
    openssl(
        folder,
        &format!(
            "req -x509 {key} -keyout self.key -out self.crt -subj /CN=self -addext subjectAltName=DNS:localhost -days 2"
        ),
    );
}

/// Has the server take a certificate, and asks everybody but its owner for a password.
fn secure(cluster: &Cluster, folder: &Path, name: &str) {
    let data = cluster.sockets().join("data");
    let owner = fs::metadata(&data).expect("the server's folder");
    for ending in ["crt", "key"] {
        let to = data.join(format!("{name}.{ending}"));
        fs::copy(folder.join(format!("{name}.{ending}")), &to).expect("copied");
        fs::set_permissions(&to, fs::Permissions::from_mode(0o600)).expect("changed");
        chown(&to, Some(owner.uid()), Some(owner.gid())).expect("given to the server");
    }
    let rules = "local all all trust\nhost all postgres all trust\nhostssl tls_only all all trust\nhost all app all scram-sha-256\n";
    fs::write(data.join("pg_hba.conf"), rules).expect("written");
    for set in ["ssl = on", &format!("ssl_cert_file = '{name}.crt'"), &format!("ssl_key_file = '{name}.key'")] {
        cluster.sql("postgres", &format!("alter system set {set}"));
    }
    cluster.sql("postgres", "select pg_reload_conf()");
    let deadline = Instant::now() + LIMIT;
    while cluster.sql("postgres", "show ssl_cert_file") != format!("{name}.crt\n") {
        assert!(Instant::now() < deadline, "{}", cluster.log());
    }
}

fn endpoint(url: &str, environment: &[(&str, &str)]) -> Result<Endpoint, PgError> {
    let environment =
        |name: &str| environment.iter().find(|(known, _)| *known == name).map(|(_, value)| value.to_string());
    Endpoint::with_environment(url, "the server", &environment)
}

/// Whether the connection is encrypted.
async fn is_encrypted(url: &str) -> Result<bool, PgError> {
    let session = endpoint(url, &[])?.connect(LIMIT).await?;
    let row = session.client.query_one("select ssl from pg_stat_ssl where pid = pg_backend_pid()", &[]).await;
    Ok(row.expect("one row").get(0))
}

#[tokio::test]
async fn sslmode_means_what_it_means_to_libpq() {
    let cluster = Cluster::start();
    let folder = tempfile::tempdir().expect("a folder");
    certificates(folder.path());
    let url = |host: &str, rest: &str| format!("postgres://postgres@{host}:{}/postgres{rest}", cluster.port());
    for (mode, encrypted) in [("", Some(false)), ("?sslmode=disable", Some(false)), ("?sslmode=require", None)] {
        assert_eq!(is_encrypted(&url("localhost", mode)).await.ok(), encrypted, "{mode} without TLS at the server");
    }
    secure(&cluster, folder.path(), "server");
    let file = |name: &str| format!("&sslrootcert={}", folder.path().join(name).display());
    for (host, mode, root, encrypted) in [
        ("localhost", "disable", "", Some(false)),
        ("localhost", "prefer", "", Some(true)),
        ("localhost", "require", "", Some(true)),
        ("localhost", "require", "ca.pem", Some(true)),
        ("localhost", "require", "other.pem", None),
        ("localhost", "verify-ca", "", None),
        ("localhost", "verify-ca", "ca.pem", Some(true)),
        ("localhost", "verify-ca", "other.pem", None),
        ("127.0.0.1", "verify-ca", "ca.pem", Some(true)),
        ("localhost", "verify-full", "ca.pem", Some(true)),
        ("localhost", "verify-full", "other.pem", None),
        ("127.0.0.1", "verify-full", "ca.pem", None),
    ] {
        let root = if root.is_empty() { String::new() } else { file(root) };
        let found = is_encrypted(&url(host, &format!("?sslmode={mode}{root}"))).await;
        assert_eq!(found.as_ref().ok(), encrypted.as_ref(), "{host} {mode} {root}: {found:?}");
        if let Err(error) = found {
            assert!(!error.is_retryable(), "{error}");
            let error = EventsError::from(error);
            assert_eq!((error.code, error.trouble), ("WS-PG-028", Trouble::Invalid), "{error}");
        }
    }
    assert_eq!(is_encrypted(&(cluster.socket_url("postgres") + "&sslmode=require")).await.ok(), Some(false));
    // A server that signed its own certificate is known by that.
    secure(&cluster, folder.path(), "self");
    let own = file("self.crt");
    assert_eq!(is_encrypted(&url("localhost", &format!("?sslmode=verify-full{own}"))).await.ok(), Some(true));
    assert_eq!(is_encrypted(&url("127.0.0.1", &format!("?sslmode=verify-full{own}"))).await.ok(), None);
    assert_eq!(is_encrypted(&url("127.0.0.1", &format!("?sslmode=verify-ca{own}"))).await.ok(), Some(true));
    passwords(&cluster, folder.path()).await;
}

/// On the same server.
async fn passwords(cluster: &Cluster, folder: &Path) {
    cluster.sql("postgres", "create role app login password 'a:b\\c'");
    let file = folder.join("pass");
    fs::write(&file, format!("localhost:{}:postgres:app:a\\:b\\\\c\n*:*:*:*:wrong\n", cluster.port()))
        .expect("written");
    fs::set_permissions(&file, fs::Permissions::from_mode(0o600)).expect("changed");
    let home = folder.join("home");
    fs::create_dir(&home).expect("made");
    fs::copy(&file, home.join(".pgpass")).expect("copied");
    let (file, home) = (file.display().to_string(), home.display().to_string());
    let url = |user: &str, host: &str, rest: &str| format!("postgres://{user}{host}:{}/postgres{rest}", cluster.port());
    for (url, environment, succeeds) in [
        (url("app:a:b%5Cc@", "localhost", ""), vec![("PGPASSWORD", "wrong")], true),
        (url("app@", "localhost", ""), vec![("PGPASSWORD", "a:b\\c"), ("PGPASSFILE", "none")], true),
        (url("", "localhost", ""), vec![("PGUSER", "app"), ("PGPASSWORD", "a:b\\c")], true),
        (url("app@", "localhost", ""), vec![("PGPASSFILE", file.as_str())], true),
        (url("app@", "127.0.0.1", ""), vec![("PGPASSFILE", file.as_str())], false),
        (url("app@", "localhost", &format!("?passfile={file}")), vec![("HOME", "/")], true),
        (url("app@", "localhost", "?sslmode=require"), vec![("HOME", home.as_str())], true),
        (url("app@", "localhost", ""), vec![("PGPASSWORD", "wrong")], false),
        (url("app@", "localhost", ""), vec![], false),
    ] {
        let connected = endpoint(&url, &environment).expect("an endpoint").connect(LIMIT).await;
        assert_eq!(connected.is_ok(), succeeds, "{url} {environment:?}: {:?}", connected.err());
        if let Err(error) = connected {
            let error = EventsError::from(error);
            assert_eq!((error.code, error.trouble), ("WS-PG-003", Trouble::Invalid), "{error}");
        }
    }
}

#[test]
fn what_a_url_has_that_nobody_reads_is_refused() {
    for (rest, words) in [
        ("?sslmod=require", "did you mean \"sslmode\"?"),
        ("?sslmode=sometimes", "one of disable, prefer, require, verify-ca, verify-full is expected"),
        ("?sslrootcert=/nowhere/ca.pem", "sslrootcert /nowhere/ca.pem"),
        ("?sslrootcert=/dev/null", "there is no certificate in it"),
        ("?port=x", "port"),
    ] {
        let error = endpoint(&format!("postgres://postgres:secret@localhost/postgres{rest}"), &[]).expect_err(rest);
        let error = EventsError::from(error);
        assert_eq!((error.code, error.trouble), ("WS-PG-001", Trouble::Invalid));
        assert!(error.why.contains(words) && !error.to_string().contains("secret"), "{error}");
    }
}
